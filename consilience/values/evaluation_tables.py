"""The tables that an evaluation leaves; their columns are explained in docs/evaluation.md."""

import pyarrow as pa

from consilience.tables import Column, TableSchema
from consilience.theories import VALUE_NAMES


def _text(name: str, **more: object) -> Column:
    return Column(name, pa.string(), **more)  # type: ignore[arg-type]


def _figures(*names: str) -> tuple[Column, ...]:
    """Each with its interval, and how many questions they are of."""
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return (*(Column(name, pa.float64(), nullable=True) for name in ends), Column("n", pa.int64(), low=0))


_PROFILES = _text("profiles", choices=("all", "human", "predicted"))
_CONTEXT = _text("context", choices=("full", "dynamic"))
_VALUE = _text("value", choices=VALUE_NAMES)
_MEASURE = _text("measure")

ANSWER_SCORES = TableSchema(
    "answer_scores",
    (_text("question_id"), _text("system"), _MEASURE, Column("score", pa.float64())),
    ("question_id", "system", "measure"),
)
AGENT_GAINS = TableSchema("agent_gains", (_VALUE, _MEASURE, *_figures("base", "agent", "gain")), ("value", "measure"))
OVERLAP = TableSchema(
    "overlap", (_PROFILES, _text("system"), _MEASURE, *_figures("mean")), ("profiles", "system", "measure")
)
WIN_RATES = TableSchema(
    "win_rates",
    (
        _PROFILES,
        _text("system"),
        _text("other"),
        *_figures("win_rate"),
        Column("ties", pa.float64(), nullable=True, low=0, high=1),
    ),
    ("profiles", "system", "other"),
)
PROFILE_FLIPS = TableSchema(
    "profile_flips",
    (_PROFILES, _CONTEXT, _VALUE, _MEASURE, *_figures("without", "asked", "shift")),
    ("profiles", "context", "value", "measure"),
)
REWARD_BOUND = TableSchema(
    "reward_bound",
    (
        _PROFILES,
        _CONTEXT,
        _VALUE,
        _MEASURE,
        *_figures("aggregator", "own", "least", "margin"),
        _text("least_agent", nullable=True),
        _text("verdict", choices=("holds", "open", "fails")),
    ),
    ("profiles", "context", "value", "measure"),
)

EVALUATION = (AGENT_GAINS, OVERLAP, WIN_RATES, PROFILE_FLIPS, REWARD_BOUND)

"""The tables that an evaluation leaves; their columns are explained in docs/evaluation.md."""

from consilience.table_schema import Column, TableSchema, count, number, share, text
from consilience.theories import VALUE_NAMES


def _figures(*names: str) -> tuple[Column, ...]:
    """Each with its interval, and how many questions they are of."""
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return (*(number(name, nullable=True) for name in ends), count("n"))


_PROFILES = text("profiles", choices=("all", "human", "predicted"))
_CONTEXT = text("context", choices=("full", "dynamic"))
_VALUE = text("value", choices=VALUE_NAMES)
_MEASURE = text("measure")

ANSWER_SCORES = TableSchema(
    "answer_scores",
    (text("question_id"), text("system"), _MEASURE, number("score")),
    ("question_id", "system", "measure"),
)
AGENT_GAINS = TableSchema("agent_gains", (_VALUE, _MEASURE, *_figures("base", "agent", "gain")), ("value", "measure"))
OVERLAP = TableSchema(
    "overlap", (_PROFILES, text("system"), _MEASURE, *_figures("mean")), ("profiles", "system", "measure")
)
WIN_RATES = TableSchema(
    "win_rates",
    (
        _PROFILES,
        text("system"),
        text("other"),
        *_figures("win_rate"),
        share("ties", nullable=True),
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
        text("least_agent", nullable=True),
        text("verdict", choices=("holds", "open", "fails")),
    ),
    ("profiles", "context", "value", "measure"),
)

EVALUATION = (AGENT_GAINS, OVERLAP, WIN_RATES, PROFILE_FLIPS, REWARD_BOUND)

"""All tables of an evaluation from the scores of its answers, and their headline figures."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from consilience.theories import VALUE_NAMES
from consilience.values.context import ContextKind
from consilience.values.evaluation import (
    BERTSCORE,
    Measure,
    Row,
    Scores,
    agent_rows,
    bound_rows,
    flip_rows,
    overlap_rows,
    slices,
    win_rows,
)
from consilience.values.evaluation_tables import AGENT_GAINS, OVERLAP, PROFILE_FLIPS, REWARD_BOUND, WIN_RATES
from consilience.values.examples import ALL
from consilience.values.questions import situations_of
from consilience.values.systems import OTHER_REFERENCE, aggregator_name, compared
from consilience.values.text_overlap import ROUGE

OVERLAPS = (BERTSCORE, *ROUGE)
PLAIN = ("words", "repetition")

Tables = Mapping[str, Sequence[Row]]
"""Name of a table's schema to its rows."""


def tabulate(
    questions: pa.Table,
    scores: Scores,
    measures: Sequence[Measure],
    agents: Sequence[str],
    contexts: Sequence[ContextKind],
    seed: int,
) -> dict[str, list[Row]]:
    """Rows of all tables; each is explained where it is made, in `values.evaluation`.

    Args:
        questions: the `questions` table of the n test questions, in the order of `scores`.
    """
    rows = questions.to_pylist()
    asked = {value: np.array([row[value] for row in rows]) for value in VALUE_NAMES}
    systems = compared(agents, contexts)
    floor = [OTHER_REFERENCE] if (OTHER_REFERENCE, BERTSCORE) in scores else []
    parts = slices([row["profile_source"] for row in rows], situations_of(questions), seed)
    return {
        AGENT_GAINS.name: agent_rows(parts[0], scores, measures, PLAIN),
        OVERLAP.name: [row for part in parts for row in overlap_rows(part, scores, [*systems, *floor], OVERLAPS)],
        WIN_RATES.name: [row for part in parts for row in win_rows(part, scores, systems)],
        PROFILE_FLIPS.name: [row for part in parts for row in flip_rows(part, scores, contexts, measures, asked)],
        REWARD_BOUND.name: [
            row for part in parts for row in bound_rows(part, scores, contexts, measures, agents, asked)
        ],
    }


def headline(tables: Tables, contexts: Sequence[ContextKind]) -> dict[str, float | int | str | bool | None]:
    """Figures of all questions together, by keys such as bertscore_SYSTEM and reward_gain_VALUE.

    Where a classifier was forced, the key of a figure says so: reward_forced_gain_VALUE.
    """
    found: dict[str, float | int | str | bool | None] = {
        f"{measure}_{OTHER_REFERENCE}": None for measure in ("bertscore", "rouge_l")
    }
    for row in tables[AGENT_GAINS.name]:
        found |= {f"{row['measure']}_{name}_{row['value']}": row[name] for name in ("base", "agent")}
        found |= {f"{row['measure']}_gain_{row['value']}{end}": row[f"gain{end}"] for end in ("", "_low", "_high")}
    for row in tables[OVERLAP.name]:
        if row["profiles"] == ALL and row["measure"] in (BERTSCORE, "rouge_l"):
            found[f"{row['measure'].removesuffix('_f1')}_{row['system']}"] = row["mean"]
    rates: dict[str, list[float]] = {}
    tuned = [aggregator_name(context) for context in contexts]
    for row in tables[WIN_RATES.name]:
        if row["profiles"] == ALL:
            rates.setdefault(row["system"], []).append(row["win_rate"])
            if row["system"] in tuned:
                found[f"win_rate_{row['system']}_over_{row['other']}"] = row["win_rate"]
    found |= {f"win_rate_{system}": float(np.mean(each)) for system, each in rates.items()}
    for table, figure in ((PROFILE_FLIPS, "shift"), (REWARD_BOUND, "margin")):
        for row in tables[table.name]:
            if row["profiles"] == ALL:
                for end in ("", "_low", "_high"):
                    found[f"{row['measure']}_{figure}_{row['context']}_{row['value']}{end}"] = row[f"{figure}{end}"]
    return found

"""Run folders as jobs leave them, as far as a plan looks into them; questions."""

from pathlib import Path

import pyarrow as pa

from consilience.files import write_json
from consilience.table_schema import conform
from consilience.tables import QUESTIONS
from consilience.theories import VALUE_NAMES


def reward_run(folder: Path, **verdicts: str) -> None:
    """What a run of train_values says of its rewards, each usable unless said otherwise."""
    heads = {value: {"verdict": verdicts.get(value, "usable"), "reason": "too weak"} for value in VALUE_NAMES}
    about = {
        "question": "follows",
        "encoder": {},
        "encoder_digest": "",
        "seed": 0,
        "weights_digest": "",
        "heads": heads,
    }
    write_json(folder / "follows/classifier.json", about)
    write_json(folder / "manifest.json", {"job": "train_values", "config": {"folds": 5, "split_seed": 0}})


def question_rows(count: int = 6, **changes: object) -> list[dict[str, object]]:
    splits = ("test", "train")
    profiles = ({"care": 1.0}, {"care": 1.0, "loyalty": 1.0}, {})
    return [
        {
            "question_id": f"q{k}",
            "text": f"May I take {k} of them?",
            "split": splits[k % 2],
            "situation": f"s{k // 4}",
            "reference": f"Take {k % 3}, not more.",
            **dict.fromkeys(VALUE_NAMES, 0.0),
            **profiles[k % 3],
            "profile_source": "human" if k < 8 else "predicted",
            **changes,
        }
        for k in range(count)
    ]


def question_table(rows: list[dict[str, object]]) -> pa.Table:
    return conform(pa.Table.from_pylist(rows), QUESTIONS, "questions")

"""Run folders as jobs leave them, as far as a plan looks into them."""

from pathlib import Path

from consilience.files import write_json
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

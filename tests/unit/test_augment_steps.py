"""Steps of learning a table that are cut off: what is there is whole, and what was learnt is not lost."""

from pathlib import Path
from typing import Any

import pytest
from tabular_tables import mixed

from consilience.files import write_json
from consilience.runs import Run
from consilience.tabular.schema import TableSchema
from jobs import augment_steps
from jobs.augment import AugmentConfig
from jobs.augment_steps import MODELS, ClusterSteps


def test_a_kill_before_a_tuned_model_is_noted_down_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train, called again with the same name, wants the last checkpoint where it was."""
    trained = 0

    def fine_tune(*arguments: Any) -> tuple[Path, list[dict[str, float]]]:
        nonlocal trained
        storage, name = arguments[-2:]
        model: Path = storage / name / "checkpoint" / "model"
        if not (storage / name).exists():
            trained += 1
            write_json(model / "schema.json", {"tuned": trained})
        assert model.is_dir(), "the checkpoint has gone"
        return model, []

    def killed(run: Run, **facts: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(augment_steps, "fine_tune", fine_tune)
    config = AugmentConfig(data=tmp_path / "table.csv", method="sft")
    schema, folder = TableSchema.of(mixed(20), None), tmp_path / "run" / MODELS / "fine-tuned"
    with Run.open(tmp_path / "run", "augment", {}) as run, monkeypatch.context() as patch:
        patch.setattr(Run, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            ClusterSteps(config, run, schema, "data", None).fine_tune([], [], folder)
    with Run.open(tmp_path / "run", "augment", {}) as run:
        ClusterSteps(config, run, schema, "data", None).fine_tune([], [], folder)
        assert (folder / "schema.json").read_text() == '{\n  "tuned": 1\n}\n'
        assert not list((tmp_path / "run" / "training").iterdir())

"""A table grown on Ray: two workers train what one process trains, actors sample what it samples; and the whole job."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaConfig

from actors.table_sampler import Draw, sample_on_cluster
from actors.tabular_worker import fine_tune
from consilience.ppo.settings import PPOWorkersConfig
from consilience.tabular.local_steps import fine_tuner
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import FineTuneConfig, GeneratorConfig
from consilience.values.base import BaseConfig
from consilience.workers import WorkersConfig
from jobs.augment import JOB
from jobs.cli import main

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from lm_models import save_tiny_model
from tabular_tables import mixed
from value_models import save_tiny_encoder

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_workers_learn_and_sample_as_one(cluster: None, tmp_path: Path) -> None:
    table = mixed(63)  # the last batch leaves a worker fewer rows than the other
    schema = TableSchema.of(table, "label")
    rows = schema.rows(table)
    config = GeneratorConfig(
        base=BaseConfig(source=save_tiny_model(tmp_path / "base", LlamaConfig)),
        fine_tuning=FineTuneConfig(epochs=2, learning_rate=3e-3, batch_size=10),
    )
    alone = fine_tuner(config, schema, rows[12:], rows[:12])
    while not alone.finished:
        alone.epoch()
    workers = PPOWorkersConfig(workers=2, num_cpus=1, checkpoint_every=1)
    folder, history = fine_tune(config, schema, rows[12:], rows[:12], workers, tmp_path, "two")
    losses = [[entry["loss_validation"] for entry in each] for each in (history, alone.history)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-2)
    alone.restore_best()
    alone.model.save(tmp_path / "alone")
    draws = [
        Draw(folder, 25, {0: 30}, (0, 1)),
        Draw(folder, 9, {}, (0, 2)),
        Draw(tmp_path / "alone", 12, {}, (0, 1)),
    ]
    found = sample_on_cluster(draws, 10, WorkersConfig(workers=2, num_cpus=1))
    torch.set_num_threads(1)
    for draw, each in zip(draws, found, strict=True):
        assert each.rows == sample_rows(RowModel.load(draw.model), draw.n, draw.given, draw.seed, 10)
        assert each.rows_per_second > 0
    assert {row[0] for row in found[0].rows} == {30}


def test_the_whole_job_and_what_it_does_not_do_twice(cluster: None, tmp_path: Path) -> None:
    table = mixed(70)
    table.to_parquet(tmp_path / "table.parquet")
    settings = {
        "data": str(tmp_path / "table.parquet"),
        "target": "label",
        "rows": 25,
        "conditions": {"city": "Rome"},
        "base": {"source": save_tiny_model(tmp_path / "base", LlamaConfig)},
        "validation": 0.2,
        "fine_tuning": {"epochs": 2, "learning_rate": 0.003},
        "discriminator": {
            "encoder": {"source": save_tiny_encoder(tmp_path / "encoder"), "max_tokens": 64},
            "epochs": 1,
        },
        "adversarial": {
            "rounds": 1,
            "auc": 0.5,
            "lora": {"rank": 2, "alpha": 4},
            "ppo": {"updates": 1, "batch_size": 8, "minibatch_size": 8, "epochs": 1, "kl_coef": 1.0},
        },
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    command = ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    assert main(JOB, command) == 0
    rows = pd.read_parquet(tmp_path / "run/rows.parquet")
    assert len(rows) == 25
    assert (rows["city"] == "Rome").all()
    assert rows.dtypes.equals(table.dtypes)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    for name in ("utility_real", "utility_synthetic", "utility_sft", "discriminator_auc", "exact_copies"):
        assert 0 <= summary[name] <= 1
    assert summary["rows"] == 25
    assert summary["rows_per_second"] > 0
    assert (tmp_path / "run/report.html").exists()
    before = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]
    assert main(JOB, command) == 0
    assert json.loads((tmp_path / "run/manifest.json").read_text())["stages"] == before, "nothing is done twice"
    assert main(JOB, [*command, "--rows", "7"]) == 0
    after = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]
    assert [name for name in after if after[name] != before.get(name)] == ["rows"], "only the rows are drawn anew"
    assert len(pd.read_parquet(tmp_path / "run/rows.parquet")) == 7

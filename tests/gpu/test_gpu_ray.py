"""On Ray: who asks for a GPU gets it and computes there, who asks for none sees none."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from devices import GPU, on_cpu
from tabular_tables import mixed
from test_gpu_scoring import EXACT, demo
from value_models import save_tiny_encoder, value_examples

from actors.annotator import Annotator
from consilience.files import write_json
from consilience.lm.annotators import TransformersAnnotator
from consilience.lm.language_model import load_model
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.table_schema import read_table, write_table
from consilience.tables import ANNOTATIONS, VALUE_EXAMPLES
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.theories import THEORIES
from consilience.values.base import BaseConfig
from consilience.values.classifier import ValueClassifier
from consilience.values.settings import ClassifierWorkersConfig, EncoderConfig, FitConfig
from consilience.values.split import split_by_situation
from consilience.values.training import ClassifierTrainer
from consilience.workers import WorkersConfig

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="needs Ray")
    from actors.cluster import connect

    connect()
    if not ray.cluster_resources().get("GPU"):
        pytest.skip("Ray finds no GPU here")
    yield
    ray.shutdown()


@pytest.mark.parametrize("gpus", [1, 0])
def test_an_annotator_is_where_it_asked_to_be(cluster: None, base: BaseConfig, gpus: int, tmp_path: Path) -> None:
    import ray

    class Placed(Annotator):
        def where(self) -> tuple[int, str]:
            (scorer,) = self._scorers.values()
            model: Any = scorer
            return len(ray.get_gpu_ids()), model._model.model.device.type

    dilemmas = tmp_path / "dilemmas.parquet"
    pq.write_table(pa.table({"item_id": ["a"], "text": demo(1)}), dilemmas)
    block = TransformersAnnotator(annotator="tiny", kind="transformers", source=base.source, num_gpus=gpus)
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(Placed)
    actor = remote.remote((block,), THEORIES, dilemmas, 1, tmp_path / "parts", tmp_path / "answers")
    try:
        assert ray.get(actor.where.remote()) == (gpus, GPU if gpus else "cpu")
    finally:
        ray.kill(actor)


def test_the_annotate_job_scores_on_the_gpu(cluster: None, base: BaseConfig, tmp_path: Path) -> None:
    from jobs.annotate import JOB
    from jobs.cli import main

    texts = demo(6)
    dilemmas = tmp_path / "dilemmas.jsonl"
    lines = [json.dumps({"item_id": f"d{place}", "text": text}) for place, text in enumerate(texts)]
    dilemmas.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pool = [{"annotator": "tiny", "kind": "transformers", "source": base.source, "dtype": "float32", "num_gpus": 1}]
    config = tmp_path / "annotate.json"
    write_json(config, {"dilemmas": str(dilemmas), "pool": pool, "batch_size": 3, "repeat_sample": 0})
    assert main(JOB, ["--config", str(config), "--out", str(tmp_path / "run")]) == 0
    found = read_table(tmp_path / "run/annotations.parquet", ANNOTATIONS).to_pandas()
    with on_cpu():
        cpu = load_model.__wrapped__(base.source, None, "float32")
    scores = found.pivot(index="item_id", columns="theory", values="score")
    expected = TransformersScorer(cpu).score(texts, THEORIES).score
    names = [theory.name for theory in THEORIES]
    np.testing.assert_allclose(scores.loc[[f"d{k}" for k in range(6)], names].to_numpy(), expected, atol=EXACT)


def test_a_trainer_has_the_gpu(cluster: None, tmp_path: Path) -> None:
    from actors.training import report, run_workers

    def loop(settings: dict[str, Any]) -> None:
        import torch
        import torch.distributed as dist

        total = torch.full((3,), 2.0, device=GPU)
        dist.all_reduce(total)
        found = {"sum": float(total.sum()), "backend": dist.get_backend(), "device": total.device.type}

        def save(folder: Path) -> None:
            folder.mkdir()
            write_json(folder / "found.json", found)

        report({"done": 1}, save)

    folder = run_workers(loop, {}, WorkersConfig(num_gpus=1), tmp_path, "gpu")
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert found == {"sum": 6.0, "backend": "nccl", "device": GPU}


def test_a_classifier_is_trained_on_the_gpu(cluster: None, tmp_path: Path) -> None:
    from actors.values_worker import train_classifier

    encoder = EncoderConfig(source=save_tiny_encoder(tmp_path / "encoder"), max_tokens=32)
    fit = FitConfig(epochs=2, batch_size=16, learning_rate=1e-3, head_learning_rate=1e-2)
    examples = split_by_situation(value_examples(40), 4, 0)
    path = tmp_path / "examples.parquet"
    write_table(pa.Table.from_pandas(examples, preserve_index=False), path, VALUE_EXAMPLES)
    here = ClassifierTrainer(ValueClassifier.build(encoder, 0), examples, fit, 0)
    while not here.finished:
        here.step()
    trained = train_classifier(path, encoder, fit, 0, ClassifierWorkersConfig(num_gpus=1), tmp_path, "gpu")
    losses = [[entry["loss_train"] for entry in history] for history in (trained.history, here.history)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_rows_drawn_by_an_actor_are_those_drawn_here(cluster: None, base: BaseConfig, tmp_path: Path) -> None:
    from actors.table_sampler import Draw, sample_on_cluster

    model = RowModel.build(base, TableSchema.of(mixed(60)))
    model.save(tmp_path / "model")
    draw = Draw(tmp_path / "model", 24, {}, (5,))
    (sampled,) = sample_on_cluster([draw], 16, WorkersConfig(num_gpus=1))
    assert sampled.rows == json.loads(json.dumps(sample_rows(model, 24, {}, (5,), 16)))

"""The jobs on inputs so small that they can be killed often; when they are in the middle of it, and what they leave."""

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch
from fault_table import JOBS
from kills import TRAINER, Host
from safetensors import safe_open

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from chat_server import ChatServer
from lm_models import CHAT, save_tiny_model
from tabular_tables import mixed
from test_aggregate import annotations
from test_value_evaluation import question_rows, question_table
from transformers import LlamaConfig
from value_models import save_tiny_encoder, store_classifier, value_examples

from consilience.files import write_json
from consilience.ppo.policy import Policy
from consilience.ppo.settings import LoraSettings
from consilience.table_schema import write_table
from consilience.tables import QUESTIONS, VALUE_EXAMPLES
from consilience.theories import VALUE_NAMES
from consilience.values.about import Head
from consilience.values.base import BaseConfig, load_own
from consilience.values.classifier import ValueClassifier
from consilience.values.saved import save_adapters
from consilience.values.settings import EncoderConfig
from consilience.values.split import split_by_situation
from jobs.cli import main

Settings = dict[str, Any]

ROOT = Path(__file__).parents[2]
DILEMMAS = 30
CONCURRENCY = 3
PPO = {"batch_size": 4, "minibatch_size": 4, "microbatch_size": 4, "generation_batch_size": 4, "learning_rate": 0.01}
WORKER = Host(TRAINER.title, f"training/*/{TRAINER.after}")


def pool(folder: Path, url: str) -> Settings:
    """Dilemmas, a tiny model and a slow server that bills, both in actors of their own."""
    rows = [{"item_id": f"d{k}", "text": f"I {'kept' if k % 2 else 'returned'} {k} coins."} for k in range(DILEMMAS)]
    (folder / "dilemmas.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tiny = {"kind": "transformers", "source": save_tiny_model(folder / "tiny", LlamaConfig), "dtype": "float32"}
    api = {
        "annotator": "api",
        "kind": "openai",
        "base_url": url,
        "model": "mock-2026-01-01",
        "timeout": 20,
        "requests_per_minute": 100_000,
        "concurrency": CONCURRENCY,
    }
    return {
        "dilemmas": str(folder / "dilemmas.jsonl"),
        "theories": ["deontology", "virtue"],
        "pool": [
            {"annotator": "tiny", **tiny},
            {"annotator": "nurse", "persona": "a hospital nurse", **tiny},
            {"annotator": "judge", "persona": "a retired judge", **tiny},
            {"annotator": "random01", "kind": "synthetic", "behaviour": "random01"},
            api,
        ],
        "batch_size": 1,
        "repeat_sample": 0,
    }


def aggregate(folder: Path, url: str) -> Settings:
    """A table over two shard actors, and a fit that takes many passes."""
    annotations(1000).to_parquet(folder / "annotations.parquet")
    sharded = {"shard_above": 0, "shards": 2, "em": {"tolerance": 1e-12}}
    return {"annotations": str(folder / "annotations.parquet"), **sharded}


def realignment() -> Settings:
    """One pair, whatever the consensus is worth."""
    training = {"epochs": 5, "warmup_epochs": 2, "patience": 5, "batch_size": 8}
    workers = {"checkpoint_items": 60}
    return {
        "pairs": ["tiny/deontology"],
        "force": True,
        "training": training,
        "split": {"folds": 2},
        "workers": workers,
    }


def realign(folder: Path, url: str) -> Settings:
    """On a finished pipeline, which was not killed."""
    from jobs import pipeline

    settings = {**pool(folder, url), "shard_above": 0, "shards": 2}
    (folder / "pipeline.json").write_text(json.dumps(settings), encoding="utf-8")
    assert main(pipeline.JOB, ["--config", str(folder / "pipeline.json"), "--out", str(folder / "pipeline")]) == 0
    return {"run": str(folder / "pipeline"), **realignment()}


def whole_pipeline(folder: Path, url: str) -> Settings:
    sharded = {"shard_above": 0, "shards": 2}
    return {**pool(folder, url), **sharded, "realign": True, "realignment": realignment()}


def train_values(folder: Path, url: str) -> Settings:
    return {
        "data": str(ROOT / "configs/demo_values.jsonl"),
        "encoder": {"source": save_tiny_encoder(folder / "encoder"), "max_tokens": 32},
        "fit": {"epochs": 6, "batch_size": 8, "learning_rate": 1e-3, "head_learning_rate": 1e-2},
        "folds": 4,
        "workers": {"checkpoint_batches": 12},
    }


def rewards(folder: Path) -> str:
    """An untrained classifier for every value, as train_values leaves its own."""
    encoder = EncoderConfig(source=save_tiny_encoder(folder / "encoder"), max_tokens=32)
    place = folder / "rewards"
    place.mkdir()
    model = ValueClassifier.build(encoder, 0)
    store_classifier(place, model, encoder, dict.fromkeys(VALUE_NAMES, Head("usable")))
    write_json(place / "manifest.json", {"job": "train_values", "config": {"folds": 5, "split_seed": 0}})
    examples = split_by_situation(value_examples(20), 5, 0)
    table = pa.Table.from_pandas(examples, preserve_index=False)
    write_table(table, place / "examples_follows.parquet", VALUE_EXAMPLES)
    return str(place)


def questions(folder: Path, count: int) -> str:
    """As many as that; a third each to learn from, to stop by, to be asked."""
    rows = question_rows(count)
    for place, row in enumerate(rows):
        row |= {"split": ("train", "validation", "test")[place % 3], "situation": f"question {place}"}
    write_table(question_table(rows), folder / "questions.parquet", QUESTIONS)
    return str(folder / "questions.parquet")


def adapters(folder: Path, name: str, names: tuple[str, ...], **about: str) -> str:
    """A run folder of fresh adapters on a tiny base, which have seen a question that is not among the others."""
    base = BaseConfig(source=save_tiny_model(folder / "base", LlamaConfig, CHAT), dtype="float32")
    loaded = load_own(base)
    Policy(loaded.model, loaded.tokeniser, LoraSettings(rank=2, alpha=4)).save(folder / "adapter")
    save_adapters(folder / name, base, dict.fromkeys(names, folder / "adapter"), about)
    seen = question_rows(1, question_id="seen", text="May I?", split="train", situation="seen")
    write_table(question_table(seen), folder / name / "questions.parquet", QUESTIONS)
    return str(folder / name)


def train_agents(folder: Path, url: str) -> Settings:
    return {
        "questions": questions(folder, 12),
        "rewards": rewards(folder),
        "values": ["care"],
        "base": {"source": save_tiny_model(folder / "base", LlamaConfig, CHAT), "dtype": "float32"},
        "lora": {"rank": 2, "alpha": 4},
        "ppo": {**PPO, "updates": 4, "sampling": {"max_new_tokens": 6}},
        "workers": {"checkpoint_every": 1},
    }


def train_aggregator(folder: Path, url: str) -> Settings:
    return {
        "data": questions(folder, 24),
        "agents": adapters(folder, "agents", ("care", "loyalty")),
        "answers": {"max_new_tokens": 12},
        "hosting": {"batch_size": 1},
        "training": {
            "lora": {"rank": 2, "alpha": 4},
            "learning_rate": 0.01,
            "steps": 6,
            "batch_size": 4,
            "microbatch_size": 4,
            "evaluate_every": 2,
            "max_tokens": 600,
            "max_answer_tokens": 32,
        },
    }


def evaluate(folder: Path, url: str) -> Settings:
    return {
        "data": questions(folder, 12),
        "agents": adapters(folder, "agents", VALUE_NAMES),
        "aggregator": [adapters(folder, context, ("aggregator",), context=context) for context in ("full", "dynamic")],
        "rewards": rewards(folder),
        "answers": {"max_new_tokens": 6},
        "hosting": {"batch_size": 2},
        "encoder": {"source": save_tiny_encoder(folder / "scorer"), "max_tokens": 32, "layer": 2},
        "shots": 1,
        "flips": 2,
    }


def calibrate(folder: Path, url: str) -> Settings:
    return {
        "data": str(ROOT / "configs/smoke/pairs.jsonl"),
        "model": {"source": save_tiny_model(folder / "tiny", LlamaConfig), "dtype": "float32"},
        "loss": "dirichlet_multinomial",
        "fit": {"epochs": 3, "batch_size": 4, "lora": {"rank": 2, "alpha": 4}},
        "encoder": None,
        "split": {"arcs": 8},
        "workers": {"checkpoint_batches": 4},
    }


def augment(folder: Path, url: str) -> Settings:
    mixed(70).to_parquet(folder / "table.parquet")
    encoder = {"source": save_tiny_encoder(folder / "encoder"), "max_tokens": 64}
    return {
        "data": str(folder / "table.parquet"),
        "target": "label",
        "rows": 25,
        "base": {"source": save_tiny_model(folder / "base", LlamaConfig)},
        "validation": 0.2,
        "fine_tuning": {"epochs": 3, "learning_rate": 0.003},
        "discriminator": {"encoder": encoder, "epochs": 1},
        "adversarial": {
            "rounds": 1,
            "auc": 0.5,
            "lora": {"rank": 2, "alpha": 4},
            "ppo": {"updates": 1, "batch_size": 8, "minibatch_size": 8, "epochs": 1, "kl_coef": 1.0},
        },
        "workers": {"checkpoint_every": 1},
    }


@dataclass(frozen=True)
class Small:
    """A small job.

    Attributes:
        write: puts its inputs into a folder, given the address of a server that judges; returns its config.
        hosts: part to the processes that are that part.
        nodes: the processes whose node is taken away; None for the last of `hosts`.
        paid: how many judgements the server is paid for.
    """

    write: Callable[[Path, str], Settings]
    hosts: dict[str, Host]
    nodes: Host | None = None
    paid: int = 0

    @property
    def last(self) -> Host:
        """The part that works last, in the middle of whose work driver and head are killed."""
        return list(self.hosts.values())[-1]


ANNOTATOR = Host("MapWorker", "parts/*/api-*/*.parquet", 5)
MODEL = Host("MapWorker", "parts/*/tiny-*/*.parquet", 3)
SHARD = Host("EMShard")
SMALL = {
    "annotate": Small(pool, {"model actor": ANNOTATOR}, MODEL, paid=2 * DILEMMAS),
    "aggregate": Small(aggregate, {"shard actor": SHARD}),
    "realign": Small(realign, {"training worker": WORKER}),
    "train_values": Small(train_values, {"training worker": WORKER}),
    "train_agents": Small(
        train_agents,
        {"model actor": Host("RewardActor", WORKER.after), "training worker": WORKER},
    ),
    "train_aggregator": Small(
        train_aggregator,
        {"model actor": Host("MapWorker", "parts/*/*.parquet", 3), "training worker": WORKER},
    ),
    "evaluate": Small(evaluate, {"model actor": Host("MapWorker", "parts/*/*.parquet", 3)}),
    "calibrate": Small(calibrate, {"model actor": Host("MapWorker"), "training worker": WORKER}),
    "augment": Small(
        augment,
        {
            "model actor": Host("MapWorker", "models/fine-tuned/schema.json"),
            "training worker": WORKER,
        },
    ),
    "pipeline": Small(
        whole_pipeline,
        {"model actor": ANNOTATOR, "training worker": Host(TRAINER.title, f"realigned/{WORKER.after}")},
        paid=2 * DILEMMAS,
    ),
}


DEFAULT = {
    ("train_values", "training worker"),
    *(("aggregate", part) for part in ("shard actor", "worker node", "head")),
}
"""The cells that every run of the tests tries; the others are marked `chaos`."""


def cells(part: str, outcome: str = "finished") -> list[Any]:
    """A parameter for each job that has the part."""
    return [
        pytest.param(
            job,
            part,
            marks=[
                pytest.mark.fault(job, part, outcome),
                *([] if (job, part) in DEFAULT else [pytest.mark.chaos]),
            ],
            id=f"{job}-{part}",
        )
        for job, parts in JOBS.items()
        if part in parts
    ]


@dataclass(frozen=True)
class Case:
    """A small job that has run undisturbed, to be disturbed.

    Attributes:
        whole: the run folder of the undisturbed run.
        server: what judges for the annotator `api`.
        billed: what it had been paid for before this test.
    """

    job: str
    small: Small
    config: Path
    whole: Path
    server: ChatServer
    billed: Counter[str]

    def arguments(self, out: Path) -> list[str]:
        return ["--config", str(self.config), "--out", str(out)]

    def run(self, out: Path, *more: str) -> int:
        """The job in this process; its exit code."""
        return main(importlib.import_module(f"jobs.{self.job}").JOB, [*self.arguments(out), *more])

    def check(self, out: Path) -> None:
        """The folder holds what the undisturbed one holds, bit by bit, and every answer was paid for once."""
        assert json.loads((out / "manifest.json").read_text())["status"] == "done"
        ours, theirs = results(out), results(self.whole)
        assert ours.keys() == theirs.keys()
        for name, table in theirs.items():
            if isinstance(table, pd.DataFrame):
                pd.testing.assert_frame_equal(ours[name], table, check_exact=True, obj=name)
            else:
                assert ours[name] == table, name
        paid = self.server.billed - self.billed
        assert len(paid) == self.small.paid
        assert set(paid.values()) <= {1}, "a judgement was paid twice"


def results(run: Path) -> dict[str, Any]:
    """What a run folder says, but how long it took: tables, digests of weights, summary."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if name.split("/")[0] in ("parts", "training", "answers") or "/training/" in name or path.name[0] == ".":
            continue
        if path.suffix == ".parquet" and "parts" not in path.parts:
            found[name] = pd.read_parquet(path)
        elif path.suffix == ".safetensors":
            found[name] = weights(path)
        elif path.name == "summary.json":
            figures = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: figures[key] for key in figures if "second" not in key and key != "reused"}
    return found


def weights(path: Path) -> dict[str, Any]:
    """What a safetensors file holds. Its bytes differ from time to time: the order of its metadata is by chance."""
    with safe_open(path, "pt") as file:
        found: dict[str, Any] = {"metadata": file.metadata()}
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            raw = tensor.flatten().view(torch.uint8).numpy()
            found[name] = str(tensor.dtype), tensor.shape, sha256(raw).hexdigest()
    return found

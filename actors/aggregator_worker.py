"""Tuning the aggregator on one or several workers: Ray Train around `consilience.values.aggregator`."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import ray.train
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from actors.training import note_progress, report, run_workers
from consilience.files import write_json
from consilience.lm.generator import end_tokens
from consilience.table_schema import read_table
from consilience.tables import ANSWERS, QUESTIONS
from consilience.values.aggregator import build_sft_trainer
from consilience.values.aggregator_data import build_examples, by_question
from consilience.values.base import BaseConfig, load_own
from consilience.values.context import ContextKind
from consilience.values.questions import questions_of
from consilience.values.sft_settings import SftSettings
from consilience.values.split import TRAIN, VALIDATION
from consilience.workers import WorkersConfig

_HISTORY = "history.json"  # in the last checkpoint alone


@dataclass(frozen=True)
class AggregatorPlan:
    """All that a process needs to tune the aggregator.

    Attributes:
        questions, answers: tables, on a disk that all workers see; answers of every agent that the context hears.
    """

    base: BaseConfig
    context: ContextKind
    settings: SftSettings
    questions: Path
    answers: Path


def tune_aggregator(
    plan: AggregatorPlan, workers: WorkersConfig, storage: Path, name: str
) -> tuple[Path, list[dict[str, Any]]]:
    """Tune, or go on with a tuning of the same storage and name; see `run_workers`.

    Returns:
        folder with the best adapter (PEFT's format), and the trainer's log.

    Raises:
        UserError: settings that do not fit, or data that give no example; the last checkpoint is kept.
    """
    checkpoint = run_workers(
        _work, {"plan": plan, "workers": workers, "folder": (storage / name).absolute() / "sft"}, workers, storage, name
    )
    return checkpoint, json.loads((checkpoint / _HISTORY).read_text(encoding="utf-8"))


def _work(settings: dict[str, Any]) -> None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        _tune(settings, None)
        return
    with checkpoint.as_directory() as folder:
        if (Path(folder) / _HISTORY).exists():  # stopped after its last step
            report({}, partial(copytree, folder))
        else:
            _tune(settings, folder)


def _tune(settings: dict[str, Any], resumed: str | None) -> None:
    plan: AggregatorPlan = settings["plan"]
    workers: WorkersConfig = settings["workers"]
    tuning = plan.settings
    model = load_own(plan.base)
    room = min(tuning.max_tokens, model.window or tuning.max_tokens)
    questions = questions_of(read_table(plan.questions, QUESTIONS))
    answers = by_question(read_table(plan.answers, ANSWERS))
    train, validation = (
        build_examples(
            model.tokeniser,
            plan.context,
            [question for question in questions if question.split == split],
            answers,
            end_tokens(model.model.generation_config, model.tokeniser)[0],
            room,
            tuning.max_answer_tokens,
        )
        for split in (TRAIN, VALIDATION)
    )
    trainer = build_sft_trainer(
        model, train, validation, tuning, settings["folder"], workers.workers, [_Reporter()], resumed is not None
    )
    trainer.train(resume_from_checkpoint=resumed)
    report({"steps": trainer.state.global_step}, partial(_save, trainer))


def _save(trainer: Any, folder: Path) -> None:
    trainer.model.save_pretrained(folder, save_embedding_layers=False)
    write_json(folder / _HISTORY, trainer.state.log_history)


class _Reporter(TrainerCallback):
    """Hands every checkpoint of the trainer to Ray Train, and notes every step down."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        note_progress(state.global_step, state.max_steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        if dist.is_initialized():
            dist.barrier()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        report({"steps": state.global_step}, partial(copytree, folder))

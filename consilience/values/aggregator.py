"""The contextual aggregator: one more adapter on the agents' base, tuned to answer a question from a context.

TRL's SFTTrainer with LoRA on all linear modules, cross-entropy on the answer alone, stopped when the loss on validation
questions no longer falls; the adapter with the lowest is kept (arXiv 2403.12805, section on the aggregator).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, TaskType
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from consilience.lm.language_model import LanguageModel
from consilience.values.agents import Agents
from consilience.values.aggregator_data import Example, aggregator_prompt
from consilience.values.answer_settings import AGGREGATOR, AnswerConfig
from consilience.values.context import ContextKind
from consilience.values.profile import Profile
from consilience.values.sft_settings import SftSettings


def build_sft_trainer(
    model: LanguageModel,
    train: Sequence[Example],
    validation: Sequence[Example],
    settings: SftSettings,
    folder: Path,
    workers: int = 1,
    callbacks: Sequence[TrainerCallback] = (),
    resumed: bool = False,
) -> SFTTrainer:
    """TRL's trainer, ready to `train()`; checkpoints go to `folder`.

    The base is changed in place, as it carries the new adapter.

    Args:
        resumed: it will go on from a checkpoint, whose validation is then not repeated: it would count against
            `patience` twice.

    Raises:
        UserError: `workers` cannot share a batch.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_seed(settings.seed)  # of the initial adapter: the trainer sets it too, after it has made one
    lora = settings.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    if model.tokeniser.pad_token is None:
        model.tokeniser.pad_token = model.tokeniser.eos_token
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.microbatch_size,
        per_device_eval_batch_size=settings.microbatch_size,
        gradient_accumulation_steps=settings.accumulation(workers),
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        eval_strategy="steps",
        eval_steps=settings.evaluate_every,
        eval_on_start=not resumed,
        save_strategy="steps",
        save_steps=settings.evaluate_every,
        save_total_limit=1,
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # how much of the patience is spent
        metric_for_best_model="eval_loss",
        logging_steps=1,
        seed=settings.seed,
        use_cpu=model.model.device.type == "cpu",
        bf16=False,  # the base has its own precision, the adapter is float32
        gradient_checkpointing=settings.gradient_checkpointing,
        dataloader_pin_memory=model.model.device.type != "cpu",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        disable_tqdm=True,
        report_to="none",
    )
    return SFTTrainer(
        model=model.model,
        args=arguments,
        train_dataset=_dataset(train),
        eval_dataset=_dataset(validation),
        processing_class=model.tokeniser,
        peft_config=LoraConfig(
            task_type=TaskType.CAUSAL_LM, r=lora.rank, lora_alpha=lora.alpha, target_modules=targets
        ),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=settings.patience), *callbacks],
    )


def losses(history: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Headline figures of a trainer's log, nats per answer token.

    Returns:
        `loss_train` (mean over the steps since the last validation), `loss_validation` (the lowest, which is the kept
        adapter's), `loss_validation_before` (the untrained base's), `steps` (optimiser steps taken) and
        `best_step`.
    """
    before = next((row["eval_loss"] for row in history if "eval_loss" in row and row["step"] == 0), None)
    validations = [(row["eval_loss"], row["step"]) for row in history if "eval_loss" in row and row["step"]]
    steps = [(row["loss"], row["step"]) for row in history if "loss" in row]
    best, best_step = min(validations)
    last = max((step for _, step in validations[:-1]), default=0)
    recent = [loss for loss, step in steps if step > last]
    return {
        "loss_train": sum(recent) / len(recent) if recent else None,
        "loss_validation": best,
        "loss_validation_before": before,
        "steps": max((step for _, step in steps), default=0),
        "best_step": best_step,
    }


def aggregate_answers(
    agents: Agents,
    kind: ContextKind,
    questions: Sequence[str],
    profiles: Sequence[Profile],
    answers: Sequence[Mapping[str, str | None]],
    config: AnswerConfig,
    name: str = AGGREGATOR,
) -> list[str]:
    """The aggregator's answers (or, with `name` base, those of the untuned base to the same prompts).

    Args:
        answers: for each question, agent to what it answered.

    Raises:
        UserError: as for `aggregator_prompt` and `Agents.reply`.
    """
    room = agents.room(config)
    prompts = [
        aggregator_prompt(agents.model.tokeniser, kind, question, profile, heard, room)
        for question, profile, heard in zip(questions, profiles, answers, strict=True)
    ]
    return agents.reply(prompts, [name] * len(prompts), config)


def _dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_dict({"input_ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples]})

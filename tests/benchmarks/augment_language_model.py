"""The project's own generator in augment_methods.py: one training, judged before and after its rounds."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from consilience.config import parse_config
from consilience.tabular.adversarial import WRITTEN, Rows, learn
from consilience.tabular.codec import RowCodec
from consilience.tabular.discriminator import Discriminator, DiscriminatorReward, row_texts
from consilience.tabular.local_steps import LocalSteps
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig

POOL = 3


class Timed(LocalSteps):
    """Steps that fine-tune once, and know how long it took."""

    seconds = 0.0

    def fine_tune(self, train: Rows, held_out: Rows, folder: Path) -> None:
        if self.history:
            return
        started = time.perf_counter()
        super().fine_tune(train, held_out, folder)
        self.seconds = time.perf_counter() - started


def language_model(
    train: pd.DataFrame, schema: TableSchema, seed: int, settings: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One training for all: `sft` samples the fine-tuned model, `ppo` the one that the rounds leave, and `tilted` is
    what the first round's PPO would make if it were perfect.

    Each as soon as it is there: `rows`, as many as `train` has, and `seconds` of training and sampling; `settings` are
    GeneratorConfig's.
    """
    config = parse_config(GeneratorConfig, {**settings, "seed": seed}, "--generator")
    real = schema.rows(train)

    def drawn(model: Path, trained: float) -> dict[str, Any]:
        started = time.perf_counter()
        rows = sample_rows(RowModel.load(model), len(train), {}, (seed, WRITTEN), config.batch_size)
        sampling = time.perf_counter() - started
        return {"rows": schema.frame(rows), "seconds": trained + sampling, "sampling_seconds": sampling}

    with TemporaryDirectory() as folder:
        steps = Timed(config, schema)
        fine_tuned = learn(real, schema, config.validation, None, seed, steps, Path(folder)).models[0]
        yield "sft", {**drawn(fine_tuned, steps.seconds), "history": steps.history}
        started = time.perf_counter()
        learned = learn(real, schema, config.validation, config.adversarial, seed, steps, Path(folder))
        trained = steps.seconds + time.perf_counter() - started
        about = {"best": learned.best, "reason": learned.reason, "rounds": [each.to_json() for each in learned.rounds]}
        yield "ppo", {**drawn(learned.models[learned.best], trained), **about}
        if config.adversarial is not None and learned.rounds:
            started = time.perf_counter()
            rows = tilted(config, schema, fine_tuned, Path(folder) / "discriminator-0", len(train))
            yield "tilted", {"rows": schema.frame(rows), "seconds": steps.seconds + time.perf_counter() - started}


def tilted(config: GeneratorConfig, schema: TableSchema, model: Path, discriminator: Path, n: int) -> Rows:
    """`n` rows of p_model exp(reward), where PPO at a price of 1 per nat is to arrive: of POOL times as many of the
    model's, none twice, each drawn with a weight of exp(reward)."""
    assert config.adversarial is not None
    drawn = sample_rows(RowModel.load(model), POOL * n, {}, (config.seed, POOL), config.batch_size)
    random = np.random.default_rng(config.seed)
    judge = Discriminator.load(discriminator, config.discriminator)
    reward = DiscriminatorReward(judge, config.adversarial.reward_clip)
    keys = np.array(reward(row_texts(RowCodec(schema), drawn, random))) + random.gumbel(size=len(drawn))
    return [drawn[place] for place in np.argsort(-keys)[:n].tolist()]

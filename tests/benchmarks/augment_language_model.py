"""The project's own generator in augment_methods.py: one training, judged before and after its rounds."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from consilience.config import parse_config
from consilience.tabular.adversarial import Rows, learn
from consilience.tabular.codec import RowCodec
from consilience.tabular.discriminator import Discriminator, DiscriminatorReward, row_texts
from consilience.tabular.local_steps import LocalSteps
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig

POOL = 4


class Timed(LocalSteps):
    """Steps that know how long fine-tuning alone has taken."""

    def fine_tune(self, train: Rows, held_out: Rows) -> Path:
        started = time.perf_counter()
        found = super().fine_tune(train, held_out)
        self.seconds = time.perf_counter() - started
        return found


def language_model(
    train: pd.DataFrame, schema: TableSchema, seed: int, settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """One training for all: `sft` samples the fine-tuned model, `ppo` the one that the rounds leave, and `tilted` is
    what the first round's PPO would make if it were perfect.

    By method `rows`, as many as `train` has, and `seconds` of training and sampling; `settings` are GeneratorConfig's.
    """
    config = parse_config(GeneratorConfig, {**settings, "seed": seed}, "--generator")
    found: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        steps = Timed(config, schema, Path(folder))
        started = time.perf_counter()
        learned = learn(schema.rows(train), schema, config.validation, config.adversarial, seed, steps)
        trained = {"sft": steps.seconds, "ppo": time.perf_counter() - started}
        for method, model in (("sft", 0), ("ppo", learned.best)):
            started = time.perf_counter()
            rows = sample_rows(RowModel.load(learned.models[model]), len(train), {}, (seed,), config.batch_size)
            found[method] = {
                "rows": schema.frame(rows),
                "seconds": trained[method] + time.perf_counter() - started,
                "sampling_seconds": time.perf_counter() - started,
            }
        if config.adversarial is not None and learned.rounds:
            started = time.perf_counter()
            rows = tilted(config, schema, learned.models[0], Path(folder) / "discriminator-0", len(train))
            found["tilted"] = {"rows": schema.frame(rows), "seconds": steps.seconds + time.perf_counter() - started}
    rounds = [each.to_json() for each in learned.rounds]
    found["sft"]["history"] = steps.history
    found["ppo"].update(best=learned.best, reason=learned.reason, rounds=rounds)
    return found


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

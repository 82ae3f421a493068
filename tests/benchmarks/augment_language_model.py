"""The project's own generator in augment_methods.py: one training, judged before and after its rounds."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from consilience.config import parse_config
from consilience.tabular.adversarial import Rows, learn
from consilience.tabular.local_steps import LocalSteps
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig


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
    """One training for both: `sft` samples the fine-tuned model, `ppo` the one that the rounds leave.

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
    rounds = [each.to_json() for each in learned.rounds]
    found["ppo"].update(best=learned.best, reason=learned.reason, rounds=rounds)
    return found

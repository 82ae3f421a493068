"""The steps of learning a table, each from files to files, and all of them in this process."""

from pathlib import Path

from consilience.ppo.trainer import Metrics, PPOTrainer
from consilience.tabular.adversarial import ROUND, Rows
from consilience.tabular.codec import RowCodec
from consilience.tabular.discriminator import Discriminator, DiscriminatorReward
from consilience.tabular.fine_tuning import FineTuner
from consilience.tabular.row_model import RowModel
from consilience.tabular.row_policy import merged, row_trainer
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig


def fine_tuner(config: GeneratorConfig, schema: TableSchema, train: Rows, held_out: Rows) -> FineTuner:
    """A fresh model of the table and what teaches it the rows."""
    return FineTuner(RowModel.build(config.base, schema), train, held_out, config.fine_tuning, config.seed)


def discriminate(
    config: GeneratorConfig, schema: TableSchema, real: Rows, made: Rows, held_out: Rows, judged: Rows, folder: Path
) -> float:
    """Train a discriminator of `real` from `made` into `folder`; its AUC on `held_out` against `judged`."""
    codec, found = RowCodec(schema), Discriminator(config.discriminator)
    found.fit(codec, real, made, config.seed)
    auc = found.calibrate(codec, held_out, judged, config.seed)
    found.save(folder)
    return auc


def policy_trainer(config: GeneratorConfig, model: Path, discriminator: Path) -> PPOTrainer:
    """A round's trainer: the model in a folder against the discriminator in another."""
    assert config.adversarial is not None
    judge = Discriminator.load(discriminator, config.discriminator)
    reward = DiscriminatorReward(judge, config.adversarial.reward_clip)
    return row_trainer(RowModel.load(model), reward, config.adversarial, config.seed)


def merge(model: Path, checkpoint: Path, folder: Path) -> None:
    """Write the model in a folder with the adapter of a round's checkpoint in its weights."""
    merged(RowModel.load(model), checkpoint).save(folder)


class LocalSteps:
    """`adversarial.Steps` in this process; every result is a folder in `folder`."""

    def __init__(self, config: GeneratorConfig, schema: TableSchema, folder: Path) -> None:
        self._config, self._schema, self._folder = config, schema, folder
        self.history: list[dict[str, float | None]] = []

    def fine_tune(self, train: Rows, held_out: Rows) -> Path:
        tuner = fine_tuner(self._config, self._schema, train, held_out)
        while not tuner.finished:
            tuner.epoch()
        tuner.restore_best()
        self.history = tuner.history
        tuner.model.save(self._folder / "fine-tuned")
        return self._folder / "fine-tuned"

    def sample(self, model: Path, n: int, name: str) -> Rows:
        return sample_rows(RowModel.load(model), n, {}, (self._config.seed, ROUND), self._config.batch_size)

    def discriminate(self, real: Rows, made: Rows, held_out: Rows, judged: Rows, name: str) -> tuple[Path, float]:
        folder = self._folder / name
        return folder, discriminate(self._config, self._schema, real, made, held_out, judged, folder)

    def improve(self, model: Path, discriminator: Path, name: str) -> tuple[Path, list[Metrics]]:
        trainer = policy_trainer(self._config, model, discriminator)
        while trainer.update < trainer.config.updates:
            trainer.step()
        trainer.save(self._folder / f"{name}-checkpoint")
        merge(model, self._folder / f"{name}-checkpoint", self._folder / name)
        return self._folder / name, trainer.history

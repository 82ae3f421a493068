"""The steps of learning a table, each from files to files, and all of them in this process."""

from pathlib import Path
from tempfile import TemporaryDirectory

from consilience.ppo.trainer import Metrics, PPOTrainer
from consilience.tabular.adversarial import ROUND, Contest, Rows
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


def discriminate(config: GeneratorConfig, schema: TableSchema, rows: Contest, folder: Path) -> float:
    """Train a discriminator into `folder`; its AUC on the rows that it is judged by."""
    codec, found = RowCodec(schema), Discriminator(config.discriminator)
    found.fit(codec, rows.real, rows.made, config.seed)
    auc = found.calibrate(codec, rows.held_out, rows.judged, config.seed)
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
    """`adversarial.Steps` in this process."""

    def __init__(self, config: GeneratorConfig, schema: TableSchema) -> None:
        self._config, self._schema = config, schema
        self.history: list[Metrics] = []

    def fine_tune(self, train: Rows, held_out: Rows, folder: Path) -> None:
        tuner = fine_tuner(self._config, self._schema, train, held_out)
        while not tuner.finished:
            tuner.epoch()
        tuner.restore_best()
        self.history = tuner.history
        tuner.model.save(folder)

    def sample(self, model: Path, n: int, name: str) -> Rows:
        return sample_rows(RowModel.load(model), n, {}, (self._config.seed, ROUND), self._config.batch_size)

    def discriminate(self, rows: Contest, folder: Path) -> float:
        return discriminate(self._config, self._schema, rows, folder)

    def improve(self, model: Path, discriminator: Path, folder: Path) -> list[Metrics]:
        trainer = policy_trainer(self._config, model, discriminator)
        while trainer.update < trainer.config.updates:
            trainer.step()
        with TemporaryDirectory() as scratch:
            trainer.save(Path(scratch) / "checkpoint")
            merge(model, Path(scratch) / "checkpoint", folder)
        return trainer.history

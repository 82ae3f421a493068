"""The generator of rows as an estimator: fit a table, sample rows like its own."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from consilience.errors import UserError
from consilience.files import atomic_folder
from consilience.tabular.adversarial import WRITTEN, Learned, learn
from consilience.tabular.conditions import read_conditions
from consilience.tabular.local_steps import LocalSteps
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig


class TabularGenerator:
    """A language model that has learned a table's rows, guided by discriminators (Yang et al. 2024; Borisov et al.
    2023).

    Every row it samples is valid: categories that were seen, numbers and dates within the range and precision that
    were seen, missing values only where there were some.

    Attributes:
        model_: the model of the rows.
        learned_: what is known of each round; None for a generator that was loaded.
    """

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        self.config = config or GeneratorConfig()
        self.model_: RowModel | None = None
        self.learned_: Learned | None = None

    def fit(self, frame: pd.DataFrame, target: str | None = None) -> "TabularGenerator":
        """Learn the rows of `frame`; with a `target`, what they teach about it decides when to stop.

        Raises:
            UserError: see `TableSchema.of`; the base model or the encoder cannot be had.
        """
        schema = TableSchema.of(frame, target)
        with TemporaryDirectory() as scratch:
            config, rows = self.config, schema.rows(frame)
            steps = LocalSteps(config, schema)
            self.learned_ = learn(
                rows, schema, config.validation, config.adversarial, config.seed, steps, Path(scratch)
            )
            self.model_ = RowModel.load(self.learned_.models[self.learned_.best])
        return self

    def sample(self, n: int, conditions: Mapping[str, Any] | None = None, seed: int = 0) -> pd.DataFrame:
        """Exactly `n` rows with the table's columns and types.

        Args:
            conditions: column to the value that every row has in it; None for a missing one.
            seed: the same gives the same rows.

        Raises:
            UserError: `n` is negative, a condition names no column or a value that the column cannot have, or nothing
                was fitted.
        """
        if n < 0:
            raise UserError(f"n: {n}; expected 0 or more rows")
        model = self._model()
        schema = model.language.schema
        given = read_conditions(schema, conditions or {})
        return schema.frame(sample_rows(model, n, given, (seed, WRITTEN), self.config.batch_size))

    def save(self, folder: Path) -> None:
        """Write the model (safetensors, JSON) into a new folder.

        Raises:
            UserError: nothing was fitted, or `folder` exists.
        """
        model = self._model()
        if folder.exists():
            raise UserError(f"{folder}: exists already; expected a new folder for the generator")
        with atomic_folder(folder) as new:
            model.save(new)

    @classmethod
    def load(cls, folder: Path, config: GeneratorConfig | None = None) -> "TabularGenerator":
        """What `save` wrote.

        Raises:
            UserError: no generator in `folder`.
        """
        found = cls(config)
        found.model_ = RowModel.load(folder)
        return found

    def _model(self) -> RowModel:
        if self.model_ is None:
            raise UserError("generator: knows no table yet; call fit or load first")
        return self.model_

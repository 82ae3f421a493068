"""Rounds of discriminator and policy: each tells apart what the other makes (P-TA, Yang et al. 2024).

In a round a discriminator D learns to tell the model's rows from real ones, and PPO moves the model towards rows that
look real: the reward is logit D, at a price of `kl_coef` per nat of divergence from the model as the round began. With
a price of 1 and D at its best, log p_data / p_model, the optimum p_model exp(reward) is the data's own distribution;
that holds in a later round only if it too pays for leaving the model that D has judged, so that is its reference.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from consilience.tabular.fidelity import category_coverage
from consilience.tabular.privacy import privacy
from consilience.tabular.schema import TableSchema, Value
from consilience.tabular.settings import AdversarialConfig
from consilience.tabular.utility import headline, utility

Rows = list[list[Value]]

UTILITY_FALL, COVERAGE_FALL, COPIES_RISE, CLOSEST = 0.02, 0.05, 0.05, 0.9
"""How far utility may fall below its best so far; how far coverage may fall and exact copies rise from the fine-tuned
model's, and to what share of it the distance to the closest training row may shrink."""

WRITTEN, ROUND, JUDGED = range(3)
"""What rows are drawn for, a part of their seed: to be written, to guide the model, to be assessed."""

_JUDGED_ROWS = 200
_LEAST_HELD_OUT = 10


@dataclass(frozen=True, slots=True)
class Contest:
    """Rows for a discriminator: `real` from `made` is what it learns, `held_out` from `judged` what it is judged by."""

    real: Rows
    made: Rows
    held_out: Rows
    judged: Rows


class Steps(Protocol):
    """Where the work is done: in this process, or on a cluster. What a step makes lies in the folder that it is given,
    rows under their name."""

    def fine_tune(self, train: Rows, held_out: Rows, folder: Path) -> None:
        """Make a model that has learned the rows of `train`."""

    def sample(self, model: Path, n: int, name: str) -> Rows:
        """Rows of the model in a folder."""

    def discriminate(self, rows: Contest, folder: Path) -> float:
        """Make a discriminator; its AUC on the rows that it is judged by."""

    def improve(self, model: Path, discriminator: Path, folder: Path) -> list[dict[str, float | None]]:
        """Make the model that PPO makes of another; the metrics of its updates."""


@dataclass(frozen=True, slots=True)
class Round:
    """What is known of the model after so many rounds; the first, of number 0, is fine-tuned only.

    Attributes:
        discriminator_auc: of a discriminator trained on this model's rows, on held-out rows; NaN where none was.
        utility: on the validation rows, see `utility.headline`; NaN without a target.
        coverage: see `fidelity.category_coverage`.
        exact_copies: share of its rows that are training rows.
        closest: median distance to the closest training row, by that of validation rows; NaN where that is 0.
        reward, kl: means of the last update that made it, the latter in nats per row; NaN for the first.
    """

    number: int
    discriminator_auc: float
    utility: float
    coverage: float
    exact_copies: float
    closest: float
    reward: float = np.nan
    kl: float = np.nan

    def to_json(self) -> dict[str, Any]:
        """As JSON's types; null where a figure is not defined."""
        plain = asdict(self)
        return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in plain.items()}


@dataclass(frozen=True, slots=True)
class Learned:
    """What the learning of a table leaves.

    Attributes:
        models: folder of each round's model, the fine-tuned first.
        best: number of the one to use.
        rounds: what is known of each.
        reason: why there were no more.
    """

    models: list[Path]
    best: int
    rounds: list[Round]
    reason: str


def split_rows(n: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Places of training and validation rows. Tables of fewer than 50 rows have none to spare for the latter."""
    order = np.random.default_rng(seed).permutation(n).tolist()
    held_out = max(round(share * n), _LEAST_HELD_OUT) if n >= 5 * _LEAST_HELD_OUT else 0
    return sorted(order[held_out:]), sorted(order[:held_out])


def learn(
    rows: Rows,
    schema: TableSchema,
    validation: float,
    config: AdversarialConfig | None,
    seed: int,
    steps: Steps,
    folder: Path,
) -> Learned:
    """Fine-tune a model on `rows`, then guide it by discriminators.

    The rounds end when a discriminator cannot tell real rows from made ones, when utility on the validation rows or
    the coverage of categories falls, or when its rows come closer to the training rows; the model before that is the
    one to use.

    Args:
        validation: share of the rows that is only judged by.
        config: None for fine-tuning alone.
        folder: where models and discriminators are to lie, each in a folder of its own.
    """
    train, held_out = ([rows[place] for place in places] for places in split_rows(len(rows), validation, seed))
    models = [folder / "fine-tuned"]
    steps.fine_tune(train, held_out, models[0])
    if config is None or not held_out:
        return Learned(models, 0, [], "too few rows for a discriminator" if config else "no discriminator is wanted")
    judge = _Judge(schema, train, held_out, seed)
    rounds: list[Round] = []
    history: list[dict[str, float | None]] = []
    for number in range(config.rounds + 1):
        made = steps.sample(models[-1], len(train) + max(_JUDGED_ROWS, len(held_out)), f"rows-{number}")
        found = judge.round(number, made[: len(train)], history)
        if fault := _fault(found, rounds):
            return Learned(models, number - 1, [*rounds, found], fault)
        discriminator = folder / f"discriminator-{number}"
        auc = steps.discriminate(Contest(train, made[: len(train)], held_out, made[len(train) :]), discriminator)
        rounds.append(replace(found, discriminator_auc=auc))
        if auc <= config.auc:
            return Learned(models, number, rounds, f"a discriminator cannot tell: its AUC is {auc:.3f}")
        if number < config.rounds:
            models.append(folder / f"policy-{number + 1}")
            history = steps.improve(models[-2], discriminator, models[-1])
    return Learned(models, config.rounds, rounds, "all rounds are done")


class _Judge:
    def __init__(self, schema: TableSchema, train: Rows, held_out: Rows, seed: int) -> None:
        self._schema, self._seed = schema, seed
        self._train, self._held_out = schema.frame(train), schema.frame(held_out)

    def round(self, number: int, made: Rows, history: Sequence[dict[str, float | None]]) -> Round:
        """What can be said of a model's rows without a discriminator."""
        rows = self._schema.frame(made)
        useful = utility(rows, self._held_out, self._schema, self._seed)
        secrecy = privacy(self._train, self._held_out, rows, self._schema)
        return Round(
            number=number,
            discriminator_auc=np.nan,
            utility=np.nan if useful is None else headline(useful),
            coverage=category_coverage(self._train, rows, self._schema),
            exact_copies=secrecy.exact_copies,
            closest=secrecy.closest_ratio,
            reward=_figure(history, "reward"),
            kl=_figure(history, "kl"),
        )


def _fault(found: Round, before: Sequence[Round]) -> str:
    """Why a model is not to be used after those `before`; empty where it is."""
    if not before:
        return ""
    start, best = before[0], float(np.fmax.reduce([each.utility for each in before]))
    if not np.isnan(best) and not found.utility >= best - UTILITY_FALL:  # NaN: the rows teach nothing at all
        return f"utility on the validation rows fell from {best:.3f} to {found.utility:.3f}"
    if found.coverage < start.coverage - COVERAGE_FALL:
        return f"the coverage of categories fell from {start.coverage:.3f} to {found.coverage:.3f}"
    if found.exact_copies > start.exact_copies + COPIES_RISE:
        return f"copies of training rows rose from {start.exact_copies:.3f} to {found.exact_copies:.3f}"
    if found.closest < start.closest * CLOSEST:
        return f"the distance to training rows fell from {start.closest:.3f} of the usual to {found.closest:.3f}"
    return ""


def _figure(history: Sequence[dict[str, float | None]], name: str) -> float:
    found = history[-1][name] if history else None
    return np.nan if found is None else found

"""Every system beside every other on the same held-out items: baselines, models, people, and the best achievable."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from consilience.calibration.baselines import bag_of_words, majority, prior
from consilience.calibration.bound import DRAWS, fit_dirichlet, posterior_draws, posterior_mean
from consilience.calibration.fitting import predict
from consilience.calibration.metrics import METRICS, Bootstrap, Prediction
from consilience.calibration.questions import unordered
from consilience.calibration.splits import DEV, TEST, TRAIN, Split
from consilience.calibration.tasks import VotedItems
from consilience.intervals import Interval, or_none

Floats = NDArray[np.float64]

PRIOR, MAJORITY, WORDS, PEOPLE, BOUND = "prior", "majority", "bag_of_words", "people", "bound"
BEFORE, AFTER, ENCODER = "before", "after", "encoder"
SYSTEMS = (PRIOR, MAJORITY, WORDS, ENCODER, BEFORE, AFTER, PEOPLE, BOUND)


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model said of n items: logits (n, orders, k) and answer mass (n,), see `models.read`."""

    logits: Floats
    mass: Floats

    @property
    def log_p(self) -> Floats:
        """(n, k), orders averaged."""
        return log_softmax(unordered(torch.from_numpy(self.logits)).numpy(), axis=1)

    @property
    def position_bias(self) -> float:
        """Mean probability of the answer that names the first place, over both orders, less 0.5; NaN for one text."""
        if self.logits.shape[1] == 1:
            return float("nan")
        return float(np.exp(log_softmax(self.logits, axis=2))[:, :, 0].mean() - 0.5)

    def __getitem__(self, rows: slice) -> "Reading":
        return Reading(self.logits[rows], self.mass[rows])


@dataclass(frozen=True, eq=False)
class Assessment:
    """Figures of all systems on the test items.

    Attributes:
        metrics: rows of the table `calibration_metrics`.
        predictions: rows of the table `calibration_predictions`.
        systems: per system, `temperature` and `concentration` fitted on dev, `answer_mass` and `position_bias` on test.
        gain: per model, the prior's cross-entropy less its own, on the same resamples.
        gap_closed: per model, the share of the way from the prior to the bound.
        dirichlet: (k,) parameters fitted to all votes, behind the bound.
    """

    metrics: list[dict[str, Any]]
    predictions: pd.DataFrame
    systems: dict[str, dict[str, float | None]]
    gain: dict[str, dict[str, float]]
    gap_closed: dict[str, dict[str, float]]
    dirichlet: list[float]


def held_out(items: VotedItems, split: Split) -> VotedItems:
    """What models are asked about: the items of dev, then those of test."""
    return items.take(np.concatenate([split.rows(DEV), split.rows(TEST)]))


def assess(items: VotedItems, split: Split, readings: Mapping[str, Reading], draws: int = DRAWS) -> Assessment:
    """Judge models and baselines on the test items; temperature and concentration are fitted on dev.

    Args:
        items: all items.
        split: their parts.
        readings: of `before`, and perhaps `after` and `encoder`, each of `held_out`.
        draws: of the bound; there is none where votes are shares.
    """
    rows = {part: split.rows(part) for part in (TRAIN, DEV, TEST)}
    train, dev, test = (items.take(rows[part]) for part in (TRAIN, DEV, TEST))
    bootstrap = Bootstrap(test.votes, split.block[rows[TEST]], items.counted)
    said = {
        PRIOR: [prior(train, len(part)) for part in (dev, test)],
        MAJORITY: [majority(train, len(part)) for part in (dev, test)],
        WORDS: [bag_of_words(train, dev, part) for part in (dev, test)],
    }
    parameters = fit_dirichlet(items.votes) if items.counted else None
    if dev.second is not None and test.second is not None:
        own = fit_dirichlet(train.votes)
        said[PEOPLE] = [posterior_mean(second, own) for second in (dev.second, test.second)]
    first, rest = slice(len(dev)), slice(len(dev), None)
    said |= {name: [np.exp(reading[part].log_p) for part in (first, rest)] for name, reading in readings.items()}
    predictions, systems = {}, {}
    for name, (dev_p, p) in said.items():
        predictions[name], temperature = _predict(p, dev_p, dev)
        systems[name] = {
            "temperature": temperature,
            "concentration": or_none(predictions[name].concentration),
            "answer_mass": or_none(readings[name][rest].mass.mean()) if name in readings else None,
            "position_bias": or_none(readings[name][rest].position_bias) if name in readings else None,
        }
    figures = {name: bootstrap.figures(prediction) for name, prediction in predictions.items()}
    if parameters is not None:
        figures[BOUND] = bootstrap.bound(posterior_draws(test.votes, parameters, draws))
    models = [name for name in (BEFORE, AFTER, ENCODER, WORDS, PEOPLE) if name in predictions]
    best = figures[BOUND]["ce"].value if BOUND in figures else np.nan
    return Assessment(
        metrics=[
            {"system": name, "metric": metric, **_row(figures[name][metric])}
            for name in SYSTEMS
            if name in figures
            for metric in METRICS
        ],
        predictions=_table(test, predictions),
        systems=systems,
        gain={name: asdict(bootstrap.gain(predictions[name], predictions[PRIOR])) for name in models},
        gap_closed={}
        if np.isnan(best)
        else {name: asdict(bootstrap.gap_closed(predictions[name], predictions[PRIOR], best)) for name in models},
        dirichlet=[] if parameters is None else parameters.tolist(),
    )


def _predict(p: Floats, dev_p: Floats, dev: VotedItems) -> tuple[Prediction, float | None]:
    """The prediction and its temperature; certainty has neither temperature nor concentration."""
    if (dev_p == 0).any():
        return Prediction(p, p, np.nan), None
    return predict(np.log(p), np.log(dev_p), dev.votes, dev.counted)


def _table(test: VotedItems, predictions: Mapping[str, Prediction]) -> pd.DataFrame:
    shares = test.votes / test.votes.sum(axis=1, keepdims=True)
    n, k = shares.shape
    return pd.concat(
        pd.DataFrame(
            {
                "item_id": np.repeat(np.array(test.ids, dtype=object), k),
                "system": name,
                "option": np.tile(np.array(test.options, dtype=object), n),
                "p": prediction.p.ravel(),
                "p_calibrated": prediction.calibrated.ravel(),
                "people": shares.ravel(),
            }
        )
        for name, prediction in predictions.items()
    )


def _row(interval: Interval) -> dict[str, float | None]:
    """Missing and infinite figures are null."""
    return {"value": or_none(interval.value), "low": or_none(interval.low), "high": or_none(interval.high)}

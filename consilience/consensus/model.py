"""A fitted consensus as an artefact: what was learned, in a JSON file, ready to judge new items."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from consilience.config import Config, parse_config
from consilience.consensus.agreement import disagreement
from consilience.consensus.baselines import score_count
from consilience.consensus.calibrated import CalibratedModel
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.past import Past
from consilience.consensus.posterior import Parameters, Shard, Statistics
from consilience.consensus.truncated_normal import jeffreys_divergence, mean_sd
from consilience.errors import UserError
from consilience.files import read_json, write_json

Floats = NDArray[np.float64]


class Settings(Config):
    """How a consensus was fitted; see `TruncatedNormalEM`."""

    prior: Literal["global", "per_theory"] | float
    parameters: Literal["pooled", "per_theory"]
    mstep: Literal["exact", "naive"]
    kappa: float
    tolerance: float
    max_iterations: int
    noise_sd: dict[str, float] = Field(default_factory=dict)


class _ModelFile(Config):
    """The JSON file, key by key."""

    format: Literal["consilience.consensus_model"]
    version: Literal[1]
    annotators: list[str]
    theories: list[str]
    settings: Settings
    stopped: str
    iterations: int
    parameters: dict[str, Any]
    statistics: dict[str, Any]
    past: dict[str, Any] | None = None
    calibrated: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class ConsensusModel:
    """A consensus that has been fitted and oriented (class 1 = acceptable).

    Attributes:
        annotators, theories: M and T names.
        settings: how it was fitted.
        parameters: mu and sigma of every annotator in both classes, and the priors.
        statistics: the sums they rest on, by theory, annotator and class.
        stopped: "converged" or "max_iterations".
        iterations: passes over the data.
        past: what updates and drift alarms need of the tasks behind the statistics; None where it was not kept.
        calibrated: the calibrated consensus of the same scores; None where it was not fitted.
    """

    annotators: list[str]
    theories: list[str]
    settings: Settings
    parameters: Parameters
    statistics: Statistics
    stopped: str
    iterations: int
    past: Past | None = None
    calibrated: CalibratedModel | None = None

    def predict(self, data: ScoreMatrix | pd.DataFrame) -> pd.DataFrame:
        """The consensus on new items, from whichever of the annotators scored them: see `consensus_table`.

        Raises:
            UserError: an annotator that the model was not fitted on, or a theory where parameters or priors are per
                theory.
        """
        if isinstance(data, ScoreMatrix):
            matrix = data.align(self.annotators)
        else:
            matrix = ScoreMatrix.from_frame(data, annotators=self.annotators)
        return consensus_table(matrix, Shard(matrix).posterior(self.parameters_of(matrix.theories)))

    def reliability(self) -> pd.DataFrame:
        """The `reliability` table: annotator x theory ("all" where pooled).

        mu and sigma are the parameters of the truncated law (with the naive M-step, moments used as such); mean and sd
        are its moments; informativeness is the Jeffreys divergence of the two classes in nats, 0 for an annotator
        whose scores say nothing. All are missing where the annotator has no score.
        """
        pooled = self.settings.parameters == "pooled"
        mu, sigma = self.parameters.mu, self.parameters.sigma
        mean, sd = mean_sd(mu, sigma)
        count = self.statistics.totals[..., 0]
        count = count.sum(axis=0, keepdims=True) if pooled else count
        columns = {
            "mu1": mu[1],
            "sigma1": sigma[1],
            "mu0": mu[0],
            "sigma0": sigma[0],
            "mean1": mean[1],
            "sd1": sd[1],
            "mean0": mean[0],
            "sd0": sd[0],
            "informativeness": jeffreys_divergence(mu[1], sigma[1], mu[0], sigma[0]),
            "ci_low": np.full_like(count, np.nan),
            "ci_high": np.full_like(count, np.nan),
        }
        theories = ["all"] if pooled else self.theories
        return pd.DataFrame(
            {
                "annotator": np.tile(np.asarray(self.annotators, dtype=object), len(theories)),
                "theory": np.repeat(np.asarray(theories, dtype=object), len(self.annotators)),
                **{name: np.where(count > 0, values, np.nan).ravel() for name, values in columns.items()},
                "n": count.ravel().astype(np.int64),
            }
        )

    def save(self, path: Path) -> None:
        """Write the model as JSON, atomically."""
        write_json(
            path,
            {
                "format": "consilience.consensus_model",
                "version": 1,
                "annotators": self.annotators,
                "theories": self.theories,
                "settings": self.settings.model_dump(),
                "stopped": self.stopped,
                "iterations": self.iterations,
                "parameters": _to_lists(self.parameters),
                "statistics": _to_lists(self.statistics),
                "past": None if self.past is None else _to_lists(self.past),
                "calibrated": None if self.calibrated is None else self.calibrated.to_json(),
            },
        )

    @classmethod
    def load(cls, path: Path) -> "ConsensusModel":
        """Read a model that `save` wrote.

        Raises:
            UserError: no such file, or not a consensus model of this version, or damaged.
        """
        file = parse_config(_ModelFile, read_json(path, "a consensus_model.json"), str(path))
        T, M = len(file.theories), len(file.annotators)
        G = 1 if file.settings.parameters == "pooled" else T
        parameters = _arrays(file.parameters, {"mu": (2, G, M), "sigma": (2, G, M), "prior": (T,)}, path)
        sums = {"tasks": (T,), "gamma": (T,), "totals": (T, M, 3), "class1": (T, M, 3), "log_odds": ()}
        statistics = _arrays(file.statistics, {**sums, "gold_evidence": (T,)}, path)
        past = None if file.past is None else Past(**_arrays(file.past, Past.shapes(T, M), path))
        return cls(
            annotators=file.annotators,
            theories=file.theories,
            settings=file.settings,
            parameters=Parameters(**parameters),
            statistics=Statistics(**{**statistics, "log_odds": float(statistics["log_odds"])}),
            stopped=file.stopped,
            iterations=file.iterations,
            past=past,
            calibrated=None if file.calibrated is None else CalibratedModel.from_json(file.calibrated, str(path)),
        )

    def parameters_of(self, theories: list[str]) -> Parameters:
        """The parameters for `theories`, in that order."""
        if theories == self.theories:
            return self.parameters
        pooled = self.settings.parameters == "pooled"
        if pooled and self.settings.prior != "per_theory":  # nothing depends on the theory: any will do
            prior = np.full(len(theories), self.parameters.prior[0])
            return Parameters(self.parameters.mu, self.parameters.sigma, prior)
        for theory in theories:
            if theory not in self.theories:
                raise UserError(f"unknown theory '{theory}': this consensus was fitted on {', '.join(self.theories)}")
        rows = [self.theories.index(theory) for theory in theories]
        groups = [0] if pooled else rows
        return Parameters(self.parameters.mu[:, groups], self.parameters.sigma[:, groups], self.parameters.prior[rows])


def consensus_table(matrix: ScoreMatrix, gamma: Floats) -> pd.DataFrame:
    """item_id, theory, consensus (gamma, missing where the task has no score), n_annotators, disagreement."""
    return matrix.task_frame(consensus=gamma, n_annotators=score_count(matrix), disagreement=disagreement(matrix))


def _to_lists(values: Parameters | Statistics | Past) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(values).items()}


def _arrays(raw: dict[str, Any], shapes: dict[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    arrays = {}
    for name, shape in shapes.items():
        try:
            array = np.asarray(raw.get(name), dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array(np.nan)
        if array.shape != shape or not np.isfinite(array).all():
            raise UserError(f"{path}: key '{name}': expected numbers in the shape {shape}")
        arrays[name] = array
    return arrays

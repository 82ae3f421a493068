"""A factor that annotators follow, ignore or invert: one-factor EM with empirical-Bayes annotators."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from consilience.consensus.dependence import correlation_scores, has_signal, shared_votes
from consilience.consensus.shrinkage import shrunk_variance

Floats = NDArray[np.float64]

SD_FLOOR = 0.03  # of rounding to 0.1, 0.1 / sqrt(12)
GAIN_SPREAD_FLOOR = 0.1  # tau_g >= 0.1 g: keeps the genuine role wider than a point when M is small
LOCATION_SPREAD_FLOOR = 0.01  # the resolution of a score with two decimals
MIN_ITERATIONS = 10  # the first steps can be short while the roles are still being found


class RoleFactor:
    """The model of `consilience.consensus.calibrated`, fitted by EM from the leading direction of the correlations.

    Attributes:
        filled, seen: (M, N) scores, 0 where missing, and 1 where there is one; every row and column has one.
        location, gain, gain_square, psi: (M,) b_m, E[g_m], E[g_m^2] and residual variance.
        role: (3, M) probabilities of genuine, noise, inverted.
        centre, centre_spread, slope, slope_spread: b, tau_b^2, g, tau_g^2.
        z, variance: (N,) posterior mean and variance of the factor, standardised.
        votes: (M,) see `shared_votes`.
        signal: whether the scores correlate beyond chance.
    """

    def __init__(self, filled: Floats, seen: Floats) -> None:
        self.filled, self.seen = filled, seen
        self.count = seen.sum(1)
        self.total = filled.sum(1)
        self.total_square = (filled**2).sum(1)
        self.role_share = np.array([0.8, 0.1, 0.1])
        self.z, self.signal = self._start()
        self.variance = np.full(filled.shape[1], 0.1)
        self.slope = 0.0  # set by the first M-step

    def _start(self) -> tuple[Floats, bool]:
        """Factor scores along the leading direction of the correlations, and whether these rise above chance."""
        mean = self.total / self.count
        sd = np.sqrt(np.maximum(self.total_square / self.count - mean**2, SD_FLOOR**2))
        standard = (self.filled - mean[:, None] * self.seen) / sd[:, None]
        direction = np.linalg.eigh(correlation_scores(standard, self.seen))[1][:, -1]
        direction *= 1.0 if direction @ sd >= 0 else -1.0
        z = (direction @ standard) / (1.0 / len(sd) + direction**2 @ self.seen)
        spread = z.std()
        return (z / spread, has_signal(standard, self.seen)) if spread > 0.0 else (z, False)

    def run(self, max_iterations: int, tolerance: float) -> None:
        for iteration in range(max_iterations):
            self._m_step()
            before = self.z
            self._e_step()
            if iteration > MIN_ITERATIONS and np.abs(self.z - before).max() < tolerance:
                break
        residual = self.filled - (self.location[:, None] + np.outer(self.gain, self.z)) * self.seen
        self.votes = shared_votes(residual, self.seen)

    def _e_step(self) -> None:
        z, variance = factor_scores(self.filled, self.seen, self.location, self.gain, self.gain_square, self.psi)
        mean = z.mean()
        scale = np.sqrt(np.mean(z**2 + variance) - mean**2)
        self.z, self.variance = (z - mean) / scale, variance / scale**2

    def _m_step(self) -> None:
        count, total, z = self.count, self.total, self.z
        sum_z, sum_z2 = self.seen @ z, self.seen @ (z**2 + self.variance)
        product = self.filled @ z
        determinant = np.maximum(count * sum_z2 - sum_z**2, 1e-9)
        gain = (count * product - sum_z * total) / determinant
        location = (total - gain * sum_z) / count
        square = np.maximum(self.total_square - location * total - gain * product, 0.0)
        self.psi = shrunk_variance(square, np.maximum(count - 2.0, 0.5), SD_FLOOR**2)
        gain_error, location_error = self.psi * count / determinant, self.psi / count
        if self.slope == 0.0:
            up = count * (gain > 0)
            self.slope = float(np.average(gain, weights=up)) if up.any() else SD_FLOOR
            self.centre = float(np.average(location, weights=count))
            excess = np.average((gain - self.slope) ** 2 - gain_error, weights=up) if up.any() else 0.0
            self.slope_spread = max(float(excess), (GAIN_SPREAD_FLOOR * self.slope) ** 2)
            self.centre_spread = max(float(location.var()), LOCATION_SPREAD_FLOOR**2)

        wide = self.slope_spread + gain_error
        self.role = softmax(
            np.log(self.role_share)[:, None]
            - 0.5
            * np.stack(
                [
                    np.log(wide) + (gain - self.slope) ** 2 / wide,
                    np.log(gain_error) + gain**2 / gain_error,
                    np.log(wide) + (gain + self.slope) ** 2 / wide,
                ]
            ),
            axis=0,
        )
        genuine, noise, inverted = self.role
        keep = self.slope_spread / wide
        upward, downward = self.slope + keep * (gain - self.slope), -self.slope + keep * (gain + self.slope)
        self.gain = genuine * upward + inverted * downward
        self.gain_square = genuine * upward**2 + inverted * downward**2 + (1.0 - noise) * keep * gain_error
        raw = (total - self.gain * sum_z) / count
        expected = genuine * self.centre + inverted * (1.0 - self.centre) + noise * raw
        self.location = expected + self.centre_spread / (self.centre_spread + location_error) * (raw - expected)

        self.slope, self.slope_spread = _population(gain, -gain, gain_error, self.role, self.slope_spread)
        self.slope = max(self.slope, 1e-4)
        self.slope_spread = max(self.slope_spread, (GAIN_SPREAD_FLOOR * self.slope) ** 2)
        self.centre, self.centre_spread = _population(raw, 1.0 - raw, location_error, self.role, self.centre_spread)
        self.centre_spread = max(self.centre_spread, LOCATION_SPREAD_FLOOR**2)
        self.role_share = (self.role.sum(1) + 1.0) / (self.role.shape[1] + 3.0)


def factor_scores(
    filled: Floats, seen: Floats, location: Floats, gain: Floats, gain_square: Floats, psi: Floats
) -> tuple[Floats, Floats]:
    """(N,) posterior mean and variance of each task's z, were residuals independent; prior N(0, 1)."""
    variance = 1.0 / (1.0 + (gain_square / psi) @ seen)
    weight = gain / psi
    return (weight @ filled - (weight * location) @ seen) * variance, variance


def _population(value: Floats, reflected: Floats, error: Floats, role: Floats, spread: float) -> tuple[float, float]:
    """Mean and excess variance of genuine values and reflected inverted ones, `error` being each one's variance."""
    weight = role[[0, 2]] / (spread + error)
    mean = float((weight[0] @ value + weight[1] @ reflected) / max(weight.sum(), 1e-12))
    excess = role[0] @ ((value - mean) ** 2 - error) + role[2] @ ((reflected - mean) ** 2 - error)
    return mean, float(excess) / max(float(role[[0, 2]].sum()), 1e-9)

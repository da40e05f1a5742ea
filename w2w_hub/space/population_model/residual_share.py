"""How much of the variance of samples is residual, chosen by cross-validation on the fitted rows.

With little residual, samples are the means of people who look alike, which lie close to these people; with much, they
have looks that do not fit each other. The share is the one at which samples are as near to their nearest row as people
are who were left out. Both are compared in the leading components: the others also hold noise of the rows that they
were fitted to, which rows share with nobody outside of the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .factors import Exclusion, Factor
from .hyperparameters import Hyperparameters, sample_of
from .joint import Joint
from .kernel import Kernel
from .regression import fit
from .residual import nearest_cosines

SHARES = tuple(round(0.05 * i, 2) for i in range(1, 13))  # coarse, so that another machine chooses the same
USUAL = 0.25  # of too few rows to choose it; what the shipped people's is
ROWS, FOLDS, FEWEST, PEOPLE = 2048, 4, 40, 256
COMPONENTS, COMPARED = 1024, 0.75  # that are fitted; fraction of the variance in those that are compared
MOST_GAIN = 2.0


@dataclass(frozen=True)
class ResidualShare:
    """The residual's share of the variance of samples, and the mean cosines to the nearest row that it follows from.

    `samples` and `left_out` are None if there were too few rows, and `components` is the number that was compared.
    """

    share: float
    samples: float | None = None
    left_out: float | None = None
    components: int = 0

    def evidence(self) -> dict[str, Any]:
        if self.samples is None:
            return {"share": self.share}
        return {"share": self.share, "samples": self.samples, "left_out": self.left_out, "components": self.components}


def choose_share(
    factors: tuple[Factor, ...],
    excluded: Sequence[Exclusion],
    chosen: Hyperparameters,
    codes: np.ndarray,
    coefficients: np.ndarray,
) -> ResidualShare:
    """Choose among :data:`SHARES` by codes ``(n, factors)`` and coefficients ``(n, k)`` of the fitted rows.

    At most 2,048 rows take part, whatever n.
    """
    if len(codes) < FEWEST:
        return ResidualShare(USUAL)
    some = sample_of(len(codes), ROWS)
    codes, values = codes[some], coefficients[some][:, :COMPONENTS].astype(np.float64)
    variances = np.cumsum(values.var(0))
    leading = int(np.searchsorted(variances, COMPARED * variances[-1])) + 1
    kernel = Kernel(factors, chosen.rhos)
    near, target = np.zeros(len(SHARES)), 0.0
    for train, test in _folds(len(codes)):
        mean = values[train].mean(0)
        model = fit(kernel, chosen.noise, codes[train], values[train], mean)
        rows, rng = values[train] - mean, np.random.default_rng(0)
        means = model.predict(Joint(factors, tuple(excluded), model.codes, model.counts).draw(PEOPLE, rng))
        residuals = _like(rows - model.predict(codes[train]), rng)
        target += float(nearest_cosines(values[test][:, :leading] - mean[:leading], rows[:, :leading]).mean()) / FOLDS
        for i, share in enumerate(SHARES):
            gain, scale = amounts(share, rows, means, residuals)
            drawn = gain * means[:, :leading] + scale * residuals[:, :leading]
            near[i] += float(nearest_cosines(drawn, rows[:, :leading]).mean()) / FOLDS
    best = int(np.abs(near - target).argmin())
    return ResidualShare(SHARES[best], round(float(near[best]), 4), round(target, 4), leading)


def amounts(share: float, rows: np.ndarray, means: np.ndarray, residuals: np.ndarray) -> tuple[float, float]:
    """Return the factors of means and residuals by which samples have the variance of rows, a share of it residual.

    All are about the population's mean, ``(any, k)``.
    """
    total, explained, left = (float((part**2).sum(1).mean()) for part in (rows, means, residuals))
    gain = ((1 - share) * total / explained) ** 0.5 if explained > 0 else 1.0
    scale = (share * total / left) ** 0.5 if left > 0 else 1.0
    return round(float(np.clip(gain, 0, MOST_GAIN)), 2), round(scale, 2)


def _folds(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    order = np.random.default_rng(0).permutation(count)
    for fold in range(FOLDS):
        test = np.sort(order[fold::FOLDS])
        yield np.setdiff1d(order, test), test


def _like(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw :data:`PEOPLE` Gaussian vectors with the covariance of rows ``(n, k)``."""
    return np.asarray(rng.standard_normal((PEOPLE, len(rows))) @ rows / len(rows) ** 0.5)

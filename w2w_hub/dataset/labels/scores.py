"""Score read-outs of held-out rows, with confidence intervals and permutation nulls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PERMUTATIONS, BOOTSTRAPS = 999, 1000
Z95 = 1.959963984540054
DELONG, SCORE, BOOTSTRAP = "DeLong", "Newcombe score", "bootstrap"


def auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve; ties count half."""
    from scipy.stats import rankdata

    positive = truth == 1
    m, n = int(positive.sum()), int((~positive).sum())
    return float((rankdata(scores)[positive].sum() - m * (m + 1) / 2) / (m * n))


def auc_interval(truth: np.ndarray, scores: np.ndarray) -> tuple[tuple[float, float], str]:
    """Return the 95 % interval of the AUC and the name of its method.

    DeLong's variance (DeLong, DeLong and Clarke-Pearson 1988) on the logit scale. Where that variance is zero, as for
    an AUC of 0 or 1 or a class with one row, Newcombe's score interval (2006, method 5).
    """
    from scipy.stats import rankdata

    positive = truth == 1
    x, y = scores[positive], scores[~positive]
    m, n = len(x), len(y)
    area = auc(truth, scores)
    if min(m, n) > 1 and 0 < area < 1:
        ranks = rankdata(np.concatenate([x, y]))
        first = (ranks[:m] - rankdata(x)) / n
        second = 1 - (ranks[m:] - rankdata(y)) / m
        variance = first.var(ddof=1) / m + second.var(ddof=1) / n
        if variance > 0:
            logit, half = np.log(area / (1 - area)), Z95 * np.sqrt(variance) / (area * (1 - area))
            low, high = 1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))
            return (float(low), float(high)), DELONG
    return _score_interval(area, m, n), SCORE


def _score_interval(area: float, m: int, n: int) -> tuple[float, float]:
    from scipy.optimize import brentq

    def excess(theta: float) -> float:
        others = (m + n) / 2 - 1
        spread = 1 + others * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (area - theta) ** 2 - Z95**2 * theta * (1 - theta) * spread / (m * n)

    tiny = 1e-12
    low = 0.0 if area <= tiny else float(brentq(excess, tiny, area - tiny)) if excess(tiny) > 0 else 0.0
    high = 1.0 if area >= 1 - tiny else float(brentq(excess, area + tiny, 1 - tiny)) if excess(1 - tiny) > 0 else 1.0
    return low, high


def auc_null(truth: np.ndarray, scores: np.ndarray, seed: int) -> np.ndarray:
    """Return AUCs ``(PERMUTATIONS,)`` of the same scores under permuted labels."""
    from scipy.stats import rankdata

    ranks, positive = rankdata(scores), truth == 1
    m, n = int(positive.sum()), int((~positive).sum())
    rng = np.random.default_rng(seed)
    sums = np.array([ranks[rng.permutation(len(ranks))[:m]].sum() for _ in range(PERMUTATIONS)])
    return (sums - m * (m + 1) / 2) / (m * n)


def r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the coefficient of determination; predicting the mean of `truth` gives 0."""
    return float(1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def r2_interval(truth: np.ndarray, predicted: np.ndarray, seed: int) -> tuple[tuple[float, float], str]:
    """Return the 95 % percentile interval over resampled rows, and the name of its method."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(BOOTSTRAPS):
        some = rng.integers(0, len(truth), len(truth))
        if np.ptp(truth[some]) > 0:
            found.append(r2(truth[some], predicted[some]))
    low, high = np.quantile(found, [0.025, 0.975])
    return (float(low), float(high)), BOOTSTRAP


def r2_null(truth: np.ndarray, predicted: np.ndarray, seed: int) -> np.ndarray:
    """Return R2 ``(PERMUTATIONS,)`` of the same predictions under permuted labels."""
    rng = np.random.default_rng(seed)
    return np.array([r2(rng.permutation(truth), predicted) for _ in range(PERMUTATIONS)])


def p_value(figure: float, null: np.ndarray) -> float:
    """Return the fraction of permutations, the score itself included, that reach the score."""
    return float((1 + (null >= figure).sum()) / (1 + len(null)))


@dataclass(frozen=True)
class Score:
    """A measure of read-outs on held-out rows; each kind of label has one.

    Attributes
    ----------
    field : str
        The field of a direction that stores it.
    name, symbol : str
        Its name on the command line, and in cards and reports.
    axis : (float, float)
        Range of a chart's axis.
    """

    field: str
    name: str
    symbol: str
    axis: tuple[float, float]

    def measure(self, truth: np.ndarray, scores: np.ndarray) -> float:
        """Return the score of read-outs ``(n,)`` against labels ``(n,)``, none of which is missing."""
        raise NotImplementedError

    def is_useless(self, value: float) -> bool:
        """Return whether a value is no better than a constant read-out, whatever its p-value."""
        return False

    def shown(self, value: float) -> str:
        """Format a value for a card."""
        return f"{self.symbol} {value:.3f}"

    def evidence(self, truth: np.ndarray, scores: np.ndarray, intercept: float, seed: int) -> dict[str, Any]:
        """Return the score, its interval and its null as fields of a direction; empty if the score is undefined.

        Parameters
        ----------
        truth, scores : ndarray
            ``(n,)``: labels of held-out rows, and ``c @ reading`` without the intercept.
        """
        if not self._is_defined(truth):
            return {}
        value, interval, method, null = self._evidence(truth, scores, intercept, seed)
        return {
            self.field: value,
            "interval": interval,
            "interval_method": method,
            "null": (float(null.mean()), float(np.quantile(null, 0.95))),
            "p_value": p_value(value, null),
        }

    def _is_defined(self, truth: np.ndarray) -> bool:
        raise NotImplementedError

    def _evidence(
        self, truth: np.ndarray, scores: np.ndarray, intercept: float, seed: int
    ) -> tuple[float, tuple[float, float], str, np.ndarray]:
        raise NotImplementedError


class AreaUnderCurve(Score):
    """Area under the ROC curve of two classes, 1 and 0."""

    def measure(self, truth: np.ndarray, scores: np.ndarray) -> float:
        return auc(truth, scores)

    def shown(self, value: float) -> str:
        return f"{value:.3f}"  # a card's default measure, so that it needs no symbol

    def _is_defined(self, truth: np.ndarray) -> bool:
        return len(np.unique(truth)) >= 2

    def _evidence(
        self, truth: np.ndarray, scores: np.ndarray, intercept: float, seed: int
    ) -> tuple[float, tuple[float, float], str, np.ndarray]:
        return auc(truth, scores), *auc_interval(truth, scores), auc_null(truth, scores, seed)


class Determination(Score):
    """Coefficient of determination of numeric labels."""

    def measure(self, truth: np.ndarray, scores: np.ndarray) -> float:
        return r2(truth, scores)

    def is_useless(self, value: float) -> bool:
        return value <= 0

    def _is_defined(self, truth: np.ndarray) -> bool:
        return len(truth) >= 3 and bool(np.ptp(truth) > 0)

    def _evidence(
        self, truth: np.ndarray, scores: np.ndarray, intercept: float, seed: int
    ) -> tuple[float, tuple[float, float], str, np.ndarray]:
        predicted = scores + intercept
        return r2(truth, predicted), *r2_interval(truth, predicted, seed), r2_null(truth, predicted, seed)


AUC = AreaUnderCurve("auc", "AUC", "AUC", (0.4, 1.0))
R2 = Determination("r2", "R2", "R²", (-0.2, 1.0))
SCORES = (AUC, R2)

"""Linear readers and editing directions fitted on one half of the rows, to judge pushes of the other half."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .editing import partial_effects

LEADING = 1000  # components that readers use, so that a space of many is no slower
RIDGE = 0.1  # of the rows' number, on standardized coefficients
FEWEST = 2  # rows of each class in each half
# from an effect and reading weights, each (k,), and a number of components to a vector of unit length
Unit = Callable[[np.ndarray, np.ndarray, int], np.ndarray | None]


class HalfReaders:
    """Least-squares readers of all attributes; what judges a row was fitted without it, and so was not what moves it.

    A direction and a reader of the same rows share their noise: the push would seem to do more than it does.

    Parameters
    ----------
    coefficients : ndarray
        float32 ``(n, k)``.
    halves : ndarray
        ``(n, a)``: 1, 0 or NaN per attribute.
    controlled_for : ndarray
        Boolean ``(a, a)``, as of :func:`partial_effects`.

    Attributes
    ----------
    usable : ndarray
        Boolean ``(a,)``: attributes with rows of both classes in both halves.
    """

    def __init__(
        self, coefficients: np.ndarray, halves: np.ndarray, mean: np.ndarray, scale: np.ndarray,
        controlled_for: np.ndarray, seed: int,
    ):  # fmt: skip
        n, self.k = coefficients.shape
        self.scale, used = scale, min(self.k, LEADING)
        self.half = np.random.default_rng(seed).permutation(n) % 2
        counts = [[(halves[self.half == h] == c).sum(0) for c in (0, 1)] for h in (0, 1)]
        self.usable: np.ndarray = np.min(counts, axis=(0, 1)) >= FEWEST
        columns = np.flatnonzero(self.usable)
        self.scores = np.zeros(halves.shape)
        self.weights, self.effects, self.rows = np.zeros((2, used, halves.shape[1])), [], []
        z = (coefficients[:, :used] - mean[:used]) / scale[:used]
        for h in (0, 1):
            own, other = self.half == h, self.half != h
            labels = halves[other][:, columns]
            centered = np.nan_to_num(labels - np.nanmean(labels, axis=0)) if len(columns) else labels
            gram = z[other].T @ z[other] + RIDGE * other.sum() * np.eye(used)
            self.weights[h][:, columns] = np.linalg.solve(gram, z[other].T @ centered)
            self.scores[own] = z[own] @ self.weights[h]
            effects = np.zeros((halves.shape[1], self.k))
            rows = coefficients[own].astype(np.float64)
            if len(columns):
                controls = controlled_for[np.ix_(columns, columns)]
                effects[columns] = partial_effects(rows, halves[own][:, columns], controlled_for=controls)
            self.effects.append(effects)
            self.rows.append(rows)
        lacks, has = (
            np.array([_mean(s[c == v]) for s, c in zip(self.scores.T, halves.T, strict=True)]) for v in (0, 1)
        )
        self.middle, self.typical, self.lacking = (lacks + has) / 2, has, lacks

    def pushed(
        self, people: np.ndarray, own: int, others: np.ndarray, unit: Unit, components: int, *, removing: bool = False
    ) -> Callable[[float], np.ndarray] | None:
        """Return the readings after a push by strength, boolean ``(people, 1 + others)``; None if it cannot be judged.

        Their own attribute is shown where the score is that of the mean person who has it; when it is removed, until
        the score is that of the mean person who lacks it. Another one is read where the score is nearer to those who
        have it.
        """
        if not self.usable[own]:
            return None
        columns = np.array([own, *others], int)
        gains = []
        for h in (0, 1):
            weights = np.zeros(self.k)
            weights[: self.weights.shape[1]] = self.weights[h][:, own]
            vector = unit(self.effects[h][own], weights / self.scale, components)
            if vector is None:
                return None
            sd = (self.rows[h] @ vector).std(ddof=1)
            step = sd * (vector / self.scale)[: self.weights.shape[1]]
            gains.append(step @ self.weights[h][:, columns])
        gain = np.stack(gains)[self.half[people]]
        scores = self.scores[people][:, columns]
        reached = (self.lacking if removing else self.typical)[own]
        limits = np.array([reached, *self.middle[others]])
        return lambda strength: np.asarray(scores + strength * gain > limits)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0

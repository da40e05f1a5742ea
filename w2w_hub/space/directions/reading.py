"""Reading directions: linear readers of attributes, by scikit-learn, on standardized coefficients."""

from __future__ import annotations

import numpy as np

from ...dataset.labels.kinds import BINARY, CONTINUOUS
from ...errors import InvalidInputError

READINGS = ("logistic", "ridge", "lda")
GRID = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
FOLDS = 5


def fit_reading(
    standardized: np.ndarray, truth: np.ndarray, method: str, regularization: float, continuous: bool
) -> tuple[np.ndarray, float]:
    """Return weights ``(k,)`` and intercept of a reader of ``(n, k)``: log-odds, or the value if `continuous`."""
    if method not in READINGS:
        raise InvalidInputError(f"unknown reading method {method!r}; choose from {', '.join(READINGS)}")
    if continuous or method == "ridge":
        from sklearn.linear_model import RidgeCV

        ridge = RidgeCV(alphas=len(truth) * np.logspace(-3, 2, 11)).fit(standardized, truth)
        weights, intercept = ridge.coef_, float(ridge.intercept_)
        return (weights, intercept) if continuous else _as_log_odds(standardized, truth, weights, intercept)
    if method == "lda":
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(standardized, truth)
        return lda.coef_[0], float(lda.intercept_[0])
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=regularization / len(truth), max_iter=500).fit(standardized, truth)
    return model.coef_[0], float(model.intercept_[0])


def _as_log_odds(
    standardized: np.ndarray, truth: np.ndarray, weights: np.ndarray, intercept: float
) -> tuple[np.ndarray, float]:
    """Return a least-squares reader rescaled to log-odds by a logistic regression on its score (Platt)."""
    from sklearn.linear_model import LogisticRegression

    score = (standardized @ weights + intercept)[:, None]
    spread = max(float(score.std()), 1e-12)
    one = LogisticRegression(C=1.0).fit(score / spread, truth)
    slope = float(one.coef_[0, 0]) / spread
    return slope * weights, float(one.intercept_[0]) + slope * intercept


def choose_components(standardized: np.ndarray, truth: np.ndarray, continuous: bool, seed: int = 0) -> int:
    """Return how many leading components read ``(n,)`` labels best, by cross-validated ridge over round numbers."""
    k = standardized.shape[1]
    grid = [g for g in GRID if g < k] + [k]
    score = (CONTINUOUS if continuous else BINARY).score
    folds = _folds(truth, seed)
    scores = np.zeros(len(grid))
    for fold in range(FOLDS):
        test = folds == fold
        if not test.any() or np.ptp(truth[test]) == 0 or np.ptp(truth[~test]) == 0:
            continue
        x, y = standardized[~test], truth[~test] - truth[~test].mean()
        product, cross = x.T @ x, x.T @ y
        for i, g in enumerate(grid):
            weights = np.linalg.solve(product[:g, :g] + 0.1 * len(x) * np.eye(g), cross[:g])
            predicted = standardized[test][:, :g] @ weights + truth[~test].mean()
            scores[i] += score.measure(truth[test], predicted)
    return grid[int(scores.argmax())]


def _folds(truth: np.ndarray, seed: int) -> np.ndarray:
    """Return a fold per row; classes, or the order of the values, are spread evenly."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(truth)), truth))
    folds = np.empty(len(truth), int)
    folds[order] = np.arange(len(truth)) % FOLDS
    return folds

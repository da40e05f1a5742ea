"""Hyperparameters of the regression by leave-one-out cross-validation on the fitted rows.

The error of each row under a model of all others has a closed form (Rasmussen and Williams, 2006, section 5.4.2), and
so has its gradient: no model is fitted again. What is found is rounded, so that another machine finds the same.

Of the kernels from the best one to the best with the same rho for all factors, the last one is taken that explains at
least nine tenths of what the best explains of left-out rows. f leans less on single rows then, and samples need less
residual to be no copies of one: on the shipped people it loses .04 of the variance, and pictures of a sample under
several prompts agree better (BENCHMARKS.md, "Population model").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.progress import counted_steps
from .factors import Factor
from .kernel import Kernel, inner_products, one_hot, similarity

ROWS, COMPONENTS = 1024, 256  # at most: a sample of the rows, the leading components
STARTS, START_ROWS = (0.6, 0.9, 0.98), 512
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
STEPS, SHARED_STEPS = 25, 12
SHARES = tuple(i / 20 for i in range(1, 21))  # of the way to one rho for all factors
KEPT = 0.9  # of the variance that the best kernel explains
NOISE_RANGE = (np.log(0.03), np.log(1e3))  # less makes weights so large that their rounding to float32 shows
EDGE = 5.0  # of the logits of rho: 0.007 to 0.993


@dataclass(frozen=True)
class Hyperparameters:
    """`rhos` ``(factors,)`` of the kernel, and the `noise` that is added to its diagonal, a multiple of 1."""

    rhos: np.ndarray
    noise: float


def choose(factors: Sequence[Factor], codes: np.ndarray, values: np.ndarray, mean: np.ndarray) -> Hyperparameters:
    """Return what predicts left-out rows as well as the best does, by L-BFGS from the best of a few starts.

    Parameters
    ----------
    codes : ndarray
        ``(n, factors)``.
    values : ndarray
        ``(n, k)``, of which `mean` is subtracted.
    """
    from scipy.optimize import minimize

    rows = sample_of(len(codes), ROWS)
    codes, values = codes[rows], values[rows, :COMPONENTS] - mean[:COMPONENTS]
    some = sample_of(len(codes), START_ROWS)
    starts = []
    for rho in STARTS:
        gram = Kernel(tuple(factors), np.full(len(factors), rho)).matrix(codes[some], codes[some])
        errors = left_out_errors(gram, NOISES, values[some])
        starts.append((float(errors.min()), rho, NOISES[int(errors.argmin())]))
    _, rho, noise = min(starts)
    bounds = [(-EDGE, EDGE)] * len(factors) + [NOISE_RANGE]

    def descend(function: Any, at: np.ndarray, limits: Any, steps: int) -> np.ndarray:
        found = minimize(function, at, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": steps})
        return np.asarray(found.x)

    with counted_steps("population model") as step:
        problem = _LeftOut(tuple(factors), codes, values, step)
        shared = descend(problem.shared, np.array([np.log(rho / (1 - rho)), np.log(noise)]), bounds[-2:], SHARED_STEPS)
        even = np.append(np.full(len(factors), shared[0]), shared[1])
        return _rounded(_smoothest(problem, descend(problem, even, bounds, STEPS), even))


def _smoothest(problem: _LeftOut, best: np.ndarray, even: np.ndarray) -> np.ndarray:
    """Return the last point on the way from the best to an even one that explains most of what the best does."""
    total = float((problem.values**2).sum(1).mean())
    least = KEPT * (total - float(problem.errors(best).mean()))
    chosen = best
    for share in SHARES:
        at = best + share * (even - best)
        if total - float(problem.errors(at).mean()) < least:
            break
        chosen = at
    return chosen


def _rounded(at: np.ndarray) -> Hyperparameters:
    rhos = np.round(1 / (1 + np.exp(-at[:-1])), 2)
    return Hyperparameters(np.clip(rhos, 0.01, 0.99), float(f"{np.exp(at[-1]):.2g}"))


def sample_of(count: int, most: int) -> np.ndarray:
    """Return the positions of at most so many rows, chosen at random with a fixed seed, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def left_out_errors(gram: np.ndarray, noises: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Return the squared error of each row ``(k,)`` left out, summed, for each noise ``(noises,)``."""
    from scipy.linalg import eigh

    eigenvalues, vectors = eigh(gram)
    rotated, squares = vectors.T @ values, vectors**2
    errors = np.empty(len(noises))
    for j, noise in enumerate(noises):
        inverse = 1 / (np.maximum(eigenvalues, 0) + noise)
        left = (vectors @ (inverse[:, None] * rotated)) / (squares @ inverse)[:, None]
        errors[j] = float((left**2).sum())
    return errors


@dataclass(frozen=True)
class _LeftOut:
    """The logarithm of the left-out error, and its gradient, as a function of logits of rho and the log of noise.

    `step` is called at each evaluation.
    """

    factors: tuple[Factor, ...]
    codes: np.ndarray
    values: np.ndarray
    step: Callable[[], object]

    def errors(self, at: np.ndarray) -> np.ndarray:
        """Return the squared error of each row ``(n,)``, left out."""
        return np.asarray((self._solve(at)[-1] ** 2).sum(1))

    def _solve(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the Gram matrix, the inverse with noise, the dual weights, and each row's error ``(n, k)``."""
        self.step()
        gram = Kernel(self.factors, 1 / (1 + np.exp(-at[:-1]))).matrix(self.codes, self.codes)
        inverse = np.linalg.inv(gram + float(np.exp(at[-1])) * np.eye(len(gram)))
        weights = inverse @ self.values
        return gram, inverse, weights, weights / np.diag(inverse)[:, None]

    def shared(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the same for one rho of all factors: a function of its logit and the log of noise."""
        error, gradient = self(np.append(np.full(len(self.factors), at[0]), at[1]))
        return error, np.array([gradient[:-1].sum(), gradient[-1]])

    def __call__(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        rhos, noise = 1 / (1 + np.exp(-at[:-1])), float(np.exp(at[-1]))
        gram, inverse, weights, left = self._solve(at)
        diagonal = np.diag(inverse)
        squares = (left**2).sum(1)
        error = float(squares.sum())
        # d error = sum(dK * slope)
        slope = 2 * (inverse * (squares / diagonal)) @ inverse - 2 * (inverse @ (left / diagonal[:, None])) @ weights.T
        gradient = np.empty_like(at)
        gradient[-1] = noise * np.trace(slope)
        shared, hot, end = slope * gram, one_hot(self.factors, self.codes), 0
        for i, (factor, rho) in enumerate(zip(self.factors, rhos, strict=True)):
            if factor.levels:
                own = hot[:, end : end + len(factor.levels) + 1]
                end += own.shape[1]
                total, similar = own.T @ shared @ own, inner_products(factor)
            else:
                total, similar = shared, similarity(factor, self.codes[:, i], self.codes[:, i])
            ratio = (1 - similar) / np.maximum(rho + (1 - rho) * similar, 1e-12)
            gradient[i] = rho * (1 - rho) * float((total * ratio).sum())
        return np.log(error), gradient / error

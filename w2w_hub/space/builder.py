"""Build a weight space: exact standardised PCA of a dataset's training split."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dataset import WeightDataset
from ..dataset.manifest import UNKNOWN
from ..errors import InitialisationError, InvalidInputError, UnknownNameError
from ..progress import progress
from .directions import fit_directions
from .space import WeightSpace

COLUMNS_A_BLOCK = 2048


def build_space(
    dataset: WeightDataset,
    k: int | None = None,
    *,
    split: str = "train",
    name: str | None = None,
    version: str = "0.1.0",
    directions: bool = True,
) -> WeightSpace:
    """Standardised PCA of one split, exact, and a direction for each binary attribute.

    Mean and standard deviation (ddof 1) are of the fitted split; the components are the eigenvectors
    of the sample-side Gram matrix, accumulated in float64. Rows are taken in the order of their ids,
    so that the order in the file does not matter. Sign rule: the entry of largest magnitude of every
    component is positive.

    Parameters
    ----------
    k : int, optional
        Components to keep; at most the number of fitted rows less one, which is the default.

    Raises
    ------
    InitialisationError
        If the dataset does not state one shared initialisation of its rows.
    """
    if dataset.manifest.compatibility.initialisation == UNKNOWN:
        raise InitialisationError(
            f"{dataset.path} does not state its rows' shared initialisation, and B @ A does not determine A and B; "
            "if they share one, pack them with: w2w pack --initialisation NAME"
        )
    if split not in dataset.manifest.splits:
        raise UnknownNameError(f"no split {split!r}; there are {', '.join(dataset.manifest.splits)}")
    chosen = dataset.where(split=split)
    chosen = chosen[np.argsort(np.asarray(dataset.ids)[chosen], kind="stable")]
    n, d = len(chosen), dataset.layout.size
    most = min(n - 1, d)
    if n < 2:
        raise InvalidInputError(f"a weight space needs at least two rows; split {split!r} has {n}")
    if k is None:
        k = most
    if not 1 <= k <= most:
        raise InvalidInputError(f"k must be 1 to {most} for {n} rows of {d} numbers, not {k}")
    matrix = dataset[chosen]
    mean, std, constant = _moments(matrix)
    gram = np.zeros((n, n))
    starts = range(0, d, COLUMNS_A_BLOCK)
    for start in progress(starts, "Gram matrix"):
        block = _standardise(matrix, mean, std, start)
        gram += block @ block.T
    values, vectors = _top_eigenvectors(gram, k)
    singular = np.sqrt(values)
    basis = np.empty((k, d))
    for start in starts:
        basis[:, start : start + COLUMNS_A_BLOCK] = vectors.T @ _standardise(matrix, mean, std, start)
    basis /= singular[:, None]
    basis *= _signs(basis)[:, None]
    orthogonality = float(np.abs(basis @ basis.T - np.eye(k)).max())
    total = float(np.trace(gram))
    space = WeightSpace(
        layout=dataset.layout,
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        basis=basis.astype(np.float32),
        singular_values=singular,
        ids=dataset.ids,
        splits=dataset.labels["split"].to_numpy(str),
        coefficients=np.empty((0, k), np.float32),
        fitted_split=split,
        recipe={
            "dataset": dataset.manifest.name,
            "dataset_version": dataset.manifest.version,
            "dataset_digest": dataset.manifest.digest,
            **({"dataset_revision": dataset.revision.to_json()} if dataset.revision else {}),
            "rows": n,
            "k": k,
            "split": split,
            "standardised": True,
            "algorithm": "eigenvectors of the sample-side Gram matrix, float64",
            "constant_numbers": constant,
        },
        compatibility=dataset.manifest.compatibility,
        name=name or f"{dataset.manifest.name}-space",
        version=version,
        licence=dataset.manifest.licence,
    )
    space.coefficients = np.concatenate([space.project(rows) for _, rows in dataset.iter_blocks()])
    space.diagnostics = {
        "orthogonality_error": orthogonality,
        "explained_variance": _explained(np.cumsum(singular**2) / total),
        "held_out": _held_out(space, dataset, split),
    }
    if directions:
        space.directions = fit_directions(space, dataset)
    return space


def _moments(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and standard deviation (ddof 1) a column, float64; a constant column's deviation is set to 1."""
    mean, std = np.empty(matrix.shape[1]), np.empty(matrix.shape[1])
    for start in range(0, matrix.shape[1], COLUMNS_A_BLOCK):
        part = slice(start, start + COLUMNS_A_BLOCK)
        block = matrix[:, part].astype(np.float64)
        mean[part], std[part] = block.mean(0), block.std(0, ddof=1)
    # the basis is published in float32 against a float32 mean and std, so the same are used here
    mean, std = mean.astype(np.float32).astype(np.float64), std.astype(np.float32).astype(np.float64)
    constant = std == 0
    std[constant] = 1
    return mean, std, int(constant.sum())


def _standardise(matrix: np.ndarray, mean: np.ndarray, std: np.ndarray, start: int) -> np.ndarray:
    part = slice(start, start + COLUMNS_A_BLOCK)
    return (matrix[:, part].astype(np.float64) - mean[part]) / std[part]


def _top_eigenvectors(gram: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.linalg import eigh

    n = len(gram)
    values, vectors = eigh(gram, subset_by_index=[n - k, n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > values[0] * n * np.finfo(float).eps).sum()) if values[0] > 0 else 0
    if rank < k:
        raise InvalidInputError(f"the rows span only {rank} dimensions; ask for k of at most {rank}")
    return values, vectors


def _signs(basis: np.ndarray) -> np.ndarray:
    # compared in float32 with ties to the first, so that rounding noise cannot choose the entry
    largest = np.abs(basis.astype(np.float32)).argmax(1)
    return np.sign(basis[np.arange(len(basis)), largest])


def _explained(cumulative: np.ndarray) -> dict[str, float]:
    counts = [c for c in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if c < len(cumulative)] + [len(cumulative)]
    return {str(c): round(float(cumulative[c - 1]), 6) for c in counts}


def _held_out(space: WeightSpace, dataset: WeightDataset, split: str) -> dict[str, Any]:
    """Share of the held-out rows' variance about the fitted mean that the first components carry.

    The floor is the mean-only reconstruction, whose share is 0 by definition.
    """
    numbers = np.flatnonzero(~space.fitted)
    if not len(numbers):
        return {"rows": 0}
    captured, total = np.zeros(space.k), 0.0
    for part in np.array_split(numbers, max(1, len(numbers) // 256)):
        standardised = (dataset[part].astype(np.float64) - space.mean) / space.std
        total += float((standardised**2).sum())
        captured += ((standardised @ space.basis.T.astype(np.float64)) ** 2).sum(0)
    return {"rows": len(numbers), "explained_variance": _explained(np.cumsum(captured) / total), "mean_only": 0.0}

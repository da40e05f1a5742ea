"""Nearest neighbors of all people, in bounded memory."""

from __future__ import annotations

import numpy as np

from ...common.progress import progress

BLOCK_BYTES = 1 << 25  # of cosines at once; their order takes twice that


def nearest_neighbors(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest other rows of each, by cosine.

    Parameters
    ----------
    rows : ndarray
        float32 ``(n, k)``: coefficients. They are not copied.
    count : int
        Neighbors per row; at most n - 1 are found.

    Returns
    -------
    (ndarray, ndarray)
        int32 ``(n, count)``: positions, the nearest first; float32 ``(n, count)``: one less the cosine, 0 to 2.
    """
    n = len(rows)
    count = min(count, n - 1)
    step = max(1, min(n, BLOCK_BYTES // (4 * max(n, 1))))
    starts = range(0, n, step)
    lengths = np.concatenate([np.linalg.norm(rows[start : start + step], axis=1) for start in starts])
    lengths = np.maximum(lengths, 1e-30).astype(np.float32)
    ids, distances = np.empty((n, count), np.int32), np.empty((n, count), np.float32)
    if not count:
        return ids, distances
    for start in progress(starts, "nearest neighbors"):
        block = rows[start : start + step]
        cosines = block @ rows.T
        cosines /= lengths
        cosines /= lengths[start : start + step, None]
        here = np.arange(len(block))
        cosines[here, start + here] = -np.inf  # nobody is their own neighbor
        found = np.argpartition(cosines, n - count, axis=1)[:, n - count :]
        near = np.take_along_axis(cosines, found, 1)
        order = np.lexsort((found, -near))  # equal cosines in the order of the rows
        ids[start : start + step] = np.take_along_axis(found, order, 1)
        distances[start : start + step] = np.clip(1 - np.take_along_axis(near, order, 1), 0, 2)
    return ids, distances

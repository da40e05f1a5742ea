"""Write the files of a dataset that are derived from its rows or describe them: initialization and sketches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.progress import progress
from ...common.text import counted
from ...errors import InitializationError, MissingPathError, W2WError
from ...store.byte_source import LocalFiles
from ...store.hashing import entry_of
from ..initialization import FILE as START_FILE
from ..initialization import FILES as START_FILES
from ..initialization import SAME_START, initialization_files, initialization_of, start_cosines
from ..manifest import UNKNOWN
from ..matrix.geometry import Geometry
from ..matrix.sharded_matrix import ShardedMatrix
from ..sketches import (
    BLOCK,
    FILE,
    Sketches,
    is_large,
    norm_and_concentration,
    quantized,
    read_sketches,
    sample_of,
    sketch,
)
from .plan import Plan
from .workers import run_tasks

GROWTH = 2  # sketches are made again about a new center when there are this many times the rows of the old one


@dataclass
class _Task:
    """Rows to read once, for their sketches and for the cosine of their A to the initialization's."""

    numbers: np.ndarray
    folders: tuple[Path, ...]
    plan_layout: Any
    start: np.ndarray | None
    sketched: bool


def _measure(task: _Task) -> tuple[np.ndarray, list[np.ndarray], list[float]]:
    matrix = ShardedMatrix(LocalFiles(*task.folders), str(task.folders[-1]))
    sketches, cosines = [], list[float]()
    for first in range(0, len(task.numbers), BLOCK):
        rows = matrix.rows(task.numbers[first : first + BLOCK]).astype(np.float32, copy=False)
        if task.sketched:
            sketches.append(sketch(rows))
        if task.start is not None:
            cosines += start_cosines(task.plan_layout, task.start, rows).tolist()
    return task.numbers, sketches, cosines


def write_derived(
    plan: Plan, digests: Sequence[str], g: Geometry, staging: Path, folder: Path, workers: int, dask: Any
) -> dict[str, dict[str, Any]]:
    """Write the initialization and the sketches of the next state into `staging`; return their entries by path.

    Each row is read at most once, and not at all if it is the current state's and nothing about all rows changes.
    Rows that were not trained from the initialization are added to ``plan.problems``.
    """
    files, start = _initialization(plan, staging)
    old = _known_sketches(plan, len(digests)) if is_large(g.rows, g.width, g.dtype) else None
    wanted = is_large(g.rows, g.width, g.dtype)
    here = {} if plan.base is None else dict.fromkeys(plan.base.labels["row_sha256"])
    checked = here if plan.start is None else {}  # rows of the current state, which fit its initialization
    unsketched = [i for i, d in enumerate(digests) if wanted and (old is None or d not in old[1])]
    unchecked = [i for i, d in enumerate(digests) if start is not None and d not in checked]
    if wanted and old is not None and plan.base is not None and list(here) == list(digests):
        files[FILE] = plan.base.manifest.files[FILE]  # unchanged
        wanted = False
    todo = np.array(sorted({*unsketched, *unchecked}), np.int64)
    folders = (staging, folder)
    shards = np.split(todo, np.flatnonzero(np.diff(todo // g.shard_rows)) + 1) if len(todo) else []
    tasks = [_Task(each, folders, plan.manifest.layout, start, wanted) for each in shards]
    raw: dict[int, np.ndarray] = {}
    wrong: list[tuple[str, float]] = []
    done = run_tasks(_measure, tasks, workers=workers, dask=dask)
    for numbers, sketches, cosines in progress(done, "sketching rows", total=len(tasks)):
        if sketches:
            raw |= zip(numbers.tolist(), np.concatenate(sketches), strict=True)
        wrong += [(plan.ids[i], c) for i, c in zip(numbers.tolist(), cosines, strict=False) if c < SAME_START]
    if wrong:
        _refuse(plan, wrong)
    elif wanted:
        matrix = ShardedMatrix(LocalFiles(*folders), str(folder))
        sample = matrix.rows(sample_of(digests)).astype(np.float32, copy=False)
        made = _assembled(digests, raw, old, *norm_and_concentration(plan.manifest.layout, sample))
        (staging / FILE).write_bytes(made.to_bytes(digests))
        files[FILE] = entry_of(staging / FILE)
    return files


def _initialization(plan: Plan, staging: Path) -> tuple[dict[str, dict[str, Any]], np.ndarray | None]:
    """Write a new initialization, or keep the current state's; return the entries of its files, and the vector."""
    if plan.start is not None:
        made = initialization_files(plan.manifest.layout, plan.start)
        for name, data in made.items():
            (staging / name).write_bytes(data)
        return {name: entry_of(staging / name) for name in made}, plan.start
    base = plan.base
    name = plan.manifest.compatibility.initialisation
    if base is None or START_FILE not in base.manifest.files or name in (UNKNOWN, ""):
        return {}, None
    if name != base.manifest.compatibility.initialisation:  # relabeled: it is another one
        return {}, None
    return {n: base.manifest.files[n] for n in START_FILES if n in base.manifest.files}, initialization_of(base)


def _known_sketches(plan: Plan, rows: int) -> tuple[Sketches, Mapping[str, np.ndarray]] | None:
    """Return the current state's sketches and those by row digest; None to make all again."""
    base = plan.base
    if base is None:
        return None
    digests = base.labels["row_sha256"].tolist()
    try:
        found = read_sketches(base.manifest, base.find, digests)
    except (MissingPathError, W2WError):
        return None  # damaged; derived files are made again
    if found is None or rows >= GROWTH * max(found.centered_rows, 1):
        return None
    return found, dict(zip(digests, found.values, strict=True))


def _assembled(
    digests: Sequence[str],
    raw: Mapping[int, np.ndarray],
    old: tuple[Sketches, Mapping[str, np.ndarray]] | None,
    norm: np.ndarray,
    concentration: np.ndarray,
) -> Sketches:
    if old is None:
        return Sketches.of_sketches(np.stack([raw[i] for i in range(len(digests))]), norm, concentration)
    known, by_digest = old
    values = np.stack(
        [by_digest[d] if d in by_digest else quantized(raw[i][None], known.center)[0] for i, d in enumerate(digests)]
    )
    return Sketches(
        values, known.center, known.centered_rows, norm.astype(np.float32), concentration.astype(np.float32)
    )


def _refuse(plan: Plan, wrong: Sequence[tuple[str, float]]) -> None:
    name, cosine = wrong[0]
    rows = counted(len(wrong), "row was", "rows were")
    plan.problems.add(
        InitializationError(
            f"{rows} not trained from the dataset's initialization, the first is {name!r} (cosine of A {cosine:.2f}, "
            f"trained ones have more than {SAME_START:g}); leave it out, or train it again from the start file",
            name=name,
        )
    )

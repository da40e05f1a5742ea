"""Write the changed shards of a matrix; unchanged shards, and finished shards of a killed writer, are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...common.progress import progress
from ...common.text import counted
from ...common.warn import warn_caller
from ...errors import W2WError
from ...store.atomic import write_json
from ...store.commit import NOTES
from ...store.paths import list_files
from ..matrix.geometry import ARRAY, GROUP, Geometry
from .plan import Plan
from .shard_writer import ShardResult, ShardTask, write_shard
from .workers import run_tasks


@dataclass
class WrittenMatrix:
    """The files of a matrix, and facts about their rows.

    Attributes
    ----------
    files : dict
        Path -> ``{"sha256", "size"}`` of each shard.
    digests : list of str
        The row digests, in row order.
    max_error : float or None
        The largest rounding error of the newly written rows.
    rescaled : dict
        Id -> ``{scale: modules}`` of newly written rows with modules of another scale than the layout's.
    unstated_scale : dict
        Id -> the default that was applied, for those of them whose checkpoint states no scale.
    """

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    max_error: float | None = None
    base_models: set[str | None] = field(default_factory=set)
    rescaled: dict[str, dict[str, int]] = field(default_factory=dict)
    unstated_scale: dict[str, str] = field(default_factory=dict)


def write_matrix(plan: Plan, g: Geometry, ids: Sequence[str], staging: Path, workers: int, dask: Any) -> WrittenMatrix:
    """Write the shards that the current state does not have, and the Zarr metadata, into `staging`.

    Errors of rows are added to ``plan.problems``.
    """
    written = WrittenMatrix(digests=[""] * len(ids))
    tasks = _keep_shards(plan, g, ids, staging, written)
    notes = staging / NOTES
    stamps = {task.number: _fingerprint(task) for task in tasks}
    results = {task.number: found for task in tasks if (found := _resumed(notes, task, stamps)) is not None}
    if list_files(staging):
        kept = f"{len(results):,} of {counted(len(tasks), 'shard')} kept"
        warn_caller(f"continuing where an interrupted call stopped: {kept}")
    tasks = [task for task in tasks if task.number not in results]
    _clear(staging, {g.shard_path(number) for number in results})
    alone = dask is None and len(tasks) == 1
    for source in plan.rows.sources:
        source.show_progress = alone
    done = run_tasks(write_shard, tasks, workers=workers, dask=dask)
    for result in progress(done, "writing shards", total=len(tasks)):
        if result.problems or stamps[result.number] is None:
            plan.problems.extend(result.problems)
        else:
            _note(notes, result, stamps[result.number])
        results[result.number] = result
    for number, result in sorted(results.items()):
        start = number * g.shard_rows
        written.digests[start : start + len(result.digests)] = result.digests
        written.files[g.shard_path(number)] = {"sha256": result.sha256, "size": result.size}
        written.base_models |= result.notes.get("base_model", set())
        written.rescaled |= dict(json.loads(text) for text in result.notes.get("rescaled", ()))
        written.unstated_scale |= dict(json.loads(text) for text in result.notes.get("unstated_scale", ()))
    written.max_error = max((r.max_error for r in results.values() if r.max_error is not None), default=None)
    write_json(staging / ARRAY / "zarr.json", g.to_zarr(), replace=True)
    group = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    write_json(staging / GROUP / "zarr.json", group, replace=True)
    return written


def _keep_shards(plan: Plan, g: Geometry, ids: Sequence[str], staging: Path, written: WrittenMatrix) -> list[ShardTask]:
    """Record the unchanged shards in `written`; return tasks for the others."""
    base, stays = plan.base, plan.rows.unmoved()
    old = None if base is None else base.geometry
    same = old is not None and replace(old, rows=g.rows) == g
    may_round = base is None or base.manifest.float16_max_error is not None
    tasks: list[ShardTask] = []
    for number in range(g.shards):
        start, stop = number * g.shard_rows, min((number + 1) * g.shard_rows, len(ids))
        path = g.shard_path(number)
        if same and base is not None and old is not None and stays[start:stop].all():
            full = min((number + 1) * g.shard_rows, old.rows) == stop
            if full and path in base.manifest.files:
                written.files[path] = base.manifest.files[path]
                written.digests[start:stop] = base.labels["row_sha256"].iloc[start:stop].tolist()
                continue
        pieces = plan.rows.pieces(start, stop)
        half_view = plan.view == "float16"
        tasks.append(ShardTask(number, g, staging, list(ids[start:stop]), pieces, may_round, half_view))
    return tasks


# --------------------------------------------------------------- resuming
_NOTED = ("digests", "sha256", "size", "max_error")


def _fingerprint(task: ShardTask) -> str | None:
    """Return a digest of the rows and of the state of their files; None if it cannot be determined."""
    parts: list[Any] = [task.ids, repr(task.geometry.shard_path(task.number)), vars(task.geometry) | {"rows": 0}]
    for source, numbers in task.pieces:
        try:
            found = source.fingerprint(numbers)
        except W2WError:
            return None
        if found is None:
            return None
        parts.append(found)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _note(notes: Path, result: ShardResult, fingerprint: str | None) -> None:
    notes.mkdir(exist_ok=True)
    facts = {name: getattr(result, name) for name in _NOTED} | {"fingerprint": fingerprint}
    facts["notes"] = {k: sorted(v, key=str) for k, v in result.notes.items()}
    write_json(notes / f"{result.number}.json", facts, replace=True)


def _resumed(notes: Path, task: ShardTask, stamps: dict[int, str | None]) -> ShardResult | None:
    """Return the result of a shard that a killed writer finished, if its fingerprint has not changed."""
    note, path = notes / f"{task.number}.json", task.folder / task.geometry.shard_path(task.number)
    try:
        found = json.loads(note.read_text("utf-8"))
        if path.stat().st_size != found["size"] or found["fingerprint"] != stamps[task.number]:
            return None
        sets = {k: set(v) for k, v in found["notes"].items()}
        return ShardResult(task.number, **{name: found[name] for name in _NOTED}, notes=sets)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clear(staging: Path, keep: set[str]) -> None:
    """Remove other files of a killed writer."""
    for name in list_files(staging):
        if name not in keep and not name.startswith(f"{NOTES}/"):
            (staging / name).unlink()

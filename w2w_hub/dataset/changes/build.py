"""Build the next state of a dataset: which shards stay, which are written, then labels, view, card and manifest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.progress import progress
from ...errors import InvalidInputError, W2WError
from ...lora.layout import ParameterLayout
from ...store.atomic import write_json
from ...store.commit import NOTES
from ...store.hashing import sha256_file
from ...store.paths import list_files
from ..card import dataset_card, updated_card
from ..labels import table as label_table
from ..manifest import Compatibility, DatasetManifest, dataset_digest
from ..matrix.shards import ARRAY, Geometry
from ..splits import rule_that_holds
from ..tables import ViewPart, same_view_part, view_parts, write_labels, write_view_part
from . import workers as engines
from .problems import Problems
from .shard_writer import RowSource, ShardResult, ShardTask, write_shard

if TYPE_CHECKING:
    import pandas as pd

    from ..weight_dataset import WeightDataset

CHUNK_BYTES = 256 * 1024
SHARD_BYTES = 500 * 1000 * 1000
SMALL_SHARD_BYTES = SHARD_BYTES // 16
MANY_ROWS = 2000
COMPRESSIONS = ("none", "bitshuffle")


@dataclass
class Content:
    """What a dataset says of itself, beside its rows."""

    name: str
    layout: ParameterLayout
    dtype: str
    version: str = "0.1.0"
    licence: str = "unknown"
    compatibility: Compatibility = field(default_factory=Compatibility)
    column_info: dict[str, dict[str, str]] = field(default_factory=dict)
    split_rule: dict[str, Any] | None = None
    view: str | None = "float16"  # dtype of the Parquet view
    float16_max_error: float | None = None  # of the rows that are there
    rescaled: dict[str, dict[str, int]] = field(default_factory=dict)  # likewise, see `DatasetManifest`

    @classmethod
    def of(cls, manifest: DatasetManifest, has_view: bool, version: str | None = None) -> Content:
        """The content of a dataset that is to change."""
        dtype = (manifest.view or {}).get("dtype", "float16")
        return cls(
            manifest.name, manifest.layout, manifest.dtype, version or manifest.version, manifest.licence,
            manifest.compatibility, dict(manifest.column_info), manifest.split_rule, dtype if has_view else None,
            manifest.float16_max_error, dict(manifest.rescaled or {}),
        )  # fmt: skip


@dataclass
class Origin:
    """Where each row of the new state comes from: `number[i]` of ``sources[source[i]]``.

    Source 0 is the present state, if there is one.
    """

    sources: list[RowSource]
    source: np.ndarray
    number: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[tuple[RowSource, Sequence[int] | np.ndarray]]) -> Origin:
        """The rows of several sources, one after the other."""
        lengths = [len(numbers) for _, numbers in parts]
        source = np.repeat(np.arange(len(parts)), lengths)
        number = np.concatenate([np.asarray(numbers, np.int64) for _, numbers in parts])
        return cls([source for source, _ in parts], source, number)

    def pieces(self, start: int, stop: int) -> list[tuple[RowSource, list[int]]]:
        """Rows `start` to before `stop` as runs of one source."""
        source, number = self.source[start:stop], self.number[start:stop]
        cuts = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(source)]
        return [(self.sources[int(source[a])], number[a:b].tolist()) for a, b in pairwise(cuts) if b > a]


def parse_size(size: int | str) -> int:
    """Bytes of a size as people write it: ``500MB``, ``0.5 GB``, ``64 MiB``."""
    if isinstance(size, int) and not isinstance(size, bool):
        number = float(size)
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", str(size), re.IGNORECASE)
        if not found:
            raise InvalidInputError(f"{size!r} is no size; write for instance 500MB or 64MiB")
        base = 1024 if found[3] else 1000
        number = float(found[1]) * base ** " KMGT".index(found[2].upper() or " ")
    if not 1 <= number <= SHARD_BYTES:
        raise InvalidInputError(f"shards of {size} are not possible; at most 500MB, and more than nothing")
    return int(number)


def plan_geometry(
    rows: int, width: int, dtype: str, shard_bytes: int = SHARD_BYTES, compression: str = "none"
) -> Geometry:
    """Whole-row chunks of about 256 KiB in shards of at most `shard_bytes`, however few rows there are yet."""
    if compression not in COMPRESSIONS:
        raise InvalidInputError(f"compression {compression!r} is not offered; choose {' or '.join(COMPRESSIONS)}")
    item = np.dtype(dtype).itemsize
    row_bytes = width * item
    chunk_rows = max(1, min(CHUNK_BYTES, shard_bytes) // row_bytes)
    a_chunk = chunk_rows * row_bytes + 16  # with its place in the shard's index
    chunks = max(1, (shard_bytes - 4) // a_chunk)
    codec = None
    if compression == "bitshuffle":
        configuration = {"typesize": item, "cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0}
        codec = {"name": "blosc", "configuration": configuration}
    return Geometry(rows, width, dtype, chunk_rows, chunk_rows * chunks, codec)


def build(
    staging: Path,
    folder: Path,
    content: Content,
    ids: Sequence[str],
    table: pd.DataFrame,
    origin: Origin,
    *,
    base: WeightDataset | None = None,
    geometry: Geometry | None = None,
    problems: Problems | None = None,
    workers: int = 1,
    dask: Any = None,
) -> DatasetManifest:
    """Write the next state of `folder` into `staging`.

    Parameters
    ----------
    ids : sequence of str
        Of the rows, in order.
    table : DataFrame
        Normalised labels, in row order.
    base : WeightDataset, optional
        The present state, whose files are kept where they already hold what is wanted.
    geometry : Geometry, optional
        How the matrix is cut; that of `base` without it.
    problems : Problems, optional
        What was found wrong before; everything is raised together.
    """
    problems = Problems() if problems is None else problems
    if len(ids) > MANY_ROWS:
        problems.settle()  # who waits minutes for the checkpoints to be read wants to know of a typing error first
    g = _geometry(base, len(ids), geometry)
    old_files = {} if base is None else dict(base.manifest.files)
    tasks, files, digests = _shard_tasks(staging, g, content, list(ids), origin, base)
    notes = staging / NOTES
    finished = {task.number: found for task in tasks if (found := _resumed(notes, task)) is not None}
    results = list(finished.values())
    tasks = [task for task in tasks if task.number not in finished]
    _clear(staging, {g.shard_path(number) for number in finished})
    parallel = dask is not None or (workers > 1 and len(tasks) > 1)
    if not parallel:
        for source in origin.sources:
            if hasattr(source, "show_progress"):
                source.show_progress = len(tasks) == 1
    stamps = {task.number: _fingerprint(task) for task in tasks}
    done = engines.run(write_shard, tasks, workers=workers, dask=dask)
    for result in progress(done, "writing shards", total=len(tasks)):
        if result.problems or stamps[result.number] is None:
            problems.extend(result.problems)
        else:
            _note(notes, result, stamps[result.number])
        results.append(result)
    for result in sorted(results, key=lambda r: r.number):
        start = result.number * g.shard_rows
        digests[start : start + len(result.digests)] = result.digests
        files[g.shard_path(result.number)] = {"sha256": result.sha256, "size": result.size}
    problems.settle()
    content.split_rule = rule_that_holds(content.split_rule, table)
    errors = [r.max_error for r in results if r.max_error is not None]
    if content.float16_max_error is not None:
        errors.append(content.float16_max_error)
    bases = set().union(*(r.notes.get("base_model", set()) for r in results)) if results else set()
    told = (json.loads(text) for result in results for text in result.notes.get("rescaled", ()))
    rescaled = content.rescaled | dict(told)
    if base is None and content.compatibility.base_model is None and len(bases) == 1:
        content.compatibility = Compatibility(
            bases.pop(), content.compatibility.base_digest, content.compatibility.initialisation
        )
    table = table.drop(columns=["row", "row_sha256"], errors="ignore")
    table["row"] = np.arange(len(table))
    table["row_sha256"] = digests
    kinds = label_table.kinds(table)
    manifest = DatasetManifest(
        name=content.name,
        version=content.version,
        rows=len(table),
        dtype=content.dtype,
        layout=content.layout,
        digest=dataset_digest(content.layout, label_table.records(table)),
        columns={name: kind.stored for name, kind in kinds.items()},
        label_kinds={name: entry for name, kind in kinds.items() if (entry := kind.to_json()) is not None},
        splits={str(k): int(v) for k, v in table["split"].value_counts(sort=False).items()},
        compatibility=content.compatibility,
        licence=content.licence,
        float16_max_error=max(errors, default=None),
        column_info={k: v for k, v in content.column_info.items() if v},
        split_rule=content.split_rule,
        rescaled={name: rescaled[name] for name in sorted(set(ids) & set(rescaled))} or None,
    )
    _write_zarr_metadata(staging, g)
    for name in ("weights.zarr/zarr.json", f"{ARRAY}/zarr.json"):
        files[name] = _entry(staging / name)
    for split in manifest.splits:
        name = f"labels/{split}.parquet"
        write_labels(table[(table["split"] == split).to_numpy(bool)], staging / name)
        files[name] = _entry(staging / name)
    if content.view is not None:
        _write_view(staging, folder, content.view, table, manifest, base, files, old_files, g, workers, dask)
    manifest.files = dict(sorted(files.items()))
    manifest.write(staging)
    card = dataset_card(manifest)
    if base is not None:
        card = updated_card(folder, base.manifest, manifest)
    (staging / "README.md").write_text(card, "utf-8")
    return manifest


def _geometry(base: WeightDataset | None, rows: int, geometry: Geometry | None) -> Geometry:
    if geometry is not None:
        return geometry
    assert base is not None
    found = base.geometry
    width, dtype = base.layout.size, base.manifest.dtype
    if found is None or not (found.index_last and found.index_checked):
        return plan_geometry(rows, width, dtype)
    # a small dataset may have been cut to its size; growing in such shards would make thousands of them
    small = found.shard_rows * found.row_bytes < SMALL_SHARD_BYTES and found.rows * found.row_bytes < SHARD_BYTES
    if small and found.compressor is None:
        return plan_geometry(rows, width, dtype)
    return Geometry(
        rows, width, dtype, found.chunk_rows, found.shard_rows, found.compressor, key=found.key
    )  # fmt: skip


def _shard_tasks(
    staging: Path, g: Geometry, content: Content, ids: list[str], origin: Origin, base: WeightDataset | None
) -> tuple[list[ShardTask], dict[str, dict[str, Any]], list[str]]:
    """The shards to write, the entries of those that are kept, and the row digests known so far."""
    digests = [""] * len(ids)
    tasks: list[ShardTask] = []
    files: dict[str, dict[str, Any]] = {}
    stays = (origin.source == 0) & (origin.number == np.arange(len(ids)))
    old = None if base is None else base.geometry
    same = old is not None and {**vars(old), "rows": 0} == {**vars(g), "rows": 0}
    for number in range(g.shards):
        start, stop = number * g.shard_rows, min((number + 1) * g.shard_rows, len(ids))
        path = g.shard_path(number)
        if same and base is not None and old is not None and stays[start:stop].all():
            there = min((number + 1) * g.shard_rows, old.rows)
            if there == stop and path in base.manifest.files:
                files[path] = base.manifest.files[path]
                digests[start:stop] = base.labels["row_sha256"].iloc[start:stop].tolist()
                continue
        may_round = base is None or base.manifest.float16_max_error is not None
        tasks.append(
            ShardTask(
                number, g, staging, ids[start:stop], origin.pieces(start, stop), may_round, content.view == "float16"
            )
        )
    return tasks, files, digests


# --------------------------------------------------------------- resuming
def _fingerprint(task: ShardTask) -> str | None:
    """Equal for the same rows from the same unchanged files; None if that cannot be told."""
    parts: list[Any] = [task.ids, repr(task.geometry.shard_path(task.number)), vars(task.geometry) | {"rows": 0}]
    for source, numbers in task.pieces:
        find = getattr(source, "fingerprint", None)
        if find is None:
            return None
        try:
            parts.append(find(numbers))
        except W2WError:
            return None
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _note(notes: Path, result: ShardResult, fingerprint: str | None) -> None:
    notes.mkdir(exist_ok=True)
    write_json(
        notes / f"{result.number}.json",
        {
            "fingerprint": fingerprint, "digests": result.digests, "sha256": result.sha256, "size": result.size,
            "max_error": result.max_error, "notes": {k: sorted(v, key=str) for k, v in result.notes.items()},
        },
        replace=True,
    )  # fmt: skip


def _resumed(notes: Path, task: ShardTask) -> ShardResult | None:
    """The result of a shard that a killed writer had finished, if it is the one wanted now."""
    note, path = notes / f"{task.number}.json", task.folder / task.geometry.shard_path(task.number)
    try:
        found = json.loads(note.read_text("utf-8"))
        if path.stat().st_size != found["size"] or found["fingerprint"] != _fingerprint(task):
            return None
        result = ShardResult(task.number, found["digests"], found["sha256"], found["size"], found["max_error"])
        result.notes = {k: set(v) for k, v in found["notes"].items()}
        return result
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clear(staging: Path, keep: set[str]) -> None:
    """Remove what a killed writer left and this one does not continue."""
    for name in list_files(staging):
        if name not in keep and not name.startswith(f"{NOTES}/"):
            (staging / name).unlink()


# ------------------------------------------------------------- other files
def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "size": path.stat().st_size}


def _write_zarr_metadata(staging: Path, g: Geometry) -> None:
    """``zarr.json`` of the group and the array, in zarr-python's own words."""
    inner: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if g.compressor is not None:
        inner.append(g.compressor)
    index: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if g.index_checked:
        index.append({"name": "crc32c"})
    array = {
        "shape": [g.rows, g.width],
        "data_type": g.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [g.shard_rows, g.width]}},
        "chunk_key_encoding": {"name": g.key[0], "configuration": {"separator": g.key[1]}},
        "fill_value": 0.0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [g.chunk_rows, g.width],
                    "codecs": inner,
                    "index_codecs": index,
                    "index_location": "end" if g.index_last else "start",
                },
            }
        ],
        "attributes": {},
        "dimension_names": ["row", "number"],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    write_json(staging / ARRAY / "zarr.json", array, replace=True)
    group = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    write_json(staging / "weights.zarr" / "zarr.json", group, replace=True)


def _write_view(
    staging: Path, folder: Path, dtype: str, table: pd.DataFrame, manifest: DatasetManifest,
    base: WeightDataset | None, files: dict[str, dict[str, Any]], old_files: dict[str, Any], g: Geometry,
    workers: int, dask: Any,
) -> None:  # fmt: skip
    parts = view_parts(table, manifest.splits, g, dtype, staging, (staging, folder))
    largest = 0.0
    wanted: list[ViewPart] = []
    for part in parts:
        if base is not None and part.name in old_files and same_view_part(part, folder):
            files[part.name] = old_files[part.name]
            largest = max(largest, float((base.manifest.view or {}).get("max_error", 0.0)))
        else:
            wanted.append(part)
    done = engines.run(write_view_part, wanted, workers=workers, dask=dask)
    for name, error in progress(done, "writing the Parquet view", total=len(wanted)):
        files[name] = _entry(staging / name)
        largest = max(largest, error)
    manifest.view = {"dtype": dtype, "max_error": largest}

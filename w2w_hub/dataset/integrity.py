"""Verify a dataset: report files, shards and rows that differ from the manifest or violate FORMAT.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import checked
from ..common.progress import progress
from ..common.text import counted
from ..errors import CorruptFileError, W2WError
from ..store.commit import State
from ..store.manifest import DATASET as FORMAT
from ..store.manifest import FILENAME
from ..store.parquet import parquet_file, read_table
from ..store.verify import Report, check_files, check_manifest, open_to_check
from .initialization import FILE as START_FILE
from .initialization import read_initialization
from .labels import table as label_table
from .labels.kinds import CATEGORICAL
from .labels.names import RESERVED
from .manifest import FIELDS, DatasetManifest, dataset_digest, row_digest
from .matrix.geometry import ARRAY, GROUP, SHARD_BYTES
from .opening import open_folder
from .reader import DatasetReader
from .sketches import FILE as SKETCHES
from .sketches import Sketches, quantized, read_sketches, sketch
from .splits import group_names

if TYPE_CHECKING:
    import pandas as pd

VIEW_ROWS = 64  # the largest row group of the view
BLOCK_BYTES = 64 * 2**20


@checked()
def check(path: Path | str, *, deep: bool = True, vouched: bool = False) -> Report:
    """Verify a dataset folder against its manifest, its digests and the rules of FORMAT.md.

    Checks the checksum of the manifest, the presence and size of every file, the hashes of labels and metadata, the
    index of every shard, the dataset digest, and the rules for ids, splits and shards. With `deep`, also the hash of
    every shard, of every row and of the Parquet view, so that any changed bit is found and its rows are named.

    Parameters
    ----------
    vouched : bool
        A lock or a commit states the sha256 of the manifest; see :func:`w2w_hub.store.verify.check_manifest`.

    Raises
    ------
    MissingPathError, UnsupportedFormatError
        If there is no dataset; all other problems are in the report.
    """
    path = Path(path)
    report = Report(path, deep)
    if not path.is_dir():
        open_folder(path)  # raises with what is missing
    state = open_to_check(report, FORMAT, FIELDS)
    if state is None:
        return report
    check_manifest(report, state, FIELDS, vouched=vouched)
    try:
        manifest = DatasetManifest.from_json(state.data, state.manifest_path)
    except CorruptFileError as error:
        report.add(FILENAME, str(error))
        return report
    report.digest, report.rows = manifest.digest, manifest.rows
    check_files(report, state, _is_bulk)
    wrong = report.broken - {FILENAME}
    try:
        dataset = DatasetReader(*open_folder(path))
    except W2WError as error:
        if not wrong:  # otherwise the reason is already in the report
            report.add("", str(error))
        return report
    _check_columns(report, state, manifest)
    _check_labels(report, dataset)
    _check_matrix(report, dataset)
    sketches = _check_derived(report, state, dataset)
    other = _check_rows(report, dataset, wrong, sketches)
    _check_view(report, state, dataset)
    if other and _has_intact_rows(report):  # otherwise it is the rows that are wrong
        report.add(SKETCHES, f"{path / SKETCHES}: {_rows(other)} values that differ from its sketch", other)
    return report


def _has_intact_rows(report: Report) -> bool:
    return not any(name.startswith((GROUP, "labels")) for name in report.broken)


def _is_bulk(name: str) -> bool:
    return name.startswith("parquet/") or (name.startswith(f"{ARRAY}/") and not name.endswith("zarr.json"))


# ------------------------------------------------------------------- labels
def _check_columns(report: Report, state: State, manifest: DatasetManifest) -> None:
    """Check that label columns have the types of FORMAT.md; a column of nulls may have any."""
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(RESERVED, CATEGORICAL.arrow_types) | {"row": ("int64",)}
    wanted |= {name: kind.arrow_types for name, kind in manifest.kinds.items()}
    for split in manifest.splits:
        name = f"labels/{split}.parquet"
        with parquet_file(state.find(name), None, "dataset") as file:
            schema = file.schema_arrow
        for column, types in wanted.items():
            found = str(schema.field(column).type)
            if found not in (*types, "null"):
                report.add(name, f"{report.path}/{name}: column {column!r} is {found}, expected {types[0]}")
        report.check(name, "weights" not in schema.names, f"{report.path}/{name} has a column 'weights'")


def _check_labels(report: Report, dataset: DatasetReader) -> None:
    """Check ids, splits, the split rule and the dataset digest."""
    manifest, table = dataset.manifest, dataset.labels.reset_index(names="id")
    where = report.path
    ids = table["id"].astype(object)
    for name in ids[~ids.map(lambda v: label_table.ROW_ID.fullmatch(v) is not None)].tolist()[:5]:
        report.add("labels", f"{where}: row id {name!r} may contain only letters, digits, '.', '-' and '_'", [name])
    for name in ids[ids.duplicated()].unique().tolist()[:5]:
        report.add("labels", f"{where}: row id {name!r} occurs {int((ids == name).sum())} times", [name])
    listed = {name for name in manifest.files if name.startswith("labels/")}
    for name in sorted(listed ^ {f"labels/{split}.parquet" for split in manifest.splits}):
        report.add(name, f"{where}: {name} belongs to no split of the manifest")
    folded: dict[str, str] = {}
    for split in manifest.splits:
        if folded.setdefault(split.casefold(), split) != split:
            report.add("labels", f"{where}: splits {folded[split.casefold()]!r} and {split!r} differ only in case")
    digests = table["row_sha256"].astype(object)
    for name in ids[~digests.map(lambda v: re.fullmatch("[0-9a-f]{64}", v) is not None)].tolist()[:5]:
        report.add("labels", f"{where}: row {name!r} has an invalid row_sha256", [name])
    _check_rule(report, manifest, table)
    if dataset_digest(dataset.layout, label_table.records(table)) != manifest.digest:
        report.add("labels", f"{where}: the digest of labels and rows differs from the manifest's")


def _check_rule(report: Report, manifest: DatasetManifest, table: pd.DataFrame) -> None:
    """Check that every row has a group, and that all rows of a group are in one split."""
    rule = manifest.split_rule
    if not rule:
        return
    column, where = rule["column"], report.path
    if column not in table.columns:
        report.add(FILENAME, f"{where}: the split_rule is for {column!r}, which is not a column")
        return
    open_rows = table["id"][table[column].isna()].tolist()
    if open_rows:
        rows = counted(len(open_rows), "row has", "rows have")
        shown = f"{rows} no {column!r}, the first is {open_rows[0]!r}; the split_rule needs it"
        report.add("labels", f"{where}: {shown}", open_rows)
    groups = group_names(table[column])
    sides = table["split"].groupby(groups).nunique()
    for name in sides[sides > 1].index.tolist()[:5]:
        rows = table["id"][(groups == name).fillna(False)].tolist()
        report.add("labels", f"{where}: {column} {name!r} is in several splits, which the split_rule forbids", rows)


# ------------------------------------------------------------------- matrix
def _check_matrix(report: Report, dataset: DatasetReader) -> None:
    """Check the sizes and indexes of shards."""
    manifest, g, where = dataset.manifest, dataset.geometry, report.path
    if g is None:
        report.notes.append(f"{where}/{ARRAY} does not have shards of whole rows; it is read through zarr-python")
        return
    for number in range(g.shards):
        name = g.shard_path(number)
        size = manifest.files.get(name, {}).get("size", 0)
        if size > SHARD_BYTES and min(g.shard_rows, g.rows - number * g.shard_rows) > 1:
            report.add(name, f"{where}/{name} has {size:,} bytes; a shard has at most {SHARD_BYTES:,}")
    report.check(f"{ARRAY}/zarr.json", g.index_checked, f"{where}/{ARRAY} has shard indexes without a checksum")


def _check_rows(report: Report, dataset: DatasetReader, wrong: set[str], sketches: Sketches | None) -> list[str]:
    """Check shards and, if `deep`, every row; return the ids of rows that differ from their sketch."""
    unlike: list[str] = []
    listed, ids = dataset.labels["row_sha256"].tolist(), list(dataset.labels.index)
    if not report.deep:
        report.not_checked.append("without --deep: digests of rows, finite values, the Parquet view")
    for number, (name, start, stop) in enumerate(progress(dataset.matrix.parts(), "hashing rows")):
        bad: list[str] = []
        infinite: list[str] = []
        try:
            dataset.matrix.check_part(number)
            for first, block in _blocks(dataset, start, stop) if report.deep else ():
                bad += [ids[first + i] for i, row in enumerate(block) if row_digest(row) != listed[first + i]]
                infinite += [ids[first + i] for i in np.flatnonzero(~np.isfinite(block).all(1))]
                if sketches is not None and not bad and not infinite:
                    unlike += [ids[first + i] for i in _unlike(sketches, first, block)]
        except W2WError as error:
            report.add(name, str(error))
            continue
        where = f"{report.path / name}: " if name in wrong else f"{report.path}: "
        if bad:
            report.add(name, f"{where}{_rows(bad)} values that differ from row_sha256", bad)
        if infinite:
            report.add(name, f"{where}{_rows(infinite)} NaN or infinite values", infinite)
    return unlike


def _unlike(sketches: Sketches, first: int, block: np.ndarray) -> np.ndarray:
    """Return the positions in a block, which starts at row `first`, of rows that differ from their sketch."""
    made = quantized(sketch(block.astype(np.float32, copy=False)), sketches.center)
    # sums in another order may round to a neighbor
    return np.flatnonzero((np.abs(made.astype(np.int16) - sketches.values[first : first + len(block)]) > 1).any(1))


def _blocks(dataset: DatasetReader, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, min(64, BLOCK_BYTES // (dataset.layout.size * dataset.dtype.itemsize)))
    for first in range(start, stop, step):
        yield first, dataset[first : min(first + step, stop)]


def _rows(names: list[str]) -> str:
    shown = ", ".join(repr(i) for i in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"row {shown} has" if len(names) == 1 else f"rows {shown} have"


# ------------------------------------------------------ initialization, sketches
def _check_derived(report: Report, state: State, dataset: DatasetReader) -> Sketches | None:
    """Check that the initialization fits the layout; return the published sketches, None without readable ones."""
    try:
        read_initialization(dataset.manifest, state.find)
    except W2WError as error:
        report.add(START_FILE, str(error))
    for name in dataset.manifest.files:
        report.check(
            name, not name.startswith("contributions/"),
            f"{report.path}: the manifest lists {name}, but a contribution is not part of a version until w2w "
            "release adds its rows; fetch the dataset again, or tell its publisher",
        )  # fmt: skip
    try:
        return read_sketches(dataset.manifest, state.find, dataset.labels["row_sha256"].tolist())
    except W2WError as error:
        report.add(SKETCHES, str(error))
        return None


# --------------------------------------------------------------------- view
def _check_view(report: Report, state: State, dataset: DatasetReader) -> None:
    """Check that the Parquet view has the labels and the weights in its dtype."""
    wrong, comparable = report.broken, _has_intact_rows(report)
    manifest, where = dataset.manifest, report.path
    names = [name for name in manifest.files if name.startswith("parquet/")]
    if not names:
        report.check(FILENAME, not manifest.view, f"{where}: the manifest describes a view, but lists no files of it")
        return
    dtype = (manifest.view or {}).get("dtype", "float16")
    parts: dict[str, list[tuple[int, str]]] = {split: [] for split in manifest.splits}
    for name in names:
        found = re.fullmatch(r"parquet/(.+?)(?:-(\d{5}))?\.parquet", name)
        if found is None or found[1] not in parts:
            report.add(name, f"{where}: {name} belongs to no split of the manifest")
        else:
            parts[found[1]].append((int(found[2] or 0), name))
    for split, listed in parts.items():
        if sorted(number for number, _ in listed) != list(range(len(listed))) or not listed:
            report.add("parquet", f"{where}: the view's files of split {split!r} are not numbered without a gap")
        elif report.deep and comparable and not wrong & {name for _, name in listed}:
            try:
                _check_split(report, state, dataset, split, [name for _, name in sorted(listed)], dtype)
            except W2WError as error:
                report.add("parquet", str(error))


def _check_split(
    report: Report, state: State, dataset: DatasetReader, split: str, names: list[str], dtype: str
) -> None:
    import pyarrow as pa

    numbers = np.flatnonzero((dataset.labels["split"] == split).to_numpy(bool))
    columns, done = [*RESERVED, *dataset.manifest.columns], 0
    labels = dataset.labels.reset_index(names="id").iloc[numbers][columns]
    for name in progress(names, "comparing the view"):
        path = state.find(name)
        with parquet_file(path, None, "dataset") as file:
            rows = file.metadata.num_rows
            there, schema = set(file.schema_arrow.names), file.schema_arrow
            most = max((file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)), default=0)
            if there != {*columns, "weights"}:
                report.add(name, f"{path}: the columns are not those of the labels, and weights")
                return
            wanted = pa.list_(pa.from_numpy_dtype(dtype), dataset.layout.size)
            if schema.field("weights").type not in (wanted, pa.list_(wanted.value_type)):
                report.add(name, f"{path}: weights are {schema.field('weights').type}, the manifest states {dtype}")
                return
            report.check(name, most <= VIEW_ROWS, f"{path} has a row group of {most} rows; at most {VIEW_ROWS} allowed")
            if done + rows > len(numbers):
                report.add(name, f"{path} has more rows than split {split!r}")
                return
            here = numbers[done : done + rows]
            bad = _other_values(file, dataset, here, dtype)
        table = read_table(path, columns, rows, "dataset")
        ids = table.column("id").to_pylist()
        mine = label_table.records(labels.iloc[done : done + rows])
        theirs = [{k: v for k, v in row.items() if k != "row"} for row in table.to_pylist()]
        bad += [str(ids[i]) for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
        if bad:
            report.add(name, f"{path}: {_rows(list(dict.fromkeys(bad)))} values that differ from the dataset", bad)
        done += rows
    report.check(
        "parquet", done == len(numbers), f"{report.path}: the view has {counted(done, 'row')} of split {split!r}"
    )


def _other_values(file: Any, dataset: DatasetReader, numbers: np.ndarray, dtype: str) -> list[str]:
    """Return the ids of rows whose weights in the view differ from those of the matrix in this dtype."""
    done, bad, width = 0, [], dataset.layout.size
    for batch in file.iter_batches(VIEW_ROWS, columns=["weights"]):
        column = batch.column(0)
        here = numbers[done : done + len(batch)]
        flat = column.flatten()
        values = flat.to_numpy(zero_copy_only=False) if not flat.null_count else np.empty(0, dtype)
        if len(values) != len(batch) * width or column.null_count:
            bad += [str(dataset.labels.index[i]) for i in here]
        else:
            wanted = dataset[here].astype(dtype)
            same = (values.reshape(len(batch), width).view(np.uint8) == wanted.view(np.uint8)).all(1)
            bad += [str(dataset.labels.index[i]) for i in here[~same]]
        done += len(batch)
    return bad

"""Read and write the Parquet files of a dataset: labels, and the view that stock `datasets` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptFileError, MissingPathError, UnsafePathError
from ..store.byte_source import LocalFiles
from ..store.parquet import parquet_file, read_table
from ..store.paths import find_file, short
from .labels import table as label_table
from .labels.names import RESERVED
from .manifest import DatasetManifest
from .matrix.geometry import Geometry
from .matrix.sharded_matrix import ShardedMatrix

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS_PER_ROW_GROUP = 64  # small, for reading single rows of a remote view and for the Hub's viewer
LABELS_PER_ROW_GROUP = 4096
VIEW_PART_BYTES = 500 * 1000 * 1000


def write_labels(table: pd.DataFrame, path: Path) -> None:
    """Write the labels of one split."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(_arrow(table), path, row_group_size=LABELS_PER_ROW_GROUP, compression="zstd")


def read_labels(find: Callable[[str], Path], manifest: DatasetManifest, where: Path | str) -> pd.DataFrame:
    """Return the labels of all splits, indexed by id, in row order.

    Parameters
    ----------
    find : callable
        Returns the path of a listed file.
    where : path or str
        The dataset's name in messages.
    """
    import pandas as pd

    parts = []
    for split, count in manifest.splits.items():
        name = f"labels/{split}.parquet"
        if name not in manifest.files:
            raise MissingPathError(f"{where}: the manifest does not list {name}; fetch the dataset again")
        columns = [*RESERVED, *manifest.columns]
        table = read_table(find(name), columns, count, "dataset")
        table = _checked(table, manifest, f"{where}/{name}")
        for stated in table.column("split").unique().to_pylist():
            if stated != split:
                raise CorruptFileError(f"{where}/{name} has rows of split {short(stated)}")
        part = table.to_pandas(types_mapper=_nullable)
        for column, kind in manifest.kinds.items():
            try:
                part[column] = kind.from_stored(part[column], column)
            except CorruptFileError as error:
                raise CorruptFileError(f"{where}/{name}: {error}") from None
        parts.append(part)
    table = pd.concat(parts, ignore_index=True).sort_values("row") if parts else pd.DataFrame()
    if not parts or list(table["row"]) != list(range(manifest.rows)):
        raise CorruptFileError(f"{where}/labels: the rows are not numbered 0 to {manifest.rows - 1}")
    return table.set_index("id")


def label_columns(find: Callable[[str], Path], manifest: DatasetManifest, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield a table of some label columns as they are stored, unchecked, for each split.

    Parameters
    ----------
    find : callable
        Returns the path of a listed file.
    """
    for split in manifest.splits:
        yield read_table(find(f"labels/{split}.parquet"), columns, None, "dataset")


def _checked(table: pa.Table, manifest: DatasetManifest, where: str) -> pa.Table:
    """Cast label columns to the types of FORMAT.md; raise `CorruptFileError` if that is not possible."""
    import pyarrow as pa

    wanted = {name: pa.string() for name in RESERVED} | {"row": pa.int64()}
    wanted |= {name: kind.arrow_type() for name, kind in manifest.kinds.items()}
    columns = []
    for name, kind in wanted.items():
        column = table.column(name)
        if not _fits(column.type, kind):
            raise CorruptFileError(f"{where}: column {short(name)} is {column.type}, expected {kind}")
        try:
            columns.append(column.cast(kind))
        except pa.ArrowException as error:
            raise CorruptFileError(f"{where}: column {short(name)} cannot be read ({error})") from error
        if name in ("id", "split", "row", "row_sha256") and columns[-1].null_count:
            raise CorruptFileError(f"{where}: column {name} has missing values")
    return pa.table(dict(zip(wanted, columns, strict=True)))


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether a column's type is the wanted one or widens to it; a column of nulls fits any."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_null(found):
        return True
    if types.is_string(wanted):
        return bool(types.is_string(found) or types.is_large_string(found) or types.is_string_view(found))
    if types.is_boolean(wanted):
        return bool(types.is_boolean(found))
    return bool(types.is_integer(found) or (types.is_floating(found) and types.is_floating(wanted)))


def _nullable(kind: pa.DataType) -> Any:
    import pandas as pd
    import pyarrow as pa

    found = {pa.bool_(): pd.BooleanDtype(), pa.float64(): pd.Float64Dtype(), pa.int64(): pd.Int64Dtype()}
    return found.get(kind, pd.StringDtype() if pa.types.is_string(kind) else None)


@dataclass
class ViewPart:
    """One file of the Parquet view: the labels of `table`, and the weights of its rows as `dtype`."""

    name: str
    table: pd.DataFrame
    dtype: str
    folder: Path
    matrix_folders: tuple[Path, ...]


def view_parts(
    table: pd.DataFrame, splits: Mapping[str, int], g: Geometry, dtype: str, folder: Path, matrix: tuple[Path, ...]
) -> list[ViewPart]:
    """Divide each split, in row order, into files of at most 0.5 GB and at most as many rows as a shard.

    Appending rows then changes one shard and one file of the view, whatever the size of the dataset.
    """
    rows = max(1, min(g.shard_rows, VIEW_PART_BYTES // (g.width * np.dtype(dtype).itemsize)))
    rows = max(rows // ROWS_PER_ROW_GROUP * ROWS_PER_ROW_GROUP, min(rows, ROWS_PER_ROW_GROUP))
    parts = []
    for split in splits:
        chosen = table[(table["split"] == split).to_numpy(bool)]
        for number, start in enumerate(range(0, len(chosen), rows)):
            name = f"parquet/{split}.parquet" if number == 0 else f"parquet/{split}-{number:05d}.parquet"
            parts.append(ViewPart(name, chosen.iloc[start : start + rows], dtype, folder, matrix))
    return parts


def same_view_part(part: ViewPart, folder: Path) -> bool:
    """Return whether the folder's file of this part already has its rows, labels and dtype.

    Raises
    ------
    UnsafePathError
        If the path is outside the folder.
    """
    import pyarrow as pa

    wanted, dtype = _arrow(part.table), pa.from_numpy_dtype(part.dtype)
    try:
        path = find_file(folder, part.name)
        with parquet_file(path, len(wanted)) as file:
            schema = file.schema_arrow
            names = [name for name in schema.names if name != "weights"]
            values = schema.field("weights").type if "weights" in schema.names else pa.null()
            lists = pa.types.is_fixed_size_list(values) or pa.types.is_list(values)
            if names != wanted.column_names or not lists or values.value_type != dtype:
                return False
        return bool(read_table(path, names, len(wanted)).equals(wanted))
    except UnsafePathError:
        raise
    except (MissingPathError, CorruptFileError):
        return False


def write_view_part(part: ViewPart) -> tuple[str, float]:
    """Write one file, with 64 rows in memory at a time; return its name and the largest rounding error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    matrix = ShardedMatrix(LocalFiles(*part.matrix_folders), str(part.folder))
    path = part.folder / part.name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = _arrow(part.table)
    numbers = part.table["row"].to_numpy(np.int64)
    values = pa.list_(pa.from_numpy_dtype(part.dtype), matrix.shape[1])
    schema = table.schema.append(pa.field("weights", values))
    largest = 0.0
    # compression, dictionaries and statistics do not help for weights
    options: dict[str, Any] = {
        "compression": dict.fromkeys(table.schema.names, "zstd") | {"weights.list.element": "none"},
        "use_dictionary": table.schema.names,
        "write_statistics": table.schema.names,
    }
    with pq.ParquetWriter(path, schema, **options) as writer:
        for start in range(0, len(numbers), ROWS_PER_ROW_GROUP):
            block = matrix.rows(numbers[start : start + ROWS_PER_ROW_GROUP])
            cast = block.astype(part.dtype, copy=False)
            if cast.dtype != block.dtype:
                largest = max(largest, float(np.abs(cast.astype(np.float32) - block).max(initial=0.0)))
            column = pa.FixedSizeListArray.from_arrays(pa.array(cast.reshape(-1)), type=values)
            rows = table.slice(start, len(block)).append_column("weights", column)
            writer.write_table(rows, row_group_size=ROWS_PER_ROW_GROUP)
    return part.name, largest


def _arrow(table: pd.DataFrame) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(label_table.as_stored(table), preserve_index=False).replace_schema_metadata(None)

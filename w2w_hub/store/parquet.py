"""Parquet files of strangers, read under limits: rows and unpacked bytes are held against what is known first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, W2WError, one_line
from .limits import unpacked_limit
from .paths import open_regular, short

ROWS_A_BATCH = 1024


@contextmanager
def parquet_file(path: Path, rows: int | None, kind: str = "file") -> Iterator[Any]:
    """Open a Parquet file of `rows` rows as a `pyarrow.parquet.ParquetFile`.

    Raises
    ------
    CorruptFileError
        If it has another number of rows, would unpack to far more than its size, or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(open_regular(path), "rb") as file, pq.ParquetFile(file) as found:
            meta = found.metadata
            if rows is not None and meta.num_rows != rows:
                raise CorruptFileError(f"{path} has {meta.num_rows:,} rows, expected {rows:,}; fetch the {kind} again")
            limit = unpacked_limit(path.stat().st_size)
            unpacked = sum(
                max(meta.row_group(i).column(j).total_uncompressed_size, 0)
                for i in range(meta.num_row_groups)
                for j in range(meta.num_columns)
            )
            if unpacked > limit:
                raise CorruptFileError(
                    f"{path} would unpack to {unpacked:,} bytes; a file of its size may to {limit:,}"
                )
            yield found
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        if isinstance(error, W2WError):
            raise
        raise CorruptFileError(
            f"{path} cannot be read ({one_line(str(error), 200)}); fetch the {kind} again"
        ) from error


def read_table(
    path: Path,
    columns: Sequence[str],
    rows: int | None,
    limit: int,
    kind: str = "file",
    *,
    optional: Sequence[str] = (),
) -> Any:
    """Return columns of a Parquet file as a `pyarrow.Table`, in that order.

    Parameters
    ----------
    rows : int, optional
        How many it must have.
    limit : int
        Bytes in memory; reading stops there.
    optional : sequence of str
        Columns that are read if they are there.

    Raises
    ------
    CorruptFileError
    """
    import pyarrow as pa

    with parquet_file(path, rows, kind) as found:
        names = found.schema_arrow.names
        if len(set(names)) != len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise CorruptFileError(f"{path} has two columns {short(twice)}; fetch the {kind} again")
        missing = [name for name in columns if name not in names]
        if missing:
            raise CorruptFileError(f"{path} has no column {short(missing[0])}; fetch the {kind} again")
        columns = [*columns, *(name for name in optional if name in names)]
        batches, size = [], 0
        for batch in found.iter_batches(ROWS_A_BATCH, columns=columns):
            size += batch.nbytes
            if size > limit:
                raise CorruptFileError(f"{path} holds more than {limit:,} bytes; fetch the {kind} again")
            batches.append(batch)
        schema = batches[0].schema if batches else pa.schema([found.schema_arrow.field(name) for name in columns])
        return pa.Table.from_batches(batches, schema).select(columns)

"""Read untrusted Parquet files: their rows and unpacked bytes are checked before data is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..common.limits import unpacked_limit
from ..common.text import one_line
from ..errors import CorruptFileError, W2WError
from .paths import open_regular, short

BATCH_ROWS = 1024


@contextmanager
def parquet_file(path: Path, rows: int | None, kind: str = "file", texts: Sequence[str] = ()) -> Iterator[Any]:
    """Open a Parquet file of `rows` rows as a `pyarrow.parquet.ParquetFile`.

    Parameters
    ----------
    texts : sequence of str
        Columns that are read as dictionaries.

    Raises
    ------
    CorruptFileError
        If it has another number of rows, unpacks to far more than its size, or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(open_regular(path), "rb") as file, pq.ParquetFile(file, read_dictionary=list(texts)) as found:
            meta = found.metadata
            if rows is not None and meta.num_rows != rows:
                raise CorruptFileError(
                    f"{path} has {meta.num_rows:,} rows, expected {rows:,}; fetch the {kind} again", path=path
                )
            limit = unpacked_limit(path.stat().st_size)
            unpacked = _unpacked(meta)
            if unpacked > limit:
                raise CorruptFileError(
                    f"{path} unpacks to {unpacked:,} bytes; the limit for its size is {limit:,}", path=path
                )
            yield found
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        if isinstance(error, W2WError):
            raise
        raise CorruptFileError(
            f"{path} cannot be read ({one_line(str(error), 200)}); fetch the {kind} again", path=path
        ) from error


# bytes per value in memory; 4, an index into a dictionary, for text, whose bytes `_text_bytes` counts
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def _unpacked(meta: Any) -> int:
    """Return the bytes of all values in memory, which is more than their pages if values repeat."""
    total = 0
    for i in range(meta.num_row_groups):
        for j in range(meta.num_columns):
            column = meta.row_group(i).column(j)
            values = column.num_values * _WIDTHS.get(column.physical_type, 4)
            total += max(column.total_uncompressed_size, values, 0)
    return total


def _text_bytes(column: Any) -> int:
    """Return the bytes of a dictionary-encoded text column after decoding."""
    import pyarrow.compute as pc

    lengths = pc.binary_length(column.dictionary)
    return pc.sum(pc.take(lengths, column.indices)).as_py() or 0


def read_table(
    path: Path,
    columns: Sequence[str],
    rows: int | None,
    kind: str = "file",
    *,
    optional: Sequence[str] = (),
) -> Any:
    """Return columns of a Parquet file as a `pyarrow.Table`, in that order.

    Parameters
    ----------
    rows : int, optional
        The number of rows that it must have.
    optional : sequence of str
        Columns that are read if they exist.

    Raises
    ------
    CorruptFileError
    """
    import pyarrow as pa

    types = pa.types
    with parquet_file(path, rows, kind) as found:
        stored = {f.name: f for f in found.schema_arrow}
        texts = [f.name for f in found.schema_arrow if types.is_string(f.type) or types.is_large_string(f.type)]
    # text stays dictionary-encoded until its decoded size is known
    with parquet_file(path, rows, kind, texts) as found:
        names = found.schema_arrow.names
        if len(set(names)) != len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise CorruptFileError(f"{path} has two columns {short(twice)}; fetch the {kind} again", path=path)
        missing = [name for name in columns if name not in names]
        if missing:
            raise CorruptFileError(f"{path} has no column {short(missing[0])}; fetch the {kind} again", path=path)
        columns = [*columns, *(name for name in optional if name in names)]
        batches, size, limit = [], 0, unpacked_limit(path.stat().st_size)
        for batch in found.iter_batches(BATCH_ROWS, columns=columns):
            size += batch.nbytes
            encoded = [column for column in batch.columns if types.is_dictionary(column.type)]
            size += sum(_text_bytes(column) for column in encoded if not types.is_primitive(column.type.value_type))
            if size > limit:
                raise CorruptFileError(f"{path} holds more than {limit:,} bytes; fetch the {kind} again", path=path)
            batches.append(batch)
        schema = batches[0].schema if batches else pa.schema([found.schema_arrow.field(name) for name in columns])
        table = pa.Table.from_batches(batches, schema).select(columns)
        plain = [stored[f.name] if f.name in texts else f for f in table.schema]
        return table.cast(pa.schema(plain, table.schema.metadata))

"""A weight space's population on disk: ``coefficients/<split>.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.text import one_line
from ..store.commit import State
from ..store.parquet import read_table
from .manifest import BASIS_KEY, corrupt
from .population import Population

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def save_population(population: Population, digest: str, folder: Path) -> list[str]:
    """Write the rows of each split; return the names of the splits.

    Parameters
    ----------
    digest : str
        Of the basis.
    folder : Path
        The weight space's.
    """
    splits: list[str] = list(dict.fromkeys(np.asarray(population.splits).tolist()))
    for split in splits:
        _save_split(population, split, digest, folder / "coefficients" / f"{split}.parquet")
    return splits


def _save_split(population: Population, split: str, digest: str, path: Path) -> None:
    import pyarrow.parquet as pq

    chosen = np.flatnonzero(np.asarray(population.splits) == split)
    norms = population.squared_norms
    table = coefficients_table(
        [population.ids[i] for i in chosen], chosen, population.fitted[chosen], population.coefficients[chosen], digest,
        None if norms is None else norms[chosen],
    )  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def coefficients_table(
    ids: Sequence[str], rows: np.ndarray, fitted: np.ndarray, coefficients: np.ndarray, digest: str,
    squared_norms: np.ndarray | None = None,
) -> pa.Table:  # fmt: skip
    """Return rows of ``coefficients/<split>.parquet`` as a table of Arrow; `digest` is that of the basis."""
    import pyarrow as pa

    offsets = pa.array(np.arange(len(ids) + 1) * coefficients.shape[1], pa.int64())
    columns = {
        "id": pa.array(ids, pa.string()),
        "row": pa.array(rows, pa.int64()),
        "fitted": pa.array(fitted),
        "coefficients": pa.LargeListArray.from_arrays(offsets, pa.array(coefficients.ravel())),
    }
    if squared_norms is not None:
        columns["squared_norm"] = pa.array(squared_norms)
    return pa.table(columns).replace_schema_metadata({BASIS_KEY: digest})


def read_population(state: State, k: int) -> Population:
    """Read the population of a weight space, with the first `k` coefficients of each row."""
    data = state.data
    table = _all_rows(state, data["k"])
    inside = (table["split"] == data["fitted_split"]).to_numpy(bool)
    fitted = table["fitted"].to_numpy(bool) if "fitted" in table else inside
    if not fitted.any():
        raise corrupt(state.root / "coefficients", "no row is marked as fitted")
    ids = tuple(table["id"])
    return Population(
        ids=ids,
        splits=table["split"].to_numpy(str),
        coefficients=np.stack(list(table["coefficients"]))[:, :k],
        fitted_split=data["fitted_split"],
        squared_norms=table["squared_norm"].to_numpy(float) if "squared_norm" in table else None,
        left_out=tuple(ids[i] for i in np.flatnonzero(inside & ~fitted)),
    )


def _all_rows(state: State, k: int) -> pd.DataFrame:
    """Return the rows of all splits, in row order, with `coefficients` ``(k,)`` float32 each."""
    import pandas as pd

    splits = state.data["splits"]
    if not splits or len(set(splits)) != len(splits):
        raise corrupt(state.manifest_path, "'splits' is missing or invalid")
    parts = [_rows_of(state, split, k) for split in splits]
    for column in ("fitted", "squared_norm"):
        if 0 < sum(column in part for part in parts) < len(parts):
            raise corrupt(state.root / "coefficients", f"only some splits have a column {column!r}")
    table = pd.concat(parts).sort_values("row")
    for column in ("id", "row"):
        if table[column].duplicated().any():
            twice = table[column][table[column].duplicated()].iloc[0]
            raise corrupt(state.root / "coefficients", f"{column} {twice!r} occurs twice")
    return table


def _rows_of(state: State, split: str, k: int) -> pd.DataFrame:
    import pyarrow as pa

    name, digest = f"coefficients/{split}.parquet", state.data["digest"]
    file = state.find(name)
    wanted = {"id": pa.types.is_string, "row": pa.types.is_integer, "coefficients": pa.types.is_large_list}
    wanted |= {"fitted": pa.types.is_boolean, "squared_norm": pa.types.is_floating}
    columns, optional = ("id", "row", "coefficients"), ("fitted", "squared_norm")
    table = read_table(file, columns, None, "weight space", optional=optional)
    stated = (table.schema.metadata or {}).get(BASIS_KEY.encode(), digest.encode()).decode(errors="replace")
    if stated != digest:
        raise corrupt(file, f"it belongs to the basis {one_line(stated, 12)}, not to {digest[:12]}")
    for column, fits in wanted.items():
        if column not in table.column_names:
            continue
        values = table.column(column)
        plain = fits(values.type) or (column == "coefficients" and pa.types.is_list(values.type))
        plain |= column == "id" and pa.types.is_large_string(values.type)
        if not plain or values.null_count:
            raise corrupt(file, f"column {column!r} is {values.type} or has missing values")
    lists = table.column("coefficients").combine_chunks()
    flat = lists.flatten()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if not pa.types.is_float32(flat.type) or flat.null_count or (lengths != k).any():
        raise corrupt(file, f"each row must have {k} float32 coefficients")
    coefficients = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), k)
    if not np.isfinite(coefficients).all():
        raise corrupt(file, "coefficients are not finite")
    frame = table.drop_columns(["coefficients"]).to_pandas()
    return frame.assign(coefficients=list(coefficients), split=split)

"""Write a matrix in memory as a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import checked
from ...errors import InvalidInputError, LayoutMismatchError
from ...lora.layout import ParameterLayout
from ...store.commit import next_state
from ..labels import table as label_table
from ..manifest import DTYPES, Compatibility
from ..matrix.inputs import as_matrix, id_list, row_names
from ..splits import SplitRule, require_rule, states_splits
from .build import SHARD_BYTES, Content, Origin, build, parse_size, plan_geometry
from .problems import Problems
from .shard_writer import ArrayRows

if TYPE_CHECKING:
    import pandas as pd

    from ..weight_dataset import WeightDataset


@checked()
def write_dataset(
    weights: Any,
    path: Path | str,
    *,
    layout: ParameterLayout,
    ids: Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    column_info: Mapping[str, Mapping[str, str]] | None = None,
    split_rule: SplitRule | None = None,
    dtype: str | None = None,
    compression: str = "none",
    shard_size: int | str = SHARD_BYTES,
    name: str | None = None,
    version: str = "0.1.0",
    licence: str = "unknown",
    compatibility: Compatibility | None = None,
    parquet_view: bool | str = True,
    replace: bool = False,
) -> WeightDataset:
    """Write a matrix of flattened adapters as a dataset folder.

    Parameters
    ----------
    weights : array-like
        ``(n, layout.size)``, one adapter per row, raw factors in layout order at the layout's scale: a NumPy array, a
        tensor on any device, a DataFrame of numbers, a list. A memory map will do: rows are read one by one.
    ids : sequence of str, optional
        Without it those of a DataFrame's index, if that is text, else ``row-000000`` and so on.
    labels : DataFrame, optional
        One row an id, with an ``id`` column (or as the index); ``split``, ``source``, ``licence`` and
        ``consent`` are known, every other column is an attribute.
    column_info : mapping, optional
        ``{"Age": {"unit": "years", "source": "self-reported"}}``.
    split_rule : SplitRule, optional
        Makes the split, all rows of one group on one side. Rows whose labels state a split keep it, unless they are
        all for ``train``.
    dtype : {"float32", "float16"}, optional
        How values are stored; float16 input stays float16, anything else becomes float32.
    compression : {"none", "bitshuffle"}
        Lossless; bitshuffle halves float32 that was bfloat16 once and does little for anything else.
    shard_size : int or str
        At most ``"500MB"``.
    parquet_view : bool or {"float16", "float32"}
        Also write ``parquet/``, the view that stock `datasets.load_dataset` reads, in float16 unless said
        otherwise; values that do not fit float16 are refused then.
    replace : bool
        Put the new dataset in the place of the one that is there.

    Examples
    --------
    >>> write_dataset(matrix, "people", layout=layout, ids=ids, labels=table)   # doctest: +SKIP

    Raises
    ------
    AlreadyExistsError, InvalidInputError, LayoutMismatchError, UnknownNameError, BusyError, DiskError
        Nothing is written then.
    """
    from ..weight_dataset import WeightDataset

    path = Path(path)
    matrix = as_matrix(weights)
    ids = row_names(weights) if ids is None else ids
    if matrix.ndim != 2 or matrix.shape[1] != layout.size:
        raise LayoutMismatchError(f"weights have shape {matrix.shape}; this layout needs (n, {layout.size})")
    if not len(matrix):
        raise InvalidInputError("a dataset needs at least one row")
    names = [f"row-{i:06d}" for i in range(len(matrix))] if ids is None else id_list(ids)
    if len(names) != len(matrix):
        raise InvalidInputError(f"{len(names)} ids for {len(matrix)} rows")
    stored = stored_dtype(dtype, matrix.dtype)
    content = Content(
        name or path.name, layout, stored, version, licence, compatibility or Compatibility(),
        {k: dict(v) for k, v in (column_info or {}).items()}, None, view_dtype(parquet_view),
    )  # fmt: skip
    geometry = plan_geometry(len(names), layout.size, stored, parse_size(shard_size), compression)
    problems = Problems()
    table = split_labels(labels, names, split_rule, problems)
    content.split_rule = None if split_rule is None else split_rule.to_json()
    with next_state(path, replace=replace) as staging:
        origin = Origin.joined([(ArrayRows(matrix), range(len(names)))])
        build(staging, path, content, names, table, origin, geometry=geometry, problems=problems)
    return WeightDataset.open(path)


def split_labels(
    labels: pd.DataFrame | None, ids: Sequence[str], rule: SplitRule | None, problems: Problems
) -> pd.DataFrame:
    """Return the labels of a new dataset's rows, split by a rule if there is one.

    Rows that state a split keep it, unless the table says ``train`` throughout, and the others follow the rule.
    """
    require_rule(rule)
    table = label_table.normalise(labels, ids, problems=problems, open_split=rule is not None)
    if rule is None:
        return table
    placed = table["split"].notna().tolist() if states_splits(table) else None
    return rule.apply(table, placed=placed, problems=problems)


def stored_dtype(asked: str | None, given: np.dtype[Any] | None = None) -> str:
    """The dtype to store: the one asked for, else float16 for float16 input and float32 for the rest."""
    if asked is not None and asked not in DTYPES:
        raise InvalidInputError(f"dtype {asked!r} cannot be stored; choose {' or '.join(DTYPES)}")
    return asked or ("float16" if given == np.float16 else "float32")


def view_dtype(parquet_view: bool | str) -> str | None:
    """The dtype of the Parquet view, or None without one."""
    if isinstance(parquet_view, bool):
        return "float16" if parquet_view else None
    if parquet_view not in DTYPES:
        raise InvalidInputError(f"a Parquet view in {parquet_view!r} is not possible; choose {' or '.join(DTYPES)}")
    return parquet_view

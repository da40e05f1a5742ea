"""Write a matrix in memory as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.arguments import checked
from ...common.deprecated import renamed_keywords
from ...common.text import counted
from ...errors import InvalidInputError, LayoutMismatchError
from ...lora.layout import ParameterLayout
from ..labels import table as label_table
from ..matrix.inputs import as_matrix, id_list, row_names
from ..problems import Problems
from ..splits import SplitRule, states_splits
from ..weight_dataset import WeightDataset
from .commit import create
from .options import DatasetOptions, OptionKeywords, merged, plan_new, takes_options
from .plan import Plan
from .shard_writer import ArrayRows

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd


@takes_options
@renamed_keywords(replace="overwrite")
@checked()
def write_dataset(
    weights: Any,
    path: Path | str,
    *,
    layout: ParameterLayout,
    ids: Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    extra_labels: str = "refuse",
    overwrite: bool = False,
    options: DatasetOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> WeightDataset:
    """Write a matrix of flattened adapters as a dataset folder.

    Parameters
    ----------
    weights : array-like
        ``(n, layout.size)``, one adapter per row, raw factors in layout order at the layout's scale: a NumPy array or
        memory map, a tensor on any device, a DataFrame of numbers, or a list. Rows are read one at a time.
    ids : sequence of str, optional
        By default the text index of a DataFrame, else ``row-000000``, ``row-000001``, ...
    labels : DataFrame, optional
        One row per id, with a column ``id`` or the ids as its index. ``split``, ``source``, ``licence`` and
        ``consent`` are reserved; every other column is an attribute.
    extra_labels : {"refuse", "ignore"}
        What to do with labels of other ids.
    overwrite : bool
        Replace an existing dataset.
    options : DatasetOptions, optional
        Storage options and metadata.
    **keywords
        Fields of `options`.

    Examples
    --------
    >>> write_dataset(matrix, "people", layout=layout, ids=ids, labels=table, dtype="float16")   # doctest: +SKIP

    Raises
    ------
    AlreadyExistsError, InvalidInputError, LayoutMismatchError, UnknownNameError, BusyError, DiskError
        Nothing is written if an error is raised.
    """
    path, options = Path(path), merged(options, keywords)
    return create(path, plan_matrix(weights, path, layout, ids, labels, extra_labels, options), overwrite=overwrite)


def plan_matrix(
    weights: Any, path: Path, layout: ParameterLayout, ids: Sequence[str] | None, labels: pd.DataFrame | None,
    extra_labels: str, options: DatasetOptions,
) -> Plan:  # fmt: skip
    """Plan a dataset of the rows of a matrix; see :func:`write_dataset`."""
    matrix = as_matrix(weights)
    ids = row_names(weights) if ids is None else ids
    if matrix.ndim != 2 or matrix.shape[1] != layout.size:
        raise LayoutMismatchError(f"weights have shape {matrix.shape}; this layout needs (n, {layout.size})")
    if not len(matrix):
        raise InvalidInputError("a dataset needs at least one row")
    names = [f"row-{i:06d}" for i in range(len(matrix))] if ids is None else id_list(ids)
    if len(names) != len(matrix):
        raise InvalidInputError(f"{counted(len(names), 'id')} for {counted(len(matrix), 'row')}; give one per row")
    problems = Problems()
    table = split_labels(labels, names, options.split_rule, problems, extra_labels)
    return plan_new(options, path, layout, names, ArrayRows(matrix), table, problems, matrix.dtype)


def split_labels(
    labels: pd.DataFrame | None, ids: Sequence[str], rule: SplitRule | None, problems: Problems, extra: str = "refuse"
) -> pd.DataFrame:
    """Return the labels of a new dataset's rows, split by a rule if there is one.

    Rows with a split keep it, unless all splits are ``train``; the others follow the rule.
    """
    table = label_table.normalize(labels, ids, problems, open_split=rule is not None, extra=extra)
    if rule is None:
        return table
    placed = table["split"].notna().tolist() if states_splits(table) else None
    return rule.apply(table, placed=placed, problems=problems)

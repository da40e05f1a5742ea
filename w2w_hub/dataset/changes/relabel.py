"""Change the labels of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.arguments import checked
from ...common.checks import text_list
from ...errors import UnknownNameError
from ..labels import table as label_table
from ..labels.kinds import LabelKind
from ..labels.names import RESERVED
from ..labels.written import as_written
from ..problems import Problems
from ..splits import SplitRule, require_rule
from ..weight_dataset import WeightDataset
from .commit import change
from .plan import Plan, RowPlan, draft_of, used_kinds
from .sources import DatasetRows

if TYPE_CHECKING:
    import pandas as pd


@checked()
def relabel_rows(
    path: Path | str,
    labels: pd.DataFrame | None = None,
    *,
    drop_columns: str | Sequence[str] = (),
    column_info: Mapping[str, Mapping[str, str]] | None = None,
    split_rule: SplitRule | None = None,
    version: str | None = None,
) -> WeightDataset:
    """Change labels in one atomic change; this rewrites the Parquet view, but not the matrix.

    Parameters
    ----------
    labels : DataFrame, optional
        Any rows and columns; a value replaces the current one, a missing value clears it. New columns are added,
        with missing values for rows that are not in the table.
    drop_columns : sequence of str
        Columns to remove.
    column_info : mapping, optional
        Unit and source of columns, see :class:`DatasetOptions`.
    split_rule : SplitRule, optional
        Split the rows again by this rule. An existing rule is dropped, with a warning, if labels move a row to another
        split or a group into two splits, or if the rule's column is dropped.

    Raises
    ------
    UnknownNameError, InvalidInputError
        All problems in one error; the dataset is then unchanged.
    """
    require_rule(split_rule)
    drop = text_list(drop_columns, "a column")
    info = {column: dict(facts) for column, facts in (column_info or {}).items()}
    return change(path, lambda dataset: plan_labels(dataset, labels, drop, info, split_rule, version))


def plan_labels(
    dataset: WeightDataset,
    labels: pd.DataFrame | None,
    drop: Sequence[str] = (),
    column_info: Mapping[str, dict[str, str]] | None = None,
    split_rule: SplitRule | None = None,
    version: str | None = None,
) -> Plan:
    """Plan a change of labels."""
    problems = Problems()
    old = dataset.labels.reset_index(names="id")
    table = old.drop(columns=["row", "row_sha256"])
    known: dict[str, LabelKind | None] = dict(used_kinds(dataset))
    if labels is not None:
        table, replaced = _with_labels(table, labels, problems, known)
        known = replaced | {k: v for k, v in known.items() if k not in replaced}
    droppable = [name for name in drop if name in table.columns and name not in RESERVED]
    for name in drop:
        if name not in droppable:
            have = ", ".join(dataset.manifest.columns) or "none"
            problems.add(UnknownNameError(f"no attribute {name!r} to drop; there are {have}"))
    ids, open_split = list(dataset.ids), split_rule is not None
    table = table.drop(columns=droppable)
    table = label_table.normalize(table, ids, problems, known=known, existing=old, open_split=open_split)
    if split_rule is not None:
        table = split_rule.apply(table, problems=problems)
    problems.raise_if_any()
    draft = draft_of(dataset, version)
    draft.column_info = {k: v for k, v in draft.column_info.items() if k in table.columns} | dict(column_info or {})
    if split_rule is not None:
        draft.split_rule = split_rule.to_json()
    rows = RowPlan.joined([(DatasetRows.of(dataset), np.arange(len(dataset)))])
    return Plan(draft, ids, rows, table, base=dataset, resplit=split_rule is not None)


def _with_labels(
    table: pd.DataFrame, labels: pd.DataFrame, problems: Problems, known: Mapping[str, LabelKind | None]
) -> tuple[pd.DataFrame, dict[str, LabelKind | None]]:
    """Return the table with new values, and the kinds of columns whose kind may change."""
    place = {name: i for i, name in enumerate(table["id"])}
    new = label_table.labels_of(place, label_table.as_table(labels, problems, table.columns), problems)
    whole = [name for name in new.columns if len(new) == len(table) or name not in table.columns]
    replaced = label_table.replaced_kinds(new, whole, known)
    new = as_written(new, {**known, **replaced})
    rows = new["id"].map(place).to_numpy(int)
    result = table.astype(object)
    for name in new.columns:
        if name != "id":
            there = name in result.columns
            column = result[name].to_numpy(object, copy=True) if there else np.full(len(table), None, object)
            column[rows] = new[name].to_numpy(object)
            result[name] = column
    return result, replaced

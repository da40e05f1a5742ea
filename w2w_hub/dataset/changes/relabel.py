"""Change the labels of a dataset, and the facts that its manifest states about all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.arguments import checked
from ...common.checks import text_list
from ...common.constraints import optional, text
from ...common.deprecated import renamed_keywords
from ...common.text import available
from ...dialects.base_model import digest_of_folder
from ...errors import BaseModelMismatchError, InitializationError, InvalidInputError, UnknownNameError, W2WError
from ...lora.adapter import Adapter
from ..groups import warn_of_shared_persons
from ..initialization import as_start, initialization_of, name_of
from ..labels import table as label_table
from ..labels.kinds import LabelKind
from ..labels.names import RESERVED
from ..labels.written import as_written
from ..manifest import UNKNOWN, Compatibility, DatasetManifest
from ..problems import Problems
from ..splits import SplitRule, require_rule
from ..weight_dataset import WeightDataset
from .commit import change
from .options import OLD_NAMES
from .plan import Plan, RowPlan, draft_of, used_kinds
from .sources import DatasetRows

if TYPE_CHECKING:
    import pandas as pd


@renamed_keywords(**OLD_NAMES)
@checked(initialization=optional(text()), license=optional(text()))
def relabel_rows(
    path: Path | str,
    labels: pd.DataFrame | None = None,
    *,
    drop_columns: str | Sequence[str] = (),
    column_info: Mapping[str, Mapping[str, str]] | None = None,
    split_rule: SplitRule | None = None,
    initialization: str | None = None,
    start_adapter: Path | str | Adapter | None = None,
    base: Path | str | None = None,
    license: str | None = None,
    extra_labels: str = "refuse",
    overwrite: bool = False,
    version: str | None = None,
) -> WeightDataset:
    """Change labels, or facts about all rows, in one atomic change.

    The matrix is not rewritten; the Parquet view is, if labels change.

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
    initialization, start_adapter, base, license
        Facts that were not stated when the dataset was packed, see :class:`DatasetOptions`. The dataset's digest does
        not depend on them.
    extra_labels : {"refuse", "ignore"}
        What to do with labels of ids that the dataset does not have.
    overwrite : bool
        Replace an initialization, base model or license that the dataset states otherwise.

    Raises
    ------
    UnknownNameError, InvalidInputError
        All problems in one error; the dataset is then unchanged.
    InitializationError, BaseModelMismatchError
        If the dataset states another one, without `overwrite`.
    """
    require_rule(split_rule)
    drop = text_list(drop_columns, "a column")
    info = {column: dict(facts) for column, facts in (column_info or {}).items()}

    def plan(dataset: WeightDataset) -> Plan:
        made = plan_labels(dataset, labels, drop, info, split_rule, version, extra_labels)
        name = initialization
        if start_adapter is not None:
            made.start = as_start(dataset.layout, start_adapter)
            stated = dataset.manifest.compatibility.initialisation
            name = initialization or (stated if stated != UNKNOWN else name_of(made.start))
            _require_same_start(dataset, made.start, overwrite)
        _add_facts(made.manifest, dataset, name, base, license, overwrite)
        return made

    return change(path, plan)


def _require_same_start(dataset: WeightDataset, start: np.ndarray, overwrite: bool) -> None:
    published = initialization_of(dataset)
    if published is not None and not np.array_equal(published, start) and not overwrite:
        raise InitializationError(
            f"{dataset.path} publishes another initialization; to replace it, add --force (overwrite=True)",
            path=dataset.path,
            name="start_adapter",
        )


def _add_facts(
    draft: DatasetManifest,
    dataset: WeightDataset,
    initialization: str | None,
    base: Path | str | None,
    license: str | None,
    overwrite: bool,
) -> None:
    """Put facts about all rows into the draft of a manifest; one that is stated otherwise is an error."""
    record = draft.compatibility
    digest = None if base is None else digest_of_folder(base, draft.layout)
    replaced: tuple[tuple[str, str | None, str | None, type[W2WError]], ...] = (
        ("initialization", record.initialisation, initialization, InitializationError),
        ("base digest", record.base_digest, digest, BaseModelMismatchError),
        ("license", draft.licence, license, InvalidInputError),
    )
    for name, old, new, kind in replaced:
        if new is not None and old not in (None, UNKNOWN, new) and not overwrite:
            raise kind(
                f"{dataset.path} states {name} {old!r}, not {new!r}; to replace it, add --force (overwrite=True)",
                path=dataset.path,
                name=name,
            )
    draft.compatibility = Compatibility(
        record.base_model if digest in (None, record.base_digest) or record.base_digest is None else None,
        digest or record.base_digest,
        initialization or record.initialisation,
    )
    draft.licence = license or draft.licence


def plan_labels(
    dataset: WeightDataset,
    labels: pd.DataFrame | None,
    drop: Sequence[str] = (),
    column_info: Mapping[str, dict[str, str]] | None = None,
    split_rule: SplitRule | None = None,
    version: str | None = None,
    extra_labels: str = "refuse",
) -> Plan:
    """Plan a change of labels."""
    problems = Problems()
    old = dataset.labels.reset_index(names="id")
    table = old.drop(columns=["row", "row_sha256"])
    known: dict[str, LabelKind | None] = dict(used_kinds(dataset))
    if labels is not None:
        table, replaced = _with_labels(table, labels, problems, known, extra_labels)
        known = replaced | {k: v for k, v in known.items() if k not in replaced}
    droppable = [name for name in drop if name in table.columns and name not in RESERVED]
    for name in drop:
        if name not in droppable:
            have = available(name, list(dataset.manifest.columns), "w2w inspect DATASET")
            problems.add(UnknownNameError(f"no attribute {name!r} to drop; {have}"))
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
        warn_of_shared_persons(table, split_rule, dataset.path)
    rows = RowPlan.joined([(DatasetRows.of(dataset), np.arange(len(dataset)))])
    return Plan(draft, ids, rows, table, base=dataset, resplit=split_rule is not None)


def _with_labels(
    table: pd.DataFrame,
    labels: pd.DataFrame,
    problems: Problems,
    known: Mapping[str, LabelKind | None],
    extra: str,
) -> tuple[pd.DataFrame, dict[str, LabelKind | None]]:
    """Return the table with new values, and the kinds of columns whose kind may change."""
    place = {name: i for i, name in enumerate(table["id"])}
    new = label_table.labels_of(place, label_table.as_table(labels, problems, table.columns), problems, extra)
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

"""Add checkpoints, or the rows of other datasets, to a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.arguments import checked
from ...common.checks import path_list
from ...common.constraints import optional, text
from ...common.deprecated import renamed_keywords
from ...common.text import ShellText, command, counted, quote
from ...dialects.checkpoint import TRAINED_FROM
from ...dialects.loading import provenance_in
from ...errors import InitializationError, InvalidInputError, LayoutMismatchError
from ...store.manifest import FILENAME
from ..initialization import FILE as START_FILE
from ..labels import table as label_table
from ..labels.names import DEFAULT_SPLIT
from ..labels.written import as_written
from ..manifest import UNKNOWN
from ..problems import Problems
from ..splits import SplitRule, placed_by_rule, states_splits
from ..weight_dataset import WeightDataset
from .commit import change
from .options import OLD_NAMES
from .plan import Plan, RowPlan, draft_of, used_kinds
from .shard_writer import RowSource
from .sources import AdapterRows, DatasetRows, found_adapters, row_ids
from .workers import worker_count

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client


@renamed_keywords(initialisation=OLD_NAMES["initialisation"])
@checked(initialization=optional(text()))
def add_rows(
    path: Path | str,
    sources: Path | str | Sequence[Path | str],
    *,
    ids: str | Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    extra_labels: str = "refuse",
    initialization: str | None = None,
    column_info: Mapping[str, Mapping[str, str]] | None = None,
    version: str | None = None,
    workers: int | None = 1,
    dask: str | Client | None = None,
) -> WeightDataset:
    """Append checkpoints, or the rows of other datasets, to a dataset in one atomic change.

    Full shards are not rewritten. The dataset keeps its dtype: float16 rows widen exactly to float32; rounding to
    float16 is measured and recorded, and is an error if the dataset has no rounded rows yet. If the dataset has a
    split rule, rows without a split follow it, and so do the rows of a dataset whose splits are all ``train``. A row
    with a split keeps it, and it is an error if its group is in another split.

    Parameters
    ----------
    sources : path or sequence of path
        Checkpoints, folders of them, which are scanned as by :func:`pack_adapters`, and dataset folders.
    ids : sequence of str, optional
        Ids of the added checkpoints, in their order; see :func:`pack_adapters`.
    labels : DataFrame, optional
        Labels of the added checkpoints; datasets have their own. Existing columns keep their kind.
    initialization : str, optional
        Name of the initialization that the added checkpoints were trained from. It must be the dataset's, if that
        has one. Checkpoints of `w2w train` state theirs; for others it may be left out if the dataset publishes its
        initialization, with which each row's A is compared.
    extra_labels, column_info, version, workers, dask
        See :class:`DatasetOptions` and :func:`pack_adapters`.

    Raises
    ------
    LayoutMismatchError, InitializationError, InvalidInputError, ...
        If a source does not fit or an id exists already; the dataset is then unchanged.
    """
    paths = path_list(sources, "a source")
    if not paths:
        raise InvalidInputError("there are no sources to add")
    grouped = [(is_dataset, list(group)) for is_dataset, group in groupby(paths, _is_dataset)]
    grouped = [(is_dataset, group if is_dataset else found_adapters(group)) for is_dataset, group in grouped]
    names = iter(row_ids([path for is_dataset, group in grouped if not is_dataset for path in group], ids))
    added = [(path, None if is_dataset else next(names)) for is_dataset, group in grouped for path in group]
    info = {column: dict(facts) for column, facts in (column_info or {}).items()}
    return change(
        path,
        lambda dataset: plan_addition(dataset, added, labels, initialization, info, version, extra_labels),
        workers=worker_count(workers, len(added)),
        dask=dask,
    )


def plan_addition(
    dataset: WeightDataset,
    sources: Sequence[tuple[Path, str | None]],
    labels: pd.DataFrame | None = None,
    initialization: str | None = None,
    column_info: Mapping[str, dict[str, str]] | None = None,
    version: str | None = None,
    extra_labels: str = "refuse",
) -> Plan:
    """Plan the addition of rows.

    Parameters
    ----------
    sources : sequence of (path, str or None)
        Checkpoints with their ids, and datasets with None.
    """
    import pandas as pd

    draft, problems = draft_of(dataset, version), Problems()
    rule = None if draft.split_rule is None else SplitRule.from_json(draft.split_rule)
    old = dataset.labels.reset_index(names="id")
    ids, added = list(dataset.ids), list[str]()  # of all rows; of added checkpoints
    files: list[Path] = []  # added checkpoints
    parts: list[tuple[RowSource, Sequence[int]]] = [(DatasetRows.of(dataset), range(len(dataset)))]
    tables, known = [old], used_kinds(dataset)
    for are_checkpoints, group in groupby(sources, lambda source: source[1] is not None):
        pairs = list(group)
        if are_checkpoints:
            names = [name for _, name in pairs if name is not None]
            parts.append((AdapterRows([path for path, _ in pairs], dataset.layout, names), range(len(names))))
            ids, added, files = ids + names, added + names, files + [path for path, _ in pairs]
            continue
        for source, _ in pairs:
            other = WeightDataset.open(source)
            with problems.collecting():
                _require_compatible(dataset, other, source)
            parts.append((DatasetRows.of(other), range(len(other))))
            ids += other.ids
            theirs = other.labels.reset_index(names="id")
            tables.append(theirs if rule is None or states_splits(theirs) else theirs.drop(columns="split"))
            known = used_kinds(other) | known
            rounded = other.manifest.float16_max_error
            if rounded is not None:
                draft.float16_max_error = max(rounded, draft.float16_max_error or 0.0)
            draft.column_info = dict(other.manifest.column_info) | draft.column_info
            draft.rescaled = (draft.rescaled or {}) | (other.manifest.rescaled or {})
            draft.training = [*(draft.training or ()), *(other.manifest.training or ())]
    if added:
        with problems.collecting():
            _require_initialization(dataset, initialization or _stated_initialization(dataset, files))
        given = _labels_of(added, labels, problems, dataset, extra_labels)
        known = label_table.grown_kinds(given, known, problems)
        given = as_written(given, known)
        tables.append(given if rule or "split" in given.columns else given.assign(split=DEFAULT_SPLIT))
    elif labels is not None:
        problems.add(InvalidInputError("labels are for added checkpoints, but all sources are datasets; omit labels"))
    merged = pd.concat(
        [t.drop(columns=["row", "row_sha256"], errors="ignore").astype(object) for t in tables if len(t)],
        ignore_index=True,
    ).drop_duplicates("id")
    there = set(dataset.ids)
    taken = [name for name in ids[len(dataset) :] if name in there]
    if taken:
        others = f", and {counted(len(taken) - 1, 'other')} of the sources" if taken[1:] else ""
        removal = command("w2w remove", dataset.path, ShellText("ID") if taken[1:] else taken[0])
        problems.add(
            InvalidInputError(
                f"{dataset.path} has a row {taken[0]!r} already{others}; ids must be unique: omit it, give it another "
                f"id (ids=), or remove the old row first: {removal}",
                name=taken[0],
            )
        )
    new_ids = [*dataset.ids, *(name for name in ids[len(dataset) :] if name not in there)]
    table = label_table.normalize(merged, new_ids, problems, known=known, existing=old, open_split=rule is not None)
    if rule is not None:
        table = placed_by_rule(rule, table, len(dataset), problems)
    draft.column_info = draft.column_info | dict(column_info or {})
    return Plan(draft, ids, RowPlan.joined(parts), table, base=dataset, problems=problems)


def _is_dataset(path: Path) -> bool:
    return (path / FILENAME).is_file()


def _require_compatible(dataset: WeightDataset, other: WeightDataset, source: Path) -> None:
    if other.layout != dataset.layout:
        found = dataset.layout.differences(other.layout)
        raise LayoutMismatchError(f"{source} does not fit the layout of {dataset.path}: {found}")
    theirs = other.manifest.compatibility
    for name in ("initialisation", "base_digest"):
        mine, its = getattr(dataset.manifest.compatibility, name), getattr(theirs, name)
        # a source must agree with each fact that the dataset states
        if mine not in (UNKNOWN, None, its) and (its is not None or name == "initialisation"):
            raise InitializationError(
                f"{source} has {name} {its!r}, but {dataset.path} has {mine!r}; rows of one dataset must share it",
                path=source,
            )


def _stated_initialization(dataset: WeightDataset, files: Sequence[Path]) -> str | None:
    """Return the dataset's initialization if it is needed and every added checkpoint's header states it, or None."""
    mine = dataset.manifest.compatibility.initialisation
    if mine == UNKNOWN or START_FILE in dataset.manifest.files:  # each row's A is compared with the file
        return None
    return mine if all(provenance_in(file).get(TRAINED_FROM) == mine for file in files) else None


def _require_initialization(dataset: WeightDataset, initialization: str | None) -> None:
    mine = dataset.manifest.compatibility.initialisation
    if mine == UNKNOWN or initialization == mine:
        return
    if initialization is None and START_FILE in dataset.manifest.files:
        return  # each row's A is compared with it
    if initialization is None:
        raise InitializationError(
            f"all rows of {dataset.path} were trained from initialization {mine!r}; if the new checkpoints were too, "
            f"add --initialization {quote(mine)}"
        )
    raise InitializationError(
        f"the new checkpoints have initialization {initialization!r}, but {dataset.path} has {mine!r}; rows of one "
        "dataset must share it"
    )


def _labels_of(
    names: Sequence[str],
    labels: pd.DataFrame | None,
    problems: Problems,
    dataset: WeightDataset,
    extra: str = "refuse",
) -> pd.DataFrame:
    """Return the labels of added checkpoints; duplicate and unknown ids are collected."""
    import pandas as pd

    if labels is None:
        return pd.DataFrame({"id": pd.Series(list(names), dtype=object)})
    table = label_table.as_table(labels, problems, dataset.labels.columns)
    advice = f"; labels of existing rows are changed by: {command('w2w relabel', dataset.path)}"
    return label_table.labels_of(names, table, problems, extra, advice)

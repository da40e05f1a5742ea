"""Change a dataset: add rows, remove rows, label them anew. Each change is one new state; full shards stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import checked
from ...common.constraints import optional, text
from ...errors import InitialisationError, InvalidInputError, LayoutMismatchError, UnknownNameError
from ...store.commit import next_state
from ..labels import table as label_table
from ..labels.names import DEFAULT_SPLIT
from ..manifest import FILENAME, UNKNOWN
from ..splits import SplitRule, placed_by_rule, require_rule, states_splits, tell_ended
from ..weight_dataset import WeightDataset
from .build import Content, Origin, build
from .problems import Problems
from .sources import AdapterRows, DatasetRows, path_list, row_ids, text_list

if TYPE_CHECKING:
    import pandas as pd

    from ...lora.layout import ParameterLayout
    from ..labels.kinds import LabelKind
    from .shard_writer import RowSource


@contextmanager
def _changing(path: Path | str) -> Iterator[tuple[WeightDataset, Path]]:
    """The present state and the staging folder of the next, under the writers' lock."""
    dataset = WeightDataset.open(path)  # says what is wrong before a folder is staged
    if dataset.revision is not None:
        repo = dataset.revision.repo
        raise InvalidInputError(
            f"{path} is on the Hub, and what is published does not change; get a folder of it first: "
            f"hf download {repo} --repo-type dataset --local-dir {repo.split('/')[1]}"
        )
    with next_state(dataset.path, replace=True, resumable=True) as staging:
        yield WeightDataset.open(path), staging


@checked(initialisation=optional(text()))
def add_rows(
    path: Path | str,
    sources: Path | str | Sequence[Path | str],
    *,
    ids: str | Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    initialisation: str | None = None,
    column_info: Mapping[str, Mapping[str, str]] | None = None,
    version: str | None = None,
    workers: int = 1,
    dask: str | Any | None = None,
) -> WeightDataset:
    """Append checkpoints, or the rows of other datasets, to a dataset as one new state.

    Full shards are not written again. The dataset's dtype stays: float16 rows widen exactly into a float32 dataset;
    what a float16 dataset rounds is measured and recorded, and refused if none of its rows was ever rounded.
    If the dataset was split by groups, rows without a split of their own follow its rule, and so do those of a
    dataset that is ``train`` throughout. A row that has a split keeps it; it is refused if its group has another.

    Parameters
    ----------
    ids : sequence of str, optional
        The ids of the added checkpoints, in their order; see :func:`pack_adapters`.
    labels : DataFrame, optional
        Labels of the added checkpoints; datasets bring their own. Columns that are there keep their kind.
    initialisation : str, optional
        Name of the initialisation that added checkpoints were trained from. A dataset that declares one takes
        checkpoints only with it, since they do not say it themselves.

    Raises
    ------
    LayoutMismatchError, InitialisationError, InvalidInputError, ...
        If sources do not fit, or an id is there already; the dataset is then as before.
    """
    import pandas as pd

    paths = path_list(sources, "a source")
    if not paths:
        raise InvalidInputError("nothing to add was given")
    adapters = {source: None for source in paths if not (source / FILENAME).is_file()}
    names = iter(row_ids([source for source in paths if source in adapters], ids))
    with _changing(path) as (dataset, staging):
        manifest, problems = dataset.manifest, Problems()
        content = Content.of(manifest, dataset.has_view, version)
        rule = None if manifest.split_rule is None else SplitRule.from_json(manifest.split_rule)
        old = dataset.labels.reset_index(names="id")
        rows = _Rows([(DatasetRows.of(dataset), range(len(dataset)))], list(dataset.ids))
        tables, known = [old], _kept_kinds(dataset)
        for source in paths:
            if source in adapters:
                rows.add_adapter(source, next(names), dataset.layout)
                continue
            other = WeightDataset.open(source)
            with problems.collecting():
                _require_like(dataset, other, source)
            rows.add_dataset(other)
            theirs = other.labels.reset_index(names="id")
            tables.append(theirs if rule is None or states_splits(theirs) else theirs.drop(columns="split"))
            known = _kept_kinds(other) | known
            rounded = other.manifest.float16_max_error
            if rounded is not None:
                content.float16_max_error = max(rounded, content.float16_max_error or 0.0)
            content.column_info = {**dict(other.manifest.column_info), **content.column_info}
            content.rescaled |= other.manifest.rescaled or {}
        if adapters:
            with problems.collecting():
                _require_stated(dataset, initialisation)
            given = _labels_of(rows.named, labels, problems, dataset)
            known = label_table.grown_kinds(given, known, problems)
            given = label_table.as_written(given, known)
            tables.append(given if rule or "split" in given.columns else given.assign(split=DEFAULT_SPLIT))
        elif labels is not None:
            problems.add(InvalidInputError("labels are given, but no checkpoint to add; datasets bring their own"))
        merged = pd.concat(
            [t.drop(columns=["row", "row_sha256"], errors="ignore").astype(object) for t in tables if len(t)],
            ignore_index=True,
        ).drop_duplicates("id")
        table = label_table.normalise(
            merged, rows.ids, problems=problems, known=known, existing=old, open_split=rule is not None
        )
        if rule is not None:
            table = placed_by_rule(rule, table, len(dataset), problems)
        content.column_info |= {k: dict(v) for k, v in (column_info or {}).items()}
        build(
            staging, dataset.path, content, rows.ids, table, Origin.joined(rows.parts), base=dataset,
            problems=problems, workers=workers, dask=dask,
        )  # fmt: skip
    return WeightDataset.open(path)


@dataclass
class _Rows:
    """The rows of a next state, in order: where each comes from, and its id."""

    parts: list[tuple[RowSource, Sequence[int]]]
    ids: list[str]
    named: list[str] = field(default_factory=list)  # ids of checkpoints

    def add_dataset(self, other: WeightDataset) -> None:
        self.parts.append((DatasetRows.of(other), range(len(other))))
        self.ids += other.ids

    def add_adapter(self, path: Path, name: str, layout: ParameterLayout) -> None:
        rows = self.parts[-1][0]
        if not isinstance(rows, AdapterRows):
            rows = AdapterRows([], layout)
            self.parts.append((rows, ()))
        rows.paths.append(path)
        rows.ids.append(name)
        self.parts[-1] = (rows, range(len(rows.paths)))
        self.ids.append(name)
        self.named.append(name)


def _require_like(dataset: WeightDataset, other: WeightDataset, source: Path) -> None:
    if other.layout != dataset.layout:
        found = dataset.layout.differences(other.layout)
        raise LayoutMismatchError(f"{source} does not fit the layout of {dataset.path}: {found}")
    theirs = other.manifest.compatibility
    for name in ("initialisation", "base_digest"):
        mine, its = getattr(dataset.manifest.compatibility, name), getattr(theirs, name)
        # what this dataset states, a source must state too; what it leaves open stays open
        if mine not in (UNKNOWN, None, its) and (its is not None or name == "initialisation"):
            raise InitialisationError(f"{source} has {name} {its!r}, {dataset.path} has {mine!r}; they do not mix")


def _require_stated(dataset: WeightDataset, initialisation: str | None) -> None:
    mine = dataset.manifest.compatibility.initialisation
    if mine == UNKNOWN or initialisation == mine:
        return
    if initialisation is None:
        raise InitialisationError(
            f"all rows of {dataset.path} were trained from {mine!r}, and checkpoints do not say theirs; "
            f"if these were too, say so: --initialisation {mine}"
        )
    raise InitialisationError(
        f"the new checkpoints have initialisation {initialisation!r}, {dataset.path} has {mine!r}; they do not mix"
    )


def _labels_of(
    names: Sequence[str], labels: pd.DataFrame | None, problems: Problems, dataset: WeightDataset
) -> pd.DataFrame:
    """The labels given for added checkpoints, which they must name exactly."""
    import pandas as pd

    if labels is None:
        return pd.DataFrame({"id": pd.Series(list(names), dtype=object)})
    table = label_table.as_table(labels, problems, dataset.labels.columns)
    unknown = [n for n in table["id"] if n not in set(names)]
    if unknown:
        problems.add(
            UnknownNameError(
                f"{len(unknown)} labels are for ids that are not added, the first is {unknown[0]!r}; leave them out, "
                "or change rows that are there with: w2w relabel"
            )
        )
    for name in table["id"][table["id"].duplicated()].unique():
        problems.add(InvalidInputError(f"the labels name id {name!r} twice"))
    return table[table["id"].isin(names)]


def _kept_kinds(dataset: WeightDataset) -> dict[str, LabelKind]:
    """Kinds of columns that have values, or an order; another column without any takes the kind of its first."""
    kinds = dataset.manifest.kinds
    return {k: kind for k, kind in kinds.items() if kind.stays or dataset.labels[k].notna().any()}


@checked()
def remove_rows(path: Path | str, ids: str | Sequence[str], *, version: str | None = None) -> WeightDataset:
    """Take rows out of a dataset as one new state; their values are gone from its files.

    The last rows move into the places of those removed, so that only shards that held one, and the last, are
    written again. Row numbers change by that; ids and digests do not.

    Raises
    ------
    UnknownNameError, InvalidInputError
        If an id is not there, or no row would remain; the dataset is then as before.
    """
    with _changing(path) as (dataset, staging):
        problems = Problems()
        gone = []
        for name in dict.fromkeys(text_list(ids, "an id")):
            with problems.collecting():
                gone.append(dataset.position(name))
        if not problems.found and not gone:
            raise InvalidInputError("no row to remove was given")
        if len(gone) == len(dataset):
            problems.add(InvalidInputError(f"that would remove every row; remove the folder {path} instead"))
        problems.settle()
        n = len(dataset) - len(gone)
        order = np.arange(n)
        holes = sorted(g for g in gone if g < n)
        order[holes] = sorted(set(range(n, len(dataset))) - set(gone))
        table = dataset.labels.reset_index(names="id").iloc[order].reset_index(drop=True)
        _rebuild(dataset, staging, table, order, version)
    return WeightDataset.open(path)


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
    """Change labels as one new state; no weights are written again but those of the Parquet view.

    Parameters
    ----------
    labels : DataFrame, optional
        Any of the rows, any columns; a value replaces the one that is there, a missing one clears it. New columns
        are added and are missing for rows not named.
    drop_columns : sequence of str
        Columns to take out.
    column_info : mapping, optional
        Unit and source of columns, see :func:`write_dataset`.
    split_rule : SplitRule, optional
        Make the split anew, all rows of one group on one side. The rule that a dataset has ends, with a warning, if
        labels move a row to another split or put one group on two sides, or its column is dropped.

    Raises
    ------
    UnknownNameError, InvalidInputError
        All that is wrong in one error; the dataset is then as before.
    """
    require_rule(split_rule)
    drop = text_list(drop_columns, "a column")
    with _changing(path) as (dataset, staging):
        problems = Problems()
        old = dataset.labels.reset_index(names="id")
        table = old.drop(columns=["row", "row_sha256"])
        known: dict[str, LabelKind | None] = dict(_kept_kinds(dataset))
        if labels is not None:
            table, replaced = _with_labels(table, labels, problems, known)
            known = replaced | {k: v for k, v in known.items() if k not in replaced}
        for name in drop:
            if name not in table.columns or name in label_table.RESERVED:
                have = ", ".join(dataset.manifest.columns) or "none"
                problems.add(UnknownNameError(f"no attribute {name!r} to drop; there are {have}"))
        table = table.drop(columns=[c for c in drop if c in table.columns and c not in label_table.RESERVED])
        table = label_table.normalise(
            table, list(dataset.ids), problems=problems, known=known, existing=old, open_split=split_rule is not None
        )
        if split_rule is not None:
            table = split_rule.apply(table, problems=problems)
        problems.settle()
        info = {k: v for k, v in dataset.manifest.column_info.items() if k in table.columns}
        info |= {k: dict(v) for k, v in (column_info or {}).items()}

        def change(content: Content) -> None:
            content.column_info = info
            if split_rule is not None:
                content.split_rule = split_rule.to_json()
            elif content.split_rule:
                moved = table["id"][table["split"].to_numpy(str) != old["split"].to_numpy(str)]
                if len(moved):
                    tell_ended(content.split_rule, f"row {moved.iloc[0]!r} was moved to another split")
                    content.split_rule = None

        _rebuild(dataset, staging, table, np.arange(len(dataset)), version, change)
    return WeightDataset.open(path)


def _with_labels(
    table: pd.DataFrame, labels: pd.DataFrame, problems: Problems, known: Mapping[str, LabelKind | None]
) -> tuple[pd.DataFrame, dict[str, LabelKind | None]]:
    """The table with new values, and the columns of which every value is new with the kind that their dtype states."""
    new = label_table.as_table(labels, problems, table.columns)
    for name in new["id"][new["id"].duplicated()].unique():
        problems.add(InvalidInputError(f"the labels name id {name!r} twice"))
    place = {name: i for i, name in enumerate(table["id"])}
    unknown = [n for n in new["id"] if n not in place]
    if unknown:
        problems.add(
            UnknownNameError(f"{len(unknown)} labels are for unknown ids, the first is {unknown[0]!r}; leave them out")
        )
    new = new[new["id"].isin(place)].drop_duplicates("id")
    whole = [name for name in new.columns if len(new) == len(table) or name not in table.columns]
    replaced = label_table.replaced_kinds(new, whole, known)
    new = label_table.as_written(new, {**known, **replaced})
    rows = new["id"].map(place).to_numpy(int)
    result = table.astype(object)
    for name in new.columns:
        if name != "id":
            there = name in result.columns
            column = result[name].to_numpy(object, copy=True) if there else np.full(len(table), None, object)
            column[rows] = new[name].to_numpy(object)
            result[name] = column
    return result, replaced


def _rebuild(
    dataset: WeightDataset, staging: Path, table: pd.DataFrame, order: np.ndarray, version: str | None,
    change: Callable[[Content], None] | None = None,
) -> None:  # fmt: skip
    """The next state of rows that are there already."""
    content = Content.of(dataset.manifest, dataset.has_view, version)
    if change is not None:
        change(content)
    origin = Origin.joined([(DatasetRows.of(dataset), order)])
    build(staging, dataset.path, content, table["id"].tolist(), table, origin, base=dataset)

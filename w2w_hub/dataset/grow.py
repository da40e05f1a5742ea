"""Change a dataset: add rows, remove rows, label them anew. Each change is one new state; full shards stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import checked
from ..constraints import optional, text
from ..errors import InitialisationError, InvalidInputError, LayoutMismatchError, UnknownNameError
from ..store.commit import next_state
from . import labels as label_table
from .build import Content, Origin, build
from .labels import DEFAULT_SPLIT
from .manifest import FILENAME, UNKNOWN
from .problems import Problems
from .reader import WeightDataset
from .sources import AdapterRows, DatasetRows, row_id
from .splitting import SplitRule

if TYPE_CHECKING:
    import pandas as pd

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
    If the dataset was split by groups, rows without a split of their own follow its rule.

    Parameters
    ----------
    labels : DataFrame, optional
        Labels of the added checkpoints; datasets bring their own.
    initialisation : str, optional
        Name of the initialisation that added checkpoints were trained from. A dataset that declares one takes
        checkpoints only with it, since they do not say it themselves.

    Raises
    ------
    LayoutMismatchError, InitialisationError, InvalidInputError, ...
        If sources do not fit, or an id is there already; the dataset is then as before.
    """
    import pandas as pd

    sources = [sources] if isinstance(sources, (str, Path)) else sources
    if not sources:
        raise InvalidInputError("nothing to add was given")
    with _changing(path) as (dataset, staging):
        manifest, problems = dataset.manifest, Problems()
        content = Content.of(manifest, dataset.has_view, version)
        parts: list[tuple[RowSource, Sequence[int]]] = [(DatasetRows.of(dataset), range(len(dataset)))]
        old = dataset.labels.reset_index(names="id")
        tables, ids = [old], list(dataset.ids)
        adapters: list[Path] = []
        placed = [True] * len(dataset)
        for source in map(Path, sources):
            if (source / FILENAME).is_file():
                other = WeightDataset.open(source)
                with problems.collecting():
                    _require_like(dataset, other, source)
                theirs = other.manifest.float16_max_error
                if theirs is not None:
                    content.float16_max_error = max(theirs, content.float16_max_error or 0.0)
                parts.append((DatasetRows.of(other), range(len(other))))
                tables.append(other.labels.reset_index(names="id"))
                ids += other.ids
                placed += [False] * len(other)
                content.column_info = {**dict(other.manifest.column_info), **content.column_info}
                content.rescaled |= other.manifest.rescaled or {}
            else:
                if not adapters or not isinstance(parts[-1][0], AdapterRows):
                    parts.append((AdapterRows([], dataset.layout), []))
                    tables.append(pd.DataFrame({"id": pd.Series([], dtype="string")}))
                rows = parts[-1][0]
                assert isinstance(rows, AdapterRows)
                rows.paths.append(source)
                parts[-1] = (rows, range(len(rows.paths)))
                adapters.append(source)
                ids.append(row_id(source))
                placed.append(False)
        if adapters:
            with problems.collecting():
                _require_stated(dataset, initialisation)
        given = _labels_of(adapters, labels, problems)
        has_split = "split" in given.columns and given["split"].notna().any()
        tables = [t for t in tables if len(t)] + (
            [given.assign(split=given.get("split", DEFAULT_SPLIT))] if adapters else []
        )
        merged = pd.concat(
            [t.drop(columns=["row", "row_sha256"], errors="ignore").astype(object) for t in tables], ignore_index=True
        )
        merged = merged.drop_duplicates("id") if merged["id"].duplicated().any() else merged
        table = label_table.normalise(merged, ids, problems=problems, known=_kept_kinds(dataset))
        if manifest.split_rule is not None and not has_split:
            stands = dict(zip(reversed(ids), reversed(placed), strict=True))  # an id that is there twice stands once
            table = SplitRule(**manifest.split_rule).apply(
                table, placed=[stands[name] for name in table["id"]], problems=problems
            )
        content.column_info |= {k: dict(v) for k, v in (column_info or {}).items()}
        origin = Origin.joined(parts)
        build(
            staging,
            dataset.path,
            content,
            ids,
            table,
            origin,
            base=dataset,
            problems=problems,
            workers=workers,
            dask=dask,
        )
    return WeightDataset.open(path)


def _require_like(dataset: WeightDataset, other: WeightDataset, source: Path) -> None:
    if other.layout != dataset.layout:
        found = dataset.layout.differences(other.layout)
        raise LayoutMismatchError(f"{source} does not fit the layout of {dataset.path}: {found}")
    theirs = other.manifest.compatibility
    for field in ("initialisation", "base_digest"):
        mine, its = getattr(dataset.manifest.compatibility, field), getattr(theirs, field)
        # what this dataset states, a source must state too; what it leaves open stays open
        if mine not in (UNKNOWN, None, its) and (its is not None or field == "initialisation"):
            raise InitialisationError(f"{source} has {field} {its!r}, {dataset.path} has {mine!r}; they do not mix")


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


def _labels_of(adapters: Sequence[Path], labels: pd.DataFrame | None, problems: Problems) -> pd.DataFrame:
    """The labels given for added checkpoints, which they must name exactly."""
    import pandas as pd

    names = [row_id(p) for p in adapters]
    if labels is None:
        return pd.DataFrame({"id": pd.Series(names, dtype=object)})
    table = label_table.as_table(labels)
    table = table.assign(id=table["id"].astype(str))
    unknown = [n for n in table["id"] if n not in set(names)]
    if unknown:
        problems.add(
            UnknownNameError(
                f"{len(unknown)} labels are for ids that are not added, the first is {unknown[0]!r}; leave them out, "
                "or change rows that are there with: w2w relabel"
            )
        )
    return table[table["id"].isin(names)]


def _kept_kinds(dataset: WeightDataset) -> dict[str, str]:
    """Kinds of columns that have values; a column without any takes the kind of its first."""
    return {k: kind for k, kind in dataset.manifest.columns.items() if dataset.labels[k].notna().any()}


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
        for name in dict.fromkeys([ids] if isinstance(ids, str) else ids):
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
    drop_columns: Sequence[str] = (),
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
        Make the split anew, all rows of one group on one side.

    Raises
    ------
    UnknownNameError, InvalidInputError
        All that is wrong in one error; the dataset is then as before.
    """
    with _changing(path) as (dataset, staging):
        problems = Problems()
        table = dataset.labels.reset_index(names="id").drop(columns=["row", "row_sha256"])
        known = _kept_kinds(dataset)
        if labels is not None:
            table, replaced = _with_labels(table, labels, problems)
            known = {k: v for k, v in known.items() if k not in replaced}
        for name in drop_columns:
            if name not in table.columns or name in label_table.RESERVED:
                problems.add(UnknownNameError(f"no attribute {name!r} to drop; there are {', '.join(known) or 'none'}"))
        table = table.drop(columns=[c for c in drop_columns if c in table.columns and c not in label_table.RESERVED])
        table = label_table.normalise(table, list(dataset.ids), problems=problems, known=known)
        if split_rule is not None:
            table = split_rule.apply(table, problems=problems)
        problems.settle()
        info = {k: v for k, v in dataset.manifest.column_info.items() if k in table.columns}
        info |= {k: dict(v) for k, v in (column_info or {}).items()}

        def change(content: Content) -> None:
            content.column_info = info
            if split_rule is not None:
                content.split_rule = split_rule.to_json()
            elif content.split_rule and (content.split_rule["column"] not in table.columns or _resplit(labels)):
                content.split_rule = None  # the split is no longer what the rule made

        _rebuild(dataset, staging, table, np.arange(len(dataset)), version, change)
    return WeightDataset.open(path)


def _resplit(labels: pd.DataFrame | None) -> bool:
    return labels is not None and "split" in labels.columns


def _with_labels(table: pd.DataFrame, labels: pd.DataFrame, problems: Problems) -> tuple[pd.DataFrame, set[str]]:
    """The table with new values, and the columns of which every value is new."""
    new = label_table.as_table(labels)
    new = new.assign(id=new["id"].astype(str)).drop(columns=["row", "row_sha256", "weights"], errors="ignore")
    for name in new["id"][new["id"].duplicated()].unique():
        problems.add(InvalidInputError(f"the labels name id {name!r} twice"))
    place = {name: i for i, name in enumerate(table["id"])}
    unknown = [n for n in new["id"] if n not in place]
    if unknown:
        problems.add(
            UnknownNameError(f"{len(unknown)} labels are for unknown ids, the first is {unknown[0]!r}; leave them out")
        )
    new = new[new["id"].isin(place)].drop_duplicates("id")
    rows = new["id"].map(place).to_numpy(int)
    result = table.astype(object)
    for name in new.columns:
        if name != "id":
            column = (
                result[name].to_numpy(object, copy=True)
                if name in result.columns
                else np.full(len(table), None, object)
            )
            column[rows] = new[name].to_numpy(object)
            result[str(name)] = column
    whole = {str(n) for n in new.columns} if len(new) == len(table) else set()
    return result, whole


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

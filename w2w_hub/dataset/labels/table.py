"""Normalize a table of labels: one typed row of metadata per adapter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...common.text import an, counted, few
from ...common.warn import warn_caller
from ...errors import InvalidInputError, UnknownNameError
from ..problems import Problems
from .kinds import CATEGORICAL, LabelKind, Ordinal, infer_kind, kind_of, stated_kind
from .names import DEFAULT_SPLIT, GIVEN, RESERVED, clean_columns, require_splits, without_own_columns
from .values import plain_value, plain_values
from .written import as_written

if TYPE_CHECKING:
    import pandas as pd

REFUSE, IGNORE = ("refuse", "ignore")  # labels of ids that are not among the rows
ROW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def normalize(
    labels: pd.DataFrame | None,
    ids: Sequence[str],
    problems: Problems,
    *,
    known: Mapping[str, LabelKind | None] | None = None,
    existing: pd.DataFrame | None = None,
    open_split: bool = False,
    extra: str = REFUSE,
) -> pd.DataFrame:
    """Return the labels of `ids`, in their order: reserved columns, then typed attributes.

    The kind of a column is the one in `known`, else the one that its dtype implies (booleans, text categories,
    ordered categories), else the one that its values imply, see :func:`w2w_hub.dataset.labels.kinds.infer_kind`,
    which may warn. Columns become nullable boolean, Float64, string or ordered Categorical; a label that the table
    does not have is missing, never false.

    Parameters
    ----------
    labels : DataFrame, optional
        With an ``id`` column, or the ids as its index, in any order. It must have a row for each of `ids`.
    problems : Problems
        Collects all errors.
    known : mapping of str to LabelKind, optional
        Kinds of existing columns, whose new values must be of that kind.
    existing : DataFrame, optional
        Labels of the dataset, whose names of columns and splits are valid.
    open_split : bool
        A split may be missing, since a split rule will fill it in.
    extra : {"refuse", "ignore"}
        What to do with labels of other ids.
    """
    import pandas as pd

    ids = [name.encode("utf-8", "backslashreplace").decode() for name in ids]  # no column holds half a surrogate pair
    for name, count in Counter(ids).items():
        if not ROW_ID.fullmatch(name):
            problems.add(InvalidInputError(f"row id {name!r}: use letters, digits, dots, dashes and underscores"))
        if count > 1:
            problems.add(
                InvalidInputError(
                    f"row id {name!r} occurs {count} times; rename its files or folders, or set ids with ids=",
                    name=name,
                )
            )
    old_columns = () if existing is None else existing.columns
    table = pd.DataFrame({"id": ids})
    if labels is not None:
        table = labels_of(ids, as_table(labels, problems, old_columns), problems, extra)
    unlabeled = set(ids).difference(table["id"])
    if unlabeled:
        first = next(name for name in ids if name in unlabeled)
        problems.add(
            UnknownNameError(
                f"{counted(len(unlabeled), 'row has', 'rows have')} no labels, the first is {first!r}; add them to the "
                "table",
                name=first,
            )
        )
    # go on with a complete table, to collect further problems
    table = table.drop_duplicates("id").set_index("id").reindex(list(dict.fromkeys(ids))).reset_index(names="id")
    result = {"id": table["id"].astype("string")}
    for name in GIVEN[1:]:
        column = table[name] if name in table.columns else pd.Series([None] * len(table), table.index)
        values: list[Any] = [None] * len(table)
        with problems.collecting():
            values = CATEGORICAL.convert(plain_values(column, name), name)
        if name == "split":
            if "split" not in table.columns and not open_split:
                values = [DEFAULT_SPLIT] * len(table)
            without = [v for v, row in zip(values, table["id"], strict=True) if v is None and row not in unlabeled]
            if without and not open_split:
                none = counted(len(without), "row has", "rows have")
                problems.add(InvalidInputError(f"every row needs a split; {none} none"))
            old_splits = () if existing is None else existing["split"].dropna().unique()
            require_splits((v for v in values if v is not None), old_splits, problems)
        result[name] = CATEGORICAL.as_column(values, table.index)
    remarks: dict[str, list[str]] = {}
    for name in table.columns:
        if name not in RESERVED:
            with problems.collecting():
                result[name] = _typed(table[name], name, (known or {}).get(name), remarks)
    if remarks and not problems.found:
        text = "; ".join(f"{few(names)}: {remark}" for remark, names in remarks.items())
        warn_caller(f"labels: {text}")
    return pd.DataFrame(result)


def labels_of(
    ids: Iterable[str], table: pd.DataFrame, problems: Problems, extra: str = REFUSE, advice: str = ""
) -> pd.DataFrame:
    """Return the rows of a table of labels for `ids`, one per id; duplicate ids are collected.

    Parameters
    ----------
    extra : {"refuse", "ignore"}
        Whether labels of other ids are collected as an error, or left out with a warning.
    """
    known = table["id"].isin(list(ids))
    unknown = table["id"][~known].tolist()
    if unknown and extra == IGNORE:
        warn_caller(
            f"labels: {counted(len(unknown), 'label')} of other ids {'was' if len(unknown) == 1 else 'were'} ignored, "
            f"the first is {unknown[0]!r}"
        )
    elif unknown:
        problems.add(
            UnknownNameError(
                f"{counted(len(unknown), 'label has an unknown id', 'labels have unknown ids')}, the first is "
                f"{unknown[0]!r}; remove these labels, or ignore them with --extra-labels ignore "
                f'(extra_labels="ignore"){advice}',
                name=unknown[0],
            )
        )
    counts = table["id"] if extra == REFUSE else table["id"][known]
    for name in counts[counts.duplicated()].unique():
        problems.add(InvalidInputError(f"the labels have id {name!r} twice; remove one of the rows", name=name))
    return table[known].drop_duplicates("id")


def as_table(labels: Any, problems: Problems, existing: Iterable[str] = ()) -> pd.DataFrame:
    """Return a copy of a table of labels with text as the names of columns, and as the values of a column ``id``.

    Parameters
    ----------
    problems : Problems
        Collects columns that are refused.
    existing : iterable of str
        Columns of the dataset.
    """
    import pandas as pd

    if not isinstance(labels, pd.DataFrame):
        raise InvalidInputError(f"labels must be a DataFrame with a column 'id', not {an(type(labels).__name__)}")
    has_id = labels.columns.nlevels == 1 and "id" in [str(name).strip() for name in labels.columns]
    if labels.columns.nlevels > 1 or (not has_id and labels.index.nlevels > 1):
        raise InvalidInputError("labels with a MultiIndex are not supported; see DataFrame.reset_index")
    table = labels if has_id else labels.reset_index(names="id")
    table = without_own_columns(clean_columns(table, problems, existing), problems)
    for name in table.columns:
        if name != "id" and _is_time(table[name].dtype) and stated_kind(table[name], name) is None:
            # as text at once, since pandas cannot convert every time to an object later
            values: list[Any] = [None] * len(table)
            with problems.collecting():
                values = plain_values(table[name], name)
            table[name] = pd.Series(values, table.index, dtype=object)
    table["id"] = pd.Series([_id(value, problems) for value in table["id"].tolist()], table.index, dtype=object)
    table = table.reset_index(drop=True)
    table.attrs = dict(labels.attrs)
    return table


def _is_time(dtype: Any) -> bool:
    """Return whether a NumPy, pandas or Arrow dtype is one of dates, times or durations."""
    if hasattr(dtype, "pyarrow_dtype"):
        import pyarrow as pa

        return bool(pa.types.is_temporal(dtype.pyarrow_dtype))
    return getattr(dtype, "kind", "O") in "mM"


def _id(value: Any, problems: Problems) -> str:
    """Return a row's id as text; a missing id is the empty text, which is not a valid id."""
    plain = None
    with problems.collecting():
        plain = plain_value(value, "id")
    return "" if plain is None else str(plain)


def _typed(column: pd.Series, name: str, known: LabelKind | None, remarks: dict[str, list[str]]) -> pd.Series:
    """Convert a column to its kind; warnings of the inference are added to `remarks`."""
    values = plain_values(column, name)
    kind = known or stated_kind(column, name)
    if kind is None:
        kind, remark = infer_kind(values, name)
        if remark:
            remarks.setdefault(remark, []).append(name)
    return kind.as_column(kind.convert(values, name, existing=known is not None), column.index)


def stated_kinds(table: pd.DataFrame) -> dict[str, LabelKind]:
    """Return the kinds that the dtypes of attribute columns imply, see :func:`stated_kind`."""
    found = {name: stated_kind(table[name], name) for name in table.columns if name not in RESERVED}
    return {name: kind for name, kind in found.items() if kind is not None}


def grown_kinds(table: pd.DataFrame, known: Mapping[str, LabelKind], problems: Problems) -> dict[str, LabelKind]:
    """Return the kinds of columns after labels of new rows are added: existing kinds, then those that dtypes imply.

    Parameters
    ----------
    problems : Problems
        Collects orders that contradict the order of an existing column.
    """
    stated = stated_kinds(table)
    for name, kind in stated.items():
        old = known.get(name)
        if isinstance(old, Ordinal) and isinstance(kind, Ordinal):
            with problems.collecting():
                old.require_order(kind, name)
    return {**stated, **known}


def replaced_kinds(
    table: pd.DataFrame, names: Iterable[str], known: Mapping[str, LabelKind | None]
) -> dict[str, LabelKind | None]:
    """Return the kinds of columns whose kind may change with new labels; None if the values decide.

    Parameters
    ----------
    names : iterable of str
        Columns whose values are all replaced. Other columns of `table` only change their order.
    """
    stated = stated_kinds(table)
    found = {name: kind for name, kind in stated.items() if kind.stays}
    kept = {name: kind for name, kind in known.items() if kind is not None and kind.stays}
    return {**found, **{name: stated.get(name) or kept.get(name) for name in names}}


def as_ordinal(table: pd.DataFrame, orders: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a table in which the columns of `orders` are ordered pandas Categoricals, that is ordinal labels.

    Raises
    ------
    UnknownNameError
        If a column does not exist.
    InvalidInputError
        If a value is not in the order, or an order has a grade twice.
    """
    made = table.copy()
    made.attrs = {}
    for name, order in orders.items():
        if name not in table.columns or name in RESERVED:
            have = ", ".join(str(n) for n in table.columns if n not in RESERVED) or "none"
            raise UnknownNameError(f"no label column {name!r}; available: {have}")
        kind = Ordinal.of_column(name, order)
        written = as_written(table, {name: kind})[name] if "id" in table.columns else table[name]
        made[name] = kind.as_column(kind.convert(plain_values(written, name), name), table.index)
    made.attrs = dict(table.attrs)
    return made


def kinds(table: pd.DataFrame) -> dict[str, LabelKind]:
    """Return the kind of each attribute of a dataset's table."""
    return {str(name): kind_of(table[name]) for name in table.columns if name not in RESERVED}


def as_stored(table: pd.DataFrame) -> pd.DataFrame:
    """Return a dataset's table as it is stored in Parquet."""
    made = table
    for name, kind in kinds(table).items():
        column = table[name]
        stored = kind.as_stored(column)
        if stored is not column:
            made = made.assign(**{name: stored})
    return made


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dicts of plain Python values as they are stored; a missing value is None."""
    table = as_stored(table)
    names = [str(name) for name in table.columns if name != "row"]
    columns = []
    for name in names:
        column = table[name]
        missing = column.isna().to_numpy(bool).tolist()
        values = column.astype(object).tolist()
        columns.append(
            [None if gone else v.item() if hasattr(v, "item") else v for v, gone in zip(values, missing, strict=True)]
        )
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

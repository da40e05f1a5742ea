"""Labels: one typed row of metadata for each adapter."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInputError, UnknownNameError
from ..problems import Problems
from .files import read_labels as read_labels
from .kinds import CATEGORICAL, LabelKind, Ordinal, infer_kind, kind_of, stated_kind
from .names import DEFAULT_SPLIT, GIVEN, RESERVED, clean_columns, require_splits, without_own_columns
from .values import plain_value, plain_values
from .written import as_written as as_written

if TYPE_CHECKING:
    import pandas as pd

SHOWN_COLUMNS = 5
ROW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def normalise(
    labels: pd.DataFrame | None,
    ids: Sequence[str],
    *,
    problems: Problems | None = None,
    known: Mapping[str, LabelKind | None] | None = None,
    existing: pd.DataFrame | None = None,
    open_split: bool = False,
) -> pd.DataFrame:
    """Return the labels of `ids`, in their order: reserved columns, then typed attributes.

    A column has the kind in `known`, else the one that its dtype states (booleans, categories of text, ordered
    categories), else the one that its values imply: see :func:`w2w_hub.dataset.labels.kinds.infer_kind`; what is not
    obvious about that is a warning. A binary column becomes nullable boolean, a float one float64, a categorical one a
    string, an ordinal one an ordered Categorical; what a table does not say is missing, never false.

    Parameters
    ----------
    labels : DataFrame, optional
        With an ``id`` column, or the ids as its index; in any order. It must label exactly `ids`.
    problems : Problems, optional
        Where what is wrong is noted, to be raised with what else is; raised here without it.
    known : mapping of str to LabelKind, optional
        Kinds that columns already have; their values must fit, and those of a categorical one be text.
    existing : DataFrame, optional
        Labels that a dataset has already: their names of columns and splits stay what they are.
    open_split : bool
        Rows may be without a split, since a rule makes it.
    """
    import pandas as pd

    ids = list(ids)
    found = problems if problems is not None else Problems()
    for name in dict.fromkeys(ids):
        if not ROW_ID.fullmatch(name):
            found.add(InvalidInputError(f"row id {name!r}: use letters, digits, dots, dashes and underscores"))
    for name, count in Counter(ids).items():
        if count > 1:
            found.add(
                InvalidInputError(f"row id {name!r} occurs {count} times; ids must be unique, name the rows by ids=")
            )
    old_columns = () if existing is None else existing.columns
    table = pd.DataFrame({"id": ids}) if labels is None else as_table(labels, found, old_columns)
    if labels is not None:
        for name in table["id"][table["id"].duplicated()].unique():
            found.add(InvalidInputError(f"the labels name id {name!r} twice"))
        labelled, wanted = set(table["id"]), set(ids)
        for names, text in (
            ([n for n in ids if n not in labelled], "rows have no labels, the first is {}; add them to the table"),
            (
                [n for n in table["id"] if n not in wanted],
                "labels are for unknown ids, the first is {}; leave them out",
            ),
        ):
            if names:
                found.add(UnknownNameError(f"{len(names)} {text.format(repr(names[0]))}"))
    # what is wrong so far must not hide what is wrong further on
    unlabelled = set() if labels is None else set(ids) - labelled
    table = table.drop_duplicates("id").set_index("id").reindex(list(dict.fromkeys(ids))).reset_index(names="id")
    result = {"id": table["id"].astype("string")}
    for name in GIVEN[1:]:
        column = table[name] if name in table.columns else pd.Series([None] * len(table), table.index)
        values: list[Any] = [None] * len(table)
        with found.collecting():
            values = CATEGORICAL.convert(plain_values(column, name), name)
        if name == "split":
            if "split" not in table.columns and not open_split:
                values = [DEFAULT_SPLIT] * len(table)
            without = [v for v, row in zip(values, table["id"], strict=True) if v is None and row not in unlabelled]
            if without and not open_split:
                found.add(InvalidInputError(f"every row needs a split; {len(without)} have none or it is missing"))
            old_splits = () if existing is None else existing["split"].dropna().unique()
            require_splits((v for v in values if v is not None), old_splits, found)
        result[name] = CATEGORICAL.as_column(values, table.index)
    remarks: dict[str, list[str]] = {}
    for name in table.columns:
        if name not in RESERVED:
            with found.collecting():
                result[name] = _typed(table[name], name, (known or {}).get(name), remarks)
    if problems is None:
        found.raise_if_any()
    if remarks and not found.found:
        told = "; ".join(f"{_shown(names)}: {text}" for text, names in remarks.items())
        warnings.warn(f"labels: {told}", stacklevel=3)
    return pd.DataFrame(result)


def as_table(labels: Any, problems: Problems | None = None, existing: Iterable[str] = ()) -> pd.DataFrame:
    """Return a copy of a table of labels with an ``id`` column of text, and text as the names of columns.

    Parameters
    ----------
    problems : Problems, optional
        Where columns that are refused are noted; raised here without it.
    existing : iterable of str
        Columns that a dataset has already.
    """
    import pandas as pd

    if not isinstance(labels, pd.DataFrame):
        raise InvalidInputError(f"labels are a DataFrame with a column 'id', not a {type(labels).__name__}")
    has_id = labels.columns.nlevels == 1 and "id" in [str(name).strip() for name in labels.columns]
    if labels.columns.nlevels > 1 or (not has_id and labels.index.nlevels > 1):
        raise InvalidInputError("labels have columns and an index of one level; see DataFrame.reset_index")
    found = Problems() if problems is None else problems
    table = labels if has_id else labels.reset_index(names="id")
    table = without_own_columns(clean_columns(table, found, existing), found)
    for name in table.columns:
        if name != "id" and _is_time(table[name].dtype):
            # as text at once: not every time that is read here can be made an object
            values: list[Any] = [None] * len(table)
            with found.collecting():
                values = plain_values(table[name], name)
            table[name] = pd.Series(values, table.index, dtype=object)
    table["id"] = pd.Series([_id(value, found) for value in table["id"].tolist()], table.index, dtype=object)
    if problems is None:
        found.raise_if_any()
    table = table.reset_index(drop=True)
    table.attrs = dict(labels.attrs)
    return table


def _is_time(dtype: Any) -> bool:
    """Return whether a column's dtype is one of dates, times or durations, NumPy's, pandas' or Arrow's."""
    if hasattr(dtype, "pyarrow_dtype"):
        import pyarrow as pa

        return bool(pa.types.is_temporal(dtype.pyarrow_dtype))
    return getattr(dtype, "kind", "O") in "mM"


def _id(value: Any, found: Problems) -> str:
    """A row's id as text; one that is missing is the empty text, which no row has."""
    try:
        plain = plain_value(value, "id")
    except InvalidInputError as error:
        found.add(error)
        return ""
    return "" if plain is None else str(plain)


def _typed(column: pd.Series, name: str, known: LabelKind | None, remarks: dict[str, list[str]]) -> pd.Series:
    """A column as its kind; what was inferred and is worth a warning is added to `remarks`."""
    values = plain_values(column, name)
    kind = known or stated_kind(column, name)
    if kind is None:
        kind, remark = infer_kind(values, name)
        if remark:
            remarks.setdefault(remark, []).append(name)
    return kind.as_column(kind.convert(values, name, there=known is not None), column.index)


def stated_kinds(table: pd.DataFrame) -> dict[str, LabelKind]:
    """Return the kinds that the dtypes of attribute columns state, see :func:`stated_kind`."""
    found = {name: stated_kind(table[name], name) for name in table.columns if name not in RESERVED}
    return {name: kind for name, kind in found.items() if kind is not None}


def grown_kinds(table: pd.DataFrame, known: Mapping[str, LabelKind], problems: Problems) -> dict[str, LabelKind]:
    """Return the kinds of columns after labels of new rows are added: those there are, then those that are stated.

    Parameters
    ----------
    problems : Problems
        Where an order of grades that is not the column's is noted.
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
    """Return the kinds of columns whose kind may change by new labels, None where the values imply it.

    Parameters
    ----------
    names : iterable of str
        Columns all of whose values are replaced. Another one of `table` only takes an order that is stated for it.
    """
    stated = stated_kinds(table)
    found = {name: kind for name, kind in stated.items() if kind.stays}
    kept = {name: kind for name, kind in known.items() if kind is not None and kind.stays}
    return {**found, **{name: stated.get(name) or kept.get(name) for name in names}}


def as_ordinal(table: pd.DataFrame, orders: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a table whose columns named in `orders` are ordered pandas Categoricals, as ordinal labels are given.

    Raises
    ------
    UnknownNameError
        If there is no such column.
    InvalidInputError
        If a column has a value that is not in its order, or an order names a grade twice.
    """
    made = table.copy()
    made.attrs = {}
    for name, order in orders.items():
        if name not in table.columns or name in RESERVED:
            have = ", ".join(str(n) for n in table.columns if n not in RESERVED) or "none"
            raise UnknownNameError(f"no label column {name!r} to order; there are {have}")
        kind = Ordinal.of_column(name, order)
        written = as_written(table, {name: kind})[name] if "id" in table.columns else table[name]
        made[name] = kind.as_column(kind.convert(plain_values(written, name), name), table.index)
    made.attrs = dict(table.attrs)
    return made


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return ", ".join(names[:SHOWN_COLUMNS]) + more


def kinds(table: pd.DataFrame) -> dict[str, LabelKind]:
    """Return the kind of each attribute column of a dataset's table."""
    return {str(name): kind_of(table[name]) for name in table.columns if name not in RESERVED}


def as_stored(table: pd.DataFrame) -> pd.DataFrame:
    """Return a dataset's table as its columns are written to Parquet files."""
    made = table
    for name, kind in kinds(table).items():
        column = table[name]
        stored = kind.as_stored(column)
        if stored is not column:
            made = made.assign(**{name: stored})
    return made


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as plain Python values; a missing one is None."""
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

"""The license of a dataset: the one that its manifest states, or else what its rows state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.text import Markdown, code, few, markdown
from ..store.parquet import read_table
from .manifest import UNKNOWN, DatasetManifest
from .tables import label_columns

if TYPE_CHECKING:
    import pandas as pd

COLUMN, CONSENT = "licence", "consent"  # of the labels
STATED = ("source", COLUMN, CONSENT)  # what every published row states
OTHER = "other"  # several licenses: the Hub's word for what it has no name for
NAMED = 10  # licenses that a card lists
# licenses of rows that can be imported, and that allow neither every use nor stand for the people shown -> the source
RESTRICTED = {
    "weights2weights license: non-commercial, academic purposes only": "snap-research/weights2weights",
}

RowLicenses = Mapping[str | None, int]  # license to its number of rows; None: rows that state none


def row_licenses(labels: pd.DataFrame) -> dict[str | None, int]:
    """Return how many rows state each license; None counts the rows that state none."""
    column = labels.get(COLUMN, ())
    return dict(Counter(value if isinstance(value, str) and value else None for value in column))


def read_row_licenses(find: Callable[[str], Path], manifest: DatasetManifest) -> dict[str | None, int]:
    """Return :func:`row_licenses` of a dataset's files; `find` returns the path of a listed file."""
    found: Counter[str | None] = Counter()
    for table in label_columns(find, manifest, [COLUMN]):
        found.update(value or None for value in table.column(COLUMN).to_pylist())
    return dict(found)


def rows_without(find: Callable[[str], Path], manifest: DatasetManifest) -> dict[str, list[str]]:
    """Return the ids of rows that do not state a source, a license or a consent, by the column that they lack.

    A license that the manifest states is that of every row without one.
    """
    found: dict[str, list[str]] = {}
    names = [name for name in STATED if name != COLUMN or manifest.licence == UNKNOWN]
    for table in label_columns(find, manifest, ["id", *names]):
        values = table.to_pydict()
        for name in names:
            pairs = zip(values["id"], values[name], strict=True)
            missing = [row for row, value in pairs if not (isinstance(value, str) and value.strip())]
            if missing:
                found.setdefault(name, []).extend(missing)
    return found


def row_digests(find: Callable[[str], Path], files: Iterable[str]) -> dict[str, str]:
    """Return the digest of each row by its id, from the label files among these."""
    found: dict[str, str] = {}
    for name in files:
        if name.startswith("labels/"):
            table = read_table(find(name), ["id", "row_sha256"], None, "dataset").to_pydict()
            found.update(zip(table["id"], table["row_sha256"], strict=True))
    return found


def imported_from(rows: RowLicenses) -> dict[str, str] | None:
    """Return source and license of rows that were imported under a restricted license; None if there are none."""
    return next(({"from": RESTRICTED[each], "license": each} for each in rows if each in RESTRICTED), None)


def read_consent(find: Callable[[str], Path], manifest: DatasetManifest) -> str | None:
    """Return the consent that a dataset's rows state, the first ones of several; None if a row states none.

    Parameters
    ----------
    find : callable
        Returns the path of a listed file.
    """
    found: list[str | None] = []
    for table in label_columns(find, manifest, [CONSENT]):
        found += table.column(CONSENT).unique().to_pylist()
    return stated_consent(found)


def stated_consent(values: Iterable[object]) -> str | None:
    """Return the consent that values of a column state, the first ones of several; None if one states none."""
    texts = [value if isinstance(value, str) and value.strip() else None for value in values]
    return None if not texts or None in texts else few(list(dict.fromkeys(filter(None, texts))))


def license_of(stated: str, rows: RowLicenses) -> str:
    """Return the license of a whole dataset.

    Parameters
    ----------
    stated : str
        The manifest's.

    Returns
    -------
    str
        The stated license; if none is stated, the one that every row states, ``other`` if rows state several, or
        ``unknown``.
    """
    if stated != UNKNOWN or not any(rows):
        return stated
    return next(iter(rows)) or UNKNOWN if len(rows) == 1 else OTHER


def license_text(stated: str, rows: RowLicenses) -> Markdown:
    """Return the license of a dataset and of its rows as a card states it."""
    each = Counter(rows).most_common()
    if not any(rows) or (len(rows) == 1 and stated in rows):
        return markdown("not stated: ask the publisher before you use or share it" if stated == UNKNOWN else stated)
    if len(rows) == 1:
        found = Markdown(f"{markdown(each[0][0])} (of every row)")
    else:
        names = [f"{markdown(name or 'not stated')} {count:,}" for name, count in each]
        found = Markdown(f"by row, see the column {code(COLUMN)}: {few(names, NAMED)}")
    return found if stated == UNKNOWN else Markdown(f"{markdown(stated)}; its rows state {found}")

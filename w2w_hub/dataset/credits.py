"""Who and what the rows of a dataset come from: the accounts that offered them, and their sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.text import Markdown, counted, table_row
from .labels.names import CONTRIBUTOR, CONTRIBUTOR_SOURCE
from .manifest import DatasetManifest
from .tables import label_columns

if TYPE_CHECKING:
    import pandas as pd

SOURCE = "source"  # of the labels
NAMED = 10  # that a card or a citation lists
HEADING, SEPARATOR = "## Changes", table_row(*[Markdown("---")] * 4)


@dataclass(frozen=True)
class RowCredits:
    """Numbers of rows.

    Attributes
    ----------
    contributors : mapping of str to int
        Rows per account on the Hub that offered them; rows of the publisher have none.
    sources : mapping of str to int
        Rows per source, as the rows state it.
    """

    contributors: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The contributors in the order of the alphabet."""
        return sorted(self.contributors, key=str.lower)

    def main_sources(self) -> list[str]:
        """Return the sources of most rows, with their numbers; the last entry counts the others."""
        return _listed(self.sources)


def row_credits(labels: pd.DataFrame, manifest: DatasetManifest) -> RowCredits:
    """Return the credits of a dataset's labels."""
    named = labels[CONTRIBUTOR] if states_contributors(manifest) and CONTRIBUTOR in labels else ()
    return RowCredits(_counted(named), _counted(labels.get(SOURCE, ())))


def read_row_credits(find: Callable[[str], Path], manifest: DatasetManifest) -> RowCredits:
    """Return :func:`row_credits` of a dataset's files; `find` returns the path of a listed file."""
    columns = [SOURCE, *([CONTRIBUTOR] if states_contributors(manifest) else [])]
    found: dict[str, Counter[str]] = {name: Counter() for name in (SOURCE, CONTRIBUTOR)}
    for table in label_columns(find, manifest, columns):
        for name in columns:
            found[name].update(_counted(table.column(name).to_pylist()))
    return RowCredits(found[CONTRIBUTOR], found[SOURCE])


def states_contributors(manifest: DatasetManifest) -> bool:
    """Return whether the column `contributor` is the one that releases write, not an attribute of that name."""
    return manifest.column_info.get(CONTRIBUTOR, {}).get("source") == CONTRIBUTOR_SOURCE


def _counted(values: Iterable[Any]) -> Counter[str]:
    return Counter(value for value in values if isinstance(value, str) and value)


def _listed(counts: Mapping[str, int]) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{name} ({counted(count, 'row')})" for name, count in ordered[:NAMED]]
    return [*named, f"{len(ordered) - NAMED:,} more"] if len(ordered) > NAMED else named


# ---------------------------------------------------------------- on the card
def credit_rows(credits: RowCredits) -> Markdown:
    """Return the lines of a card's table that name contributors and sources; empty if there are none."""
    shown = {"contributors": _listed(credits.contributors), "sources": _listed(credits.sources)}
    return Markdown("".join(f"{table_row(name, ', '.join(each))}\n" for name, each in shown.items() if each))


def change_log(manifest: DatasetManifest) -> Markdown:
    """Return the section of a card that lists the releases, newest first; empty if there was none."""
    if not manifest.history:
        return Markdown("")
    lines = ["", HEADING, "", table_row("version", "date", "changes", "contributors"), SEPARATOR]
    return Markdown("\n".join([*lines, *(_log_row(entry) for entry in reversed(manifest.history)), ""]))


def with_change_log(text: str, manifest: DatasetManifest) -> str:
    """Return the text of a hand-written card with the newest release in its change log, which it may lack."""
    row = _log_row(manifest.history[-1]) if manifest.history else ""
    lines = text.splitlines()
    if not row or row in lines:
        return text
    start = lines.index(HEADING) if HEADING in lines else len(lines)
    if SEPARATOR not in lines[start:]:
        return f"{text.rstrip()}\n{change_log(manifest)}"
    at = lines.index(SEPARATOR, start) + 1
    return "\n".join([*lines[:at], row, *lines[at:]]) + "\n"


def _log_row(entry: Mapping[str, Any]) -> Markdown:
    changes, names = entry.get("changes", []), entry.get("contributors", [])
    return table_row(entry["version"], entry["date"], "; ".join(changes), ", ".join(names))

"""Warn of a weight space that was fitted on rows that were withdrawn from its dataset's repository."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..common.limits import MAX_CARD_BYTES
from ..common.text import few
from ..common.warn import warn_caller
from ..errors import W2WError
from ..store.commit import open_state
from ..store.hub.cache import REPO
from ..store.hub.options import HubOptions
from ..store.hub.source import Source
from ..store.hub.withdrawals import Withdrawal, last_seen, withdrawals_of
from ..store.manifest import CARD
from ..store.parquet import parquet_file
from ..store.paths import find_file, has_file, read_file
from .card import dataset_repository, linked_dataset
from .contents import SpaceContents

MOST_FETCHED = 16 * 10**6  # bytes of coefficients


def withdrawn_rows(space: SpaceContents) -> list[Withdrawal]:
    """Return the rows of a space's population that were withdrawn, see :func:`withdrawn_ids`."""
    source, population = space.source, space.population
    if source is None or population is None:
        return []
    return withdrawn_ids(space.recipe, source, lambda: population.ids)


def withdrawn_ids(recipe: Mapping[str, Any], source: Source, ids: Callable[[], Iterable[str]]) -> list[Withdrawal]:
    """Return the rows of a weight space that were withdrawn from its dataset's repository.

    A space from the Hub asks for the list, as opening its dataset would; one in a local folder makes no request and
    uses the list that was seen last.

    Parameters
    ----------
    ids : callable
        Returns the ids of the population's rows; called only if the list names any row.
    """
    repo = _dataset_of(recipe, source)
    if repo is None:
        return []
    listed = last_seen(repo, source.options) if source.revision is None else withdrawals_of(repo, source.options)
    if not len(listed):
        return []
    return [found for row in ids() if row in listed.ids and (found := listed.find(row))]


def withdrawn_in(source: Source) -> list[Withdrawal]:
    """Return the rows of a weight space that were withdrawn, without opening it: see :func:`withdrawn_ids`.

    Of its files only the ids in the coefficients are read, and fetched only up to `MOST_FETCHED` bytes.
    """
    data = source.manifest()
    files = [name for name in data["files"] if name.startswith("coefficients/")]
    if source.revision is not None and sum(data["files"][name]["size"] for name in files) > MOST_FETCHED:
        files = [name for name in files if source.has(name)]
    return withdrawn_ids(data["recipe"], source, lambda: _stored_ids(source, files))


def _stored_ids(source: Source, files: Sequence[str]) -> Iterator[str]:
    folder = source.need(files)
    for name in files:
        file = open_state(folder).find(name) if source.revision is None else find_file(folder, name)
        with parquet_file(file, None, "weight space") as found:
            for batch in found.iter_batches(columns=["id"]):
                yield from map(str, batch.column("id").to_pylist())


def warn_of_withdrawn(space: SpaceContents) -> None:
    """Warn if rows were withdrawn that a space was fitted on."""
    if rows := withdrawn_rows(space):
        warn_caller(f"{space.source and (space.source.revision or space.path)}: {notice(rows)}")


def notice(rows: Sequence[Withdrawal]) -> str:
    """Return which rows of a weight space's population were withdrawn, and what to do."""
    names = few([f"{row.id} ({row.date}, {row.reason})" for row in rows], 3)
    return f"the weight space holds rows that were withdrawn from its dataset: {names}; build it again without them"


def withdrawn_row_of(metadata: Mapping[str, Any]) -> Withdrawal | None:
    """Return the withdrawal of the row that the header of an exported file names, by the list that was seen last.

    Makes no request: a file is on this computer already.
    """
    named, row = metadata.get("w2w.dataset_commit"), metadata.get("w2w.row")
    repo = named.partition("@")[0] if isinstance(named, str) else ""
    if not isinstance(row, str) or not REPO.fullmatch(repo):
        return None
    return last_seen(repo, HubOptions()).find(row)


def file_notice(row: Withdrawal) -> str:
    """Return what to know of a file that was made of a withdrawn row."""
    return f"it was made of {row.id!r}, which was withdrawn on {row.date} ({row.reason}); use it no more"


def _dataset_of(recipe: Mapping[str, Any], source: Source) -> str | None:
    """Return the repository of the dataset that a space was opened from for the build, or that its card links."""
    repo, _ = dataset_repository(recipe) or _linked(source) or ("", "")
    return repo if REPO.fullmatch(repo) else None


def _linked(source: Source) -> tuple[str, str] | None:
    with suppress(W2WError, OSError):
        source.need_card()
        if has_file(source.folder, CARD):
            text = read_file(source.folder, CARD, MAX_CARD_BYTES).decode("utf-8", errors="replace")
            return linked_dataset(text)
    return None

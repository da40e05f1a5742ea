"""Warn of a weight space that was fitted on rows that were withdrawn from its dataset's repository."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..common.limits import MAX_CARD_BYTES
from ..common.text import few
from ..common.warn import warn_caller
from ..dataset.manifest import DatasetManifest
from ..errors import W2WError
from ..store.commit import open_state
from ..store.hub.cache import REPO
from ..store.hub.options import HubOptions
from ..store.hub.resolve import open_repository
from ..store.hub.source import Source
from ..store.hub.withdrawals import Withdrawal, WithdrawalList, last_seen, withdrawals_of
from ..store.manifest import CARD, FILENAME
from ..store.parquet import parquet_file, read_table
from ..store.paths import find_file, has_file, read_file
from .card import dataset_repository, linked_dataset
from .contents import SpaceContents
from .manifest import corrupt, ids_digest

MOST_FETCHED = 16 * 10**6  # bytes of coefficients


def withdrawn_rows(space: SpaceContents) -> list[Withdrawal]:
    """Return the fitted rows of a space that were withdrawn, see :func:`withdrawn_ids`."""
    source, population = space.source, space.population
    if source is None:
        return []
    return withdrawn_ids(space.recipe, source, None if population is None else lambda: population.ids)


def withdrawn_in(source: Source) -> list[Withdrawal]:
    """Return the fitted rows of a weight space that were withdrawn, without opening it, see :func:`withdrawn_ids`.

    Of its files only the ids in the coefficients are read, and fetched only up to `MOST_FETCHED` bytes. Its manifest
    need not be validated.
    """
    data = source.manifest()
    files = [name for name in data["files"] if name.startswith("coefficients/")]
    if source.revision is not None and sum(data["files"][name]["size"] for name in files) > MOST_FETCHED:
        files = [name for name in files if source.has(name)]
    recipe = data.get("recipe")
    if not isinstance(recipe, Mapping):
        raise corrupt(source.folder / FILENAME, "'recipe' is missing or invalid")
    return withdrawn_ids(recipe, source, (lambda: _stored_ids(source, files)) if files else None)


def _stored_ids(source: Source, files: Sequence[str]) -> Iterator[str]:
    folder = source.need(files)
    for name in files:
        file = open_state(folder).find(name) if source.revision is None else find_file(folder, name)
        with parquet_file(file, None, "weight space") as found:
            for batch in found.iter_batches(columns=["id"]):
                yield from map(str, batch.column("id").to_pylist())


def withdrawn_ids(
    recipe: Mapping[str, Any], source: Source, ids: Callable[[], Iterable[str]] | None
) -> list[Withdrawal]:
    """Return the fitted rows of a weight space that were withdrawn from its dataset's repository.

    A space from the Hub asks for the list, as opening its dataset would; one in a local folder makes no request and
    uses the list that was seen last.

    A space without a population does not hold its rows' ids. If rows were withdrawn, they are looked up in the labels
    of the dataset's commit that the space names: those of the split that it was fitted on, unless the digest of the
    fitted ids shows that they were left out. Where that digest is of chosen rows of the split, all withdrawn ones are
    returned. A space that names no dataset on the Hub, and one whose dataset's labels cannot be read, return none.

    Parameters
    ----------
    ids : callable or None
        Returns the ids of the population's rows, and is called only if the list names any row; None without them.
    """
    linked = dataset_repository(recipe) or _linked(source)
    if linked is None or not REPO.fullmatch(linked[0]):
        return []
    stated = recipe.get("dataset_revision")  # of a manifest that may not be validated
    repo, revision = linked[0], str((isinstance(stated, Mapping) and stated.get("commit")) or linked[1])
    listed = last_seen(repo, source.options) if source.revision is None else withdrawals_of(repo, source.options)
    if not len(listed):
        return []
    if ids is not None:
        return [each for row in ids() if row in listed.ids and (each := listed.find(row))]
    # a folder makes no request: the labels may be in the cache, since the space was built from them
    options = replace(source.options, local_files_only=source.options.local_files_only or source.revision is None)
    with suppress(W2WError, OSError):
        return _fitted(recipe, repo, revision, options, listed)
    return []


def _fitted(
    recipe: Mapping[str, Any], repo: str, revision: str, options: HubOptions, listed: WithdrawalList
) -> list[Withdrawal]:
    """Return the withdrawn rows of the split that a space was fitted on, by the labels of its dataset's revision."""
    dataset = open_repository(repo, "dataset", revision, options)
    manifest = DatasetManifest.read(dataset.folder)
    split = recipe.get("split")
    name = f"labels/{split}.parquet"
    if manifest.digest != recipe.get("dataset_digest") or name not in dataset.files:
        return []
    folder = dataset.need([name])
    table = read_table(find_file(folder, name), ["id", "row_sha256"], manifest.splits.get(str(split)), "dataset")
    ids, digests = table.column("id").to_pylist(), table.column("row_sha256").to_pylist()
    found = [(row, each) for row, digest in zip(ids, digests, strict=True) if (each := listed.find(row, digest))]
    order = {each: number for number, each in enumerate(listed.rows)}  # the list only grows
    found.sort(key=lambda pair: order[pair[1]])
    # those that were withdrawn before the build were left out of it: all rows of the split that were not fitted
    rows = recipe.get("rows")
    count = max(len(ids) - rows, 0) if isinstance(rows, int) else 0
    left_out = {row for row, _ in found[:count]}
    if ids_digest(row for row in ids if row not in left_out) == recipe.get("row_ids_sha256"):
        return [each for _, each in found[len(left_out) :]]
    return [each for _, each in found]  # fitted on chosen rows of the split, which only their digest names


def warn_of_withdrawn(space: SpaceContents) -> None:
    """Warn if rows were withdrawn that a space was fitted on."""
    if rows := withdrawn_rows(space):
        warn_caller(f"{space.source and (space.source.revision or space.path)}: {notice(rows)}")


def notice(rows: Sequence[Withdrawal]) -> str:
    """Return which rows of a weight space were withdrawn, and what to do."""
    names = few([f"{row.id} ({row.date}, {row.reason})" for row in rows], 3)
    return f"the weight space has rows that were withdrawn from its dataset: {names}; build it again without them"


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


def _linked(source: Source) -> tuple[str, str] | None:
    with suppress(W2WError, OSError):
        source.need_card()
        if has_file(source.folder, CARD):
            text = read_file(source.folder, CARD, MAX_CARD_BYTES).decode("utf-8", errors="replace")
            return linked_dataset(text)
    return None

"""The withdrawn rows of a dataset repository, which every revision of it is read with.

The list is ``withdrawn.json`` on the branch ``main``. It is asked for at most once per process and repository, with the
etag of the list that was seen last; offline that one counts.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

from ...common.limits import MAX_WITHDRAWALS, MAX_WITHDRAWALS_BYTES
from ...common.subject import HubFile, Where, about
from ...common.warn import warn_caller
from ...errors import CorruptFileError, UnsupportedFormatError, W2WError
from ..manifest import WITHDRAWALS as FORMAT
from ..manifest import parse_json, upgraded
from ..paths import read_file, short
from .cache import RepoCache, write_text
from .client import endpoint, http_response, is_offline
from .options import HubOptions
from .transfer import PLAIN, Pace, body

FILENAME, BRANCH = "withdrawn.json", "main"
FORMAT_VERSION = 1
SEEN = ".w2w-withdrawn.json"  # in a repository's folder of the cache: the list that was seen last, and its etag
REASONS = {
    "consent": "the person withdrew the consent, or never gave it",
    "rights": "somebody else has the rights in the pictures or the adapter",
    "license": "the license does not allow publication",
    "content": "the content is harmful or unlawful",
    "error": "the row is damaged or has the wrong labels",
    "other": "another reason",
}
SECONDS = 5.0  # to wait for the list
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REASON = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawn row.

    Attributes
    ----------
    id : str
    row_sha256 : str
        Digest of its weights, by which it is found under another id, too.
    date : str
        Day of the withdrawal in UTC, ``2026-11-28``.
    reason : str
        A key of `REASONS`, or of a later release's.
    """

    id: str
    row_sha256: str
    date: str
    reason: str


@dataclass(frozen=True)
class WithdrawalList:
    """All withdrawn rows of a repository, in the order in which they were withdrawn."""

    rows: tuple[Withdrawal, ...] = ()
    _by_key: dict[str, Withdrawal] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for row in self.rows:
            for key in (row.id, row.row_sha256):
                self._by_key.setdefault(key, row)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, row_id: str | None = None, row_sha256: str | None = None) -> Withdrawal | None:
        """Return the withdrawal of a row, by its id or by the digest of its weights; None if it is not withdrawn."""
        for key in (row_id, row_sha256):
            if key is not None and key in self._by_key:
                return self._by_key[key]
        return None

    @cached_property
    def ids(self) -> frozenset[str]:
        return frozenset(row.id for row in self.rows)

    @cached_property
    def dates(self) -> dict[str, str]:
        """The day of withdrawal by id and by row digest."""
        return {key: row.date for key, row in self._by_key.items()}

    def with_rows(self, rows: Iterable[Withdrawal]) -> WithdrawalList:
        """Return the list with more rows; those that it has already stay as they are."""
        there = {(row.id, row.row_sha256) for row in self.rows}
        return WithdrawalList((*self.rows, *(row for row in rows if (row.id, row.row_sha256) not in there)))

    def to_bytes(self) -> bytes:
        """Return the content of ``withdrawn.json``."""
        data = {"format": FORMAT, "format_version": FORMAT_VERSION, "rows": [asdict(row) for row in self.rows]}
        return (json.dumps(data, indent=1) + "\n").encode()


def parse_withdrawals(raw: bytes, where: Where) -> WithdrawalList:
    """Parse and validate the bytes of ``withdrawn.json``; unknown fields are ignored.

    Raises
    ------
    CorruptFileError, UnsupportedFormatError
    """
    if len(raw) > MAX_WITHDRAWALS_BYTES:
        raise CorruptFileError(
            f"{where} has {len(raw):,} bytes, the limit is {MAX_WITHDRAWALS_BYTES:,}", **about(where)
        )
    data = upgraded(parse_json(raw, where), where, FORMAT)
    rows = data.get("rows")
    if not isinstance(rows, list) or len(rows) > MAX_WITHDRAWALS:
        raise CorruptFileError(
            f"{where}: 'rows' is not a list of at most {MAX_WITHDRAWALS:,} rows; report it to the publisher",
            **about(where),
        )
    return WithdrawalList(tuple(_withdrawal(row, number, where) for number, row in enumerate(rows)))


def _withdrawal(row: Any, number: int, where: Where) -> Withdrawal:
    fields = {"id": _ID, "row_sha256": _SHA256, "date": re.compile(r"\d{4}-\d\d-\d\d", re.ASCII), "reason": _REASON}
    found = row if isinstance(row, Mapping) else {}
    for name, pattern in fields.items():
        value = found.get(name)
        valid = isinstance(value, str) and pattern.fullmatch(value) is not None
        if valid and name == "date":
            try:
                date.fromisoformat(str(value))
            except ValueError:
                valid = False
        if not valid:
            raise CorruptFileError(
                f"{where}: entry {number} states {name} as {short(value)}; report it to the publisher", **about(where)
            )
    return Withdrawal(**{name: found[name] for name in fields})


# ------------------------------------------------------------------ asking
_known: dict[tuple[str, str, str], tuple[WithdrawalList, bool]] = {}  # with whether the Hub was asked
_lock = threading.Lock()


def withdrawals_of(repo: str, options: HubOptions) -> WithdrawalList:
    """Return the withdrawn rows of a dataset repository, as its branch ``main`` lists them.

    Makes at most one request per process and repository. Without the network the list that was seen last counts, and if
    none ever was, a warning says so once.
    """
    cache = RepoCache(repo, "dataset", options.cache_dir)
    key = (endpoint(), str(cache.folder), repo.lower())
    asks = not (options.local_files_only or is_offline())
    with _lock:
        if key not in _known or (asks and not _known[key][1]):
            found = _asked(cache, options) if asks else _seen(cache)[1]
            if found is None:
                warn_caller(
                    f"{repo}: whether rows of it were withdrawn is not known, since its {FILENAME} was never seen; "
                    "open it online once"
                )
            _known[key] = found or WithdrawalList(), asks
        return _known[key][0]


def last_seen(repo: str, options: HubOptions) -> WithdrawalList:
    """Return the withdrawn rows of a dataset repository that are known without a request; empty if none are."""
    cache = RepoCache(repo, "dataset", options.cache_dir)
    with _lock:
        known = _known.get((endpoint(), str(cache.folder), repo.lower()))
    return known[0] if known is not None else _seen(cache)[1] or WithdrawalList()


def remember(repo: str, options: HubOptions, found: WithdrawalList) -> None:
    """Record the list that this process has just read or written, for its further calls and for use offline."""
    cache = RepoCache(repo, "dataset", options.cache_dir)
    with _lock:
        _known[(endpoint(), str(cache.folder), repo.lower())] = found, True
    _keep(cache, None, found)


def _asked(cache: RepoCache, options: HubOptions) -> WithdrawalList | None:
    """Return the list on the Hub, or the one that was seen last if that cannot be read; None if there is neither."""
    etag, seen = _seen(cache)
    where = HubFile(cache.repo, BRANCH, FILENAME)
    try:
        status, found_etag, raw = _get(cache.repo, options, etag if seen is not None else None)
        if status == 304 and seen is not None:
            return seen
        found = parse_withdrawals(raw, where) if status == 200 else WithdrawalList()
    except (CorruptFileError, UnsupportedFormatError) as error:
        then = "rows that were withdrawn later are read" if seen is not None else "withdrawn rows are read"
        warn_caller(f"{error}; the list that was seen last counts, and {then}")
        return seen if seen is not None else WithdrawalList()
    except Exception as error:  # the network, in any library's words
        if http_response(error) is None and isinstance(error, W2WError):
            warn_caller(f"{cache.repo}: {FILENAME} cannot be read ({error}); the list that was seen last counts")
        return seen
    _keep(cache, found_etag, found)
    return found


def _get(repo: str, options: HubOptions, etag: str | None) -> tuple[int, str | None, bytes]:
    """Return status (200, 304, or 404 where there is no list), etag and content of the list on the branch."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    from ...common.version import __version__

    url = hf_hub_url(repo, FILENAME, repo_type="dataset", revision=BRANCH)
    headers = build_hf_headers(token=options.token, library_name="w2w_hub", library_version=__version__) | PLAIN
    if etag is not None:
        headers["If-None-Match"] = etag
    opened: list[Any] = []
    with (
        Pace(repo, lambda: [response.close() for response in opened]) as pace,
        get_session().stream("GET", url, headers=headers, timeout=SECONDS) as response,
    ):
        opened.append(response)
        if response.status_code == 304:
            return 304, etag, b""
        try:
            hf_raise_for_status(response)
        except RemoteEntryNotFoundError:
            return 404, None, b""
        raw = b"".join(body(response, pace, MAX_WITHDRAWALS_BYTES, HubFile(repo, BRANCH, FILENAME)))
        return 200, response.headers.get("ETag"), raw


def _seen(cache: RepoCache) -> tuple[str | None, WithdrawalList | None]:
    """Return the etag and the list that was seen last; None if there is none or it is damaged."""
    where = cache.folder / SEEN
    try:
        data = parse_json(read_file(cache.folder, SEEN, 2 * MAX_WITHDRAWALS_BYTES), where)
        etag, rows = data.get("etag"), data["list"]
        found = parse_withdrawals(json.dumps(rows).encode(), where)
        usable = isinstance(etag, str) and len(etag) < 200 and etag.isascii() and etag.isprintable()
        return (etag if usable else None), found
    except (W2WError, OSError, KeyError, ValueError):
        return None, None


def _keep(cache: RepoCache, etag: str | None, found: WithdrawalList) -> None:
    text = json.dumps({"etag": etag, "list": json.loads(found.to_bytes())})
    with suppress(OSError, W2WError):  # in a read-only cache it is asked for again
        write_text(cache.folder / SEEN, text)


__all__ = ["FILENAME", "REASONS", "Withdrawal", "WithdrawalList", "last_seen", "parse_withdrawals", "withdrawals_of"]

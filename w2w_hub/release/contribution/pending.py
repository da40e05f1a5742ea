"""Batches on the branch that were merged and wait for the next release, each with a record of its merge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ...common.limits import MAX_CONFIG_BYTES
from ...common.subject import HubFile, Where, about
from ...errors import CorruptFileError, UnsupportedFormatError
from ...store.hub.cache import SHA
from ...store.manifest import MERGE as FORMAT
from ...store.manifest import parse_json, upgraded
from ...store.paths import short
from ..remote import Remote
from .batch import FOLDER, MAX_BATCH_ROWS, NAME, batch_files

RECORD, FORMAT_VERSION = "merged.json", 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class MergeRecord:
    """What a maintainer merged.

    Attributes
    ----------
    batch : str
    pull_request : int
    contributor : str
        The account that opened the pull request.
    commit : str
        The commit of the pull request that was reviewed.
    date : str
        Day of the merge in UTC.
    rows : mapping of str to str
        The id of each row, and the digest that it will have.
    """

    batch: str
    pull_request: int
    contributor: str
    commit: str
    date: str
    rows: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Return the content of ``merged.json``."""
        data = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self), "rows": dict(self.rows)}
        return (json.dumps(data, indent=1) + "\n").encode()


def record_path(batch: str) -> str:
    """Return the path of the record of a batch in the repository."""
    return f"{FOLDER}/{batch}/{RECORD}"


def parse_record(raw: bytes, batch: str, where: Where) -> MergeRecord:
    """Parse and validate the bytes of ``merged.json``; unknown fields are ignored.

    Raises
    ------
    CorruptFileError, UnsupportedFormatError
    """
    data = upgraded(parse_json(raw, where), where, FORMAT)
    number, rows = data.get("pull_request"), data.get("rows")
    patterns = {"contributor": _ACCOUNT, "commit": SHA, "date": _DATE}
    wrong = [name for name, pattern in patterns.items() if not _matches(pattern, data.get(name))]
    if data.get("batch") != batch:
        wrong.append("batch")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 10**9:
        wrong.append("pull_request")
    there = rows if isinstance(rows, dict) and len(rows) <= MAX_BATCH_ROWS else {}
    if not there or not all(_matches(_ID, name) and _matches(_SHA256, digest) for name, digest in there.items()):
        wrong.append("rows")
    if wrong:
        raise CorruptFileError(
            f"{where}: {wrong[0]} is {short(data.get(wrong[0]))}, which w2w merge does not write; merge it again",
            **about(where),
        )
    return MergeRecord(batch, int(data["pull_request"]), data["contributor"], data["commit"], data["date"], there)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


@dataclass(frozen=True)
class Pending:
    """The batches of one commit of main.

    Attributes
    ----------
    records : tuple of MergeRecord
        Merged batches, by the number of their pull request.
    others : tuple of str
        Folders and files below ``contributions/`` that `w2w merge` did not make, each with the reason.
    files : mapping of str to tuple of str
        All files of a batch's folder.
    """

    records: tuple[MergeRecord, ...]
    others: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]

    @cached_property
    def ids(self) -> dict[str, MergeRecord]:
        """The record of each row's id in lower case."""
        return {name.lower(): record for record in self.records for name in record.rows}

    @cached_property
    def digests(self) -> dict[str, MergeRecord]:
        """The record of each row's digest."""
        return {digest: record for record in self.records for digest in record.rows.values()}


def pending_batches(remote: Remote, commit: str, paths: Iterable[str]) -> Pending:
    """Return the merged batches of a commit.

    Parameters
    ----------
    paths : iterable of str
        All files of the commit.
    """
    folders: dict[str, list[str]] = {}
    others = []
    for path in paths:
        parts = path.split("/")
        if parts[0] == FOLDER and len(parts) == 3 and NAME.fullmatch(parts[1]):
            folders.setdefault(parts[1], []).append(path)
        elif parts[0] == FOLDER:
            others.append(f"{short(path)} is not of a batch")
    records = []
    for batch, files in sorted(folders.items()):
        try:
            if missing := {*batch_files(batch)} - set(files):
                raise CorruptFileError(f"{min(missing)} is missing")
            raw = remote.read(commit, record_path(batch), MAX_CONFIG_BYTES)
            if raw is None:
                raise CorruptFileError("merge its pull request with w2w merge, which reviews it, or remove the folder")
            records.append(parse_record(raw, batch, HubFile(remote.repo, commit, record_path(batch))))
        except (CorruptFileError, UnsupportedFormatError) as error:
            others.append(f"{FOLDER}/{batch}: {error}")
    records.sort(key=lambda record: (record.pull_request, record.batch))
    return Pending(tuple(records), tuple(others), {name: tuple(files) for name, files in folders.items()})


__all__ = ["MergeRecord", "Pending", "parse_record", "pending_batches", "record_path"]

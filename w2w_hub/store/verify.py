"""Verify the files that a manifest lists, of a dataset or a weight space, and report the problems."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.deprecated import deprecated_alias
from ..common.limits import MAX_JSON_BYTES
from ..common.progress import progress
from ..common.text import command
from ..errors import LONGEST, CorruptFileError, MissingPathError, UnsupportedFormatError, W2WError
from .commit import NEXT, State, open_state
from .hashing import sha256_file
from .manifest import CARD, DATASET, FILENAME, FORMAT_NAMES, has_right_checksum
from .paths import read_file, walk

SHOWN = 20


@dataclass
class Problem:
    """A problem with a file, or with rows in it."""

    file: str
    message: str
    rows: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The result of a verification.

    Attributes
    ----------
    path : Path
    deep : bool
        Whether everything was hashed.
    kind : str
        ``dataset`` or ``weight space``.
    problems : list of Problem
        Content that differs from the manifest or breaks the format.
    notes : list of str
        Remarks that are not problems.
    not_checked : list of str
        Rules of the format that were not checked, and how to check them.
    unlisted : list of str
        Files in the folder that the manifest does not list.
    unfinished : bool
        Whether a committed change is not yet moved into place; until then other readers see a mixture.
    """

    path: Path
    deep: bool
    kind: str = FORMAT_NAMES[DATASET]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    unfinished: bool = False
    files: int = 0
    bytes_hashed: int = 0
    rows: int = 0
    digest: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, file: str, message: str, rows: list[str] | None = None) -> None:
        """Add a problem to the report."""
        self.problems.append(Problem(file, message, rows or []))

    def check(self, file: str, ok: bool, message: str) -> None:
        """Add a problem to the report unless `ok`."""
        if not ok:
            self.add(file, message)

    @property
    def broken(self) -> set[str]:
        """Files with a problem."""
        return {problem.file for problem in self.problems}

    def raise_if_any(self) -> None:
        """Raise `CorruptFileError` with all problems in one line, if there are any."""
        if self.problems:
            listed = "; ".join(problem.message for problem in self.problems[:SHOWN])
            more = f"; and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            error = CorruptFileError(listed + more, path=self.path)
            error.limit = (SHOWN + 1) * LONGEST
            raise error

    settle = deprecated_alias("Report.settle", raise_if_any)

    def to_json(self) -> dict[str, Any]:
        """Return the report as `w2w verify --json` prints it."""
        return {"path": str(self.path), "ok": self.ok} | {
            k: v for k, v in vars(self).items() if k not in ("path", "problems")
        } | {"problems": [vars(problem) for problem in self.problems]}  # fmt: skip


def open_to_check(report: Report, form: str, known: set[str]) -> State | None:
    """Return the state of the folder to verify; None, with a problem in the report, if it cannot be opened.

    Raises
    ------
    MissingPathError, UnsupportedFormatError
        If there is nothing of this format to verify. An unknown format or version counts as damage if the manifest
        does not match its checksum.
    """
    try:
        return open_state(report.path, form)
    except UnsupportedFormatError as error:
        if has_right_checksum(read_file(report.path, FILENAME, MAX_JSON_BYTES), known) is not False:
            raise
        report.add(FILENAME, str(error))
    except CorruptFileError as error:
        report.add(FILENAME, str(error))
    return None


def check_manifest(report: Report, state: State, known: set[str], *, vouched: bool) -> None:
    """Compare a manifest with its own checksum.

    Parameters
    ----------
    known : set of str
        The fields of its format.
    vouched : bool
        Whether a lock or a commit states the digest of these bytes. A wrong checksum is only a note then: w2w_hub 0.1.0
        kept the old one when it published under another version.
    """
    report.unfinished = state.unfinished
    if state.unfinished:
        report.notes.append(
            f"{report.path} holds a committed change that is not moved into place, which other readers see in part; "
            f"finish it with: {command('w2w repair', report.path)}"
        )
    elif os.path.lexists(state.root / NEXT):
        report.notes.append(
            f"{report.path} holds {NEXT}, a change that is in progress or was abandoned; w2w repair removes it"
        )
    right = has_right_checksum(state.raw, known)
    if right is None:
        report.not_checked.append(f"{FILENAME} itself: it has no checksum")
    elif not right and vouched:
        report.notes.append(
            f"{state.manifest_path} does not match its own checksum; its commit or lock does match, and "
            "w2w_hub 0.1.0 published such manifests"
        )
    elif not right:
        report.add(FILENAME, f"{state.manifest_path} has changed since it was written; fetch the {report.kind} again")


def check_files(report: Report, state: State, is_bulk: Callable[[str], bool]) -> None:
    """Check that every listed file exists, with its size and sha256.

    Parameters
    ----------
    is_bulk : callable
        Return whether a file is hashed by a deep verification only.
    """
    listed = state.data["files"]
    report.files = len(listed)
    report.unlisted = [
        found.name
        for found in walk(state.root)
        if found.name not in listed and found.name not in (FILENAME, CARD) and not found.name.startswith(".")
    ]
    report.check(
        CARD, CARD not in listed, f"{state.manifest_path} lists {CARD}, which may be edited without breaking a pin"
    )
    again = f"fetch the {report.kind} again"
    paths = {}
    for name, entry in listed.items():
        try:
            path = state.find(name)
        except MissingPathError:
            report.add(name, f"{state.root / name} is missing; {again}")
            continue
        except W2WError as error:
            report.add(name, str(error))
            continue
        size = path.stat().st_size
        if size != entry["size"]:
            report.add(
                name,
                f"{state.root / name} is not what the manifest lists: it has {size} bytes instead of "
                f"{entry['size']}; {again}",
            )
        elif report.deep or not is_bulk(name):
            paths[name] = path
    for name in progress(list(paths), "hashing files"):
        report.bytes_hashed += listed[name]["size"]
        if sha256_file(paths[name]) != listed[name]["sha256"]:
            report.add(name, f"{state.root / name} is not what the manifest lists; {again}")

"""Verify a located dataset or weight space with the check of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..paths import find_file
from ..verify import Report
from .source import Source


class FolderCheck(Protocol):
    """The check of a dataset folder or of a weight-space folder."""

    def __call__(self, path: Path, /, *, deep: bool, vouched: bool) -> Report: ...


def verify_source(source: Source, check: FolderCheck, *, deep: bool = True) -> Report:
    """Run `check` on the folder of a source, after fetching missing files of a repository.

    The next load fetches damaged files of a repository again.

    Parameters
    ----------
    deep : bool
        Hash every file and row, even those that were verified before.

    Raises
    ------
    MissingPathError, UnsupportedFormatError, HubError
        If there is nothing to check; everything else is in the report.
    """
    if source.revision is None:
        return check(source.folder, deep=deep, vouched=source.vouched)
    folder = source.need_missing()
    report = check(folder, deep=deep, vouched=source.vouched)
    for name, entry in source.files.items():
        if name in report.broken:
            source.cache.forget(entry)
        elif not source.cache.is_verified(find_file(folder, name), entry):  # what was not hashed just now
            report.add(name, f"{folder / name} is not what the manifest lists; the next load fetches it again")
    return report

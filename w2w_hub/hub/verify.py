"""Verification of what a repository or a folder holds, against its manifest and what vouches for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..store.manifest import DATASET
from ..store.paths import find_file
from ..store.verify import Report
from .resolve import Source, locate


def verify_repository(
    name: str | Path,
    *,
    deep: bool = True,
    kind: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> Report:
    """Verify a dataset or weight space: a folder, ``org/name@revision``, or ``LOCK#org/name``.

    What is not in the cache is fetched. A manifest that states a wrong checksum of itself is a note, not a problem, if
    the commit or the lock vouches for its bytes: version 0.1.0 published such ones.

    Parameters
    ----------
    deep : bool
        Hash every file and row, also those that were seen to be right before.
    kind : {"dataset", "space"}, optional

    Raises
    ------
    CorruptFileError
        If a version's tag leads to a manifest of another version, or a file arrives damaged again and again.
    HubNotFoundError, HubError, MissingPathError, UnsupportedFormatError, InvalidInputError
    """
    from .versions import find

    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    source = find(name, **options) if kind is None else locate(name, kind, **options)
    return verify_source(source, deep=deep)


def verify_source(source: Source, *, deep: bool = True) -> Report:
    """Verify what was located, see :func:`verify_repository`."""
    folder = source.need_missing() if source.revision is not None else source.folder
    if source.manifest()["format"] == DATASET:
        from ..dataset.integrity import check

        report = check(folder, deep=deep, vouched=source.vouched)
    else:
        from ..space.integrity import check_space

        report = check_space(folder, deep=deep, vouched=source.vouched)
    if source.revision is not None:
        for name, entry in source.files.items():
            if name in report.broken:
                source.cache.forget(entry)  # the next load fetches it again
            elif not source.cache.is_verified(find_file(folder, name), entry):  # what was not hashed just now
                report.add(name, f"{folder / name} is not what the manifest lists; the next load fetches it again")
    return report


__all__ = ["verify_repository", "verify_source"]

"""Verify a folder or a repository of either kind."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingPathError
from ..store.manifest import SPACE, kind_of
from ..store.verify import Report
from .client import Token
from .versions import find


def verify(
    what: Path | str,
    *,
    deep: bool = True,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> Report:
    """Compare a dataset or weight space with its manifest, its own digests and the rules of FORMAT.md.

    Parameters
    ----------
    what : path or str
        A folder, or ``org/name@version``, which is fetched whole.

    Raises
    ------
    MissingPathError, UnsupportedFormatError, HubError
        If there is nothing to check; all else is in the report.
    """
    path = Path(what)
    if path.is_dir() and "@" not in path.name:
        return verify_folder(path, deep=deep)
    source = find(what, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    folder = source.need(source.files)
    return verify_folder(folder, deep=deep, vouched=source.revision is not None)


def verify_folder(folder: Path, *, deep: bool = True, vouched: bool = False) -> Report:
    """Verify a folder by what its manifest says it is; one that cannot be told is checked as a dataset."""
    from ..dataset import check
    from ..space.integrity import check_space

    if not folder.is_dir():
        raise MissingPathError(f"{folder} is not a folder")
    return (check_space if kind_of(folder) == SPACE else check)(folder, deep=deep, vouched=vouched)

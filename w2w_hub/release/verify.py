"""Verify a folder or a repository of either kind, against its manifest and what vouches for that."""

from __future__ import annotations

import os
from pathlib import Path

from ..common.checks import require_path
from ..errors import MissingPathError
from ..store.commit import COMMIT
from ..store.hub import verify as hub
from ..store.hub.client import Token
from ..store.hub.resolve import Source
from ..store.manifest import FILENAME, SPACE, kind_of
from ..store.verify import Report


def verify(
    what: Path | str,
    *,
    deep: bool = True,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> Report:
    """Compare a dataset or weight space with its manifest, its own digests and the rules of FORMAT.md.

    What of a repository is not in the cache is fetched. A manifest that states a wrong checksum of itself is a note
    and not a problem if the commit or the lock vouches for its bytes: version 0.1.0 published such ones.

    Parameters
    ----------
    what : path or str
        A folder, ``org/name@version``, or ``LOCK#org/name``.
    deep : bool
        Hash every file and row, also those that were seen to be right before.

    Raises
    ------
    CorruptFileError
        If a version's tag leads to a manifest of another version, or what is fetched arrives damaged again and again.
    MissingPathError, UnsupportedFormatError, HubError
        If there is nothing to check; all else is in the report.
    """
    from .versions import find

    path = require_path(what, "what is verified")
    if path.is_dir() and "@" not in path.name:
        return verify_folder(path, deep=deep)
    return verify_source(find(what, token=token, cache_dir=cache_dir, local_files_only=local_files_only), deep=deep)


def verify_source(source: Source, *, deep: bool = True) -> Report:
    """Verify a dataset or weight space that was located, see :func:`w2w_hub.store.hub.verify.verify_source`."""
    return hub.verify_source(source, verify_folder, deep=deep)


def verify_folder(folder: Path, /, *, deep: bool = True, vouched: bool = False) -> Report:
    """Verify a folder by what its manifest says it is; one that cannot be told is checked as a dataset."""
    if not folder.is_dir():
        raise MissingPathError(f"{folder} is not a folder", path=folder)
    if not any(os.path.lexists(folder / name) for name in (FILENAME, COMMIT)):
        raise MissingPathError(f"{folder} is not a dataset or weight space: it has no {FILENAME}", path=folder)
    if kind_of(folder) == SPACE:
        from ..space.integrity import check_space  # scikit-learn, which a dataset does not need

        return check_space(folder, deep=deep, vouched=vouched)
    from ..dataset import check

    return check(folder, deep=deep, vouched=vouched)

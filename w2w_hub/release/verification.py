"""Verify a dataset or weight space, in a folder or on the Hub, against its manifest."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

from ..common.arguments import checked, place
from ..common.constraints import optional
from ..common.limits import MAX_JSON_BYTES
from ..errors import HubNotFoundError, MissingPathError, SignatureError, W2WError
from ..store.commit import COMMIT
from ..store.hub import verify as hub
from ..store.hub.client import Token
from ..store.hub.locate import locate_either
from ..store.hub.options import HubOptions
from ..store.hub.source import Source, download
from ..store.manifest import DATASET, FILENAME, SPACE, kind_of, no_manifest, stated_format
from ..store.paths import has_file, read_file
from ..store.verify import Report
from .signing import FILENAME as SIGNATURE
from .signing import MAX_SIGNATURE_BYTES, verify_manifest


@checked(what=place(), identity=optional(place()))
def verify(
    what: Path | str,
    *,
    deep: bool = True,
    identity: Path | str | None = None,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> Report:
    """Compare a dataset or weight space with its manifest, its own digests and the rules of FORMAT.md (`w2w verify`).

    Files of a repository that are not in the cache are fetched. A manifest that matches its commit or lock
    but not its own checksum gives a note instead of a problem: w2w_hub 0.1.0 published such manifests.

    Parameters
    ----------
    what : path or str
        A folder, ``org/name@version``, or ``LOCK#org/name``.
    deep : bool
        Hash every file and row, even those that were verified before.

    identity : path, optional
        File of a public key (PEM): the manifest must be signed with its private key, see `push`. Needs the extra
        `sign`.

    Returns
    -------
    Report

    Raises
    ------
    SignatureError
        If it is not signed with the key of `identity`.
    CorruptFileError
        If a version tag is on a manifest of another version, or a file is damaged after it was fetched twice.
    MissingPathError, UnsupportedFormatError, HubError
        If there is nothing to check; everything else is in the report.
    """
    path = Path(what)
    if path.is_dir() and "@" not in path.name:
        if identity is not None:
            _require_signed(Source(path), identity)
        return verify_folder(path, deep=deep)
    source = locate_either(what, options=HubOptions(token, cache_dir, local_files_only))
    if identity is not None:
        _require_signed(source, identity)
    return verify_source(source, deep=deep)


def _require_signed(source: Source, identity: Path | str) -> None:
    """Raise unless the manifest of a source has a signature of this key.

    Raises
    ------
    SignatureError, MissingPathError, MissingExtraError
    """
    where = source.revision or source.folder
    if source.revision is not None and not source.options.local_files_only:
        with suppress(HubNotFoundError):
            download(source.revision, SIGNATURE, source)
    if not has_file(source.folder, SIGNATURE):
        raise SignatureError(f"{where} is not signed: it has no {SIGNATURE}", path=source.folder)
    manifest = read_file(source.folder, FILENAME, MAX_JSON_BYTES)
    verify_manifest(manifest, read_file(source.folder, SIGNATURE, MAX_SIGNATURE_BYTES), identity, where)


def verify_source(source: Source, *, deep: bool = True) -> Report:
    """Verify a located dataset or weight space, see :func:`w2w_hub.store.hub.verify.verify_source`."""
    report = hub.verify_source(source, verify_folder, deep=deep)
    if source.revision is not None and report.ok:  # opening it would fetch damaged files again
        report.notes += _withdrawn(source)
    return report


def _withdrawn(source: Source) -> list[str]:
    """Return a note if rows of a dataset, or of a weight space's population, were withdrawn."""
    with suppress(W2WError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the note says it
        if kind_of(source.manifest()) == "space":
            from ..space import withdrawn as space
            from ..space.storage import open_located

            rows = space.withdrawn_rows(open_located(source))
            return [space.notice(rows)] if rows else []
        from ..dataset import withdrawn as dataset
        from ..dataset.opening import open_source

        parts = open_source(source)
        found = parts.matrix.withdrawn
        return [f"{dataset.notice(found, parts.labels.index)}, and cannot be read any more"] if found else []
    return []


def verify_folder(folder: Path, /, *, deep: bool = True, vouched: bool = False) -> Report:
    """Verify a folder as the kind in its manifest, or as a dataset without one."""
    if not folder.is_dir():
        raise MissingPathError(f"{folder} is not a folder", path=folder)
    if not any(os.path.lexists(folder / name) for name in (FILENAME, COMMIT)):
        raise MissingPathError(str(no_manifest(folder, DATASET, SPACE)), path=folder)
    if stated_format(folder) == SPACE:
        from ..space.integrity import check_space  # scikit-learn, which a dataset does not need

        return check_space(folder, deep=deep, vouched=vouched)
    from ..dataset import check

    return check(folder, deep=deep, vouched=vouched)


__all__ = ["verify", "verify_folder", "verify_source"]

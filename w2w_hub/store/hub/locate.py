"""Find the files of a folder, of a Hub repository at a revision, or of a lock file's pin, as a `Source`."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from ...common.checks import require_path
from ...errors import (
    HubAccessError,
    HubNotFoundError,
    InvalidInputError,
    MissingPathError,
    UnknownNameError,
    UnsupportedFormatError,
    W2WError,
)
from ..manifest import FILENAME as MANIFEST
from ..manifest import read_manifest, stated_format
from ..paths import has_file
from .cache import KIND_NAMES, SHA
from .client import translate
from .options import HubOptions
from .pins import is_lock, read_lock
from .resolve import FORMATS, open_pin, open_repository
from .source import Source

REPOSITORY = re.compile(r"^(?P<repo>\w[\w.-]*/[\w.-]+)(?:@(?P<revision>[^@\s]+))?\Z", re.ASCII)
# as huggingface_hub writes the type of a repository; a weight space is a model there
PREFIXES = {"datasets/": "dataset", "models/": "space"}


def locate(what: Path | str, kind: str, *, revision: str | None = None, options: HubOptions | None = None) -> Source:
    """Find a dataset or weight space.

    Parameters
    ----------
    what : path or str
        A folder; ``org/name`` or ``org/name@revision``, optionally with ``datasets/`` or ``models/`` before it; a
        lock file, with ``#org/name`` if it pins several.
    kind : {"dataset", "space"}
    revision : str, optional
        Tag, branch or commit; ``main`` by default.

    Raises
    ------
    HubNotFoundError
        If there is no such repository or revision; offline, if it is not in the cache.
    """
    path = require_path(what, f"the {KIND_NAMES[kind]}")
    text, options = path.as_posix(), options or HubOptions()
    lock, name = split_lock(text)
    if is_lock(Path(lock)):
        if revision is not None:
            raise InvalidInputError(
                f"{lock} is a lock and states the commit; leave out revision={revision!r}", path=lock, name="revision"
            )
        return open_pin(read_lock(lock).find(kind, name or None, Path(lock)), options)
    stated, bare = split_kind(text)
    match = REPOSITORY.match(bare)
    asked = _revision(text, revision, match)
    if is_ours(path):
        if asked is None:
            return Source(path)
        if match is None:
            raise InvalidInputError(
                f"{path} is a folder; revision={asked!r} is for a Hub repository (org/name)", path=path, name="revision"
            )
        warnings.warn(f"{text} is also a folder here; with a revision the Hub's is opened", stacklevel=3)
    if match is None:
        if asked is not None:
            raise InvalidInputError(
                f"{text} is not the name of a Hub repository (org/name); it has no revisions", name="revision"
            )
        return Source(path)  # its reader says what is missing
    if stated not in (None, kind):
        raise InvalidInputError(
            f"{text} names a {KIND_NAMES[stated]}, and a {KIND_NAMES[kind]} is expected here; name one of those",
            repo_id=match["repo"],
            what=kind,
        )
    if path.is_dir() and asked is None:
        warnings.warn(f"{text} is also a folder here, but not one of ours; the Hub's is opened", stacklevel=3)
    try:
        return open_repository(match["repo"], kind, asked or "main", options)
    except PermissionError as error:
        if isinstance(error, W2WError):
            raise
        raise translate(error, text) from error
    except HubNotFoundError as error:
        # a misspelt path looks like a repository that does not exist
        misspelt = error.what in ("repository", "cache") and not error.cached and not path.exists()
        if not misspelt:
            raise
        raise HubNotFoundError(f"{text} is not a folder here; {error}", error.cached, **error.data()) from error


def _revision(text: str, revision: str | None, match: re.Match[str] | None) -> str | None:
    """Return the revision that is asked for, by the keyword or behind ``@``."""
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        raise InvalidInputError(
            f"{text}: revision={revision!r} names nothing; give a tag, a branch or a commit", name="revision"
        )
    if match and revision is not None and match["revision"] is not None:
        raise InvalidInputError(
            f"{text} states a revision, and so does revision={revision!r}; give one of them", name="revision"
        )
    return revision or (match["revision"] if match else None)


def locate_either(what: str | Path, *, kind: str | None = None, options: HubOptions | None = None) -> Source:
    """Find a dataset or weight space where the caller does not say which: exactly one must be there.

    Raises
    ------
    InvalidInputError
        If there are both and the name does not say which.
    MissingPathError
        If a local folder is neither.
    HubNotFoundError
    """
    text = require_path(what, "the dataset or weight space").as_posix()
    kind = kind or split_kind(text)[0]
    failures: list[W2WError] = []
    found: list[Source] = []
    for each in (kind,) if kind else ("dataset", "space"):
        try:
            source = locate(what, each, options=options)
        except (HubNotFoundError, UnknownNameError, UnsupportedFormatError) as error:  # there is none of this kind
            failures.append(error)
            continue
        except HubAccessError as error:
            if not found:
                raise
            raise ambiguous_kind(text) from error
        if source.revision is None and not is_ours(source.folder):
            if source.folder.is_dir() and has_file(source.folder, MANIFEST):
                read_manifest(source.folder)  # says what is wrong with it
            raise MissingPathError(
                f"{what} is not a dataset folder, a weight space or a Hub repository (org/name)", path=what
            )
        found.append(source)
        by_commit = source.revision is None or SHA.match(text.rpartition("@")[2])
        if by_commit:  # a folder has one kind, and no two repositories share a commit
            return source
    if len(found) > 1:
        lock = split_lock(text)[0]
        if is_lock(Path(lock)):
            raise InvalidInputError(f"{text} pins a dataset and a weight space; say which: {lock}#org/name", path=lock)
        raise ambiguous_kind(text)
    if found:
        return found[0]
    raise max(failures, key=_informative)


def _informative(failure: W2WError) -> tuple[bool, bool, int]:
    """Rank failures: a repository that is not ours, then a missing revision, then one with cached revisions."""
    if not isinstance(failure, HubNotFoundError):
        return True, False, 0
    return False, failure.what == "revision", len(failure.cached)


def ambiguous_kind(name: str) -> InvalidInputError:
    """Return the error for a name that both a dataset and a weight space have."""
    return InvalidInputError(
        f"{name} is a dataset and a weight space; say which: datasets/{name} or models/{name}",
        repo_id=name.partition("@")[0],
        what="kind",
    )


def split_kind(text: str) -> tuple[str | None, str]:
    """Return the kind that a name states by its prefix, and ``org/name`` without it."""
    for prefix, kind in PREFIXES.items():
        if text.startswith(prefix) and REPOSITORY.match(bare := text.removeprefix(prefix)):
            return kind, bare
    return None, text


def split_lock(text: str) -> tuple[str, str | None]:
    """Return a lock's path and what follows ``#``; the name of an existing file may have that sign, too."""
    path, sign, name = text.rpartition("#")
    return (text, None) if not sign or Path(text).is_file() else (path, name)


def is_ours(path: Path) -> bool:
    """Return whether a path is the folder of a dataset or weight space."""
    try:
        return path.is_dir() and stated_format(path) in FORMATS
    except (W2WError, OSError):
        return False


__all__ = ["REPOSITORY", "ambiguous_kind", "is_ours", "locate", "locate_either", "split_kind", "split_lock"]

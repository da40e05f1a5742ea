"""Locate a dataset or weight space: a folder, a Hub repository at a revision, or a pin in a lock file."""

from __future__ import annotations

import re
from pathlib import Path

from ...common.checks import require_path
from ...common.warn import warn_caller
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
from ..paths import has_file, missing, short, similar
from .cache import KIND_NAMES, REPO, SHA
from .client import translate
from .options import HubOptions
from .pins import is_lock, read_lock
from .resolve import FORMATS, open_pin, open_repository
from .source import Source

REPOSITORY = re.compile(r"^(?P<repo>\w[\w.-]*/[\w.-]+)(?:@(?P<revision>[^@\s]+))?\Z", re.ASCII)
NO_REPOSITORY = "the name of a repository on the Hub is org/name"  # advice where neither it nor a path is given
# repository types in huggingface_hub's spelling; a weight space has the type model
PREFIXES = {"datasets/": "dataset", "models/": "space"}
PREFIX_OF = {kind: prefix for prefix, kind in PREFIXES.items()}


def locate(what: Path | str, kind: str, *, revision: str | None = None, options: HubOptions | None = None) -> Source:
    """Locate a dataset or weight space and return its files.

    Parameters
    ----------
    what : path or str
        A folder; ``org/name`` or ``org/name@revision``, optionally prefixed with ``datasets/`` or ``models/``; a lock
        file, with ``#org/name`` if it pins several.
    kind : {"dataset", "space"}
    revision : str, optional
        Tag, branch or commit; ``main`` by default.

    Raises
    ------
    HubNotFoundError
        If the repository or revision does not exist or, offline, is not in the cache.
    """
    path = require_path(what, f"the {KIND_NAMES[kind]}")
    text, options = path.as_posix(), options or HubOptions()
    lock, name = split_lock(text)
    if is_lock(Path(lock)):
        if revision is not None:
            raise InvalidInputError(
                f"{lock} is a lock file, which states the commit; leave out revision={revision!r}",
                path=lock,
                name="revision",
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
                f"{path} is a folder and has no revisions; leave out revision={asked!r}", path=path, name="revision"
            )
        warn_caller(f"{text} is also a local folder; the Hub repository is opened, since a revision is given")
    if match is None:
        if asked is not None:
            raise InvalidInputError(f"{text} is not a Hub repository (org/name) and has no revisions", name="revision")
        return Source(path)  # its reader reports what is missing
    if stated not in (None, kind):
        raise InvalidInputError(
            f"{text} is a {KIND_NAMES[stated]}; name a {KIND_NAMES[kind]}",
            repo_id=match["repo"],
            what=kind,
        )
    if path.is_dir() and asked is None:
        warn_caller(f"{text} is also a local folder, but not a dataset or weight space; the Hub repository is opened")
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
        near = similar(path)
        hint = f" (did you mean {short(str(near))}?)" if near else ""
        raise HubNotFoundError(f"{text} is not a local folder{hint}; {error}", error.cached, **error.data()) from error


def _revision(text: str, revision: str | None, match: re.Match[str] | None) -> str | None:
    """Return the requested revision, from the keyword or after ``@``."""
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        raise InvalidInputError(
            f"{text}: revision={revision!r} is empty or not a string; give a tag, a branch or a commit", name="revision"
        )
    if match and revision is not None and match["revision"] is not None:
        raise InvalidInputError(
            f"{text} states a revision, and so does revision={revision!r}; give one of them", name="revision"
        )
    return revision or (match["revision"] if match else None)


def locate_either(what: str | Path, *, kind: str | None = None, options: HubOptions | None = None) -> Source:
    """Locate a dataset or weight space of unknown kind; exactly one must exist.

    Raises
    ------
    InvalidInputError
        If both exist and the name does not say which.
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
                read_manifest(source.folder)  # raises for a damaged or unknown manifest
            if not source.folder.exists():
                raise missing(source.folder, NO_REPOSITORY)
            raise MissingPathError(f"{what} is not the folder of a dataset or weight space", path=what)
        found.append(source)
        by_commit = source.revision is None or SHA.match(text.rpartition("@")[2])
        if by_commit:  # a folder has one kind, and a commit is in one repository
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
    """Rank failures: first an existing repository of another format, then a missing revision, then cached revisions."""
    if not isinstance(failure, HubNotFoundError):
        return True, False, 0
    return False, failure.what == "revision", len(failure.cached)


def ambiguous_kind(name: str) -> InvalidInputError:
    """Return the error for a name that a dataset and a weight space share."""
    return InvalidInputError(
        f"{name} is a dataset and a weight space; say which: datasets/{name} or models/{name}",
        repo_id=name.partition("@")[0],
        what="kind",
    )


def split_kind(text: str) -> tuple[str | None, str]:
    """Return the kind in a name's prefix, and the name without it."""
    for prefix, kind in PREFIXES.items():
        if text.startswith(prefix) and REPOSITORY.match(bare := text.removeprefix(prefix)):
            return kind, bare
    return None, text


def has_owner(name: str) -> bool:
    """Return whether a name without its kind is ``org/name``; ``datasets/people`` is not, its owner is missing."""
    return REPO.fullmatch(name) is not None and f"{name.partition('/')[0]}/" not in PREFIXES


def split_lock(text: str) -> tuple[str, str | None]:
    """Return the path of a lock file and the text after ``#``, which an existing file may have in its name."""
    path, sign, name = text.rpartition("#")
    return (text, None) if not sign or Path(text).is_file() else (path, name)


def is_ours(path: Path) -> bool:
    """Return whether a path is the folder of a dataset or weight space."""
    try:
        return path.is_dir() and stated_format(path) in FORMATS
    except (W2WError, OSError):
        return False


__all__ = [
    "NO_REPOSITORY", "REPOSITORY", "ambiguous_kind", "is_ours", "locate", "locate_either", "split_kind", "split_lock",
]  # fmt: skip

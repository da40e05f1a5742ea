"""The exceptions of w2w_hub: one tree, in which each class is also the builtin exception that a caller would catch.

A message is one line: the subject, what is wrong, and what to do. The subject is also in attributes, so that no code
has to parse messages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from .common.deprecated import renamed_names
from .common.install import install_command
from .common.text import one_line

LONGEST = 2000  # characters of a message, which may quote names from a file


class W2WError(Exception):
    """Base class of all exceptions of this package; the command line prints one line and exits with status 2.

    It takes the message and, by keyword, the attributes; those that are not known are None. Copies and pickles keep all
    of them.

    Attributes
    ----------
    path : pathlib.Path or None
        The file or folder; an OSError has it as `filename`, too.
    repo_id : str or None
        The Hub repository, ``org/name``.
    revision : str or None
        The tag, branch or commit of that repository.
    name : str or None
        The row, attribute, column, option or file inside `path` or `repo_id`.
    what : str or None
        The kind of thing that the error is about; see the subclasses.
    """

    limit = LONGEST  # characters of the message; larger if it lists several errors
    path: Path | None
    repo_id: str | None
    revision: str | None
    name: str | None
    what: str | None

    def __init__(
        self,
        message: object = "",
        *,
        path: str | os.PathLike[str] | None = None,
        repo_id: str | None = None,
        revision: str | None = None,
        name: str | None = None,
        what: str | None = None,
    ):
        super().__init__(message)
        self.path = None if path is None else Path(path)
        self.repo_id, self.revision, self.name, self.what = repo_id, revision, name, what
        if isinstance(self, OSError) and path is not None:
            error: Any = self
            error.filename = os.fspath(path)

    @property
    def message(self) -> str:
        """The message as one line, shortened to `limit` characters."""
        return one_line(str(self.args[0]), self.limit) if self.args else ""

    def __str__(self) -> str:  # KeyError would show the repr, OSError its file name a second time
        return self.message

    def data(self) -> dict[str, Any]:
        """Return the attributes that are known, by name: the keywords for another error about the same thing."""
        known = {name: getattr(self, name) for name in ("path", "repo_id", "revision", "name", "what")}
        return {name: value for name, value in known.items() if value is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError and ImportError keep some attributes outside of `__dict__`
        return _restored, (type(self), self.args, self.data(), dict(vars(self)))


def _restored(cls: type[W2WError], args: tuple[Any, ...], data: dict[str, Any], state: dict[str, Any]) -> W2WError:
    error = cls(*args[:1], **data)
    vars(error).update(state)
    return error


class InvalidInputError(W2WError, ValueError):
    """An argument cannot be used (a shape, a range, NaN, an unknown option); `name` is the parameter."""


class MissingPathError(W2WError, FileNotFoundError):
    """A file or folder that was named, or that a format requires, does not exist or cannot be read; see `path`."""


class AlreadyExistsError(W2WError, FileExistsError):
    """The output (`path`, or `revision` of `repo_id`) already exists; nothing is overwritten."""


class CorruptFileError(W2WError, ValueError):
    """A file (`path`, or `name` in `repo_id`) is truncated, unreadable or not what its manifest lists."""


class UnsafePathError(CorruptFileError):
    """A name or link leads out of its folder or to something other than a regular file; it was not followed."""


class UnsupportedFormatError(W2WError, ValueError):
    """A checkpoint, dataset or weight space has a dialect or format version that this release does not read."""


class UnsafeCheckpointError(UnsafePathError, UnsupportedFormatError):
    """A file of a checkpoint is a link out of its folder; it was not followed."""


class NotACheckpointError(UnsupportedFormatError):
    """A file or folder is not an adapter at all; a scan ignores it."""


class ScaleConflictError(W2WError, ValueError):
    """Two places of one checkpoint state different LoRA scales."""


class LayoutMismatchError(W2WError, ValueError):
    """Adapters, rows or a weight space do not share one parameter layout."""


class BaseModelMismatchError(W2WError, ValueError):
    """The base model is not the one that the adapters were trained on."""


class InitializationError(W2WError, ValueError):
    """Adapters do not share one initialization, which a weight space of raw factors requires."""


class DatasetChangedError(W2WError, ValueError):
    """A dataset is not the one from which a weight space was built."""


class MissingPopulationError(InvalidInputError):
    """A weight space was published without its rows' coefficients, which the call needs."""


class ConvergenceError(W2WError, ArithmeticError):
    """A solver did not reach the requested accuracy."""


class UnknownNameError(W2WError, KeyError):
    """A row id, attribute, column or direction does not exist; `name` is that name."""


class WithdrawnError(W2WError, LookupError):
    """A row (`name`) of a dataset on the Hub (`repo_id`) was withdrawn and is not read any more, at any revision.

    Attributes
    ----------
    date : str or None
        Day of the withdrawal, ``2026-11-28``.
    """

    def __init__(self, message: object = "", *, date: str | None = None, **data: Any):
        super().__init__(message, **data)
        self.date = date


class RowIndexError(InvalidInputError, IndexError):
    """A row number is out of range."""


class AdapterNotAppliedError(W2WError, RuntimeError):
    """An identity was set, but it would have no effect."""


Missing = Literal["repository", "revision", "file", "cache"]


class HubError(W2WError, OSError):
    """The Hub cannot be reached or refused a request; `repo_id` is the repository."""


class HubNotFoundError(HubError, FileNotFoundError):
    """A repository, revision or file is not on the Hub or not visible with this token; offline, not in the cache.

    Attributes
    ----------
    what : {"repository", "revision", "file", "cache"}
        What is missing; ``"cache"`` if it is not in the local cache and the Hub was not or could not be asked.
    cached : tuple of str
        The revisions of the repository that are in the local cache.
    """

    def __init__(self, message: object = "", cached: Iterable[str] = (), *, what: Missing = "file", **data: Any):
        super().__init__(message, what=what, **data)
        self.cached = tuple(cached)


class ContributionError(W2WError, ValueError):
    """A contribution (`name`) does not pass the checks of a dataset (`repo_id`), or is not one; nothing was changed."""


class HubAccessError(HubError, PermissionError):
    """The token is missing, expired or not allowed to do this."""


class HubConflictError(HubError):
    """The repository was changed by somebody else during the call; `revision` is the tag that is affected, if any."""


class SignatureError(W2WError, ValueError):
    """A manifest has no signature, or not one of the expected key (`path`)."""


class VersionError(InvalidInputError):
    """A version is not a semantic version, or the version rules do not allow it after the last one."""


class MissingExtraError(W2WError, ImportError):  # type: ignore[misc]  # ImportError.path is a str
    """An optional dependency (`name`) is not installed."""


class BrokenExtraError(W2WError, ImportError):  # type: ignore[misc]
    """An optional dependency (`name`) is installed, but importing it fails; its cause says why."""


class BusyError(W2WError, BlockingIOError):
    """Another process is writing the same folder (`path`)."""


class OutOfMemoryError(W2WError, MemoryError):
    """The memory of a device does not suffice for the smallest part of the work."""


class DiskError(W2WError, OSError):
    """The disk is full or `path` cannot be written; its previous content is unchanged."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Return the error for a missing optional package, with the pip command that installs it."""
    return MissingExtraError(f"{package} is not installed; run: {install_command(extra)}", name=package)


__getattr__ = renamed_names(__name__, InitialisationError="InitializationError")

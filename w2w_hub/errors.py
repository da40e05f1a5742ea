"""Everything w2w_hub raises on purpose: one tree, each error also the builtin a caller would catch.

A message is one line that says what was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from .common.text import one_line

LONGEST = 2000  # characters of a message: a file may name its tensors as it likes


class W2WError(Exception):
    """Base of all errors of this package; the command line turns it into one line and exit status 2."""

    limit = LONGEST  # more where several errors are told as one

    def __str__(self) -> str:
        text = super().__str__()
        return one_line(text, self.limit)


class InvalidInputError(W2WError, ValueError):
    """A value given by the caller cannot be used (a shape, a range, NaN, an unknown option)."""


class MissingPathError(W2WError, FileNotFoundError):
    """A file or folder that was named, or that a format requires, is not there."""


class AlreadyExistsError(W2WError, FileExistsError):
    """The output is already there; nothing is overwritten."""


class CorruptFileError(W2WError, ValueError):
    """A file is truncated, unreadable or not what its manifest says."""


class UnsafePathError(CorruptFileError):
    """A name or link leads out of its folder, or to something that is not a regular file; nothing was followed."""


class UnsupportedFormatError(W2WError, ValueError):
    """A checkpoint, dataset or space in a dialect or format version that this version does not read."""


class UnsafeCheckpointError(UnsafePathError, UnsupportedFormatError):
    """A checkpoint whose file is a link out of its folder, which is not followed."""


class NotACheckpointError(UnsupportedFormatError):
    """A file or folder that is no adapter at all, so that a scan passes over it."""


class ScaleConflictError(W2WError, ValueError):
    """Two places of one checkpoint state different LoRA scales."""


class LayoutMismatchError(W2WError, ValueError):
    """Two things that must share a parameter layout do not."""


class BaseModelMismatchError(W2WError, ValueError):
    """The base model is not the one that the adapters were trained on."""


class InitialisationError(W2WError, ValueError):
    """Adapters without one shared initialisation cannot make a raw weight space."""


class DatasetChangedError(W2WError, ValueError):
    """A dataset is not the one that a weight space was built from."""


class MissingPopulationError(InvalidInputError):
    """A weight space was published without its rows' coefficients, which this needs."""


class ConvergenceError(W2WError, ArithmeticError):
    """An iteration did not reach the accuracy that was asked for."""


class UnknownNameError(W2WError, KeyError):
    """A row id, attribute, column or direction that does not exist."""

    def __str__(self) -> str:  # KeyError would show the repr
        return one_line(str(self.args[0]), self.limit) if self.args else ""


class RowIndexError(InvalidInputError, IndexError):
    """A row number beyond the rows there are."""


class AdapterNotAppliedError(W2WError, RuntimeError):
    """An identity was set but would not take effect."""


Missing = Literal["repository", "revision", "file", "cache"]


class HubError(W2WError, OSError):
    """The Hub cannot be reached, or did not do what was asked."""


class HubNotFoundError(HubError, FileNotFoundError):
    """A repository, revision or file is not on the Hub (or not visible), or offline not in the cache.

    Attributes
    ----------
    what : {"repository", "revision", "file", "cache"}
        What is missing; ``"cache"`` if it is not in the local cache and the Hub was not asked or is away.
    cached : tuple of str
        The revisions of the repository that are in the local cache.
    """

    def __init__(self, message: str, cached: Iterable[str] = (), *, what: Missing = "file"):
        super().__init__(message)
        self.cached = tuple(cached)
        self.what: Missing = what


class HubAccessError(HubError, PermissionError):
    """The token is missing, expired or not allowed to do this."""


class HubConflictError(HubError):
    """Somebody else changed the repository meanwhile."""


class VersionError(InvalidInputError):
    """A version that is no version, is there already with other content, or breaks the version rules."""


class MissingExtraError(W2WError, ImportError):
    """An optional dependency is not installed."""


class BusyError(W2WError, BlockingIOError):
    """Another process is writing the same dataset."""


class DiskError(W2WError, OSError):
    """The disk is full or a file cannot be written; what was there is as before."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for a missing optional package, naming the pip command that brings it."""
    return MissingExtraError(f"{package} is not installed; run: pip install 'w2w-hub[{extra}]'")

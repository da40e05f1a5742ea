"""Stores results of finished passes in a folder, so that a build that was killed can continue."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AlreadyExistsError, BusyError, CorruptFileError, DiskError, UnsupportedFormatError, W2WError
from ...store.atomic import PARTIAL, flush
from ...store.locks import lock_folder
from ...store.manifest import read_json
from ...store.tensorfile import read_safetensors

MARK = ".w2w-build.json"
FORMAT, FORMAT_VERSION = "w2w-build", 1
LARGEST_MARK = 4096  # bytes
STAGING = ".new"  # after the folder's name, while it is made
_OWN = re.compile(rf"(?:{re.escape(MARK)}|(?:moments|covariance|pass-\d{{3,}}|gram-\d{{5,}}-\d{{5,}})\.safetensors)"
                  rf"(?:{re.escape(PARTIAL)})?")  # fmt: skip
_DTYPES = {"<f4": "F32", "<f8": "F64"}


class ResumeFolder:
    """Results of one build by name; without a folder nothing is stored.

    Computation between passes is deterministic, so that a resumed build gives the same bits as an uninterrupted one.
    The folder appears in one step with a mark inside. Only files with names that are written here are ever removed,
    the mark last; a folder without the mark, or with anything else in it, is refused and left as it is.

    Parameters
    ----------
    folder : path or None
        Made if it does not exist or is empty.
    recipe : object
        JSON that identifies the build; results of any other are removed.

    Raises
    ------
    AlreadyExistsError
        If the folder is not an unfinished build.
    BusyError
        If another process uses the folder.
    DiskError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path | str | None, recipe: Any = None):
        self.folder = None if folder is None else Path(os.path.abspath(folder))
        self.key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        self._lock: int | None = None
        if self.folder is None:
            return
        try:
            self._open(self.folder)
        except BaseException as error:
            self.release()
            if isinstance(error, W2WError) or not isinstance(error, OSError):
                raise
            raise DiskError(
                f"{self.folder}, where finished passes are stored, cannot be made: {error.strerror or error}",
                path=self.folder,
            ) from error

    # ------------------------------------------------------------ the folder
    def _open(self, folder: Path) -> None:
        if not _holds_something(folder):
            self._make(folder)
        self._acquire(folder)
        if _require_ours(folder) != self.key:
            self._remove_results(folder)
            _write(folder / MARK, [self._stated()])

    def _make(self, folder: Path) -> None:
        staging = folder.with_name(folder.name + STAGING)
        if _holds_something(staging) and not set(os.listdir(staging)) <= {MARK, MARK + PARTIAL}:
            raise AlreadyExistsError(
                f"{staging} is in the way of {folder}; remove it or choose another checkpoint", path=staging
            )
        staging.mkdir(parents=True, exist_ok=True)
        _write(staging / MARK, [self._stated()])
        try:
            os.rename(staging, folder)  # replaces an empty folder
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise BusyError(f"another process has just made {folder}; run this again") from None
            raise
        flush(folder.parent)

    def _stated(self) -> bytes:
        stated = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": self.key}
        return (json.dumps(stated, indent=1) + "\n").encode()

    def _acquire(self, folder: Path) -> None:
        """Lock the folder until :meth:`release`; the system unlocks it when the process ends, however it ends."""
        self._lock = lock_folder(folder, "another build")

    def release(self) -> None:
        """Unlock the folder; the results stay."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_results(self, folder: Path) -> None:
        for name in sorted(os.listdir(folder)):
            if name != MARK and _OWN.fullmatch(name) and _is_regular(folder / name):
                os.unlink(folder / name)

    def clear(self) -> None:
        """Remove the results, once the space is saved, unless another build has taken the folder since."""
        if self.folder is None:
            return
        try:
            if self._lock is None:
                self._acquire(self.folder)
            if _stated_by(self.folder).get("key") != self.key:
                return
            self._remove_results(self.folder)
            if _is_regular(self.folder / MARK):
                os.unlink(self.folder / MARK)
            os.rmdir(self.folder)
        except (OSError, W2WError):  # missing, in use, or with other files in it
            pass
        finally:
            self.release()

    # ------------------------------------------------------------ results
    def has(self, name: str) -> bool:
        """Return whether a result is stored under a name."""
        return self.folder is not None and _is_regular(self.folder / f"{name}.safetensors")

    def remember(
        self, name: str, compute: Callable[[], dict[str, Any]], convert: Callable[[Any], np.ndarray] = np.asarray
    ) -> dict[str, Any]:
        """Return the result stored under a name; if there is none, compute and store it.

        Raises
        ------
        DiskError
            If it cannot be written; earlier results stay.
        """
        if self.folder is None:
            return compute()
        file = self.folder / f"{name}.safetensors"
        kept = _read_arrays(file)
        if kept is not None:
            return kept
        found = compute()
        try:
            # not flushed to the disk: the checksum finds a file that a power cut left torn
            _write(file, _file_of({key: convert(value) for key, value in found.items()}), flush=False)
        except OSError as error:
            raise DiskError(
                f"{file} cannot be written: {error.strerror or error}; finished passes are kept, free some space and "
                "run the same again to continue",
                path=file,
            ) from error
        return found


def is_unfinished_build(folder: Path) -> bool:
    """Return whether a folder is an unfinished build, or an empty folder that a killed removal left."""
    try:
        return folder.is_dir() and not folder.is_symlink() and (not os.listdir(folder) or bool(_require_ours(folder)))
    except (OSError, W2WError):
        return False


def discard(folder: Path) -> None:
    """Remove any unfinished build, or the empty folder that a killed removal left."""
    left = ResumeFolder(None)
    with suppress(OSError, W2WError):
        if os.listdir(folder):
            left.folder, left.key = folder, _require_ours(folder)
            left.clear()
        else:
            os.rmdir(folder)


def _holds_something(folder: Path) -> bool:
    try:
        mode = os.lstat(folder).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        raise AlreadyExistsError(f"{folder} is not a folder; choose another checkpoint", path=folder)
    return bool(os.listdir(folder))


def _require_ours(folder: Path) -> str:
    """Return the key of the build that a folder belongs to, or raise if anything else is in it."""
    foreign = sorted(name for name in os.listdir(folder) if not (_OWN.fullmatch(name) and _is_regular(folder / name)))
    stated = {} if foreign else _stated_by(folder)
    if not stated:
        found = f"it holds {foreign[0]}" if foreign else f"it has no valid {MARK}"
        raise AlreadyExistsError(
            f"{folder} is not an unfinished build of this release ({found}); nothing in it was changed. Remove it, or "
            "choose another checkpoint",
            path=folder,
        )
    if stated.get("format_version") != FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{folder} is an unfinished build of another release (format version {stated.get('format_version')!r}); "
            "remove it, or choose another checkpoint",
            path=folder,
        )
    return str(stated["key"])


def _stated_by(folder: Path) -> Mapping[str, Any]:
    """Return the content of a folder's mark; empty if there is no valid one."""
    mark = folder / MARK
    if not _is_regular(mark) or mark.stat().st_size > LARGEST_MARK:
        return {}
    try:
        stated = read_json(mark)
    except CorruptFileError:
        return {}
    return stated if stated.get("format") == FORMAT and isinstance(stated.get("key"), str) else {}


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _write(path: Path, parts: Iterable[Any], *, flush: bool = True) -> None:
    """Put a file in place by one rename; a partial one that a killed process left is replaced."""
    partial = path.with_name(path.name + PARTIAL)
    with suppress(FileNotFoundError):
        os.unlink(partial)
    try:
        with open(partial, "xb") as file:
            for part in parts:
                file.write(part)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
        raise


def _file_of(arrays: Mapping[str, np.ndarray]) -> Iterable[Any]:
    """Return a safetensors file as buffers, the arrays' own memory, with a checksum in its metadata."""
    header: dict[str, Any] = {}
    buffers, end = [], 0
    for name, values in arrays.items():
        values = np.ascontiguousarray(values)
        buffers.append(values.data.cast("B") if values.size else b"")
        header[name] = {
            "dtype": _DTYPES[values.dtype.newbyteorder("<").str],
            "shape": list(values.shape),
            "data_offsets": [end, end + values.nbytes],
        }
        end += values.nbytes
    header["__metadata__"] = {"crc32": _checksum(arrays)}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return [len(head).to_bytes(8, "little"), head, *buffers]


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of a result, or None if there is none; a damaged one is removed."""
    if not _is_regular(path):
        return None
    try:
        arrays, metadata = read_safetensors(path)
    except (CorruptFileError, UnsupportedFormatError):
        arrays, metadata = {}, {}
    if metadata.get("crc32") == _checksum(arrays):
        return arrays
    os.unlink(path)
    return None


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the CRC-32 of names, dtypes, shapes and values; it detects torn files several times faster than sha256."""
    found = 0
    for name, values in sorted(arrays.items()):
        values = np.ascontiguousarray(values)
        found = zlib.crc32(f"{name} {values.dtype.str} {values.shape}\n".encode(), found)
        if values.size:
            found = zlib.crc32(values.data.cast("B"), found)
    return f"{found:08x}"

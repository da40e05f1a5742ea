"""Read parts of files: the protocol, and its implementation for folders."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import CorruptFileError
from .commit import find_in
from .paths import open_regular


class ByteSource(Protocol):
    """Files of which parts are read; paths are relative to a root, with ``/``.

    An implementation needs `size` and `read`; one with memory-mapped files overrides the other methods, too.
    """

    def size(self, path: str) -> int:
        """Return the bytes of a file; raise `MissingPathError` if it does not exist."""
        ...

    def read(self, path: str, start: int, stop: int) -> bytes:
        """Return exactly the bytes from `start` to before `stop`."""
        ...

    def read_into(self, path: str, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on."""
        out[:] = self.read(path, start, start + len(out))

    def mapped(self, path: str) -> np.ndarray | None:
        """Return a file as a read-only uint8 memory map; None if it cannot be mapped."""
        return None

    def will_need(self, path: str, start: int, size: int) -> None:
        """Advise the system that a part of a mapped file is read next."""
        return

    def release(self, path: str, start: int, size: int) -> None:
        """Advise the system to drop a part of a mapped file from this process's memory."""
        return


class LocalFiles(ByteSource):
    """Files below one or more folders; each file is read from the first folder that has it.

    Opened files stay open, so that they keep their content when another process replaces them. Reads are positional, so
    that threads and forked processes can share the descriptors.
    """

    _close = staticmethod(os.close)  # `os` may be gone at interpreter exit

    def __init__(self, *folders: Path):
        self.folders = folders
        self._open: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._mapped: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folders": self.folders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["folders"])  # type: ignore[misc]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        opened, self._open = getattr(self, "_open", {}), {}
        for descriptor in opened.values():
            self._close(descriptor)

    def open(self, path: str) -> int:
        """Return the descriptor of a file, opened on first use; no link below the folders is followed."""
        with self._lock:
            if path not in self._open:
                self._open[path] = open_regular(find_in(self.folders, path), follow=False)
            return self._open[path]

    def size(self, path: str) -> int:
        return os.fstat(self.open(path)).st_size

    def mapped(self, path: str) -> np.ndarray:
        """Return a file as a read-only uint8 memory map.

        Raises
        ------
        CorruptFileError
            If the file was truncated since it was opened: touching the missing pages would kill the process.
        """
        descriptor = self._open.get(path)
        size = os.fstat(self.open(path) if descriptor is None else descriptor).st_size
        if path not in self._mapped:
            self._maps[path] = mmap.mmap(self.open(path), size, access=mmap.ACCESS_READ)
            self._mapped[path] = np.frombuffer(self._maps[path], np.uint8)
        if len(self._mapped[path]) > size:
            raise CorruptFileError(
                f"{self.folders[-1] / path} was truncated to {size} bytes while open; fetch it again"
            )
        return self._mapped[path]

    def will_need(self, path: str, start: int, size: int) -> None:
        if hasattr(mmap, "MADV_WILLNEED"):
            page = start % mmap.PAGESIZE
            self._maps[path].madvise(mmap.MADV_WILLNEED, start - page, size + page)

    def release(self, path: str, start: int, size: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._maps[path].madvise(mmap.MADV_DONTNEED, first, last - first)

    def read(self, path: str, start: int, stop: int) -> bytes:
        out = bytearray(stop - start)
        self.read_into(path, start, memoryview(out))
        return bytes(out)

    def read_into(self, path: str, start: int, out: memoryview) -> None:
        descriptor, done = self.open(path), 0
        while done < len(out):
            try:
                count = self._pread(descriptor, out[done:], start + done)
            except OSError as error:
                raise CorruptFileError(f"{self.folders[-1] / path} cannot be read: {error.strerror}") from error
            if not count:
                raise CorruptFileError(
                    f"{self.folders[-1] / path} ends at byte {start + done}, where rows were expected; "
                    "fetch the dataset again"
                )
            done += count

    if hasattr(os, "preadv"):

        def _pread(self, descriptor: int, out: memoryview, start: int) -> int:
            return os.preadv(descriptor, [out], start)

    else:

        def _pread(self, descriptor: int, out: memoryview, start: int) -> int:
            with self._lock:
                os.lseek(descriptor, start, os.SEEK_SET)
                data = os.read(descriptor, len(out))
            out[: len(data)] = data
            return len(data)

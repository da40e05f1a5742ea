"""The folder of the visitors' files: uploads, which each event deletes, and exports; removed when the server ends."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ..errors import BusyError
from ..store.locks import lock_folder

PREFIX = "w2w-explore-"
MOST_BYTES, MOST_ENTRIES = 2**30, 5_000  # in the folder, at once
NEW = 60  # seconds in which a folder may not be locked yet


def make_folder() -> tuple[Path, int | None]:
    """Make the folder, and remove those that killed servers left.

    Returns
    -------
    (Path, int or None)
        The folder, and the descriptor that locks it until it is closed.
    """
    _remove_left()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    return folder, lock_folder(folder, "another explorer")


def remove_folder(folder: Path, descriptor: int | None) -> None:
    """Remove the folder with everything in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if descriptor is not None:
        os.close(descriptor)


def _remove_left() -> None:
    """Remove the folders of this user whose servers ended without removing them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, BusyError):  # of another user, or in use
            found = folder.lstat()
            if found.st_mtime > time.time() - NEW or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
                continue
            descriptor = lock_folder(folder, "an explorer")
            if descriptor is not None:  # else nothing says whether it is in use
                remove_folder(folder, descriptor)


def is_full(folder: Path) -> bool:
    """Return whether so much lies in the folder that nothing more is taken."""
    size = count = 0
    for place, _, names in os.walk(folder):
        count += 1 + len(names)
        for name in names:
            with suppress(OSError):  # removed in between
                size += os.lstat(os.path.join(place, name)).st_size
        if size > MOST_BYTES or count > MOST_ENTRIES:
            return True
    return False

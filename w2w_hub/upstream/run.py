"""The working folder of an unfinished import, which a killed process leaves and the same call continues."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..common.text import few
from ..common.warn import warn_caller
from ..errors import AlreadyExistsError, InvalidInputError
from ..store.atomic import put_in_place, write_json
from ..store.locks import writer_lock
from ..store.manifest import read_json
from ..store.replacing import OwnFiles
from .torch_files import hash_file

PLAN, HASHES, PARTS, DONE = "plan.json", "hashes.json", "parts", "done.json"


def working_folder(out: Path) -> Path:
    """Return where the parts of an import are made before they become `out`."""
    out = Path(os.path.abspath(out))
    return out.with_name(f".{out.name}.w2w-import")


class Run:
    """An import in its working folder: its plan, digests of files that were read, and the parts in a folder of theirs.

    Parameters
    ----------
    plan : mapping
        Everything that decides the result, as JSON: files with size and time of change, and options. An unfinished
        import goes on only under the same plan.
    restart : bool
        Remove an unfinished import with another plan.

    Raises
    ------
    InvalidInputError
        If there is an unfinished import with another plan.
    AlreadyExistsError
        If the working folder's name is taken by something else.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any], *, restart: bool):
        self.out, self.work = Path(out), working_folder(out)
        self.folder = self.work / PARTS
        plan = json.loads(json.dumps(plan))
        if (self.work / DONE).is_file() and os.path.lexists(out):  # the parts may be those of the import it replaced
            shutil.rmtree(self.work)
        before = self._plan_of_before()
        changed = sorted(name for name in {*before, *plan} if before.get(name) != plan.get(name)) if before else []
        if changed and not restart and self.folder.exists():
            raise InvalidInputError(
                f"{out}: an unfinished import had other files or options ({few(changed)}); repeat its command, or "
                "start again with --force (overwrite=True)",
                path=self.work,
            )
        if changed:
            shutil.rmtree(self.work)
        elif self.folder.exists():
            warn_caller(f"{out}: continuing where an interrupted import stopped")
        write_json(self.work / PLAN, plan, replace=True)
        self.folder.mkdir(exist_ok=True)

    def _plan_of_before(self) -> dict[str, Any]:
        """Return the plan of an unfinished import; empty if there is none yet."""
        if not os.path.lexists(self.work):
            return {}
        if self.work.is_dir() and not self.work.is_symlink():
            if (self.work / PLAN).is_file():
                return read_json(self.work / PLAN)
            if all(name.startswith(f".{PLAN}.") for name in os.listdir(self.work)):
                return {}
        raise AlreadyExistsError(f"{self.work} is not an unfinished import; remove it", path=self.work)

    def hashes(self, files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        """Return sha256 and size of each file, which is also compared with its own checksums; each is read once."""
        where = self.work / HASHES
        found: dict[str, dict[str, Any]] = read_json(where) if where.is_file() else {}
        for name, path in files.items():
            if name not in found:
                found[name] = hash_file(path)
                write_json(where, found, replace=True)
        return found

    def discard_if_empty(self) -> None:
        """Remove the working folder if no part was begun, so that another file can take the place of a damaged one."""
        if not any(self.folder.iterdir()):
            shutil.rmtree(self.work, ignore_errors=True)

    def finish(self, *, overwrite: bool, own: OwnFiles) -> None:
        """Make the parts the output, in one step, without what killed writers left in them."""
        for left in sorted(self.folder.rglob(".*"), reverse=True):  # locks, and unfinished files and folders
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
        write_json(self.work / DONE, {}, replace=True)
        put_in_place(self.folder, self.out, overwrite=overwrite, own=own)
        shutil.rmtree(self.work, ignore_errors=True)  # and what was replaced


@contextmanager
def one_import(out: Path) -> Iterator[None]:
    """Hold the lock of an import to `out`.

    Raises
    ------
    BusyError
        If another process imports there.
    """
    folder = working_folder(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder.with_name(f"{folder.name}ing")):  # never a folder, so that all processes lock one file
        yield


__all__ = ["Run", "one_import", "working_folder"]

"""Results of long passes, kept beside the output until it is written, so that a killed build goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AlreadyExistsError, CorruptFileError
from ..files import read_json, read_safetensors, write_json

KEY = "build.json"


class Checkpoint:
    """A folder of named results that belong to one build; without a folder nothing is kept.

    A build between two passes is deterministic, so a resumed one gives the same bits as one that ran through.

    Parameters
    ----------
    key : object
        JSON that says which build; results of any other are thrown away.
    """

    def __init__(self, folder: Path | str | None, key: Any = None):
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        stated = {"key": hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            if not (self.folder / KEY).is_file():
                raise AlreadyExistsError(f"{self.folder} exists and is no unfinished build; choose another checkpoint")
            if read_json(self.folder / KEY) != stated:
                self.clear()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            write_json(self.folder / KEY, stated)

    @property
    def resumed(self) -> bool:
        return self.folder is not None and any(self.folder.glob("*.safetensors"))

    def has(self, name: str) -> bool:
        return self.folder is not None and (self.folder / f"{name}.safetensors").is_file()

    def remember(
        self, name: str, compute: Callable[[], dict[str, Any]], convert: Callable[[Any], np.ndarray] = np.asarray
    ) -> dict[str, Any]:
        """What `compute` gives; once it is done, what is on disk."""
        from safetensors.numpy import save_file

        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            try:
                return read_safetensors(path)[0]
            except CorruptFileError:  # a disk that was full
                path.unlink()
        found = compute()
        partial = path.with_suffix(".partial")
        save_file({key: np.ascontiguousarray(convert(value)) for key, value in found.items()}, partial)
        os.replace(partial, path)
        return found

    def clear(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

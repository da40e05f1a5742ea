"""Reading and writing files; see :mod:`w2w_hub.store`."""

from __future__ import annotations

from pathlib import Path

from .store.atomic import new_folder as new_folder
from .store.atomic import require_new as require_new
from .store.atomic import write_bytes as write_bytes
from .store.atomic import write_json as write_json
from .store.hashing import sha256_file as sha256_file
from .store.manifest import read_json as read_json
from .store.paths import walk
from .tensorfile import read_safetensors as read_safetensors


def list_files(folder: Path) -> list[str]:
    """Every regular file below a folder, as sorted POSIX paths relative to it."""
    return sorted(found.name for found in walk(folder) if found.is_file)

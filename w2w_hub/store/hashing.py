"""Digests of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from .paths import open_regular


def sha256_file(path: Path | str) -> str:
    """Return the sha256 of a regular file."""
    with open(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry_of(path: Path) -> dict[str, Any]:
    """Return a file's entry in a manifest's `files`."""
    return {"sha256": sha256_file(path), "size": os.stat(path).st_size}

"""Limits on what a stranger's file may ask of its reader, all in one place; README.md states them too."""

from __future__ import annotations

MIB, GIB = 2**20, 2**30

# names and manifests
MAX_NAME_BYTES = 1024  # of a relative path, in UTF-8
MAX_PART_BYTES = 255  # of one part of it: what file systems take
MAX_JSON_BYTES = 64 * MIB  # of a manifest, lock, point or directions.json; a dataset of 100,000 files has 15 MiB
MAX_FILES = 200_000  # listed by one manifest, or walked over in one folder
MAX_FOLDER_DEPTH = 32

# data that is decompressed or filled in: at most EXPANSION times the bytes on disk, and UNBACKED more
EXPANSION = 1000
UNBACKED = 64 * MIB
MAX_LABEL_BYTES = 4 * GIB  # of one split's labels in memory; 65,000 rows of 40 attributes have 30 MiB


def unpacked_limit(size: int) -> int:
    """Return the bytes that a file of `size` bytes may unpack to."""
    return EXPANSION * size + UNBACKED

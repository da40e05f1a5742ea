"""Limits on what a stranger's file may ask of its reader, all in one place; README.md states them too."""

from __future__ import annotations

MIB = 2**20

# names and manifests
MAX_NAME_BYTES = 1024  # of a relative path, in UTF-8
MAX_PART_BYTES = 255  # of one part of it: what file systems take
MAX_JSON_BYTES = 64 * MIB  # of a manifest, lock, point or directions.json; a dataset of 100,000 files has 15 MiB
MAX_JSON_VALUES = 5_000_000  # commas, colons and brackets in it, so values that parsing makes
MAX_CARD_BYTES = 4 * MIB  # of README.md
MAX_FILES = 200_000  # listed by one manifest, or walked over in one folder
MAX_FOLDER_DEPTH = 32

# data that is decompressed or filled in: at most EXPANSION times the bytes on disk, and UNBACKED more
EXPANSION = 1000
UNBACKED = 32 * MIB


def unpacked_limit(size: int) -> int:
    """Return the bytes that a file of `size` bytes may unpack to."""
    return EXPANSION * size + UNBACKED


# servers
READ_SECONDS = 30.0  # without a single byte, or until a connection is made
WINDOW_SECONDS = 60.0  # in which a server must bring SLOWEST * WINDOW_SECONDS bytes, its headers included
SLOWEST = 1024  # bytes per second
MAX_REDIRECTS = 5

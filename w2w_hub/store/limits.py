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


# checkpoint files
MAX_TENSORS = 100_000  # of one file; the largest adapter seen has 3,000
MAX_TENSOR_AXES = 8  # dimensions of one tensor
MAX_TENSOR_NAME = 1024  # characters of its name; parsed names are kept in bounded caches
MAX_TENSOR_BYTES = 16 * GIB  # of all tensors of one file; the largest adapters, of rank 256 for Flux, have 5 GB
MAX_HEADER_BYTES = 16 * MIB  # of a safetensors header; the largest seen, with a training log, has 5 MB
MAX_HEADER_VALUES = 1_500_000  # commas, colons and brackets in it, so values that parsing makes; 13 a tensor
MAX_CONFIG_BYTES = 4 * MIB  # of adapter_config.json, and of lora_adapter_metadata in a header
MAX_CONFIG_VALUES = 200_000  # counted likewise
MAX_ARCHIVE_INDEX_BYTES = 32 * MIB  # of a zip archive's directory (.npz, .pt): 100,000 entries have 15 MB
MAX_ARRAY_HEADER_BYTES = 10_000  # of one array of an .npz file, which is NumPy's own limit
MAX_PICKLE_BYTES = 4 * MIB  # of a torch archive's data.pkl; 3,000 tensors have 0.5 MB
MAX_PICKLE_STEPS = 200_000  # instructions in it; a tensor has 20
MAX_MODULE_NUMBERS = 2**28  # of one module's dense change: 1 GiB in float32, nine times the largest layer of SDXL
MAX_MODULE_WORK = 2**34  # multiplications to make one module's factors from a core tensor: a minute at most

# regular expressions in a checkpoint's configuration; plain module names are not matched as such
MAX_PATTERN_NAMES = 20_000  # keys of one rank_pattern or alpha_pattern
MAX_PATTERNS = 256  # of them regular expressions
MAX_PATTERN_CHARS = 1024  # of one, and of a module name that it is matched against
MAX_PATTERNS_CHARS = 32 * 1024  # of all of one table together
MAX_PATTERN_MEMORY = 256 * 1024  # bytes that RE2 may use for one
MAX_PATTERN_WORK = 2**28  # instructions times characters, over all modules: a few seconds

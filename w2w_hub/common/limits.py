"""Limits on untrusted files and servers; README.md states them, too."""

from __future__ import annotations

MIB, GIB = 2**20, 2**30

# names and manifests
MAX_NAME_BYTES = 1024  # of a relative path, in UTF-8
MAX_PART_BYTES = 255  # of one part of it: what file systems take
MAX_JSON_BYTES = 64 * MIB  # of a manifest, lock, point or directions.json; a dataset of 100,000 files has 15 MiB
MAX_JSON_VALUES = 5_000_000  # commas, colons and brackets in it, so values that parsing makes
MAX_CARD_BYTES = 4 * MIB  # of README.md
MAX_CARD_METADATA = 64 * 1024  # characters of its YAML front matter; a longer one is ignored
MAX_FILES = 200_000  # listed by one manifest, or walked over in one folder
MAX_FOLDER_DEPTH = 32
MAX_WITHDRAWALS = 200_000  # rows in withdrawn.json
MAX_WITHDRAWALS_BYTES = 40 * MIB  # of it; a row has 180 bytes

# decompressed or filled-in data: at most EXPANSION times the bytes on disk, plus UNBACKED
EXPANSION = 1000
UNBACKED = 32 * MIB


def unpacked_limit(size: int) -> int:
    """Return the bytes that a file of `size` bytes may unpack to."""
    return EXPANSION * size + UNBACKED


# layouts; real ones have some thousand modules and 10^9 numbers at most
MAX_MODULES = 100_000
MAX_SIZE = 2**31 - 1  # rank, inputs, outputs or an axis of a kernel
MAX_KERNEL = 3  # axes
MAX_NUMBERS = 2**40  # of a vector

# pictures
MAX_PICTURE_BYTES = 256 * MIB
MAX_PICTURE_PIXELS = 2**26  # 8,192 x 8,192

# encoders; the default one has 1 MB
MAX_ENCODER_BYTES = 256 * MIB
MAX_ENCODER_PIXELS = 2**16  # of the picture that its network takes, after averaging
MAX_ENCODER_WIDTH = 256  # channels after its first convolution, a quarter of those after its last

# checkpoint files
MAX_TENSORS = 100_000  # of one file; the largest adapter seen has 3,000
MAX_TENSOR_AXES = 8  # dimensions of one tensor
MAX_TENSOR_NAME = 1024  # characters of its name; parsed names are kept in bounded caches
MAX_TENSOR_BYTES = 16 * GIB  # of all tensors of one file; the largest adapters, of rank 256 for Flux, have 5 GB
MAX_HEADER_BYTES = 16 * MIB  # of a safetensors header; the largest seen, with a training log, has 5 MB
MAX_HEADER_VALUES = 1_500_000  # commas, colons and brackets in it, so values that parsing makes; 13 per tensor
MAX_CONFIG_BYTES = 4 * MIB  # of adapter_config.json, and of lora_adapter_metadata in a header
MAX_CONFIG_VALUES = 200_000  # counted in the same way
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

# servers
READ_SECONDS = 30.0  # without a single byte, or until a connection is made
WINDOW_SECONDS = 60.0  # in which a server must bring SLOWEST * WINDOW_SECONDS bytes, its headers included
SLOWEST = 1024  # bytes per second
MAX_REDIRECTS = 5

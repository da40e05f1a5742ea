"""The chunk and shard sizes of a matrix, and its Zarr metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import InvalidInputError, UnsupportedFormatError
from ..manifest import DTYPES
from .codecs import CODECS

GROUP = "weights.zarr"
ARRAY = f"{GROUP}/weights"

CHUNK_BYTES = 256 * 1024
SHARD_BYTES = 500 * 1000 * 1000
SMALL_SHARD_BYTES = SHARD_BYTES // 16
COMPRESSIONS = ("none", "bitshuffle")


@dataclass(frozen=True)
class Geometry:
    """Division of an ``(rows, width)`` matrix into chunks of whole rows, and into shards of whole chunks.

    Attributes
    ----------
    compressor : dict or None
        Zarr codec of the chunks: name and configuration.
    index_last, index_checked : bool
        The index of a shard is at its end, and has a CRC32C checksum.
    key : (str, str)
        Zarr's chunk key encoding: name and separator.
    """

    rows: int
    width: int
    dtype: str
    chunk_rows: int
    shard_rows: int
    compressor: dict[str, Any] | None = None
    index_last: bool = True
    index_checked: bool = True
    key: tuple[str, str] = ("default", "/")

    @property
    def row_bytes(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def chunks_per_shard(self) -> int:
        return self.shard_rows // self.chunk_rows

    @property
    def index_bytes(self) -> int:
        return 16 * self.chunks_per_shard + (4 if self.index_checked else 0)

    def shard_path(self, number: int) -> str:
        """Return the path of a shard, relative to the dataset."""
        kind, separator = self.key
        return f"{ARRAY}/" + separator.join((*(("c",) if kind == "default" else ()), str(number), "0"))

    def to_zarr(self) -> dict[str, Any]:
        """Return the array's ``zarr.json`` as zarr-python writes it."""
        plain = {"name": "bytes", "configuration": {"endian": "little"}}
        inner = [plain] if self.compressor is None else [plain, self.compressor]
        index = [plain, {"name": "crc32c"}] if self.index_checked else [plain]
        return {
            "shape": [self.rows, self.width],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.shard_rows, self.width]}},
            "chunk_key_encoding": {"name": self.key[0], "configuration": {"separator": self.key[1]}},
            "fill_value": 0.0,
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [self.chunk_rows, self.width],
                        "codecs": inner,
                        "index_codecs": index,
                        "index_location": "end" if self.index_last else "start",
                    },
                }
            ],
            "attributes": {},
            "dimension_names": ["row", "number"],
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    @classmethod
    def from_zarr(cls, data: Any) -> Geometry:
        """Read an array's ``zarr.json``.

        Raises
        ------
        UnsupportedFormatError
            If the array does not have shards of whole rows, or uses an unknown codec.
        """
        try:
            rows, width = data["shape"]
            shard_rows, shard_width = data["chunk_grid"]["configuration"]["chunk_shape"]
            (sharding,) = data["codecs"]
            inner = sharding["configuration"]
            chunk_rows, chunk_width = inner["chunk_shape"]
            if not all(type(n) is int for n in (rows, width, shard_rows, shard_width, chunk_rows, chunk_width)):
                raise TypeError("a length is not a whole number")
            plain, *compressors = inner["codecs"]
            index_plain, *index_checks = inner["index_codecs"]
            key = data["chunk_key_encoding"]
            separator = key.get("configuration", {}).get("separator", "/" if key["name"] == "default" else ".")
            known = (
                data["zarr_format"] == 3
                and data["node_type"] == "array"
                and data["data_type"] in DTYPES
                and data["fill_value"] == 0
                and data["chunk_grid"]["name"] == "regular"
                and sharding["name"] == "sharding_indexed"
                and shard_width == chunk_width == width
                and min(rows, width, chunk_rows, shard_rows) > 0
                and shard_rows % chunk_rows == 0
                and all(c["name"] == "bytes" and c["configuration"]["endian"] == "little" for c in (plain, index_plain))
                and [c["name"] for c in index_checks] in ([], ["crc32c"])
                and len(compressors) <= 1
                and all(c["name"] in CODECS for c in compressors)
                and key["name"] in ("default", "v2")
                and separator in ("/", ".")
                and inner.get("index_location", "end") in ("start", "end")
                and not data.get("storage_transformers")
                and not must_understand(data)
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UnsupportedFormatError(f"not a matrix of sharded whole rows ({error})") from error
        if not known:
            raise UnsupportedFormatError("not a matrix of sharded whole rows with known codecs")
        return cls(
            rows, width, data["data_type"], chunk_rows, shard_rows, compressors[0] if compressors else None,
            inner.get("index_location", "end") == "end", bool(index_checks), (key["name"], separator),
        )  # fmt: skip


def must_understand(data: dict[str, Any]) -> list[str]:
    """Return the unknown fields of an array's metadata that a reader must understand, see Zarr v3."""
    known = {
        "zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs",
        "attributes", "dimension_names", "storage_transformers", "consolidated_metadata",
    }  # fmt: skip
    return [
        name
        for name, value in data.items()
        if name not in known and not (isinstance(value, dict) and value.get("must_understand") is False)
    ]


def parse_size(size: int | str) -> int:
    """Parse a shard size such as ``500MB``, ``0.5 GB`` or ``64 MiB`` as a number of bytes."""
    if isinstance(size, int) and not isinstance(size, bool):
        number = float(size)
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", str(size), re.IGNORECASE)
        if not found:
            raise InvalidInputError(f"{size!r} is not a size; use for example 500MB or 64MiB")
        base = 1024 if found[3] else 1000
        number = float(found[1]) * base ** " KMGT".index(found[2].upper() or " ")
    if not 1 <= number <= SHARD_BYTES:
        raise InvalidInputError(f"a shard size of {size} is not possible; it must be more than 0 and at most 500MB")
    return int(number)


def plan_geometry(
    rows: int, width: int, dtype: str, shard_bytes: int = SHARD_BYTES, compression: str = "none"
) -> Geometry:
    """Return a geometry with chunks of about 256 KiB in shards of at most `shard_bytes`, for any number of rows."""
    if compression not in COMPRESSIONS:
        raise InvalidInputError(f"compression {compression!r} is not supported; choose {' or '.join(COMPRESSIONS)}")
    item = np.dtype(dtype).itemsize
    row_bytes = width * item
    chunk_rows = max(1, min(CHUNK_BYTES, shard_bytes) // row_bytes)
    bytes_per_chunk = chunk_rows * row_bytes + 16  # including its entry in the shard's index
    chunks = max(1, (shard_bytes - 4) // bytes_per_chunk)
    codec = None
    if compression == "bitshuffle":
        configuration = {"typesize": item, "cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0}
        codec = {"name": "blosc", "configuration": configuration}
    return Geometry(rows, width, dtype, chunk_rows, chunk_rows * chunks, codec)


def next_geometry(present: Geometry | None, rows: int, width: int, dtype: str) -> Geometry:
    """Return the geometry of a dataset's next state: the current one, unless it is unusual or has small shards."""
    if present is None or not (present.index_last and present.index_checked):
        return plan_geometry(rows, width, dtype)
    # the shards of a small dataset may be small too; a growing dataset would get thousands of them
    small = (
        present.shard_rows * present.row_bytes < SMALL_SHARD_BYTES and present.rows * present.row_bytes < SHARD_BYTES
    )
    if small and present.compressor is None:
        return plan_geometry(rows, width, dtype)
    return replace(present, rows=rows)

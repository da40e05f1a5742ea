"""Lossless compressors of chunks, which never decompress more bytes than a chunk has."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np


def _blosc(configuration: dict[str, Any]) -> Any:
    import numcodecs

    shuffles = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
    return numcodecs.Blosc(
        configuration["cname"], configuration["clevel"], shuffles[configuration["shuffle"]],
        configuration.get("blocksize", 0), configuration.get("typesize"),
    )  # fmt: skip


def _zstd(configuration: dict[str, Any]) -> Any:
    import numcodecs

    return numcodecs.Zstd(configuration.get("level", 0), configuration.get("checksum", False))


class _Gzip:
    """Zarr's gzip codec, which decompresses at most the size of the output."""

    def __init__(self, configuration: dict[str, Any]):
        self.level = configuration.get("level", 5)

    def encode(self, data: Any) -> bytes:
        return gzip.compress(bytes(data), self.level, mtime=0)

    def decode(self, data: bytes, out: Any) -> None:
        room = memoryview(out).cast("B")
        unpacker = zlib.decompressobj(wbits=31)
        plain = unpacker.decompress(data, len(room) + 1)
        if len(plain) != len(room) or not unpacker.eof:
            raise ValueError(f"it does not decompress to {len(room):,} bytes")
        room[:] = plain


CODECS: dict[str, Callable[[dict[str, Any]], Any]] = {"blosc": _blosc, "zstd": _zstd, "gzip": _Gzip}


def make_codec(codec: dict[str, Any]) -> Any:
    """Return the codec of a Zarr configuration, with the methods `encode` and `decode` of numcodecs."""
    return CODECS[codec["name"]](codec.get("configuration", {}))


def decompress(codec: dict[str, Any], data: bytes, out: np.ndarray) -> None:
    """Decompress a chunk into an array; raise `ValueError` first if their sizes differ."""
    require_unpacked_size(codec["name"], data, out.nbytes)
    make_codec(codec).decode(data, out)


def require_unpacked_size(name: str, data: bytes, size: int) -> None:
    """Raise `ValueError` unless a chunk decompresses to `size` bytes, without decompressing more than that."""
    stated: int | None = None
    if name == "blosc":  # 16 bytes: two versions, flags, type size; then bytes, block size and packed bytes
        if len(data) >= 16 and int.from_bytes(data[12:16], "little") == len(data):
            stated = int.from_bytes(data[4:8], "little")
    elif name == "zstd":
        stated = _zstd_size(data)
        if stated is None:  # a stream
            import pyarrow as pa

            stream = pa.CompressedInputStream(pa.BufferReader(data), "zstd")
            stated = len(stream.read(size + 1))
    else:
        return  # gzip states its size only at the end, and is decompressed into a bounded buffer
    if stated != size:
        raise ValueError(f"it states {'no size' if stated is None else f'{stated:,} bytes'}, a chunk has {size:,}")


def _zstd_size(data: bytes) -> int | None:
    """Return the content size in the header of a zstd frame, see RFC 8878 section 3.1.1; None if it has none."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("it is not a zstd frame")
    flag, single, dictionary = data[4] >> 6, data[4] >> 5 & 1, data[4] & 3
    start = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    width = (single, 2, 4, 8)[flag]
    field = data[start : start + width]
    return int.from_bytes(field, "little") + (256 if flag == 1 else 0) if width else None

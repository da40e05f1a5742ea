"""Read a matrix with any other Zarr layout through zarr-python, from the files that the manifest lists."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...common.limits import MAX_JSON_BYTES, unpacked_limit
from ...errors import CorruptFileError, UnsupportedFormatError, W2WError
from ..manifest import DTYPES, DatasetManifest
from .codecs import require_unpacked_size
from .geometry import ARRAY, GROUP, must_understand
from .matrix import Matrix

_BELOW = f"{GROUP}/"
_COMPRESSORS = ("blosc", "zstd", "gzip")


class ZarrMatrix(Matrix):
    """Reads rows through zarr-python, for arrays with any chunks and the codecs of FORMAT.md.

    Parameters
    ----------
    files : mapping of str to mapping
        The files in the manifest; no other file is read.
    find : callable
        Returns the path of a listed file.
    where : str
        The dataset's name in messages.
    """

    geometry = None

    def __init__(self, files: Mapping[str, Mapping[str, Any]], find: Callable[[str], Path], where: str):
        import zarr

        self.where = where
        try:
            name = f"{ARRAY}/zarr.json"
            path = find(name)
            if path.stat().st_size > MAX_JSON_BYTES:
                raise UnsupportedFormatError(f"{where}/{name} is too large for metadata")
            checked = _require_known(json.loads(path.read_bytes()), where)
            store = _listed_store(files, find, checked)
            self._array: Any = zarr.open_group(store, mode="r")["weights"]
            self.shape, self.dtype = tuple(self._array.shape), np.dtype(self._array.dtype)
        except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
            if isinstance(error, W2WError):
                raise
            raise CorruptFileError(
                f"{where}/weights.zarr cannot be opened ({error}); fetch the dataset again"
            ) from error

    def rows(self, numbers: np.ndarray | Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        wanted = np.asarray(numbers, np.int64)
        try:
            if not len(wanted):
                found = np.empty((0, self.shape[1]), self.dtype)
            elif (np.diff(wanted) == 1).all():
                found = np.asarray(self._array[int(wanted[0]) : int(wanted[-1]) + 1])
            else:
                found = np.asarray(self._array.oindex[wanted, :])
        except (RuntimeError, TypeError, ValueError, OSError, KeyError, EOFError) as error:
            if isinstance(error, W2WError):
                raise
            raise CorruptFileError(f"{self.where}/{ARRAY} cannot be read ({error}); fetch the dataset again") from error
        if out is None:
            return found
        out[:] = found
        return out


def require_backed(manifest: DatasetManifest, where: Path | str) -> None:
    """Raise `CorruptFileError` if a matrix's files are too small for it, since absent chunks would be zeros."""
    stored = _stored_bytes(manifest)
    stated = manifest.rows * manifest.layout.size * np.dtype(manifest.dtype).itemsize
    if stated > unpacked_limit(stored):
        raise CorruptFileError(
            f"{where}/weights.zarr has {stored:,} bytes for a matrix of {stated:,}; fetch the dataset again"
        )


def _stored_bytes(manifest: DatasetManifest) -> int:
    return sum(entry["size"] for name, entry in manifest.files.items() if name.startswith(_BELOW))


def require_shape(matrix: Matrix, manifest: DatasetManifest, where: Path | str) -> None:
    """Raise `CorruptFileError` unless a matrix has the shape and dtype that the manifest states."""
    if matrix.shape != (manifest.rows, manifest.layout.size) or matrix.dtype.name != manifest.dtype:
        raise CorruptFileError(
            f"{where}/weights.zarr is {matrix.dtype.name} {matrix.shape}, the manifest states "
            f"{manifest.dtype} ({manifest.rows}, {manifest.layout.size})"
        )
    g = matrix.geometry
    if g is not None and g.chunk_rows * g.row_bytes > unpacked_limit(_stored_bytes(manifest)):
        raise CorruptFileError(f"{where}/weights.zarr has chunks of {g.chunk_rows:,} rows, too large for its files")


def _require_known(data: Any, where: str) -> tuple[str, int] | None:
    """Return the compressor and the size of a chunk in bytes, None without compression; raise for unknown metadata."""
    try:
        shape, chunk = data["shape"], data["chunk_grid"]["configuration"]["chunk_shape"]
        key, codecs = data["chunk_key_encoding"], data["codecs"]
        separator = key.get("configuration", {}).get("separator", "/")
        item = np.dtype(data["data_type"]).itemsize if data["data_type"] in DTYPES else 0
        names = [codec["name"] for codec in codecs]
        sharded = names == ["sharding_indexed"]
        inner = codecs[0]["configuration"]["codecs"] if sharded else codecs
        plain, *more = [codec["name"] for codec in inner]
        unit = codecs[0]["configuration"]["chunk_shape"] if sharded else chunk
        known = (
            data["zarr_format"] == 3
            and data["node_type"] == "array"
            and len(shape) == len(chunk) == 2
            and len(unit) == 2
            and all(type(n) is int and 0 < n < 2**40 for n in (*shape, *chunk, *unit))
            and not must_understand(data)
            and data["chunk_grid"]["name"] == "regular"
            and item > 0
            and plain == "bytes"
            and (inner[0].get("configuration") or {}).get("endian", "little") == "little"
            and len(more) <= (0 if sharded else 1)
            and all(name in _COMPRESSORS for name in more)
            and key["name"] in ("default", "v2")
            and separator in ("/", ".")
            and not data.get("storage_transformers")
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CorruptFileError(f"{where}/{ARRAY}/zarr.json lacks or misstates {error}; fetch it again") from error
    if not known:
        raise UnsupportedFormatError(
            f"{where}/{ARRAY} has a layout that is not supported; write it in whole rows, see FORMAT.md"
        )
    if unit[0] * unit[1] > 4 * max(shape[0] * shape[1], 2**24):
        raise CorruptFileError(f"{where}/{ARRAY} has chunks of {unit[0]:,} x {unit[1]:,} numbers, too large for it")
    return (more[0], chunk[0] * chunk[1] * item) if more else None


def _listed_store(
    files: Mapping[str, Mapping[str, Any]], find: Callable[[str], Path], compressed: tuple[str, int] | None
) -> Any:
    """Return a read-only Zarr store of the listed files in ``weights.zarr/``."""
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

    class Listed(Store):
        supports_writes = supports_deletes = False
        supports_listing = True

        def __init__(self) -> None:
            super().__init__(read_only=True)

        def __eq__(self, other: object) -> bool:
            return self is other

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            import asyncio

            name = _BELOW + key
            if name not in files:
                return None
            data = await asyncio.to_thread(lambda: find(name).read_bytes())
            if len(data) != files[name]["size"]:
                raise CorruptFileError(f"{name} has {len(data)} bytes, the manifest lists {files[name]['size']}")
            if compressed and not key.endswith("zarr.json"):
                _require_chunk(name, data, *compressed)
            if isinstance(byte_range, RangeByteRequest):
                data = data[byte_range.start : byte_range.end]
            elif isinstance(byte_range, OffsetByteRequest):
                data = data[byte_range.offset :]
            elif isinstance(byte_range, SuffixByteRequest):
                data = data[-byte_range.suffix :]
            return prototype.buffer.from_bytes(data)

        async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
            return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

        async def exists(self, key: str) -> bool:
            return _BELOW + key in files

        async def set(self, key: str, value: Any) -> None:
            raise NotImplementedError

        async def delete(self, key: str) -> None:
            raise NotImplementedError

        def list(self) -> AsyncIterator[str]:
            return self.list_prefix("")

        async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
            for name in files:
                if name.startswith(_BELOW + prefix):
                    yield name.removeprefix(_BELOW)

        async def list_dir(self, prefix: str) -> AsyncIterator[str]:
            below = _BELOW + (f"{prefix.rstrip('/')}/" if prefix else "")
            for name in dict.fromkeys(n.removeprefix(below).split("/")[0] for n in files if n.startswith(below)):
                yield name

    return Listed()


def _require_chunk(name: str, data: bytes, codec: str, size: int) -> None:
    try:
        if codec == "gzip":
            unpacker = zlib.decompressobj(wbits=31)
            if len(unpacker.decompress(data, size + 1)) != size or not unpacker.eof or unpacker.unused_data:
                raise ValueError(f"it does not decompress to {size:,} bytes")
        else:
            require_unpacked_size(codec, data, size)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise CorruptFileError(f"{name} cannot be decompressed ({error}); fetch the dataset again") from error

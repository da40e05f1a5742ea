"""Sketches: a few numbers per row, by which a new adapter is compared with a dataset without its matrix.

A sketch is a random projection: number j of a row is multiplied by sign j and added to entry ``j mod 47``. Cosines of
sketches estimate those of rows; for 65,000 rows all sketches have 3 MB. `cards/FORMAT.md` specifies them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.text import counted, one_line
from ..errors import CorruptFileError, UnsupportedFormatError
from ..lora.layout import ParameterLayout
from ..store.tensorfile import read_header, read_tensors, safetensors_bytes
from .manifest import DatasetManifest

if TYPE_CHECKING:
    from .reader import DatasetReader

FILE = "sketches.safetensors"
FORMAT, FORMAT_VERSION = "w2w-sketches", "1"
WIDTH = 47  # entries of a sketch; a prime, so that no power of two in a layout falls into few of them
SIGN_TAG, ROWS_TAG = b"w2w-sketch-v1\n", b"w2w-sketches-v1\n"
SAMPLE = 256  # rows whose norms are published
MIN_CENTERED = 8  # with fewer rows, the mean is mostly the row itself
LARGE = 1_000_000  # bytes; the rows of a smaller matrix are fetched anyway when the dataset is opened
NEAR = 0.99
SAFETY = 8.0  # standard deviations of the estimate by which a near duplicate may be missed
ROUNDING = 0.01  # of the cosine of two sketches, by their 8 bits
BLOCK, COMPARED = 64, 128  # rows that are sketched, and sketches that are compared, at a time
OUTLIER, LEAST_SPREAD = 8.0, 0.1  # limit in robust standard deviations of a logarithm, and their smallest value


@lru_cache(maxsize=4)
def _signs(size: int) -> np.ndarray:
    """Return the signs of a row's numbers, float64 ``(size,)``: bit j of SHAKE-256 of the tag, 1 for minus."""
    stream = np.frombuffer(hashlib.shake_256(SIGN_TAG).digest(-(-size // 8)), np.uint8)
    signs: np.ndarray = 1 - 2 * np.unpackbits(stream, count=size, bitorder="little").astype(np.float64)
    return signs


def sketch(rows: np.ndarray) -> np.ndarray:
    """Return the sketches of rows ``(n, size)``, float64 ``(n, 47)``; it is linear in the rows."""
    n, size = rows.shape
    made, work = np.empty((n, WIDTH)), np.empty(size)
    for i, row in enumerate(rows):  # one in memory as float64
        made[i] = sketch_of_signed(signed(row, work))
    return made


def signed(row: np.ndarray, work: np.ndarray) -> np.ndarray:
    """Return a row ``(size,)`` times its signs in `work`, float64 ``(size,)``."""
    np.multiply(row, _signs(row.size), out=work)
    return work


def sketch_of_signed(row: np.ndarray) -> np.ndarray:
    """Return the sums of every 47th number of a row ``(size,)``, float64 ``(47,)``."""
    whole = row.size - row.size % WIDTH
    made: np.ndarray = row[:whole].reshape(-1, WIDTH).sum(axis=0)
    made[: row.size - whole] += row[whole:]
    return made


def quantized(sketches: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return sketches about a center as 8-bit numbers ``(n, 47)``, the largest of each 127; lengths are lost."""
    moved = sketches - center
    largest = np.abs(moved).max(1, initial=0.0)
    made: np.ndarray = np.rint(127 * moved / np.where(largest > 0, largest, 1)[:, None]).astype(np.int8)
    return made


def rows_digest(digests: Sequence[str]) -> str:
    """Return the sha256 by which sketches name the rows that they are of, in row order."""
    return hashlib.sha256(ROWS_TAG + "".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def norm_and_concentration(layout: ParameterLayout, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two numbers of each row's dW ``(n,)``: its norm, and its number of equally large singular directions.

    The norm is that of all modules together. The second number is (sum of s^2)^2 / sum of s^4 over the singular values
    of all modules (participation ratio): small if few modules or few directions hold all of dW. Both are float64, from
    r x r products, 0 for a row without any dW.
    """
    squares, fourths = np.zeros(len(rows)), np.zeros(len(rows))
    if layout.rank_one:
        starts = np.cumsum([0, *layout.factor_sizes[:-1]])
        for i, row in enumerate(rows):
            lengths = np.add.reduceat(np.square(row, dtype=np.float64), starts)
            each = lengths[0::2] * lengths[1::2]
            squares[i], fourths[i] = each.sum(), (each**2).sum()
    else:
        for a, b in layout.unflatten_batch(rows).values():
            wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
            inner = (wide_a @ wide_a.transpose(0, 2, 1)) @ (wide_b.transpose(0, 2, 1) @ wide_b)
            squares += np.trace(inner, axis1=1, axis2=2)
            fourths += np.einsum("nij,nji->n", inner, inner)
    return ratio_of(layout, squares, fourths)


def ratio_of(layout: ParameterLayout, squares: np.ndarray, fourths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return :func:`norm_and_concentration` of sums of s^2 and of s^4 over all singular values, without the scale."""
    squares, fourths = np.maximum(squares, 0), np.maximum(fourths, 0)
    ratio = np.divide(squares**2, fourths, out=np.zeros(len(squares)), where=fourths > 0)
    return layout.scale * np.sqrt(squares), ratio


def sample_of(digests: Sequence[str]) -> np.ndarray:
    """Return the row numbers of the sample: the rows with the smallest digests, in the order of digests."""
    return np.argsort(np.asarray(digests, dtype=str), kind="stable")[:SAMPLE]


@dataclass
class Sketches:
    """The sketches of a dataset's rows, and two numbers of the dW of a sample of them.

    Attributes
    ----------
    values : ndarray
        int8 ``(n, 47)``, in row order.
    center : ndarray
        float64 ``(47,)``: the sketch that was subtracted from each row's.
    centered_rows : int
        Number of rows whose mean the center is; 0 if it is zero.
    norm, concentration : ndarray
        float32 ``(at most 256,)``, see :func:`norm_and_concentration`.
    """

    values: np.ndarray
    center: np.ndarray = field(default_factory=lambda: np.zeros(WIDTH))
    centered_rows: int = 0
    norm: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    concentration: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def of_sketches(cls, raw: np.ndarray, norm: np.ndarray, concentration: np.ndarray) -> Sketches:
        """Quantize the sketches of all rows about their mean."""
        count = len(raw) if len(raw) >= MIN_CENTERED else 0
        center = raw.mean(0) if count else np.zeros(WIDTH)
        facts = norm.astype(np.float32), concentration.astype(np.float32)
        return cls(quantized(raw, center), center, count, *facts)

    # ------------------------------------------------------------- comparing
    @cached_property
    def units(self) -> np.ndarray:
        """The sketches with length 1, float32 ``(n, 47)``; zeros stay zeros."""
        return _units(self.values)

    def units_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the sketches of rows ``(n, size)`` about this center with length 1, float32 ``(n, 47)``."""
        return self.units_of_sketches(sketch(rows.astype(np.float32, copy=False)))

    def units_of_sketches(self, raw: np.ndarray) -> np.ndarray:
        """Return sketches ``(n, 47)`` about this center with length 1, float32."""
        return _units(quantized(raw, self.center))

    def outlier(self, what: str, value: float) -> tuple[float, float] | None:
        """Return the usual range of ``"norm"`` or ``"concentration"`` if a value is outside of it; else None.

        The range is that of the sample, or 8 robust standard deviations of its logarithm about the median if that is
        wider. Without at least 8 rows, nothing is an outlier.
        """
        low, high = self._ranges[what]
        return None if low <= value <= high else (low, high)

    @cached_property
    def _ranges(self) -> dict[str, tuple[float, float]]:
        return {name: _usual(np.asarray(getattr(self, name), np.float64)) for name in ("norm", "concentration")}

    # --------------------------------------------------------------- storing
    def to_bytes(self, digests: Sequence[str]) -> bytes:
        metadata = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "rows_sha256": rows_digest(digests),
            "centered_rows": str(self.centered_rows),
        }  # fmt: skip
        return safetensors_bytes(
            {"sketches": self.values, "center": self.center, "norm": self.norm, "concentration": self.concentration},
            metadata,
        )

    @classmethod
    def read(cls, path: Path, rows: int) -> tuple[Sketches, str]:
        """Read a file of sketches of this number of rows; return them and the digest of the rows that it names.

        Raises
        ------
        CorruptFileError
        UnsupportedFormatError
            For a later version.
        """
        header = read_header(path)
        told = header.metadata
        count, version = told.get("centered_rows", ""), told.get("format_version", "")
        if told.get("format") == FORMAT and version != FORMAT_VERSION and version.isdecimal():
            raise UnsupportedFormatError(
                f"{path} holds sketches of version {one_line(version, 20)}, which are not used: pip install -U w2w-hub",
                path=path,
            )
        if told.get("format") != FORMAT or version != FORMAT_VERSION or not count.isdecimal():
            raise CorruptFileError(f"{path} is not a file of sketches of version {FORMAT_VERSION}", path=path)
        shapes = {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()}
        few = shapes.get("norm", ("", ()))[1]
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {
            "sketches": ("I8", (rows, WIDTH)), "center": ("F64", (WIDTH,)), "norm": ("F32", few),
            "concentration": ("F32", few),
        }  # fmt: skip
        if shapes != wanted or len(few) != 1 or few[0] > SAMPLE:
            raise CorruptFileError(f"{path}: its tensors are not the sketches of {counted(rows, 'row')}", path=path)
        tensors = read_tensors(path, header)
        if not all(np.isfinite(tensors[name]).all() for name in ("center", "norm", "concentration")):
            raise CorruptFileError(f"{path} holds NaN or infinite values", path=path)
        made = cls(tensors["sketches"], tensors["center"], int(count), tensors["norm"], tensors["concentration"])
        return made, told.get("rows_sha256", "")


def near_units(units: np.ndarray, one: np.ndarray, size: int, cosine: float = NEAR) -> list[tuple[int, float]]:
    """Return the numbers of sketches ``(n, 47)`` whose rows may be near duplicates of that of one, the nearest first.

    Each comes with the estimate of the cosine of both rows about the mean. A near duplicate is missed only if the
    estimate is off by 8 standard deviations.

    Parameters
    ----------
    units, one : ndarray
        float32 ``(n, 47)`` and ``(47,)``, of length 1, see :meth:`Sketches.units_of`.
    size : int
        Numbers in a row.
    """
    found = units @ one
    there = np.flatnonzero(found >= _limit(size, cosine))
    return [(int(i), float(found[i])) for i in there[np.argsort(-found[there], kind="stable")]]


def nearest_units(
    units: np.ndarray, ones: np.ndarray, size: int, cosine: float = NEAR
) -> list[tuple[int, float] | None]:
    """Return the first result of :func:`near_units` for each of ``(m, 47)`` sketches; None where there is none."""
    limit, found = _limit(size, cosine), list[tuple[int, float] | None]()
    for start in range(0, len(ones), COMPARED):
        cosines = ones[start : start + COMPARED] @ units.T
        best = cosines.argmax(1)
        values = cosines[np.arange(len(best)), best]
        found += [(int(i), float(value)) if value >= limit else None for i, value in zip(best, values, strict=True)]
    return found


def _limit(size: int, cosine: float) -> float:
    """Return the smallest estimate of a cosine that may be a near duplicate's."""
    return cosine - ROUNDING - (SAFETY * (1 - cosine**2) / float(np.sqrt(WIDTH)) if size > WIDTH else 0.0)


def _units(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float32)
    lengths = np.sqrt((wide**2).sum(1))
    made: np.ndarray = wide / np.where(lengths > 0, lengths, 1)[:, None]
    return made


def _usual(sample: np.ndarray) -> tuple[float, float]:
    """Return the usual range of positive numbers, see :meth:`Sketches.outlier`; everything without enough of them."""
    if len(sample) < MIN_CENTERED or not (sample > 0).all():
        return -np.inf, np.inf
    logs = np.log(sample)
    middle = float(np.median(logs))
    reach = OUTLIER * max(1.4826 * float(np.median(np.abs(logs - middle))), LEAST_SPREAD)
    return float(np.exp(min(middle - reach, logs.min()))), float(np.exp(max(middle + reach, logs.max())))


def read_sketches(manifest: DatasetManifest, find: Callable[[str], Path], digests: Sequence[str]) -> Sketches | None:
    """Return the published sketches of a dataset's rows; None if it has none.

    Raises
    ------
    CorruptFileError
        If the file is damaged, or of other rows.
    """
    if FILE not in manifest.files:
        return None
    path = find(FILE)
    try:
        made, named = Sketches.read(path, manifest.rows)
    except UnsupportedFormatError:
        return None
    if named != rows_digest(digests):
        raise CorruptFileError(f"{path} holds the sketches of other rows; pack or change the dataset again", path=path)
    return made


def sketches_of(dataset: DatasetReader) -> Sketches | None:
    """Return the sketches of a dataset: published ones, or those of its rows if they are here; else None."""
    digests = dataset.labels["row_sha256"].tolist()
    published = read_sketches(dataset.manifest, dataset.find, digests)
    if published is not None:
        return published
    if dataset.matrix.is_lazy:
        return None
    raw = [sketch(block.astype(np.float32, copy=False)) for _, block in dataset.iter_blocks(BLOCK)]
    sample = dataset[sample_of(digests)].astype(np.float32, copy=False)
    return Sketches.of_sketches(np.concatenate(raw), *norm_and_concentration(dataset.layout, sample))


def is_large(rows: int, width: int, dtype: Any) -> bool:
    """Return whether a matrix is large enough for its sketches to be published."""
    return bool(rows * width * np.dtype(dtype).itemsize > LARGE)

"""The published initialization of a dataset: the adapter from which all of its rows were trained."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.limits import MAX_HEADER_BYTES
from ..dialects import read_adapter, write_adapter
from ..dialects.checkpoint import Checkpoint
from ..dialects.initialization import SAME_START
from ..dialects.reading import parse_checkpoint
from ..dialects.start_files import start_bytes
from ..errors import (
    CorruptFileError,
    InitializationError,
    InvalidInputError,
    LayoutMismatchError,
    UnsupportedFormatError,
)
from ..lora.adapter import Adapter
from ..lora.layout import ParameterLayout
from ..store.paths import read_regular
from .manifest import DatasetManifest

if TYPE_CHECKING:
    from .reader import DatasetReader

FILE, KOHYA_FILE = "initialisation.safetensors", "initialisation-kohya.safetensors"
FILES = (FILE, KOHYA_FILE)


def as_start(layout: ParameterLayout, start: Path | str | Adapter) -> np.ndarray:
    """Return an initialization as a vector of a layout, float32 ``(size,)``.

    Raises
    ------
    LayoutMismatchError
        If it has other modules, ranks or shapes.
    InitializationError
        If its A is zero, from which nothing can be trained.
    """
    adapter = start if isinstance(start, Adapter) else read_adapter(start)
    where = "the initialization" if isinstance(start, Adapter) else str(start)
    if found := layout.incompatibility(adapter):
        raise LayoutMismatchError(f"{where} does not fit the dataset's layout: {found}")
    vector = layout.flatten(adapter, where=where)
    if not a_part(layout, vector).any():
        raise InitializationError(f"{where} has no A other than zero, so that nothing can be trained from it")
    return vector


def name_of(vector: np.ndarray) -> str:
    """Return the name of an initialization that has no other: of the digest of its values, as `w2w train` names it."""
    return f"start-{hashlib.sha256(np.ascontiguousarray(vector, '<f4').tobytes()).hexdigest()[:12]}"


def a_part(layout: ParameterLayout, rows: np.ndarray) -> np.ndarray:
    """Return the A factors of rows ``(..., size)`` in layout order, ``(..., numbers in A)``."""
    parts = [rows[..., slot.offset : slot.b_offset] for slot in layout.slots]
    return np.concatenate(parts, axis=-1)


def a_mask(layout: ParameterLayout) -> np.ndarray:
    """Return 1 at the numbers of A and 0 at those of B, float64 ``(size,)``."""
    made = np.zeros(layout.size)
    for slot in layout.slots:
        made[slot.offset : slot.b_offset] = 1
    return made


def start_cosines(layout: ParameterLayout, start: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the cosines of the A factors of rows ``(n, size)`` and of an initialization, float64 ``(n,)``; 0 for none.

    Training changes A little: it stays above 0.3, while that of two random initializations is near 0.
    """
    starts = np.cumsum([0, *layout.factor_sizes[:-1]])
    wanted = start * a_mask(layout)
    length = float(np.sqrt(np.sum(wanted**2)))
    made, product = np.zeros(len(rows)), np.empty(layout.size)
    for i, row in enumerate(rows):
        of_factors = np.add.reduceat(np.square(row, out=product, dtype=np.float64), starts)
        size = length * float(np.sqrt(of_factors[0::2].sum()))
        made[i] = np.sum(np.multiply(row, wanted, out=product)) / size if size else 0.0
    return made


def initialization_files(layout: ParameterLayout, vector: np.ndarray) -> dict[str, bytes]:
    """Return the files that publish an initialization: in PEFT's spelling, and in kohya's if that has the modules."""
    adapter = layout.unflatten(vector)
    made = {FILE: start_bytes(adapter)}
    with tempfile.TemporaryDirectory() as folder, suppress(InvalidInputError):
        write_adapter(adapter, Path(folder) / "start", ("kohya",))
        made[KOHYA_FILE] = next((Path(folder) / "start").iterdir()).read_bytes()
    return made


def read_initialization(manifest: DatasetManifest, find: Callable[[str], Path]) -> np.ndarray | None:
    """Return the published initialization as a vector ``(size,)``, float32; None if there is none.

    Raises
    ------
    CorruptFileError
        If it does not fit the dataset's layout.
    """
    if FILE not in manifest.files:
        return None
    path = find(FILE)
    try:
        # in the Hub's cache the file has no suffix by which `read_adapter` would know it
        data = read_regular(path, MAX_HEADER_BYTES + 8 * manifest.layout.size)
        return as_start(manifest.layout, parse_checkpoint(Checkpoint.from_bytes(data, str(path))))
    except (LayoutMismatchError, InitializationError, UnsupportedFormatError) as error:
        raise CorruptFileError(f"{path}: {error}", path=path) from error


def initialization_of(dataset: DatasetReader) -> np.ndarray | None:
    """Return the published initialization of a dataset as a vector ``(size,)``, float32; None if there is none."""
    return read_initialization(dataset.manifest, dataset.find)


__all__ = [
    "FILE",
    "FILES",
    "KOHYA_FILE",
    "SAME_START",
    "a_mask",
    "a_part",
    "as_start",
    "initialization_files",
    "initialization_of",
    "name_of",
    "read_initialization",
    "start_cosines",
]

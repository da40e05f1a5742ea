"""Points as small files: JSON for people, safetensors for long ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import checked
from ..errors import CorruptFileError, InvalidInputError, UnsupportedFormatError
from ..files import read_json, read_safetensors, write_bytes, write_json
from .space import Point

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FORMAT, FORMAT_VERSION = "w2w-point", 1
SUFFIXES = (".json", ".safetensors")


@checked()
def save_point(point: Point, path: Path | str) -> None:
    """Write a point as a new JSON or safetensors file, by the path's suffix.

    Raises
    ------
    InvalidInputError
        For another suffix.
    AlreadyExistsError
    """
    path = Path(path)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "basis_digest": point.basis_digest}
    if path.suffix == ".json":
        coefficients = [float(c) for c in point.coefficients]
        write_json(path, {**head, "history": dict(point.history), "coefficients": coefficients})
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save

        metadata = {k: str(v) for k, v in head.items()} | {"history": json.dumps(dict(point.history))}
        write_bytes(path, save({"coefficients": np.ascontiguousarray(point.coefficients, np.float32)}, metadata))
    else:
        raise InvalidInputError(f"{path}: a point is written as {' or '.join(SUFFIXES)}; choose one of these names")


@checked()
def is_point(path: Path | str) -> bool:
    """Whether a file says that it is a saved point (of whatever version)."""
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    return path.suffix == ".json" or read_safetensors(path)[1].get("format") == FORMAT


@checked()
def load_point(path: Path | str) -> Point:
    """Read what :func:`save_point` wrote.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError, InvalidInputError
    """
    path = Path(path)
    data: Mapping[str, Any]
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        data = {**metadata, **tensors}
    else:
        data = read_json(path)
    if data.get("format") != FORMAT:
        raise UnsupportedFormatError(f"{path} is not a saved point (format {data.get('format')!r})")
    try:
        version = int(data.get("format_version", FORMAT_VERSION))
        history = data.get("history", {})
        history = json.loads(history) if isinstance(history, str) else dict(history)
        coefficients = np.asarray(data["coefficients"], np.float32)
        point = Point(coefficients, str(data["basis_digest"]), history)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{path} lacks or misstates {error}") from error
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{path} has format version {version}, this w2w-hub reads up to {FORMAT_VERSION}; "
            "run: pip install --upgrade w2w-hub"
        )
    if coefficients.ndim != 1 or not len(coefficients) or not np.isfinite(coefficients).all():
        raise InvalidInputError(f"{path}: coefficients must be finite numbers in one list")
    return point

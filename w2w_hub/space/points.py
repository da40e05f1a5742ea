"""Points as small files: JSON for people, safetensors for long ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..common.arguments import checked
from ..errors import CorruptFileError, InvalidInputError
from ..store.atomic import write_bytes, write_json
from ..store.manifest import POINT, parse_json, read_json, upgraded
from ..store.tensorfile import read_safetensors
from .weight_space import Point

FORMAT, FORMAT_VERSION = POINT, 1
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
    _require_coefficients(np.asarray(point.coefficients), path)
    try:
        history = json.dumps(dict(point.history), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{path}: the point's history cannot be written as JSON ({error})") from error
    if path.suffix == ".json":
        coefficients = [float(c) for c in point.coefficients]
        write_json(path, {**head, "history": json.loads(history), "coefficients": coefficients})
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save

        metadata = {k: str(v) for k, v in head.items()} | {"history": history}
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
    data: dict[str, Any]
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        data = {**metadata, **tensors}
        version, history = metadata.get("format_version", "1"), metadata.get("history", "{}")
        data["format_version"] = (
            int(version) if version.isascii() and version.isdigit() and len(version) < 9 else version
        )
        data["history"] = parse_json(history.encode("utf-8", "surrogatepass"), f"{path}: history")
    else:
        data = {"format_version": FORMAT_VERSION, **read_json(path)}
    data = upgraded(data, path, FORMAT)
    try:
        coefficients = np.asarray(data["coefficients"], np.float32)
        history, digest = data.get("history", {}), data["basis_digest"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptFileError(f"{path} lacks or misstates {error}") from error
    if not isinstance(history, dict) or not isinstance(digest, str):
        raise CorruptFileError(f"{path} lacks or misstates 'history' or 'basis_digest'")
    _require_coefficients(coefficients, path)
    return Point(coefficients, digest, history)


def _require_coefficients(coefficients: np.ndarray, path: Path) -> None:
    if coefficients.ndim != 1 or not len(coefficients) or not np.isfinite(coefficients).all():
        raise InvalidInputError(f"{path}: coefficients must be finite numbers in one list")

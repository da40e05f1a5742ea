"""Points: identities in the coordinates of a weight space, in memory and as JSON or safetensors files."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.arguments import checked
from ..common.constraints import as_array, number, optional, text
from ..common.display import Displayed
from ..common.equality import ByValue
from ..errors import CorruptFileError, InvalidInputError, W2WError
from ..store.atomic import write_bytes, write_json
from ..store.manifest import POINT, parse_json, read_json, upgraded
from ..store.replacing import files_accepted
from ..store.tensorfile import read_header, read_safetensors
from .notes import describe_history

FORMAT, FORMAT_VERSION = POINT, 1
SUFFIXES = (".json", ".safetensors")


@dataclass(frozen=True, eq=False, repr=False)
class Point(ByValue, Displayed):
    """Coefficients in one basis; two points are equal if their coefficients and bases are.

    The point of a dataset's row is the projection of its weights on the principal components. Edits and samples are
    points, too.

    Attributes
    ----------
    coefficients : ndarray
        float32 ``(<= k,)`` along the principal components; those that are left out are 0.
    basis_digest : str
        Digest of the coordinates that the coefficients belong to.
    history : dict
        Record of how it was made (row, seed, edits, inversion loss), as plain JSON values; a number that is not finite
        is kept as None.
    explained_ratio : float or None
        Of a row's or an adapter's point, the fraction (0 to 1) of the variance of its weights that the point keeps.

    Raises
    ------
    InvalidInputError
        If the coefficients are not a vector of finite numbers, or the history has values that JSON cannot represent.
    """

    coefficients: np.ndarray
    basis_digest: str
    history: Mapping[str, Any] = field(default_factory=dict, compare=False)
    explained_ratio: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        coefficients = as_array(self.coefficients, "coefficients")
        if coefficients.ndim != 1 or not len(coefficients):
            raise InvalidInputError(f"coefficients must be a vector, got shape {coefficients.shape}")
        with np.errstate(over="ignore"):
            coefficients = coefficients.astype(np.float32, copy=False)
        if not np.isfinite(coefficients).all():
            raise InvalidInputError("coefficients contain NaN or infinite values")
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "basis_digest", text().checked(self.basis_digest, "the basis digest of a point"))
        if not isinstance(self.history, Mapping):
            raise InvalidInputError(f"a point's history must be a mapping, not {reprlib.repr(self.history)}")
        object.__setattr__(self, "history", _plain(self.history, "history"))
        ratio = optional(number(0, 1)).checked(self.explained_ratio, "the explained_ratio of a point")
        object.__setattr__(self, "explained_ratio", ratio)

    def _facts(self) -> Mapping[str, object]:
        return {
            "": describe_history(self.history, self.explained_ratio),
            "coefficients": len(self.coefficients),
            "weight space": self.basis_digest[:12],
        }

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write the point as a JSON or safetensors file, by the path's suffix, and return the path.

        Raises
        ------
        InvalidInputError
            For another suffix.
        AlreadyExistsError
            If the file is there and `overwrite` is False.

        Examples
        --------
        >>> space.edit("person-0010", {"Full_Beard": 4.5}).save("bearded.json")   # doctest: +SKIP
        >>> pipe.identity = Point.load("bearded.json")                            # doctest: +SKIP
        """
        return save_point(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> Point:
        """Read a saved point.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError, InvalidInputError
        """
        return load_point(path)


def _plain(value: Any, where: str) -> Any:
    """Return a value as plain JSON, NumPy's scalars and arrays as Python's."""
    if isinstance(value, Mapping):
        return {text().checked(k, f"a key of {where}"): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v, where) for v in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise InvalidInputError(f"a point's {where} must be plain JSON, not {reprlib.repr(value)}")


@checked()
def save_point(point: Point, path: Path | str, *, overwrite: bool = False) -> Path:
    """Write a point as a JSON or safetensors file, by the path's suffix, and return the path.

    Parameters
    ----------
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    InvalidInputError
        For another suffix.
    AlreadyExistsError
        If the file is there and `overwrite` is False.
    """
    path = require_suffix(path)
    head: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "basis_digest": point.basis_digest}
    if point.explained_ratio is not None:
        head["explained_ratio"] = round(point.explained_ratio, 6)
    _require_coefficients(np.asarray(point.coefficients), path)
    try:
        history = json.dumps(dict(point.history), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{path}: the point's history cannot be written as JSON ({error})", path=path
        ) from error
    if path.suffix == ".json":
        coefficients = [float(c) for c in point.coefficients]
        value = {**head, "history": json.loads(history), "coefficients": coefficients}
        write_json(path, value, replace=overwrite)
    else:
        from safetensors.numpy import save

        metadata = {k: str(v) for k, v in head.items()} | {"history": history}
        data = save({"coefficients": np.ascontiguousarray(point.coefficients, np.float32)}, metadata)
        write_bytes(path, data, replace=overwrite)
    return path


@checked()
def require_suffix(path: Path | str) -> Path:
    """Return the path of a point to be saved.

    Raises
    ------
    InvalidInputError
        If its suffix is not that of a saved point.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InvalidInputError(
            f"{path}: a point is saved as {' or '.join(SUFFIXES)}; choose one of these suffixes", path=path
        )
    return path


@checked()
def is_point(path: Path | str) -> bool:
    """Return whether a file is a saved point, of any version."""
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    return path.suffix == ".json" or read_header(path).metadata.get("format") == FORMAT


@checked()
def load_point(path: Path | str) -> Point:
    """Read a point that :func:`save_point` wrote.

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
    except KeyError as error:
        raise CorruptFileError(f"{path} has no {error}; fetch it again", path=path) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptFileError(f"{path} has coefficients that are not numbers; fetch it again", path=path) from error
    if not isinstance(history, dict) or not isinstance(digest, str):
        raise CorruptFileError(f"{path} has no valid 'history' or no valid 'basis_digest'", path=path)
    _require_coefficients(coefficients, path)
    return Point(coefficients, digest, history, _stated_ratio(data.get("explained_ratio")))


def _stated_ratio(value: Any) -> float | None:
    """Return the fraction that a file states, a number or in safetensors its text; None if it is none."""
    with suppress(TypeError, ValueError, OverflowError):
        ratio = float(value)
        return ratio if 0 <= ratio <= 1 else None
    return None


def _require_coefficients(coefficients: np.ndarray, path: Path) -> None:
    if coefficients.ndim != 1 or not len(coefficients) or not np.isfinite(coefficients).all():
        raise InvalidInputError(f"{path}: coefficients must be a vector of finite numbers", path=path)


def _loads(path: Path) -> bool:
    try:
        load_point(path)
    except W2WError:
        return False
    return True


POINT_FILES = files_accepted(lambda path: path.suffix in SUFFIXES and _loads(path))
"""The saved points in a folder, see :mod:`w2w_hub.store.replacing`."""

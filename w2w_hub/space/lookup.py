"""Finds the point that a row's id, a path, an adapter, weights or coefficients stand for in a weight space."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ..common.constraints import as_array
from ..common.text import counted, nearest
from ..common.warn import warn_caller
from ..dialects import read_adapter
from ..errors import BaseModelMismatchError, InvalidInputError, LayoutMismatchError, UnknownNameError
from ..lora.adapter import Adapter
from ..store.manifest import POINT, stated_format
from ..store.paths import missing
from .contents import SpaceContents
from .points import SUFFIXES, Point, is_point, load_point
from .population import Population, as_coefficients, require_near
from .withdrawn import file_notice, withdrawn_row_of

if TYPE_CHECKING:
    from ..dataset import WeightDataset


class HasPoint(Protocol):
    """An inversion, an identity, or whatever else was made with a point."""

    @property
    def point(self) -> Point: ...


PointLike: TypeAlias = np.ndarray | Point | HasPoint | Adapter | str | Path
WAYS = (
    "coefficients, a Point, a row's id, an adapter, the weights of one (people['person-0001']), or the path of an "
    "adapter or a saved point"
)


def find(space: SpaceContents, what: Any, *, several: bool = False) -> tuple[Point | np.ndarray, np.ndarray | None]:
    """Return the point or coefficients that something stands for, and its own weights where it has more than those.

    Parameters
    ----------
    what
        A row's id: its point in the space, without own weights. An adapter, the path of one, or weights ``(d,)`` such
        as a row that was read from its dataset: the projection, and float32 ``(d,)`` as own weights. A
        :class:`Point`, the path of a saved one, whatever has a `point` (an inversion, an identity), or coefficients
        ``(<= k,)``.
    several : bool
        Take a matrix of coefficients ``(n, <= k)``, too.

    Raises
    ------
    UnknownNameError
        For a string that is neither a row nor a path.
    InvalidInputError, LayoutMismatchError
        For coefficients that are not numbers or too many, and for a point or adapter of another space.
    """
    if isinstance(what, str) and space.population is not None and what in space.population:
        return space.row(what), None
    if isinstance(what, (str, Path)):
        what = _opened(space, what)
    if isinstance(what, Adapter):
        what.require_finite("this adapter")
        return _projected(space, what)
    inner = getattr(what, "point", None)
    what = inner if isinstance(inner, Point) else what
    if isinstance(what, Point):
        _require_own(space, what)
        return what, None
    values = _numbers(what)
    if values.ndim == 1 and space.k < len(values) == space.layout.size:
        return _projected(space, values)
    if values.ndim == 1 and len(values) > space.k:
        raise InvalidInputError(
            f"{len(values):,} numbers are neither coefficients, of which this weight space has {space.k:,}, nor the "
            f"{space.layout.size:,} weights of an adapter"
        )
    found = as_coefficients(values, space.k, several=several)
    require_near(space.spread, found)
    return found, None


def find_point(space: SpaceContents, what: Any) -> tuple[Point, np.ndarray | None]:
    """Return what :func:`find` does, coefficients as a point."""
    found, weights = find(space, what)
    return found if isinstance(found, Point) else space.point(found), weights


def is_row(what: str, space: SpaceContents, dataset: WeightDataset) -> bool:
    """Return whether a name is the id of a row of the dataset or of the space's population."""
    return what in dataset.labels.index or (space.population is not None and what in space.population)


def find_own_row(space: SpaceContents, dataset: WeightDataset, row_id: str) -> tuple[Point, np.ndarray]:
    """Return a row's point and its own weights, read from its dataset.

    Raises
    ------
    UnknownNameError
        If the dataset does not have the row.
    LayoutMismatchError, BaseModelMismatchError
        If the dataset is not of the space's layout and base model.
    """
    if dataset.layout != space.layout:
        raise LayoutMismatchError(
            f"{dataset.path} does not fit the layout of space {space.name}: {space.layout.differences(dataset.layout)}"
        )
    theirs, ours = dataset.manifest.compatibility.base_digest, space.compatibility.base_digest
    if theirs is not None and ours is not None and theirs != ours:
        raise BaseModelMismatchError(
            f"the rows of {dataset.path} were trained on the base model {theirs[:12]}, the weight space {space.name} "
            f"is for {ours[:12]}; give the dataset that it was built from"
        )
    return _projected(space, dataset[row_id], row=row_id)


def _require_own(space: SpaceContents, point: Point) -> None:
    if point.basis_digest != space.digest:
        raise LayoutMismatchError(
            f"this point belongs to the weight space {point.basis_digest[:12]}, not to {space.digest[:12]}; "
            "open that one, or write the point as a LoRA with it (w2w export) and give the LoRA"
        )
    require_near(space.spread, as_coefficients(point.coefficients, space.k))


def _projected(space: SpaceContents, what: Adapter | np.ndarray, **made: Any) -> tuple[Point, np.ndarray]:
    """Return the projection of an adapter or of its weights, which records the fraction of them that it keeps."""
    weights = space.coordinates.represent(what).astype(np.float32, copy=False)
    coefficients, kept = space.coordinates.project_with_ratio(weights)
    return space.point_with(coefficients, made or {"made": "projection"}, kept), weights


def _numbers(what: Any) -> np.ndarray:
    try:
        values = as_array(what, "coefficients")
    except InvalidInputError:
        values = None
    if values is None or values.ndim == 0:
        raise InvalidInputError(f"{reprlib.repr(what)} is not an identity; give {WAYS}")
    return values


# ---------------------------------------------------------------- names and paths
def _opened(space: SpaceContents, what: str | Path) -> Point | Adapter:
    """Return the saved point or the adapter at a path."""
    path = Path(what)
    if not _is_there(what):
        if path.suffix in SUFFIXES:
            raise missing(path)
        if isinstance(what, Path) and space.population is not None and str(what) in space.population:
            raise UnknownNameError(f"{path} does not exist; a row's id is given as text: {str(what)!r}")
        raise UnknownNameError(
            f"{str(what)!r} is neither {_rows(space.population, str(what))}, nor a saved point, nor an adapter"
        )
    if is_point(path):
        return load_point(path)
    points = sorted(path.glob("*.json")) if path.is_dir() else []
    if points and all(stated_format(file) == POINT for file in points):
        raise InvalidInputError(
            f"{path} is a folder of {counted(len(points), 'saved point')}; give its files, such as {points[0]}",
            path=path,
        )
    adapter = read_adapter(path)
    if gone := withdrawn_row_of(adapter.metadata):
        warn_caller(f"{path}: {file_notice(gone)}")
    incompatibility = space.layout.incompatibility(adapter)
    if incompatibility:
        raise LayoutMismatchError(f"{path} does not fit the layout of space {space.name}: {incompatibility}")
    return adapter


def _is_there(what: str | Path) -> bool:
    try:
        return bool(str(what)) and Path(what).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _rows(population: Population | None, name: str) -> str:
    """Describe the rows that a name could have meant, for an error."""
    if population is None:
        return "a row (this weight space was published without its population)"
    close = nearest(name, population.ids)
    hint = f"similar: {', '.join(close)}" if close else f"they look like {', '.join(population.ids[:3])}"
    return f"a row of this weight space ({hint})"

"""Import single people that were saved with weights2weights: points, and adapters for diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..common.arguments import SPACE, checked
from ..common.constraints import path as path_rule
from ..common.text import counted
from ..dialects import read_adapter
from ..dialects.checkpoint import CONFIG
from ..errors import CorruptFileError, InvalidInputError, LayoutMismatchError
from ..lora.adapter import Adapter
from ..lora.layout import ParameterLayout
from ..space.points import Point
from ..space.weight_space import WeightSpace
from ..store.paths import has_file
from .published import ALPHA, LICENSE, PROJECT, REPOSITORY
from .space import COLUMNS_AT_ONCE, Sources
from .torch_files import StoredTensor, open_file


@checked(path=path_rule(), space=SPACE)
def import_point(path: Path | str, space: WeightSpace) -> Point:
    """Read a point that was saved with weights2weights (``w2wmodel.pt``) as a point of the imported weight space.

    Parameters
    ----------
    path : path
        A file with a tensor ``(1, m)`` or ``(m,)``: coefficients along the published components.
    space : WeightSpace
        A weight space that :func:`import_w2w` made, with at least m components. Components whose sign was flipped
        flip the coefficients, too.

    Raises
    ------
    InvalidInputError
        If the space was not imported, or has fewer components.
    CorruptFileError, UnsupportedFormatError, MissingPathError

    Examples
    --------
    >>> space = WeightSpace.from_pretrained("imported/space")                          # doctest: +SKIP
    >>> import_point("w2wmodel.pt", space).save("person.json")                         # doctest: +SKIP
    """
    path = Path(path)
    coefficients = read_coefficients(path)
    if coefficients is None:
        raise CorruptFileError(f"{path} holds no coefficients of one person (1, k); fetch it again", path=path)
    return point_of(coefficients, path, space.recipe, space.k, space.digest)


def read_coefficients(path: Path) -> np.ndarray | None:
    """Return the coefficients in a file, float32 ``(m,)``; None if it holds something else that is harmless."""
    value = open_file(path)
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, StoredTensor) or value.dtype.kind != "f":
        return None
    if len(value.shape) > 2 or (len(value.shape) == 2 and value.shape[0] != 1) or not value.shape:
        return None
    found = value[...].reshape(-1).astype(np.float32)
    if not np.isfinite(found).all():
        raise CorruptFileError(f"{path} has coefficients that are NaN or infinite; fetch it again", path=path)
    return found


def point_of(coefficients: np.ndarray, path: Path, recipe: Mapping[str, Any], k: int, digest: str) -> Point:
    """Return published coefficients as a point of the weight space with this recipe."""
    published = recipe.get("as_published")
    flipped = published.get("flipped") if isinstance(published, Mapping) else None
    if not isinstance(flipped, list):
        raise InvalidInputError(
            f"{path} has coefficients along the components that {PROJECT} published, and this weight space was not "
            "imported from there; import it: w2w import-w2w FOLDER --out DIR",
            path=path,
        )
    if len(coefficients) > k:
        raise InvalidInputError(
            f"{path} has {counted(len(coefficients), 'coefficient')}, and the weight space {k:,} components; put it "
            "beside V.pt and import the folder, which makes an adapter of it",
            path=path,
        )
    signs = np.ones(k, np.float32)
    signs[[each for each in flipped if isinstance(each, int) and 0 <= each < k]] = -1
    return Point(
        coefficients * signs[: len(coefficients)], digest, {"made": "import", "file": path.name, "license": LICENSE}
    )


def decode_published(coefficients: np.ndarray, sources: Sources, layout: ParameterLayout, base_model: str) -> Adapter:
    """Return the adapter of coefficients along the first published components, as they were published."""
    count, d = len(coefficients), layout.size
    vector = np.empty(d, np.float32)
    for start in range(0, d, COLUMNS_AT_ONCE):
        part = sources.basis[start : start + COLUMNS_AT_ONCE, :count].astype(np.float64)
        vector[start : start + COLUMNS_AT_ONCE] = part @ coefficients.astype(np.float64)
    return _licensed(layout.unflatten(vector * sources.std + sources.mean, base_model=base_model))


def _licensed(adapter: Adapter) -> Adapter:
    """Return an adapter whose files say where it is from, and under which license."""
    return replace(adapter, metadata={**adapter.metadata, "w2w.source": REPOSITORY, "w2w.license": LICENSE})


def read_saved_adapter(path: Path, layout: ParameterLayout | None) -> Adapter:
    """Return an adapter that weights2weights saved for diffusers, whose keys name the adapter ``identity1``.

    Parameters
    ----------
    path : Path
        The file ``adapter_model.safetensors``. Without a configuration beside it, alpha is the published one.
    layout : ParameterLayout, optional
        What the adapter's modules must be.

    Raises
    ------
    LayoutMismatchError
        If its modules are others.
    """
    adapter = read_adapter(path, alpha=None if has_file(path.parent, CONFIG) else ALPHA)
    if layout is not None and (why := layout.incompatibility(adapter)):
        raise LayoutMismatchError(f"{path} does not fit the published layout: {why}", path=path)
    return _licensed(adapter)

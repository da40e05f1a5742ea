"""Weight spaces as they are published without their population or its model."""

from __future__ import annotations

from pathlib import Path

from ..common.limits import MAX_CARD_BYTES
from ..errors import InvalidInputError
from ..space import WeightSpace
from ..space.resaving import resave_without
from ..store.atomic import write_bytes
from ..store.hub.source import Source
from ..store.manifest import CARD, kind_of
from ..store.paths import read_file
from .card import is_written
from .outgoing import collect


def without_people(source: Source, scratch: Path, *, population: bool, population_model: bool) -> Source:
    """Verify a weight space, and return its files in a folder below `scratch` without what must not be published.

    Parameters
    ----------
    population, population_model : bool
        False leaves them out. A card that was written by hand is kept as it is.

    Raises
    ------
    InvalidInputError
        For a dataset.
    CorruptFileError, UnsafePathError, MissingPathError
    """
    if kind_of(collect(source, None).manifest) == "dataset":
        raise InvalidInputError(
            f"{source.folder} is a dataset; only a weight space can be published without its population",
            path=source.folder,
        )
    folder = scratch / source.folder.absolute().name
    resave_without(WeightSpace.open(source.folder), folder, population=population, population_model=population_model)
    if is_written(source.folder):
        write_bytes(folder / CARD, read_file(source.folder, CARD, MAX_CARD_BYTES), replace=True)
    return Source(folder)

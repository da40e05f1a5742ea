"""Publish a weight space without its population: the files of a push, written to a folder of their own."""

from __future__ import annotations

from pathlib import Path

from ..common.limits import MAX_CARD_BYTES
from ..errors import InvalidInputError
from ..space.resaving import resave_without
from ..store.atomic import write_bytes
from ..store.hub.source import Source
from ..store.manifest import CARD, kind_of
from ..store.paths import read_file
from .card import is_written
from .outgoing import collect


def source_without(source: Source, scratch: Path, *, population: bool, population_model: bool) -> Source:
    """Return the files of a verified weight space in a folder of its own, without what must not be published."""
    from ..space import WeightSpace

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

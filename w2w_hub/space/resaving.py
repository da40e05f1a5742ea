"""Saves a changed weight space with the rest of the folder that it was opened from."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from ..dialects.base_model import CONFIG, EMBEDDED
from ..errors import InvalidInputError
from ..store.atomic import write_json
from ..store.commit import open_state
from ..store.hub.cache import REPO
from ..store.manifest import SPACE, read_json
from ..store.paths import is_name, make_parents
from .contents import SpaceContents
from .storage import save_space

OF_THE_SPACE = ("directions.", "coefficients/", "basis-", "population_model.")  # files of what is in memory


def resave(space: SpaceContents, path: Path | str, *, overwrite: bool = False) -> Path:
    """Write a weight space to another folder, with the base model and previews of the one it was opened from.

    :meth:`WeightSpace.save` writes what is in memory alone. A base model in a folder beside the old one is
    named relative to the new one.

    Raises
    ------
    InvalidInputError
        If `path` is the folder that the space was opened from.
    AlreadyExistsError, MissingPathError, DiskError
    """
    path = Path(path)
    if space.path is None or space.source is None:
        return save_space(space, path, overwrite=overwrite)
    if path.resolve() == space.path.resolve():
        raise InvalidInputError(f"{path} is the weight space itself; name another folder", path=path)
    old = space.source.need(space.source.files)
    state = open_state(old, SPACE)

    def add_the_rest(folder: Path) -> None:
        for name in state.data["files"]:
            if not (folder / name).exists() and not name.startswith(OF_THE_SPACE):
                make_parents(folder, name)
                shutil.copyfile(state.find(name), folder / name)
        if CONFIG in state.data["files"]:
            _name_base_from(path, old, folder / CONFIG)

    return save_space(space, path, extend=add_the_rest, overwrite=overwrite)


def resave_without(space: SpaceContents, path: Path | str, *, population: bool, population_model: bool) -> Path:
    """Write a weight space like :func:`resave`, without its population, its population model, or both.

    Parameters
    ----------
    population, population_model : bool
        False leaves them out.

    Raises
    ------
    InvalidInputError, AlreadyExistsError, MissingPathError, DiskError
    """
    kept = space
    if not population and space.population is not None:
        kept = replace(kept, population=None, stored_spread=space.spread)
    if not population_model:
        kept = replace(kept, population_model=None)
    return resave(kept, path)


def _name_base_from(path: Path, old: Path, config: Path) -> None:
    """Correct the name of a base model in a folder that is given relative to the `old` one."""
    stated = read_json(config)
    base = stated.get("base_model")
    if not isinstance(base, str) or base == EMBEDDED or REPO.fullmatch(base):
        return
    if is_name(base) and (config.parent / base).is_dir():  # in the weight space's own folder, of which this is a copy
        return
    if (old / base).is_dir():
        away = os.path.relpath((old / base).resolve(), Path(os.path.abspath(path)))
        write_json(config, {**stated, "base_model": Path(away).as_posix()}, replace=True)

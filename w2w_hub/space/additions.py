"""Adds a file to the folder of a weight space as its next state, and renders the card again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import AlreadyExistsError, InvalidInputError
from ..store.atomic import new_folder, write_bytes
from ..store.cards import is_rendered, read_card
from ..store.commit import State, next_state, open_state
from ..store.hashing import entry_of
from ..store.manifest import CARD, CHECKSUM, FILENAME, SPACE, parse_json, seal
from ..store.paths import has_file
from ..store.replacing import files_listed
from .card import space_card
from .contents import SpaceContents
from .storage import load_directions


def require_addable(space: SpaceContents, name: str, *, overwrite: bool = False) -> Path:
    """Return the folder of a space if a file of this name can be added, or raise as :func:`add_file` does."""
    if space.path is None or (space.source is not None and space.source.revision is not None):
        raise InvalidInputError(f"weight space {space.name!r} is not in a local folder; save it first")
    if name in open_state(space.path, SPACE).data["files"] and not overwrite:
        raise AlreadyExistsError(
            f"{space.path / name} is there already; replace it with --force (in Python: overwrite=True)",
            path=space.path / name,
        )
    return space.path


def add_file(space: SpaceContents, name: str, contents: Callable[[], bytes], *, overwrite: bool = False) -> None:
    """Add a file to the folder of a space and, unless somebody wrote the card by hand, render its card again.

    Parameters
    ----------
    name : str
        Its path in the folder.
    contents : callable
        Returns what it holds.
    overwrite : bool
        Replace a file of that name.

    Raises
    ------
    InvalidInputError
        If the space is not in a local folder.
    AlreadyExistsError, MissingPathError, DiskError
    """
    folder, data = require_addable(space, name, overwrite=overwrite), contents()
    with next_state(folder, replace=True) as staging:
        state = open_state(folder, SPACE)  # it may have changed before the lock was taken
        write_bytes(staging / name, data)
        _state_with(state, staging, name, folder)


def copy_with(space: SpaceContents, path: Path | str, name: str, data: bytes, *, overwrite: bool = False) -> Path:
    """Write a copy of a space's folder, with its base model and previews, and a file more; return its path.

    Parameters
    ----------
    overwrite : bool
        Replace an existing weight space, if its folder holds nothing else.

    Raises
    ------
    InvalidInputError
        If the space is in memory only, or `path` is its own folder.
    AlreadyExistsError, MissingPathError, DiskError, HubError
    """
    path = Path(path)
    if space.source is None:
        raise InvalidInputError(f"weight space {space.name!r} is in memory only; save it first")
    folder = space.source.need(space.source.files)
    if path.resolve() == folder.resolve():
        raise InvalidInputError(f"{path} is the weight space itself; choose another folder", path=path)
    with new_folder(path, overwrite=overwrite, own=files_listed(SPACE)) as made:
        state = open_state(folder, SPACE)
        listed = [each for each in (*state.data["files"], *([CARD] if has_file(folder, CARD) else [])) if each != name]
        for each in listed:
            (made / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(state.find(each), made / each)
        write_bytes(made / name, data)
        _state_with(state, made, name, made)
    return path


def _state_with(state: State, staging: Path, name: str, folder: Path) -> None:
    """Write the manifest of a state with one file more, which is staged, and its card unless somebody wrote that."""
    manifest = parse_json(state.raw, state.manifest_path)
    manifest.pop(CHECKSUM, None)
    manifest["files"] = dict(sorted({**manifest["files"], name: entry_of(staging / name)}.items()))
    write_bytes(staging / FILENAME, seal(manifest))
    if not has_file(folder, CARD) or is_rendered(read_card(folder)):
        card = space_card(manifest, list(load_directions(state.root).items()), folder)
        (staging / CARD).write_text(card, "utf-8")

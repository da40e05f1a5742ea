"""Adds a file to the folder of a weight space as its next state, and renders the card again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import AlreadyExistsError, InvalidInputError
from ..store.atomic import write_bytes
from ..store.cards import is_rendered, read_card
from ..store.commit import next_state, open_state
from ..store.hashing import entry_of
from ..store.manifest import CARD, CHECKSUM, FILENAME, SPACE, parse_json, seal
from ..store.paths import has_file
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
        manifest = parse_json(state.raw, state.manifest_path)
        write_bytes(staging / name, data)
        manifest.pop(CHECKSUM, None)
        manifest["files"] = dict(sorted({**manifest["files"], name: entry_of(staging / name)}.items()))
        write_bytes(staging / FILENAME, seal(manifest))
        if not has_file(folder, CARD) or is_rendered(read_card(folder)):
            card = space_card(manifest, list(load_directions(folder).items()), folder)
            (staging / CARD).write_text(card, "utf-8")

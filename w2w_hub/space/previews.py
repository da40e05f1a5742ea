"""Pictures on the card of a weight space: ``previews/*.png``."""

from __future__ import annotations

from pathlib import Path

from ..common.limits import MAX_PICTURE_BYTES
from ..errors import AlreadyExistsError, InvalidInputError
from ..store.atomic import write_bytes
from ..store.cards import is_rendered, read_card
from ..store.commit import next_state, open_state
from ..store.hashing import entry_of
from ..store.manifest import CARD, CHECKSUM, FILENAME, SPACE, parse_json, seal
from ..store.paths import has_file, is_name, read_regular
from .card import space_card
from .contents import SpaceContents
from .storage import load_directions

FOLDER = "previews"
PNG = b"\x89PNG\r\n\x1a\n"


def preview_name(space: SpaceContents, picture: Path, *, overwrite: bool = False) -> str:
    """Return the path that a picture gets in the folder of a space, or raise as :func:`add_preview` does."""
    if space.path is None or (space.source is not None and space.source.revision is not None):
        raise InvalidInputError(f"weight space {space.name!r} is not in a local folder; save it first")
    name = f"{FOLDER}/{picture.name}"
    if picture.suffix != ".png" or not is_name(name):
        raise InvalidInputError(f"{picture}: a preview is a file whose name ends in .png; rename it", path=picture)
    if name in open_state(space.path, SPACE).data["files"] and not overwrite:
        raise AlreadyExistsError(
            f"{space.path} has a preview {picture.name} already; choose another name or replace it (overwrite=True)",
            path=space.path / name,
        )
    return name


def add_preview(space: SpaceContents, picture: Path, *, overwrite: bool = False) -> str:
    """Add a picture to the folder of a space and, unless somebody wrote the card by hand, to its card.

    Parameters
    ----------
    picture : path
        A PNG file; its name is the picture's title.
    overwrite : bool
        Replace a preview of that name.

    Returns
    -------
    str
        The preview's path in the folder.

    Raises
    ------
    InvalidInputError
        If it is not a PNG file, or the space is not in a local folder.
    AlreadyExistsError, MissingPathError, DiskError
    """
    name, folder = preview_name(space, picture, overwrite=overwrite), space.path
    assert folder is not None
    data = read_regular(picture, MAX_PICTURE_BYTES)
    if not data.startswith(PNG):
        raise InvalidInputError(f"{picture} is not a PNG picture; save it as one", path=picture)
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
    return name

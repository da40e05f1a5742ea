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
from .storage import load_directions

FOLDER = "previews"
PNG = b"\x89PNG\r\n\x1a\n"


def add_preview(folder: Path, picture: Path, *, overwrite: bool = False) -> str:
    """Add a picture to a weight-space folder and, unless somebody wrote the card by hand, to its card.

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
        If it is not a PNG file.
    AlreadyExistsError, MissingPathError, DiskError
    """
    name = f"{FOLDER}/{picture.name}"
    if picture.suffix != ".png" or not is_name(name):
        raise InvalidInputError(f"{picture}: a preview is a file whose name ends in .png; rename it", path=picture)
    data = read_regular(picture, MAX_PICTURE_BYTES)
    if not data.startswith(PNG):
        raise InvalidInputError(f"{picture} is not a PNG picture; save it as one", path=picture)
    open_state(folder, SPACE)  # raise before anything is written
    with next_state(folder, replace=True) as staging:
        state = open_state(folder, SPACE)
        manifest = parse_json(state.raw, state.manifest_path)
        if name in manifest["files"] and not overwrite:
            raise AlreadyExistsError(
                f"{folder} has a preview {picture.name} already; choose another name or replace it (overwrite=True)",
                path=folder / name,
            )
        write_bytes(staging / name, data)
        manifest.pop(CHECKSUM, None)
        manifest["files"] = dict(sorted({**manifest["files"], name: entry_of(staging / name)}.items()))
        write_bytes(staging / FILENAME, seal(manifest))
        if not has_file(folder, CARD) or is_rendered(read_card(folder)):
            card = space_card(manifest, list(load_directions(folder).items()), folder)
            (staging / CARD).write_text(card, "utf-8")
    return name

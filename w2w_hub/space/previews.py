"""Pictures on the card of a weight space: ``previews/*.png``."""

from __future__ import annotations

from pathlib import Path

from ..common.limits import MAX_PICTURE_BYTES
from ..errors import InvalidInputError
from ..store.paths import is_name, read_regular
from .additions import add_file, require_addable
from .contents import SpaceContents

FOLDER = "previews"
PNG = b"\x89PNG\r\n\x1a\n"


def preview_name(space: SpaceContents, picture: Path, *, overwrite: bool = False) -> str:
    """Return the path that a picture gets in the folder of a space, or raise as :func:`add_preview` does."""
    name = f"{FOLDER}/{picture.name}"
    if picture.suffix != ".png" or not is_name(name):
        raise InvalidInputError(f"{picture}: a preview is a file whose name ends in .png; rename it", path=picture)
    require_addable(space, name, overwrite=overwrite)
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
    name = preview_name(space, picture, overwrite=overwrite)

    def contents() -> bytes:
        data = read_regular(picture, MAX_PICTURE_BYTES)
        if not data.startswith(PNG):
            raise InvalidInputError(f"{picture} is not a PNG picture; save it as one", path=picture)
        return data

    add_file(space, name, contents, overwrite=overwrite)
    return name

"""identify: what a path or a repository is, for people and for scripts."""

from __future__ import annotations

from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ..common.arguments import checked
from ..errors import HubNotFoundError, InvalidInputError, MissingPathError, UnsupportedFormatError
from ..store.hub.locate import REPOSITORY, is_ours, locate_either, split_kind, split_lock
from ..store.hub.pins import is_lock
from .files import file_info
from .folders import folder_info
from .looking import is_there
from .ours import info_of
from .result import UNKNOWN, Info, Step


@checked()
def identify(path: Path | str) -> Info:
    """Return what a path or a Hub repository is, and which commands make sense with it (``w2w info``).

    Reads names, headers and manifests, at most a fixed number of them; of a repository, only its manifest is fetched
    (and the labels, if rows of it were withdrawn). No pickle is opened, no link in a folder is followed, and nothing is
    written. :func:`w2w_hub.describe` reads all of an adapter instead.

    Parameters
    ----------
    path : path
        A file or folder of any kind, ``org/name`` or ``org/name@version``, or ``w2w.lock#org/name``.

    Returns
    -------
    Info
        With the kind ``unknown`` for what this package does not know.

    Raises
    ------
    MissingPathError, HubNotFoundError
        If there is no such file, folder or repository.
    CorruptFileError, UnsafePathError, UnsupportedFormatError
        If it is damaged, unsafe, or of a later version of this package.

    Examples
    --------
    >>> identify("my-lora").kind                     # doctest: +SKIP
    'adapter'
    """
    text = path if isinstance(path, str) else path.as_posix()
    place = Path(path)
    names_repository = REPOSITORY.match(split_kind(text)[1]) is not None
    if is_there(place) and not (names_repository and "@" in text and not is_ours(place)):
        mode = _mode(place)
        if S_ISDIR(mode):
            return folder_info(place)
        if S_ISREG(mode):
            return file_info(place)
        return Info(str(place), UNKNOWN, "a pipe, a socket or a device, which is not opened")
    lock, name = split_lock(text)
    if not names_repository and not (name is not None and is_lock(Path(lock))):
        raise MissingPathError(f"{text} does not exist and is not a Hub repository (org/name)", path=place)
    return _repository(text)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:  # a link that leads nowhere, or in a circle
        raise MissingPathError(f"{path} cannot be read: {error.strerror}", path=path) from error


def _repository(text: str) -> Info:
    try:
        return info_of(locate_either(text), text)
    except InvalidInputError as error:
        if error.what != "kind":
            raise
        summary = "a dataset and a weight space of one name"
        steps = tuple(
            Step(f"w2w info {prefix}/{text}", f"say more about the {kind}")
            for prefix, kind in (("datasets", "dataset"), ("models", "weight space"))
        )
        return Info(text, "two repositories", summary, steps=steps)
    except UnsupportedFormatError as error:
        if not isinstance(error.__cause__, HubNotFoundError):  # it has a manifest, of another kind or version
            raise
        return Info(text, UNKNOWN, "a Hub repository that is no dataset or weight space of w2w", {"reason": str(error)})


__all__ = ["identify"]

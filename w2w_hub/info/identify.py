"""identify: what a path or a repository is, for people and for scripts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ..common.arguments import checked
from ..common.text import command, counted
from ..dialects.checkpoint import CONFIG
from ..dialects.registry import weights_names
from ..errors import HubError, HubNotFoundError, InvalidInputError, MissingPathError, UnsupportedFormatError
from ..store.hub.cache import TYPES
from ..store.hub.client import api, call
from ..store.hub.locate import NO_REPOSITORY, REPOSITORY, is_ours, locate_either, split_kind, split_lock
from ..store.hub.pins import is_lock
from ..store.paths import missing
from .files import file_info
from .folders import folder_info
from .looking import free_name, is_there
from .ours import info_of
from .result import UNKNOWN, Info, Step

MOST_FILES = 20  # of a repository, whose names are shown


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
        raise missing(place, NO_REPOSITORY)
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
        return _foreign(text)


def _foreign(text: str) -> Info:
    """Return what a repository without a manifest of ours is, by the names of its files."""
    stated, bare = split_kind(text)
    match = REPOSITORY.match(bare)
    assert match is not None
    files: set[str] = set()
    for kind in (stated,) if stated else ("space", "dataset"):
        with suppress(HubError):
            found = call(
                match["repo"], api().list_repo_files, match["repo"], revision=match["revision"], repo_type=TYPES[kind]
            )
            files |= set(found)
    folder = free_name(match["repo"].rpartition("/")[2])
    version = () if match["revision"] is None else ("--revision", match["revision"])
    fetch = command("hf download", match["repo"], options=(*version, "--local-dir", folder))
    hint = f"to use it, download it: {fetch}; then: {command('w2w info', folder)}"
    if "model_index.json" in files:
        return Info(text, "base model", "repository of a base model in diffusers' layout", hints=(hint,))
    if CONFIG in files or any(Path(name).name in weights_names(with_config=False) for name in files):
        return Info(text, "adapter", "repository of a LoRA adapter", hints=(hint,))
    tensors = sorted(name for name in files if name.endswith(".safetensors"))
    if tensors:
        facts = {"files": tensors[:MOST_FILES]}
        return Info(
            text, "checkpoints", f"repository of {counted(len(tensors), 'file')} of tensors", facts, (), (hint,)
        )
    return Info(text, UNKNOWN, "a repository that is no dataset, weight space, adapter or base model")


__all__ = ["identify"]

"""Files of visitors: uploads, which are read safely and deleted, and exports."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.display import percent
from ..common.extras import optional_imports
from ..common.text import one_line
from ..errors import InvalidInputError
from ..space import WeightSpace, make_slider
from ..space.identity import Identity, resolve
from ..space.keeping import export_identity
from ..store.paths import is_name
from ..store.pictures import open_picture
from .state import State

with optional_imports("diffusers"):
    from PIL import Image, ImageOps

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ADAPTER_SUFFIXES = (".safetensors", ".json", ".npz")  # no format that pickles
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_FILES = 4  # of one adapter
EXPORTS = {
    "peft": "LoRA for PEFT (zip)", "diffusers": "LoRA for diffusers", "kohya": "LoRA for ComfyUI, A1111, Forge (kohya)",
    "slider": "Slider LoRA of the largest change (kohya)", "point": "Point, for this weight space (json)",
    "picture": "Picture (png)",
}  # fmt: skip


@contextmanager
def uploaded(paths: Iterable[str | Path]) -> Iterator[list[Path]]:
    """Give an upload's files, and delete them at the end, whatever happens."""
    found = [Path(path) for path in paths]
    try:
        yield found
    finally:
        for path in found:
            path.unlink(missing_ok=True)


def read_adapter_upload(space: WeightSpace, paths: Sequence[Path]) -> tuple[Identity, str, tuple[str, ...]]:
    """Return the person in uploaded files, the name to show for it, and notes.

    Parameters
    ----------
    paths : sequence of Path
        A checkpoint of any dialect (with its ``adapter_config.json`` where it has one), or a saved point.

    Raises
    ------
    InvalidInputError
        For another suffix, or too many files.
    W2WError
        If it cannot be read or does not fit the space, see :func:`w2w_hub.space.identity.resolve`.
    """
    if not 0 < len(paths) <= MOST_FILES:
        raise InvalidInputError(f"choose the files of one LoRA: 1 to {MOST_FILES}")
    for path in paths:
        if path.suffix.lower() not in ADAPTER_SUFFIXES or not is_name(path.name):
            raise InvalidInputError(
                f"{one_line(path.name, 80)} is not a file to upload here; choose .safetensors, with its "
                "adapter_config.json if it has one, or a saved point (.json)"
            )
    with tempfile.TemporaryDirectory(prefix="read-", dir=paths[0].parent) as folder:
        for path in paths:
            try:
                shutil.copyfile(path, Path(folder) / path.name, follow_symlinks=False)
            except FileNotFoundError:  # somebody else sent the same file, which was read and deleted
                raise InvalidInputError(f"{one_line(path.name, 80)} is not here any more; choose it again") from None
        one = Path(folder) / paths[0].name if len(paths) == 1 else Path(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = resolve(space, one)
            except Exception as error:
                raise without_folder(error, folder) from error
    kept = found.explained_ratio
    notes = [str(each.message).replace(folder + "/", "") for each in caught]
    if kept is not None and kept < 0.5:
        notes.append(f"only {percent(kept)} of this file's weights lie in the weight space")
    weights = next((path for path in paths if path.suffix != ".json"), paths[0])
    return found, one_line(weights.name, 80), tuple(notes)


def without_folder(error: Exception, folder: str) -> Exception:
    """Return an error that does not tell a visitor where on the server the file lay."""
    said = str(error).replace(folder + "/", "").replace(folder, "the upload")
    return InvalidInputError(said)


def read_picture_upload(path: Path, size: tuple[int, int]) -> Picture:
    """Return an uploaded picture, its center cut to the proportions of `size` (height, width) and resized to it.

    Raises
    ------
    CorruptFileError, InvalidInputError
        See :func:`w2w_hub.models.pictures.open_picture`.
    """
    try:
        found = open_picture(path)
    except Exception as error:
        raise without_folder(error, str(path.parent)) from error
    return ImageOps.fit(found, (size[1], size[0]), Image.Resampling.LANCZOS)


def export_slider(space: WeightSpace, before: Identity, state: State, folder: Path) -> Path:
    """Write the change of one feature as a slider LoRA, and return its path.

    Parameters
    ----------
    before : Identity
        The person at whom the change is taken.
    state : State
        Its largest push is the slider, or else what it sets.

    Raises
    ------
    InvalidInputError
        If nothing is changed.
    """
    pushed = max(state.pushes, key=lambda name: abs(state.pushes[name]), default="")
    if not pushed and not state.wanted:
        raise InvalidInputError("change a feature of the person first: the slider LoRA holds that change")
    slider = make_slider(space, pushed or dict(state.wanted), at=before, preserve=state.preserve)
    return slider.save(folder / "slider.safetensors", "kohya", overwrite=True)


def export(space: WeightSpace, identity: Identity, kind: str, folder: Path, picture: Picture | None = None) -> Path:
    """Write a person as one file in a folder, and return its path.

    Parameters
    ----------
    kind : str
        A key of :data:`EXPORTS`, but ``"slider"``.

    Raises
    ------
    InvalidInputError
        For another kind.
    """
    if kind == "point":
        return identity.point.save(folder / "person.json", overwrite=True)
    if kind == "picture" and picture is not None:
        picture.save(folder / "person.png")
        return folder / "person.png"
    if kind not in ("peft", "diffusers", "kohya"):
        raise InvalidInputError(f"people are not exported as {kind!r}; choose from {', '.join(EXPORTS)}")
    made = export_identity(space, identity, folder / f"person-{kind}", dialects=(kind,), overwrite=True)
    files = sorted(path for path in made.rglob("*") if path.is_file())
    if len(files) == 1:
        return files[0].replace(folder / f"person-{kind}.safetensors")
    with zipfile.ZipFile(folder / f"person-{kind}.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(made).as_posix())
    return folder / f"person-{kind}.zip"


__all__ = ["EXPORTS", "export", "export_slider", "read_adapter_upload", "read_picture_upload", "uploaded"]

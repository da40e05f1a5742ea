"""Writes identities: one as a saved point or a LoRA folder, several as one LoRA folder each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..common.display import percent
from ..common.warn import warn_caller
from ..dialects import write_adapter
from ..dialects.writing import adapter_files
from ..errors import InvalidInputError
from ..store.atomic import new_folder, require_output
from ..store.paths import is_name
from ..store.replacing import OwnFiles, files_below, files_of_any
from .identity import Identity, adapter_of
from .points import SUFFIXES
from .weight_space import WeightSpace


def save_identity(space: WeightSpace, identity: Identity, path: Path | str, *, overwrite: bool = False) -> Path:
    """Write an identity to where its path sets it again, and return the path.

    With the suffix ``.json`` or ``.safetensors`` its point is saved; without a suffix, all of its weights are, as a
    LoRA folder (:func:`export_identity`).

    Raises
    ------
    InvalidInputError
        For another suffix.
    AlreadyExistsError
        If something is there and `overwrite` is False.

    Warns
    -----
    UserWarning
        If a file keeps less than the identity: a point no weights outside of the space, and neither a point nor a
        LoRA the start of delayed edits.
    """
    path = require_identity_output(path, overwrite=overwrite)
    if not path.suffix:
        if identity.start:
            warn_caller(
                f"{path} is a LoRA, without that its edits start at {identity.start:.3g} of the schedule: they apply "
                "from the first step"
            )
        return export_identity(space, identity, path, overwrite=overwrite)
    lost, kept = [], identity.explained_ratio
    if (identity.exact or identity.layer_wise) and (kept is None or kept < 0.9995):
        share = "" if kept is None else f" ({percent(kept)} of the variance is inside)"
        lost.append(f"the weights outside of the weight space{share}: to keep them, leave out {path.suffix}")
    if identity.start:
        lost.append(f"that its edits start at {identity.start:.3g} of the schedule: they apply from the first step")
    if lost:
        warn_caller(f"{path} holds a point, without {'; and without '.join(lost)}")
    return identity.point.save(path, overwrite=overwrite)


def require_identity_output(path: Path | str, *, overwrite: bool = False) -> Path:
    """Return the path if :func:`save_identity` can write there."""
    path = Path(path)
    if path.suffix and path.suffix not in SUFFIXES:
        raise InvalidInputError(
            f"{path}: a point is saved as {' or '.join(SUFFIXES)}; choose one of these suffixes, or none for a LoRA "
            "folder",
            path=path,
        )
    return require_output(path, overwrite=overwrite, own=None if path.suffix else adapter_files)


def export_identity(
    space: WeightSpace,
    identity: Identity,
    path: Path | str,
    *,
    trigger: str | None = None,
    thumbnail: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Write an identity as a LoRA folder and return its path; `options` are those of `write_adapter`.

    Parameters
    ----------
    trigger, thumbnail : str, optional
        What the header says besides, see :func:`~w2w_hub.space.provenance.provenance_of`.
    """
    adapter = adapter_of(space, identity, trigger=trigger, thumbnail=thumbnail)
    write_adapter(adapter, path, overwrite=overwrite, **options)
    return Path(path)


def export_identities(
    space: WeightSpace,
    identities: Sequence[Identity],
    path: Path | str,
    names: Sequence[str] | None = None,
    *,
    trigger: str | None = None,
    thumbnails: Sequence[str | None] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> list[Path]:
    """Write several identities as a folder with one LoRA folder each, and return the paths of these.

    Parameters
    ----------
    names : sequence of str, optional
        Wanted names of the folders. By default the ids of rows, and ``identity-000`` for others, by their position.
        Repeated names are numbered, and a name that no folder can have is replaced by the position.
    trigger : str, optional
        The phrase of all of them.
    thumbnails : sequence of str, optional
        One per identity.
    """
    path = Path(path)
    shown = [None] * len(identities) if thumbnails is None else thumbnails
    wanted = [str(i.point.history.get("row", "")) for i in identities] if names is None else names
    folders = folder_names(wanted)
    with new_folder(path, overwrite=overwrite, own=exported_files(folders)) as partial:
        for identity, folder, picture in zip(identities, folders, shown, strict=True):
            adapter = adapter_of(space, identity, trigger=trigger, thumbnail=picture)
            write_adapter(adapter, partial / folder, **options)
    return [path / folder for folder in folders]


def folder_names(wanted: Iterable[str]) -> list[str]:
    """Return a name for each folder of :func:`export_identities`."""
    return distinct(
        name if is_name(name) and "/" not in name and not name.startswith((".", "-")) else f"identity-{i:03d}"
        for i, name in enumerate(wanted)
    )


def exported_files(folders: Iterable[str]) -> OwnFiles:
    """Recognize what :func:`export_identities` writes to these folders, so that no other adapter there is lost."""
    return files_of_any(*(files_below(name, adapter_files) for name in folders))


def distinct(names: Iterable[str]) -> list[str]:
    """Return names in which repeated ones, also by case, are numbered: ``face``, ``face-2``."""
    found: dict[str, str] = {}
    for name in names:
        number, chosen = 2, name
        while chosen.casefold() in found:
            chosen, number = f"{name}-{number}", number + 1
        found[chosen.casefold()] = chosen
    return list(found.values())

"""Build a weight space into a folder, so that the same call continues wherever the last one was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...dataset import WeightDataset
from ...dialects.generation import checked_settings
from ...errors import AlreadyExistsError, DiskError, InvalidInputError, W2WError
from ...store.atomic import require_output
from ..storage import require_base, space_files
from ..weight_space import WeightSpace
from .build import build_space, clear_passes
from .job import FOUND, Job
from .old_keywords import flat_keywords
from .resume import discard, is_unfinished_build

BUILT_ONLY = ("name", "version", "directions", "population_model", "groups")  # options that the recipe does not record


@flat_keywords
def build_and_save(
    dataset: WeightDataset, path: Path | str, k: int | None = None, *, base: Path | str | None = None,
    population: bool = True, generation: Mapping[str, Any] | None = None, overwrite: bool = False, **options: Any,
) -> WeightSpace:  # fmt: skip
    """Build a weight space and write its folder.

    The base model and the output path are checked before anything is computed. Results of finished passes are kept in
    the folder :func:`unfinished` until the space is saved; after a kill, a full disk or an interrupt the same call
    continues from them and gives the same space.

    Parameters
    ----------
    path : path
        The folder to write; its name is the default of the space's `name`.
    base : path, optional
        A diffusers folder, embedded so that the space opens offline.
    population : bool
        Whether to save ids and coefficients of the rows; without them see :meth:`WeightSpace.without_population`.
    generation : mapping, optional
        Keywords that pipelines of this space use where a call gives none, stored with `base`:
        ``{"num_inference_steps": 15, "guidance_scale": 2.0}``.
    overwrite : bool
        Replace an existing weight space, if its folder holds nothing else; it stays until the new one is complete.
    **options
        Those of :func:`w2w_hub.build_space`, without `checkpoint`.

    Raises
    ------
    AlreadyExistsError
        If something else already exists at `path`.
    MissingPathError, BaseModelMismatchError
        If `base` is not the adapters' base model.
    DiskError
        If the folder cannot be written.

    Examples
    --------
    >>> build_and_save(WeightDataset.open("people"), "space", 200, base="my-base-model")   # doctest: +SKIP
    """
    path, kept, settings = Path(path), unfinished(path), checked_settings(generation)
    if settings and base is None:
        raise InvalidInputError(
            "generation settings are stored with a base model: add --base (in Python: base=)", name="generation"
        )
    options = {**options, "name": options.get("name") or path.name}
    if os.path.lexists(path):
        with suppress(AlreadyExistsError):
            return _saved_before(dataset, path, k, base, population, settings, options)
    require_output(path, overwrite=overwrite, own=space_files)
    compatibility = dataset.manifest.compatibility
    if base is not None:
        compatibility = replace(compatibility, base_digest=require_base(base, dataset.layout, compatibility))
    with _interrupt_noted(kept):
        space = build_space(dataset, k, checkpoint=kept, **options)
        saved = space if population else space.without_population()
        try:
            replace(saved, generation=settings).save(path, base=base, overwrite=overwrite)
        except DiskError as error:
            raise DiskError(f"{error}; finished passes are kept in {kept}, run the same again to continue") from error
    clear_passes(space, kept)
    return replace(saved, path=path, compatibility=compatibility, generation=settings)


@contextmanager
def _interrupt_noted(kept: Path) -> Iterator[None]:
    """Note on a `KeyboardInterrupt` what is kept."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if is_unfinished_build(kept):
            interrupt.add_note(f"finished passes are kept in {kept} and the same command continues from them")
        raise


def unfinished(path: Path | str) -> Path:
    """Return the folder, beside the output, in which results of finished passes are kept."""
    path = Path(os.path.abspath(path))
    return path.with_name(f".{path.name}.build")


def _saved_before(
    dataset: WeightDataset, path: Path, k: int | None, base: Path | str | None, population: bool,
    settings: Mapping[str, Any], options: dict[str, Any],
) -> WeightSpace:  # fmt: skip
    """Return the space at `path` if this call was killed between saving it and removing its passes.

    Raises
    ------
    AlreadyExistsError
        Otherwise.
    """
    there = AlreadyExistsError(f"{path} already exists; choose another output or remove it first", path=path)
    if not is_unfinished_build(unfinished(path)):
        raise there
    try:
        space = WeightSpace.from_pretrained(path)
    except W2WError:
        raise there from None
    job = Job.checked(dataset, k, **{name: value for name, value in options.items() if name not in BUILT_ONLY})
    with job.engine.running():
        asked = {**job.recipe(), FOUND: space.recipe.get(FOUND)}
    same = asked == space.recipe and population is (space.population is not None)
    same = same and (space.name, space.version) == (options["name"], options.get("version", "0.1.0"))
    same = same and space.generation == settings
    if base is not None:
        same = same and space.compatibility.base_digest == require_base(base, space.layout, space.compatibility)
    if not same:
        raise there
    discard(unfinished(path))
    return space

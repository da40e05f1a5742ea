"""Training of one identity, from a folder of pictures to a LoRA checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ..common.arguments import place
from ..common.constraints import flag, has, instance, one_of, optional, path, text, unicode_text, validated
from ..common.version import __version__
from ..common.warn import warn_caller
from ..dialects import write_adapter
from ..dialects.checkpoint import TRAINED_FROM
from ..dialects.writing import DEFAULT_DIALECTS, adapter_files
from ..errors import ConvergenceError, InvalidInputError
from ..lora.adapter import Adapter
from ..models.pipelines import best_device
from ..store.atomic import require_output
from .captions import require_caption
from .encoding import class_latents_of, encode
from .engines import AUTO, ENGINES, engine_for
from .opening import OpenedBase, open_base, require_device
from .pictures import fingerprint, note_cropped, note_left_out, read_pictures, require_readable
from .recipe import TrainingRecipe
from .runs import CLASSES, ELSEWHERE, Run, memory_explained, train
from .trainer import Trainer
from .validation import Validation, ValidationPictures


@validated(
    pictures=path(), base=place(), out=optional(path()), recipe=instance(TrainingRecipe, "a TrainingRecipe"),
    reference=optional(path()), start=optional(path()), caption=optional(unicode_text()), device=optional(text()),
    engine=one_of(*ENGINES), cache=optional(path()),
    validate=optional(instance(Validation, "a Validation")), resume=flag(), overwrite=flag(),
    on_step=optional(has("__call__", "a function")),
)  # fmt: skip
def train_identity(
    pictures: Path | str,
    base: Path | str,
    out: Path | str | None = None,
    *,
    recipe: TrainingRecipe = TrainingRecipe(),  # noqa: B008, it is immutable
    reference: Path | str | None = None,
    start: Path | str | None = None,
    caption: str | None = None,
    device: str | None = None,
    engine: str = AUTO,
    cache: Path | str | None = None,
    validate: Validation | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> Adapter:
    """Train a LoRA of one identity from a folder of pictures (DreamBooth with prior preservation).

    Parameters
    ----------
    pictures : path
        A folder of pictures of one person, with captions in ``NAME.txt`` or ``metadata.jsonl`` if there are any; see
        :func:`read_pictures`.
    base : path or str
        The base model: a diffusers folder, a weight space with an embedded base model, or a repository.
    out : path, optional
        A new folder for the adapter, in the PEFT and diffusers dialects.
    reference : path, optional
        Dataset or weight space that the adapter is for: its rank, scale and target modules are used instead of the
        recipe's, and the base model must be its own. The result is rounded to the dtype of a dataset.
    start : path, optional
        Adapter to start from, whose B may be zero: the shared initialization of a dataset. By default the one that the
        reference publishes, or else PEFT's with seed 0.
    caption : str, optional
        Caption of the pictures without one; by default the recipe's prompt.
    device : str, optional
        By default the fastest of the machine.
    engine : {"auto", "eager", "compiled", "captured", "compiled+captured"}
        How steps run. On a GPU, "captured" (one CUDA graph) is fastest for one identity and is what "auto" chooses;
        compiling takes minutes. On a CPU, "auto" is "eager". All give the same weights up to rounding.
    cache : path, optional
        Folder of cached class pictures; by default ``$W2W_CACHE`` or ``w2w_hub`` in the user's cache folder.
    validate : Validation, optional
        Draw pictures while it trains, into the folder ``OUT-validation``; they do not change the result.
    resume : bool
        Go on with an unfinished run of the same settings and pictures, if there is one; it ends in the same bits on the
        same machine.
    overwrite : bool
        Replace an earlier adapter, and start again if there is an unfinished run.
    on_step : callable, optional
        Called with the number of finished steps and the loss.

    Returns
    -------
    Adapter
        Its metadata says how it was trained, under keys that start with ``w2w.``, as do the files.

    Raises
    ------
    MissingPathError, CorruptFileError
        If pictures or the base model cannot be read.
    BaseModelMismatchError
        If the reference was made for another base model.
    LayoutMismatchError, InitializationError
        If `start` has another layout, or is not what the reference's rows started from.
    ConvergenceError
        If the loss or the weights are not finite.
    AlreadyExistsError
        If `out` exists, or an unfinished run of it, without `overwrite` or `resume`.
    BusyError
        If another command is training `out`.
    InvalidInputError
        If the unfinished run had other settings or pictures, or the base model lacks a target module.
    OutOfMemoryError
        If the device has too little memory.

    Notes
    -----
    Source: weights2weights, section 4.1, whose settings are the defaults of :class:`TrainingRecipe`.
    """
    target = None if out is None else require_output(Path(out), overwrite=overwrite, own=adapter_files)
    if target is None and validate is not None:
        raise InvalidInputError("validate draws pictures beside the adapter's folder; give out as well", name="out")
    source, device = Path(pictures), device or best_device()
    engine = engine_for(engine, device, at_once=1, steps=recipe.steps)
    require_device(device, engine)
    require_caption(caption, "caption")
    require_readable([source])  # said before a base model is downloaded
    opened = open_base(base, recipe, device, reference, start)
    recipe = opened.recipe
    plan = opened.plan(engine, caption=caption)
    with nullcontext() if target is None else Run(target, plan, resume=resume, restart=overwrite) as run:
        watch = None
        if target is not None and validate is not None:
            watch = ValidationPictures(validate, opened, recipe, target, resume=resume, overwrite=overwrite)
        note_left_out([source])
        found = read_pictures(source, opened.size)
        note_cropped([picture.cropped for picture in found])
        with memory_explained(CLASSES, ELSEWHERE):
            classes = class_latents_of(opened, recipe, None if cache is None else Path(cache))
        with memory_explained():
            data = encode([found], [caption], opened, recipe, classes)
            trainer = Trainer(opened.denoiser, opened.layout, opened.objective, data, opened.start, recipe,
                              engine=engine)  # fmt: skip
            train(trainer, "training", run, pictures=fingerprint([source]), on_step=on_step, watch=watch)
        row = trainer.rows()[0].cpu().numpy()
        with np.errstate(over="ignore"):
            row = row.astype(opened.dtype)  # a row of the reference is rounded to its dtype
        if bool(trainer.lost.any()) or not np.isfinite(row).all():
            if run is not None:
                run.remove()
            raise ConvergenceError(
                f"{source}: the training diverged (NaN or infinite values); lower the learning rate, or compute in "
                "float32 (precision)"
            )
        adapter = opened.layout.unflatten(row.astype(np.float32))
        adapter.base_model = opened.name
        adapter.metadata = provenance(opened)
        if reference is not None and not opened.resembles_start(row[None])[0]:
            warn_caller(
                f"{source}: the adapter's A has moved so far from the initialization that {reference} refuses it; "
                "lower the learning rate"
            )
        if target is not None and run is not None:
            write_adapter(adapter, target, DEFAULT_DIALECTS, overwrite=overwrite)
            run.remove()
    return adapter


def provenance(opened: OpenedBase) -> dict[str, str]:
    """Return how an adapter was trained, as metadata that is written with it."""
    return {
        "w2w.version": __version__, "w2w.recipe": json.dumps(opened.recipe.to_json(), sort_keys=True),
        "w2w.base": opened.name, "w2w.base_digest": opened.digest, TRAINED_FROM: opened.start_name,
    }  # fmt: skip

"""Pictures of other people for prior preservation, drawn by the base model once and kept in a cache."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..common.progress import progress
from ..common.text import counted
from ..errors import CorruptFileError, DiskError, MissingPathError
from ..models.pictures import open_picture
from ..store.atomic import write_bytes, write_json
from .opening import OpenedBase
from .recipe import TrainingRecipe

DRAWN_AT_ONCE = 4
DRAWN_WITH = {"num_inference_steps": 30, "guidance_scale": 7.5}  # unless a weight space states its own


def cache_folder() -> Path:
    """Return the folder of cached class pictures: ``$W2W_CACHE``, or ``w2w_hub`` in the user's cache folder."""
    chosen = os.environ.get("W2W_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "w2w_hub"


def class_pictures(base: OpenedBase, recipe: TrainingRecipe, cache: Path | None = None) -> list[Any]:
    """Return the class pictures of a base model and a prompt; those that the cache lacks are drawn.

    Each is kept as soon as it is drawn, so that an interrupted run goes on. The base model's safety checker, which
    would replace pictures by black ones, is not asked.

    Returns
    -------
    list of PIL image
        `recipe.class_pictures` of them, drawn with the seeds 0, 1, ...

    Raises
    ------
    DiskError
        If the cache cannot be written.
    """
    pipe, settings = base.pipe, DRAWN_WITH | dict(base.generation)
    key = {
        "base": base.digest, "class": type(pipe).__name__, "prompt": recipe.class_prompt,
        "count": recipe.class_pictures, "size": base.size, "steps": settings["num_inference_steps"],
        "guidance": settings["guidance_scale"], "scheduler": type(pipe.scheduler).__name__,
        "dtype": str(base.denoiser.dtype), "safety_checker": None,
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = (cache or cache_folder()) / "class-pictures" / name
    files = [folder / f"{number:05d}.png" for number in range(recipe.class_pictures)]
    # always the same pictures in one pass, which decides the last bits
    groups = [range(first, min(first + DRAWN_AT_ONCE, len(files))) for first in range(0, len(files), DRAWN_AT_ONCE)]
    missing = [group for group in groups if not all(_is_readable(files[seed]) for seed in group)]
    text = f"drawing {counted(sum(map(len, missing)), 'class picture')}"
    with _advice(folder), _without_safety_checker(pipe):
        for seeds in progress(missing, text, total=len(missing)):
            if not (folder / "key.json").exists():
                write_json(folder / "key.json", key, replace=True)
            drawn = pipe(
                [recipe.class_prompt] * len(seeds), generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                **settings,
            ).images  # fmt: skip
            for seed, picture in zip(seeds, drawn, strict=True):
                data = io.BytesIO()
                picture.save(data, "PNG")
                write_bytes(files[seed], data.getvalue(), replace=True)
    return [open_picture(file) for file in files]


def _is_readable(file: Path) -> bool:
    try:
        open_picture(file)
    except (MissingPathError, CorruptFileError):
        return False
    return True


@contextmanager
def _advice(folder: Path) -> Iterator[None]:
    """Add to the error of a cache that cannot be written how to choose another."""
    try:
        yield
    except DiskError as error:
        raise DiskError(f"{error}; W2W_CACHE (cache=) names another folder for class pictures", path=folder) from error


@contextmanager
def _without_safety_checker(pipe: Any) -> Iterator[None]:
    checker = getattr(pipe, "safety_checker", None)
    if checker is not None:
        pipe.safety_checker = None
    try:
        yield
    finally:
        if checker is not None:
            pipe.safety_checker = checker

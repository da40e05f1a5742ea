"""Pictures of other people for prior preservation, drawn by the base model once and kept in a cache."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..common.progress import progress
from ..errors import AlreadyExistsError
from ..models.pictures import open_picture
from ..store.atomic import new_folder
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
    """Return the class pictures of a base model and a prompt; they are drawn if the cache lacks them.

    Returns
    -------
    list of PIL image
        `recipe.class_pictures` of them, drawn with the seeds 0, 1, ...
    """
    pipe, prompt, settings = base.pipe, recipe.class_prompt, DRAWN_WITH | dict(base.generation)
    key = {
        "base": base.digest, "class": type(pipe).__name__, "prompt": prompt, "count": recipe.class_pictures,
        "size": base.size, "steps": settings["num_inference_steps"], "guidance": settings["guidance_scale"],
        "scheduler": type(pipe.scheduler).__name__,
        "dtype": str(base.denoiser.dtype),
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = (cache or cache_folder()) / "class-pictures" / name
    names = [f"{number:05d}.png" for number in range(recipe.class_pictures)]
    if not folder.is_dir():
        with suppress(AlreadyExistsError), new_folder(folder) as partial:  # another process may be faster
            (partial / "key.json").write_text(json.dumps(key, indent=1), "utf-8")
            starts = range(0, len(names), DRAWN_AT_ONCE)
            for start in progress(starts, f"drawing {len(names)} class pictures", total=len(starts)):
                seeds = range(start, min(start + DRAWN_AT_ONCE, len(names)))
                drawn = pipe(
                    [prompt] * len(seeds), generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    **settings,
                ).images  # fmt: skip
                for seed, picture in zip(seeds, drawn, strict=True):
                    picture.save(partial / names[seed])
    return [open_picture(folder / name) for name in names]

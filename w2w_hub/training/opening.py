"""Opens a base model for training, with the layout and the initialization of what is trained."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.text import counted
from ..dataset.initialization import SAME_START, a_part, start_cosines
from ..dataset.manifest import UNKNOWN, Compatibility
from ..dataset.reference import ReferenceLayout
from ..dialects import read_adapter
from ..dialects.base_model import CONFIG
from ..dialects.generation import read_settings
from ..errors import (
    BaseModelMismatchError,
    InitializationError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPathError,
    NotACheckpointError,
)
from ..lora.layout import ParameterLayout
from ..models.injection import base_digest, target_modules
from ..models.pipelines.inputs import denoiser_of, picture_size
from ..models.pipelines.loading import base_at, open_stock
from ..store.manifest import read_json_in
from ..store.paths import exists, has_file, missing, short
from .engines import Engine
from .objective import Objective, objective_of
from .recipe import TrainingRecipe
from .tensors import kaiming_start

START_SEED = 0
TRANSFORMERS = ("SD3Transformer2DModel",)  # those that take latents as they are


@dataclass(frozen=True)
class OpenedBase:
    """A frozen base model on a device, and the adapters that are trained in it.

    Attributes
    ----------
    name : str
        As the user named it.
    pipe : DiffusionPipeline
        The stock pipeline, in the dtype of computation.
    digest : str
        Digest of the target weights as they are in the base model's files.
    start : Tensor
        float32 ``(layout.size,)``: the initialization.
    start_name : str
        Its name in a dataset.
    recipe : TrainingRecipe
        As it is applied: with the rank, scale and target modules of a reference.
    objective : Objective
    dtype : str
        In which trained rows are stored: the reference's, if it is a dataset, else float32.
    generation : mapping
        Generation settings of a weight space that is the base model: steps and guidance.
    """

    name: str
    pipe: Any
    layout: ParameterLayout
    digest: str
    start: torch.Tensor
    start_name: str
    recipe: TrainingRecipe
    objective: Objective
    dtype: str = "float32"
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def denoiser(self) -> Any:
        """The model that is trained: the pipeline's UNet or transformer."""
        return denoiser_of(self.pipe)[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its pictures."""
        return picture_size(self.pipe)

    @property
    def compatibility(self) -> Compatibility:
        """The record of a dataset of adapters of this base model and initialization."""
        return Compatibility(self.name, self.digest, self.start_name)

    def resembles_start(self, rows: np.ndarray) -> np.ndarray:
        """Return bool ``(n,)``: whether the A of rows ``(n, size)`` is like the initialization's, as in a dataset."""
        return start_cosines(self.layout, self.start.numpy(), rows.astype(np.float32)) >= SAME_START

    def plan(self, engine: str, **more: Any) -> dict[str, Any]:
        """Return everything besides the pictures that decides the result of a run."""
        model = self.denoiser
        return {
            "recipe": self.recipe.to_json(), "layout": self.layout.digest, "base": self.digest, "engine": engine,
            "start": _digest(self.start), "dtype": str(model.dtype), "device": str(model.device.type), **more,
        }  # fmt: skip

    def record(self, engine: str) -> dict[str, Any]:
        """Return how rows are trained, as a dataset records it; see :mod:`w2w_hub.dataset.training_records`."""
        plan = self.plan(engine)
        return {"base_digest": self.digest} | {name: plan[name] for name in ("recipe", "engine", "dtype", "device")}


def open_base(
    base: Path | str, recipe: TrainingRecipe, device: str, reference: Path | str | None = None,
    start: Path | str | None = None,
) -> OpenedBase:  # fmt: skip
    """Open a base model for training.

    Parameters
    ----------
    base : path or str
        A diffusers folder, a weight space with an embedded base model, or a repository.
    reference : path, optional
        Dataset or weight space that the adapters are for: its layout instead of the recipe's rank, scale and targets.
    start : path, optional
        Adapter to start from; by default the initialization that the reference publishes, else PEFT's with seed 0.

    Raises
    ------
    MissingPathError, CorruptFileError
        If something cannot be opened.
    BaseModelMismatchError
        If its kind cannot be trained, or it is not the one that the reference was made for.
    InvalidInputError
        If the base model has no module that one of the recipe's targets names, or predicts what cannot be trained, or
        there is no such device.
    LayoutMismatchError
        If `start` has another layout.
    InitializationError
        If the reference's rows were trained from another initialization.
    """
    require_device(device)
    wanted = None if reference is None else _reference(reference)
    pipe = open_stock(base_at(base, {}), torch.float32)  # the digest is that of exact weights
    component, model = _trainable(pipe, base)
    objective = _objective(pipe, base)
    if wanted is None:
        layout = _layout(model, recipe, component, base)
    else:
        layout = wanted.layout
        recipe = _applied(recipe, layout)
        _require_component(layout, component, base, reference)
    try:
        target_modules(model, layout)
    except BaseModelMismatchError as error:
        raise BaseModelMismatchError(f"{base} is not the base model of {reference}: {error}; give that one") from error
    digest = base_digest(model, layout)
    made_for = None if wanted is None else wanted.compatibility
    if made_for is not None and made_for.base_digest not in (None, digest):
        raise BaseModelMismatchError(
            f"{base} is not the base model of {reference}: its target weights have digest {digest[:12]}, not "
            f"{str(made_for.base_digest)[:12]} ({made_for.base_model or 'not named'}); give that one as --base"
        )
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            # diffusers' own `to` remarks that a dtype is better chosen on loading
            torch.nn.Module.to(part.requires_grad_(False).eval(), dtype=precision(recipe, device))
    published = None if wanted is None or start is not None else wanted.start
    vector = _start(layout, start) if published is None else torch.from_numpy(published)
    name = f"peft-seed-{START_SEED}" if start is None and published is None else f"start-{_digest(vector)[:12]}"
    cosine = None if wanted is None else wanted.compare(layout.unflatten(vector.numpy())).get("initialisation_cosine")
    if cosine is not None and cosine < SAME_START:
        raise InitializationError(
            f"the rows of {reference} were not trained from {start or 'the initialization of PEFT with seed 0'} "
            f"(cosine {cosine:.2f} of their A); give the adapter that they started from as --start"
        )
    if cosine is not None and made_for is not None and made_for.initialisation != UNKNOWN:
        name = made_for.initialisation
    dtype = "float32" if wanted is None else wanted.dtype
    return OpenedBase(
        str(base), pipe.to(device), layout, digest, vector, name, recipe, objective, dtype, _generation(base)
    )


def _reference(path: Path | str) -> ReferenceLayout:
    advice = "--for (reference=) is the folder of a dataset or weight space"
    if not exists(Path(path)):
        raise missing(path, advice)
    try:
        return ReferenceLayout(path)
    except (MissingPathError, NotACheckpointError) as error:
        raise type(error)(f"{error}; {advice}", path=error.path) from error


def _applied(recipe: TrainingRecipe, layout: ParameterLayout) -> TrainingRecipe:
    """Return a recipe with the rank, scale and target modules of a layout."""
    rank = max(slot.rank for slot in layout.slots)
    targets = sorted({_suffix(slot.target.module) for slot in layout.slots})
    return replace(recipe, rank=rank, alpha=layout.scale * rank, targets=tuple(targets))


def _suffix(module: str) -> str:
    """Return the last names of a module's path that say which of its block it is: ``to_q``, ``to_out.0``."""
    *others, last = module.split(".")
    return f"{others[-1]}.{last}" if last.isdecimal() and others else last


def _objective(pipe: Any, base: Path | str) -> Objective:
    try:
        return objective_of(pipe.scheduler)
    except InvalidInputError as error:
        raise InvalidInputError(f"{base}: {error}") from error


def _trainable(pipe: Any, base: Path | str) -> tuple[str, Any]:
    """Return the component to train and its model.

    Raises
    ------
    BaseModelMismatchError
        Unless it is a text-to-image model of latents: a UNet, or a transformer of Stable Diffusion 3's kind.
    """
    component, model = denoiser_of(pipe)
    known = component == "unet" or type(model).__name__ in TRANSFORMERS
    vae = getattr(pipe, "vae", None)
    latent = None if vae is None else getattr(vae.config, "latent_channels", None)
    takes_picture = "image" in inspect.signature(type(pipe).__call__).parameters
    if not known or takes_picture or not hasattr(pipe, "encode_prompt") or model.config.in_channels != latent:
        raise BaseModelMismatchError(
            f"{base} is a {type(pipe).__name__}, which training does not support; choose a text-to-image base model "
            "of Stable Diffusion, SDXL or Stable Diffusion 3"
        )
    return component, model


def _layout(model: Any, recipe: TrainingRecipe, component: str, base: Path | str) -> ParameterLayout:
    try:
        layout = ParameterLayout.from_model(model, recipe.targets, recipe.rank, recipe.scale, component)
    except InvalidInputError as error:
        raise InvalidInputError(f"{base}: {error}; choose other targets (--target)", name="targets") from error
    modules = [f".{slot.target.module}" for slot in layout.slots]
    lacking = [name for name in recipe.targets if not any(module.endswith(f".{name}") for module in modules)]
    if lacking:
        raise InvalidInputError(
            f"{base}: the {component} has no Linear or Conv2d module named {' or '.join(lacking)}; leave it out, or "
            "choose other targets (--target)",
            name="targets",
        )
    return layout


def _require_component(layout: ParameterLayout, component: str, base: Path | str, reference: Any) -> None:
    others = sorted({slot.target.component for slot in layout.slots} - {component})
    if others:
        raise BaseModelMismatchError(
            f"the rows of {reference} adapt {', '.join(others)}, but only the {component} of {base} can be trained"
        )


def _generation(base: Path | str) -> dict[str, Any]:
    folder = Path(base)
    has_settings = folder.is_dir() and has_file(folder, CONFIG)
    return read_settings(read_json_in(folder, CONFIG), folder / CONFIG) if has_settings else {}


def require_device(name: str, engine: str = "eager") -> None:
    """Raise unless there is such a device, on which the engine runs.

    Raises
    ------
    InvalidInputError
    """
    try:
        device = torch.device(name)
        count = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= count:
            raise InvalidInputError(
                f"device {name!r}: torch finds {counted(count, 'CUDA device')} here; choose another", name="device"
            )
        usable = device.type != "meta" and torch.zeros(1, device=device).item() == 0
    except (RuntimeError, NotImplementedError, AssertionError):  # unknown to torch, or not in this build of it
        usable = False
    if not usable:
        raise InvalidInputError(
            f"device {short(name)} is none that torch can use here; choose another, such as cpu or cuda", name="device"
        )
    Engine(engine).require(device)


def precision(recipe: TrainingRecipe, device: str) -> torch.dtype:
    """Return the dtype in which the model computes."""
    if recipe.precision != "auto":
        return torch.float32 if recipe.precision == "float32" else torch.bfloat16
    fast = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _start(layout: ParameterLayout, start: Path | str | None) -> torch.Tensor:
    if start is None:
        return kaiming_start(layout, START_SEED)
    adapter = read_adapter(start)
    found = ParameterLayout.from_adapter(adapter, scale=layout.scale)
    if found.digest != layout.digest:
        raise LayoutMismatchError(f"{start}: {layout.differences(found)}; start from an adapter of the same layout")
    vector = layout.flatten(adapter)
    if not a_part(layout, vector).any():
        raise InitializationError(f"{start} has no A other than zero, so that nothing can be trained from it")
    return torch.from_numpy(vector)


def _digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()

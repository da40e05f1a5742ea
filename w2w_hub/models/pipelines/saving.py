"""Writes weight spaces with their base models, embedded or by reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...common.pipelines import PIPELINES, pipeline_row
from ...dialects.base_model import CONFIG, EMBEDDED, state_one_dtype
from ...dialects.generation import stored_settings
from ...errors import BaseModelMismatchError, InvalidInputError
from ...space import WeightSpace
from ...space.storage import save_space
from ...store.atomic import write_bytes, write_json
from ..injection import base_digest, uncompiled
from ..pictures import save_picture
from .loading import is_repository

CUSTOM = "pipeline.py"
CUSTOM_CODE = """# For DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER); the code is in the package:
# in a clone of w2w_hub, pip install -e '.[diffusers]'
from w2w_hub.models.pipelines import {imported}  # noqa: F401
"""


def save_folder(
    space: WeightSpace,
    stock: Any,
    path: Path | str,
    base_model: str | None,
    revision: str | None,
    custom_pipeline: bool,
    options: Mapping[str, Any],
    generation: Mapping[str, Any],
    previews: Callable[[], Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a space with its base model as a stock pipeline; see :meth:`W2WMixin.save_pretrained`.

    Parameters
    ----------
    previews : callable, optional
        Draws the card's previews, by name; it is called once all else is checked.
    """
    unet = uncompiled(stock.unet)
    if getattr(unet, "peft_config", None):
        raise InvalidInputError("a style LoRA is loaded; call pipe.unload_lora_weights() before saving")
    stated, found = space.compatibility.base_digest, base_digest(unet, space.layout)
    if stated is not None and stated != found:
        raise BaseModelMismatchError(
            "the base model in memory is not the one of the weight space (fused, cast to another dtype, or with an "
            "injected identity); open it again in float32 to save it"
        )
    if base_model is None and revision is not None:
        raise InvalidInputError("revision needs base_model; name the repository")
    if base_model is not None and (not is_repository(base_model) or not revision):
        raise InvalidInputError(
            f"a base model by reference needs a repository (owner/name) and a commit, not {base_model!r}, {revision!r}"
        )

    if options.get("safe_serialization") not in (None, True):
        raise InvalidInputError("safe_serialization=False would write pickles; leave it out")

    row = pipeline_row(type(stock).__name__)
    if custom_pipeline and row is None:
        raise InvalidInputError(f"custom_pipeline needs a class of this package; {type(stock).__name__} has none")

    sheets = {} if previews is None else previews()

    def extend(folder: Path) -> None:
        if base_model is None:
            stock.save_pretrained(folder, **options)
            state_one_dtype(folder)
            base = {"base_model": EMBEDDED}
        else:
            base = {"base_model": base_model, "revision": str(revision)}
        write_json(folder / CONFIG, base | stored_settings(generation))
        for name, sheet in sheets.items():
            save_picture(sheet, folder / "previews" / f"{name}.png")
        if custom_pipeline and row is not None:
            write_bytes(folder / CUSTOM, _custom_code(row.name).encode())

    save_space(space, path, extend=extend, overwrite=overwrite)


def _custom_code(name: str) -> str:
    """Return a `pipeline.py` that imports a class, always under the same name.

    diffusers runs the files of all folders in one module and refuses a module with two classes.
    """
    shared = PIPELINES[0].name
    return CUSTOM_CODE.format(imported=name if name == shared else f"{name} as {shared}")

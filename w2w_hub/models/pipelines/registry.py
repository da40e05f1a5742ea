"""Chooses the pipeline class for a base model by the stock class in its ``model_index.json``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ...common.arguments import SPACE
from ...common.constraints import text, validated
from ...common.pipelines import PIPELINES, PipelineRow, family_of, pipeline_row
from ...errors import BaseModelMismatchError, InvalidInputError
from ...space import WeightSpace
from .loading import PLACE, Base, base_at, base_of, open_base, open_space, torch_dtype
from .quiet import no_torchvision_note


@validated(stock=text())
def pipeline_for(stock: str) -> Any:
    """Return this package's class for a stock pipeline class.

    Parameters
    ----------
    stock : str
        The class's name in diffusers: ``"StableDiffusionImg2ImgPipeline"``.

    Raises
    ------
    InvalidInputError
        If there is none; make one with `W2WMixin`.
    """
    row = pipeline_row(stock)
    if row is None:
        raise InvalidInputError(f"this package has no pipeline for {stock}; {_known()}")
    return _class_of(row)


class AutoW2WPipeline:
    """Opens a weight space with the text-to-image pipeline of its base model.

    Like diffusers' ``AutoPipelineForText2Image``, it returns instances of other classes, those of
    :data:`w2w_hub.common.pipelines.PIPELINES`.

    Examples
    --------
    >>> pipe = AutoW2WPipeline.from_pretrained("org/space")  # a W2WPipeline, for Stable Diffusion   # doctest: +SKIP
    """

    @classmethod
    def from_pretrained(cls, path: Path | str, dtype: Any = None, **options: Any) -> Any:
        """Open a weight space with its base model; `options` are those of :meth:`W2WMixin.from_pretrained`.

        Raises
        ------
        BaseModelMismatchError
            If this package has no pipeline for this kind of base model.
        """
        return open_space(_text_to_image, path, dtype, **options)

    @classmethod
    @validated(base=PLACE, space=SPACE)
    def from_base(cls, base: Path | str, space: WeightSpace, dtype: Any = None, **options: Any) -> Any:
        """Make a pipeline of a base model and a space in memory, as :meth:`W2WMixin.from_base` does."""
        dtype = torch_dtype(dtype, options)
        return open_base(_text_to_image, base_at(base, options), space, dtype)


def pipeline_of(space: WeightSpace, base: Path | str | None = None) -> Any:
    """Return the text-to-image pipeline of an open space, with its own base model or another one."""
    found = base_of(space, {}) if base is None else base_at(str(base), {})
    return open_base(_text_to_image, found, space, torch_dtype(None, {}))


def _text_to_image(base: Base) -> Any:
    rows = family_of(base.class_name())
    if not rows:
        raise BaseModelMismatchError(f"{base.where} is a {base.class_name()}; {_known()}")
    return _class_of(rows[0])


def _class_of(row: PipelineRow) -> Any:
    with no_torchvision_note():
        return getattr(importlib.import_module(f".{row.family}", __package__), row.name)


def _known() -> str:
    known = ", ".join(row.stock for row in PIPELINES)
    return f"known are {known}; mix w2w_hub.models.pipelines.W2WMixin into the class of another"

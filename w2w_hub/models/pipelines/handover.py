"""Notices a stock pipeline being made of a W2W pipeline's parts: it would draw the base model without a word."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

from ...errors import InvalidInputError

# their code reads `components` and `config` to move, save and wrap a pipeline, not to make another of it
MACHINERY = ("accelerate", "diffusers", "peft", "torch", "transformers", "w2w_hub")


def notice_from_pipe(pipe: Any, reader: FrameType, mixin: type) -> None:
    """Act on a stock `from_pipe`, which reads a pipeline's configuration first.

    Raises
    ------
    InvalidInputError
        From diffusers' AutoPipeline classes, which look for the class by its name.

    Warns
    -----
    UserWarning
        If an identity is set, which the new pipeline does not draw.
    """
    if reader.f_code.co_name != "from_pipe" or _library(reader) != "diffusers":
        return
    made = reader.f_locals.get("cls")
    if not isinstance(made, type) or issubclass(made, mixin):
        return
    if made.__name__.startswith("AutoPipeline"):
        raise InvalidInputError(
            f"{made.__name__} knows no pipeline like {type(pipe).__name__}, and a stock one would not draw its "
            f"identity; {advice('StableDiffusionImg2ImgPipeline')}"
        )
    if pipe._identity is not None:
        _warn(f"a {made.__name__} draws the base model, not this pipeline's identity; {advice(made.__name__)}")
    elif pipe._space is not None:
        pipe._lent = made.__name__


def notice_components(pipe: Any, reader: FrameType) -> None:
    """Act on a caller that reads the components, as for ``StableDiffusionImg2ImgPipeline(**pipe.components)``.

    Warns
    -----
    UserWarning
        If an identity is set, which a stock pipeline made of them does not draw.
    """
    if pipe._space is None or _library(reader) in MACHINERY:
        return
    if pipe._identity is None:
        pipe._lent = "stock pipeline"
        return
    _warn(
        "a stock pipeline made of these components draws the base model, not this pipeline's identity; "
        f"{advice('StableDiffusionImg2ImgPipeline')}"
    )


def warn_if_lent(pipe: Any) -> None:
    """Warn once, when an identity is set, that a stock pipeline which has this one's parts does not draw it."""
    lent, pipe._lent = pipe._lent, None
    if lent is not None:
        _warn(
            f"a {lent} may have been made of this pipeline's components; it draws the base model, not this identity: "
            f"{advice('StableDiffusionImg2ImgPipeline' if ' ' in lent else lent)}"
        )


def _warn(text: str) -> None:
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _library(frame) in MACHINERY:  # at the line of the user's that did it
        depth, frame = depth + 1, frame.f_back
    warnings.warn(text, stacklevel=depth)


def advice(stock: str) -> str:
    """Say how a pipeline of another class draws identities."""
    return (
        f"mix W2WMixin into its class: class W2WVariant(W2WMixin, {stock}): stock_class = {stock}; then "
        "W2WVariant.from_pipe(pipe)"
    )


def _library(reader: FrameType) -> str:
    return str(reader.f_globals.get("__name__", "")).partition(".")[0]

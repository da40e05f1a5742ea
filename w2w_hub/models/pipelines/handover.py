"""Warns when a stock pipeline is made of a W2W pipeline's components, since it generates with the base model.

diffusers has no hook for this. A stock ``from_pipe`` first reads the other pipeline's `config`, and
``StockClass(**pipe.components)`` reads `components`, so that both properties inspect their caller's frame.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

from ...common.pipelines import IMAGE_TO_IMAGE, INPAINTING, TEXT_TO_IMAGE, family_of, pipeline_row
from ...errors import InvalidInputError

# libraries that read `components` and `config` to move, save, compile or wrap a pipeline
MACHINERY = ("accelerate", "diffusers", "peft", "torch", "transformers", "w2w_hub")
AUTO = {
    "AutoPipelineForText2Image": TEXT_TO_IMAGE, "AutoPipelineForImage2Image": IMAGE_TO_IMAGE,
    "AutoPipelineForInpainting": INPAINTING,
}  # fmt: skip


class StockPipelineWarning(UserWarning):
    """A stock pipeline shares a W2W pipeline's components and ignores its identity."""


def notice_from_pipe(pipe: Any, reader: FrameType, mixin: type) -> None:
    """Warn or raise if a stock `from_pipe` reads a pipeline's `config`.

    Raises
    ------
    InvalidInputError
        For diffusers' AutoPipeline classes, which do not know the classes of this package.

    Warns
    -----
    StockPipelineWarning
        If an identity is set; once per identity.
    """
    if reader.f_code.co_name != "from_pipe" or _library(reader) != "diffusers":
        return
    made = reader.f_locals.get("cls")
    if not isinstance(made, type) or issubclass(made, mixin):
        return
    if made.__name__.startswith("AutoPipeline"):
        task = AUTO.get(made.__name__)
        stock = next((row.stock for row in family_of(pipe.stock_class.__name__) if row.task == task), None)
        raise InvalidInputError(f"{made.__name__} makes stock pipelines, which ignore the identity; {_advice(stock)}")
    _notice(pipe, made.__name__)


def notice_components(pipe: Any, reader: FrameType) -> None:
    """Warn if a caller reads `components`, as ``StableDiffusionImg2ImgPipeline(**pipe.components)`` does.

    Warns
    -----
    StockPipelineWarning
        If an identity is set; once per identity.
    """
    if _library(reader) not in MACHINERY:
        _notice(pipe, None)


def notice_identity(pipe: Any) -> None:
    """Warn if an identity is set after a stock pipeline was made of the components."""
    lent, pipe._lent = pipe._lent, ()
    pipe._warned = False
    for stock in lent:
        _warn(pipe, stock)


def _notice(pipe: Any, stock: str | None) -> None:
    """Warn now, or when an identity is set."""
    if pipe._identity is not None:
        _warn(pipe, stock)
    elif pipe._space is not None:
        pipe._lent = (stock,)


def _warn(pipe: Any, stock: str | None) -> None:
    if pipe._warned:
        return
    pipe._warned = True
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _library(frame) in MACHINERY:  # at the user's line
        depth, frame = depth + 1, frame.f_back
    made = f"a {stock} made" if stock else "a stock pipeline that is made"
    text = f"{made} of this pipeline's components ignores its identity; "
    warnings.warn(text + _advice(stock, pipe.stock_class.__name__), StockPipelineWarning, stacklevel=depth)


def _advice(stock: str | None, family: str = "") -> str:
    """Return advice that names our class for a stock class, or those of its family."""
    row = pipeline_row(stock or "")
    names = [row.name] if row else [] if stock else [row.name for row in family_of(family)]
    if names:
        return f"use {' or '.join(names)}.from_pipe(pipe) (W2WMixin injects identities)"
    stock = stock or "STOCK"
    return (
        f"mix W2WMixin into its class: class W2WVariant(W2WMixin, {stock}): stock_class = {stock}; then "
        "W2WVariant.from_pipe(pipe)"
    )


def _library(reader: FrameType) -> str:
    return str(reader.f_globals.get("__name__", "")).partition(".")[0]

"""One call of a pipeline: injects its identities, and repeats the prompt for each of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...common.text import counted
from ...errors import InvalidInputError
from ...lora.layout import ParameterLayout
from ...space.identity import Identity
from ..injection import inject, use_base
from .schedule import HOOK, follow_schedule

Identities = tuple[Identity | None, ...]


def arguments_of(stock_call: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stock call's arguments by name; if they do not fit, the keywords alone, which the stock call refuses."""
    try:
        bound = inspect.signature(stock_call).bind_partial(None, *args, **kwargs)
    except TypeError:
        return dict(kwargs)
    named = dict(list(bound.arguments.items())[1:])
    result: dict[str, Any] = named | named.pop("kwargs", {})
    return result


def with_settings(
    stock_call: Any, args: Sequence[Any], kwargs: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a stock call's keywords with those settings that it takes and is not given."""
    given, taken = arguments_of(stock_call, args, kwargs), inspect.signature(stock_call).parameters
    return {**kwargs, **{name: value for name, value in settings.items() if name in taken and name not in given}}


def one_prompt_each(identities: Identities, given: dict[str, Any]) -> dict[str, Any]:
    """Return a stock call's arguments with one prompt, or encoded prompt, per identity.

    Raises
    ------
    InvalidInputError
        If there are neither one prompt nor one per identity.
    """
    n = len(identities)
    result = dict(given)
    for name in ("prompt", "negative_prompt"):
        value = given.get(name)
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list) and len(value) == 1:
            result[name] = value * n
    encoded = [name for name in given if name.endswith("prompt_embeds") and given[name] is not None]
    for name in encoded:
        if len(given[name]) == 1:
            result[name] = given[name].repeat(n, *[1] * (given[name].ndim - 1))
    lead = next((name for name in ("prompt", "prompt_embeds") if result.get(name) is not None), None)
    found = "none" if lead is None else str(len(result[lead]))
    if found != str(n):
        raise InvalidInputError(f"{counted(n, 'identity needs', 'identities need')} one prompt or {n}; got {found}")
    return result


@contextmanager
def generating(
    unet: torch.nn.Module,
    scheduler: Any,
    layout: ParameterLayout | None,
    device: torch.device | None,
    identities: Identities,
    images_per_prompt: int,
) -> Iterator[None]:
    """Inject one identity, or one per sample of the batch, for the duration of a call; None runs the base model.

    An identity whose edits start later is injected without them until the schedule reaches their start.

    Parameters
    ----------
    layout : ParameterLayout or None
        The layout of the identities' vectors; may be None if all identities are.
    device : device or None
        The device that the model computes on.
    """
    if layout is None or not any(identities):
        with use_base(unet):
            yield
        return
    base = np.zeros(layout.size, np.float32)

    def rows(fraction: float) -> torch.Tensor:
        vectors = [base if identity is None else identity.at(fraction) for identity in identities]
        if len(identities) == 1:
            return torch.from_numpy(vectors[0])
        return torch.from_numpy(np.stack(vectors)).repeat_interleave(images_per_prompt, 0)

    with inject(unet, layout, rows(0.0), device) as use:
        starts = [identity.start if identity is not None else 0.0 for identity in identities]
        if not any(starts):
            yield
            return
        started = [start == 0 for start in starts]

        def on_step(fraction: float) -> None:
            now = [fraction >= start for start in starts]
            if now != started:
                started[:] = now
                use(rows(fraction))

        with follow_schedule(scheduler, on_step):
            yield


def nested_copy(pipe: Any) -> Any:
    """Return a shallow copy for a call inside a callback, which leaves the outer call's state and schedule alone."""
    inner = copy.copy(pipe)
    inner._generating = False
    scheduler = copy.deepcopy({k: v for k, v in pipe.scheduler.__dict__.items() if k != HOOK})
    inner.scheduler = copy.copy(pipe.scheduler)
    inner.scheduler.__dict__.clear()
    inner.scheduler.__dict__.update(scheduler)
    return inner

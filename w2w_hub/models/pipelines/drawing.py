"""One call of a pipeline: whose pictures it draws, and what the prompts must be for that."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import InvalidInputError
from ..injection import base_shown, identity_shown
from .schedule import HOOK, followed

if TYPE_CHECKING:
    from ...space.identity import Identity
    from .mixin import W2WMixin

People = tuple["Identity | None", ...]


def arguments_of(stock_call: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A stock call's arguments by name; what does not fit its signature is left to the stock call to refuse."""
    try:
        bound = inspect.signature(stock_call).bind_partial(None, *args, **kwargs)
    except TypeError:
        return dict(kwargs)
    named = dict(list(bound.arguments.items())[1:])
    return named | named.pop("kwargs", {})


def one_prompt_each(people: People, given: dict[str, Any]) -> dict[str, Any]:
    """A stock call's arguments with as many prompts, or encoded prompts, as identities.

    Raises
    ------
    InvalidInputError
        If there is neither one for all nor one for each.
    """
    n = len(people)
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
        raise InvalidInputError(f"{n} identities need one prompt, or as many; got {found}")
    return result


@contextmanager
def drawn(pipe: W2WMixin, people: People, images_a_prompt: int) -> Iterator[None]:
    """The model draws these identities inside the block, each picture its own of several; the base if there is none.

    Identities whose edits start later are drawn without those until then.
    """
    unet: Any = pipe.unet  # type: ignore[attr-defined]
    if not any(people):
        with base_shown(unet):
            yield
        return
    layout = pipe.space.layout
    base = np.zeros(layout.size, np.float32)

    def rows(share: float) -> torch.Tensor:
        vectors = [base if identity is None else identity.at(share) for identity in people]
        if len(people) == 1:
            return torch.from_numpy(vectors[0])
        return torch.from_numpy(np.stack(vectors)).repeat_interleave(images_a_prompt, 0)

    with identity_shown(unet, layout, rows(0.0), pipe._execution_device) as use:  # type: ignore[attr-defined]
        starts = [identity.start if identity is not None else 0.0 for identity in people]
        if not any(starts):
            yield
            return
        started = [start == 0 for start in starts]

        def on_step(share: float) -> None:
            now = [share >= start for start in starts]
            if now != started:
                started[:] = now
                use(rows(share))

        with followed(pipe.scheduler, on_step):  # type: ignore[attr-defined]
            yield


def nested_copy(pipe: Any) -> Any:
    """The same pipeline for a call inside a callback: the outer call's settings and schedule stay as they are."""
    inner = copy.copy(pipe)
    inner._drawing = False
    scheduler = copy.deepcopy({k: v for k, v in pipe.scheduler.__dict__.items() if k != HOOK})
    inner.scheduler = copy.copy(pipe.scheduler)
    inner.scheduler.__dict__.clear()
    inner.scheduler.__dict__.update(scheduler)
    return inner

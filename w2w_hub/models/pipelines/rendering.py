"""RenderMixin: runs the stock call with the identities of a pipeline, and renders sets of pictures."""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from ...common.constraints import as_list, validated, whole
from ...common.progress import progress
from ...errors import InvalidInputError
from ...space.identity import resolve_several
from ..injection import injection
from ..inversion import SEED
from .drawing import Identities, arguments_of, generating, nested_copy, one_prompt_each, with_settings
from .identities import IdentityMixin

# arguments of the stock call that `render` sets itself
RENDERED = ("prompt", "prompt_embeds", "generator", "latents", "return_dict", "num_images_per_prompt")
# the pipeline that `render` calls in this thread, and the identities of that call
_render_call: ContextVar[tuple[Any, Identities] | None] = ContextVar("render_call", default=None)


class RenderMixin(IdentityMixin):
    """The part of :class:`W2WMixin` that generates pictures."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Give the class's `__call__` the stock class's signature and documentation."""
        super().__init_subclass__(**options)
        stock = cls.__dict__.get("stock_class")
        if stock is not None and "__call__" not in cls.__dict__:

            @functools.wraps(stock.__call__)
            def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
                return self._generate(stock.__call__, args, kwargs)

            cls.__call__ = __call__  # type: ignore[attr-defined,method-assign]

    def _generate(self, stock_call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the stock call with the identity that is set at its start."""
        with injection(self.unet).lock:
            if self._generating:
                return nested_copy(self)._generate(stock_call, args, kwargs)
            chosen = self._identity
            kwargs = with_settings(stock_call, args, kwargs, self.generation)
            call, token = _render_call.get(), None
            if call is not None and call[0] is self:
                chosen, token = call[1], _render_call.set(None)  # for this call, not for calls inside its callbacks
            identities = chosen if isinstance(chosen, tuple) else (chosen,)
            images_per_prompt = 1
            if len(identities) > 1:
                kwargs = one_prompt_each(identities, arguments_of(stock_call, args, kwargs))
                args, images_per_prompt = (), kwargs.get("num_images_per_prompt") or 1
            layout = self.space.layout if any(identities) else None
            self._generating = True
            try:
                device = None if layout is None else self._execution_device
                with generating(self.unet, self.scheduler, layout, device, identities, images_per_prompt):
                    return stock_call(self, *args, **kwargs)
            finally:
                self._generating = False
                if token is not None:
                    _render_call.reset(token)

    @validated(batch_size=whole(1))
    def render(
        self, identities: Sequence[Any], cases: Sequence[tuple[str, int]], *, batch_size: int = 32, **options: Any
    ) -> np.ndarray:
        """Return pictures of several identities under fixed (prompt, seed) pairs.

        All identities start from the same noise, so that pictures of a pair differ by the identity alone. None is the
        base model.

        Returns
        -------
        ndarray
            float32 ``(identities, cases, height, width, 3)`` in [0, 1].

        Raises
        ------
        InvalidInputError
            For options of the stock call that `render` sets itself (`generator`, another `output_type`, ...).
        """
        given = [name for name in RENDERED if name in options]
        if given or options.get("output_type", "np") != "np":
            named = (given or ["output_type"])[0]
            raise InvalidInputError(f"render sets {named} itself; leave it out")
        plain = {"output_type": "np", **options}
        resolved = resolve_several(self.space, as_list(identities, "identities"))
        cases = [_case(case) for case in as_list(cases, "cases")]
        jobs = [(start, case) for start in range(0, len(resolved), batch_size) for case in range(len(cases))]
        out: np.ndarray | None = None
        for start, case in progress(jobs, "rendering"):
            part = resolved[start : start + batch_size]
            prompt, seed = cases[case]
            noises = [torch.Generator().manual_seed(seed) for _ in part]
            token = _render_call.set((self, part))
            try:
                pictures = self([prompt] * len(part), generator=noises, **plain).images  # type: ignore[operator]
            finally:
                _render_call.reset(token)
            if out is None:
                out = np.empty((len(resolved), len(cases), *pictures.shape[1:]), np.float32)
            out[start : start + len(part), case] = pictures
        if out is None:
            raise InvalidInputError("render needs at least one identity and one case")
        return out


def _case(case: Any) -> tuple[str, int]:
    if not isinstance(case, (tuple, list)) or len(case) != 2 or not isinstance(case[0], str):
        raise InvalidInputError(f"a case is a prompt and a seed, not {reprlib.repr(case)}")
    return case[0], SEED.checked(case[1], "the seed of a case")

"""AttachedSpace: the weight space of a pipeline, and the settings that it generates with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.arguments import SPACE
from ...common.constraints import flag, validated
from ...dialects.generation import checked_settings
from ...errors import UnknownNameError
from ...space import WeightSpace
from ...space.identity import Identity
from ...store.manifest import FILENAME as MANIFEST
from ..injection import use_base
from .drawing import Identities
from .loading import require_base


class AttachedSpace:
    """What every part of :class:`W2WMixin` shares: components of the stock class, and the state of the pipeline."""

    stock_class: Any
    unet: Any  # of the stock class, as are the next two
    scheduler: Any
    _execution_device: Any
    _space: WeightSpace | None = None
    _identity: Identity | Identities | None = None
    _generation: dict[str, Any] | None = None  # the space's, unless it is set
    _generating = False
    _lent: tuple[str | None, ...] = ()  # stock pipelines that may share the components, until an identity is set
    _warned = False  # about a stock pipeline, since the identity was set

    @property
    def space(self) -> WeightSpace:
        """The weight space: the attached one, or else that of the folder which a stock loader opened."""
        if self._space is None:
            opened_from = getattr(getattr(self, "config", None), "_name_or_path", None)
            # only a folder: for a repository's name the revision would be a guess
            if not opened_from or not (Path(opened_from) / MANIFEST).is_file():
                raise UnknownNameError(
                    "this pipeline has no weight space yet; open one with W2WPipeline.from_pretrained or attach(space)"
                )
            stated = self._generation
            self.attach(WeightSpace.from_pretrained(opened_from))
            self._generation = stated
        assert self._space is not None
        return self._space

    @validated(space=SPACE, verify=flag())
    def attach(self, space: WeightSpace, *, verify: bool = True) -> None:
        """Attach a weight space; with `verify`, the base model must have the space's base digest.

        For a base model in bfloat16 only shapes are compared; :meth:`from_pretrained` and :meth:`from_base` compare
        the files before they are cast.
        """
        if verify:
            with use_base(self.unet):
                require_base(self.unet, space)
        self._space, self._identity, self._generation = space, None, None

    @property
    def generation(self) -> dict[str, Any]:
        """Keywords of the call that this pipeline uses where a call gives none; by default what the space states.

        Set it to a mapping of `num_inference_steps` and `guidance_scale`, or to ``{}`` for the stock class's own
        defaults. :meth:`save_pretrained` stores it.
        """
        if self._generation is not None:
            return dict(self._generation)
        try:
            return dict(self.space.generation)
        except UnknownNameError:  # no weight space
            return {}

    @generation.setter
    def generation(self, settings: Mapping[str, Any]) -> None:
        self._generation = checked_settings(settings)

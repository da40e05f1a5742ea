"""InvertMixin: finds the points of the people in pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ...common.constraints import has, optional, text, validated
from ...errors import InvalidInputError
from ...space import Point
from ...space.identity import resolve
from ...store.pictures import is_several, nested
from ..injection import injection
from ..inversion import Inversion, InversionSettings, Inverter
from ..starts import MEAN, find_starts
from .attached import AttachedSpace
from .identities import is_several_identities
from .inputs import encode_pictures, encode_text, latent_masks

PROMPT = "sks person"


class InvertMixin(AttachedSpace):
    """The part of :class:`W2WMixin` that inverts pictures."""

    @validated(prompt=text(), callback=optional(has("__call__", "a function of an inversion")))
    def invert(
        self,
        images: Any,
        *,
        mask: Any = None,
        prompt: str = PROMPT,
        start: Any = MEAN,
        callback: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> Inversion | list[Inversion]:
        """Find the point with which the model best denoises one picture, or several of one person.

        Parameters
        ----------
        images : PIL image, path, ndarray, or list of them
            Pictures of one person. A list of lists inverts several people in one batch.
        mask : PIL image, path, ndarray, or list of them, optional
            Which pixels count (white or 1), one per picture, nested as `images` is.
        start : optional
            Where the optimization starts: ``"mean"`` (of the population), ``"encoded"`` (the guess of the space's
            encoder, see :meth:`encode`; 40 steps from it take the place of several hundred), or whatever
            :attr:`identity` accepts as one. A list gives one start per person. The point's history records it.
        callback : callable, optional
            Called after the first step and every 10 with the inversion so far, or a list of them, as this method
            returns it; it may draw it with this pipeline. If it returns True, the inversion ends there.
        **options
            Fields of :class:`InversionSettings`.

        Returns
        -------
        Inversion
            The point and its losses; a list of them for a list of lists.

        Raises
        ------
        InvalidInputError
            If a picture or mask does not have the size that the base model generates, or a mask is empty; for
            ``"encoded"`` if the space has no encoder.
        UnknownNameError, LayoutMismatchError
            If a start is not an identity of this space.

        Examples
        --------
        >>> pipe.identity = pipe.invert(picture, num_steps=400, seed=0)                   # doctest: +SKIP
        >>> pipe.identity = pipe.invert("picture.png", start="encoded", num_steps=40)     # doctest: +SKIP
        """
        settings = InversionSettings(**options)
        several = is_several(images)
        people = nested(images, several, 3)
        counts = {len(p) for p in people}
        if not people or 0 in counts or len(counts) > 1:
            raise InvalidInputError("invert needs at least one picture per person, and as many for each")
        self.space.coordinates.require_k(settings.k)
        masks = None
        if mask is not None:
            given = nested(mask, several, 2)
            if [len(m) for m in given] != [len(p) for p in people]:
                raise InvalidInputError("invert needs one mask per picture, nested as the pictures are")
            masks = torch.stack([latent_masks(self, m) for m in given])
        each = list(start) if is_several_identities(start) else [start]
        starts = find_starts(self.space, each, people, partial(resolve, self.space))
        unet, scheduler = self.unet, self.scheduler
        with injection(unet).lock, torch.inference_mode(False), torch.enable_grad():
            try:
                latents = torch.stack([encode_pictures(self, pictures) for pictures in people])
                text, conditions = encode_text(self, prompt)
                masks = None if masks is None else masks.to(latents.device)
                found = Inverter(
                    unet, scheduler, self.space, latents, text, settings, masks, conditions, starts,
                    None if callback is None else lambda found: callback(found if several else found[0]),
                ).run()  # fmt: skip
            finally:
                self.maybe_free_model_hooks()  # type: ignore[attr-defined]
        return found if several else found[0]

    def encode(self, images: Any) -> Point | list[Point]:
        """Return the first guess of the space's encoder, without an optimization, see :meth:`WeightSpace.encode`.

        Examples
        --------
        >>> pipe.identity = pipe.encode("picture.png")   # doctest: +SKIP
        """
        return self.space.encode(images)

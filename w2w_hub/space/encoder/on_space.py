"""EncoderMixin: the encoder of a weight space, in memory and in its folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...common.arguments import of_class
from ...common.constraints import flag, validated
from ...errors import InvalidInputError
from ..additions import add_file
from ..contents import SpaceContents
from ..points import Point
from .encoder import FILE, Encoder, EncoderFile

ENCODER = of_class("Encoder", "an Encoder, as fit_encoder and Encoder.load return it")


class EncoderMixin(SpaceContents):
    """The part of :class:`WeightSpace` that finds points in pictures without a diffusion model."""

    @property
    def encoder(self) -> Encoder | None:
        """The encoder of this space, read when it is first used; None if there is none.

        Set it to one that :func:`w2w_hub.fit_encoder` or :meth:`Encoder.load` returned, or to None;
        :meth:`save` stores it, too.

        Raises
        ------
        LayoutMismatchError, BaseModelMismatchError
            For an encoder of another weight space or base model.
        CorruptFileError
            If its file is damaged.
        """
        if isinstance(self.stored_encoder, EncoderFile):
            found = self.stored_encoder.open()
            found.require_space(self.digest, self.compatibility.base_digest)
            self.stored_encoder = found
        return self.stored_encoder

    @encoder.setter
    def encoder(self, encoder: Encoder | None) -> None:
        if encoder is not None:
            ENCODER.checked(encoder, "encoder").require_space(self.digest, self.compatibility.base_digest)
        self.stored_encoder = encoder

    def encode(self, pictures: Any) -> Point | list[Point]:
        """Return the point that a picture shows, or several of one person do, as the encoder of this space sees it.

        One forward pass of a small network in NumPy: no diffusion model and no torch. It is a first guess, which
        :meth:`w2w_hub.W2WPipeline.invert` improves with ``start="encoded"``.

        Parameters
        ----------
        pictures : PIL image, path, ndarray, Tensor, or list of them
            Pictures of one person, whose guesses are averaged. A list of lists gives one point per person. Arrays
            ``(h, w, 3)`` or tensors ``(3, h, w)`` are uint8, or floats in 0 to 1.

        Returns
        -------
        Point
            A list of them for a list of lists.

        Raises
        ------
        InvalidInputError
            If this space has no encoder, and for a picture of another size.
        MissingExtraError
            If Pillow is not installed.

        Examples
        --------
        >>> space.encode("picture.png").save("guess.json")   # doctest: +SKIP
        """
        from ...store.pictures import is_several, nested

        encoder = self._required_encoder()
        several = is_several(pictures)
        people = nested(pictures, several, 3)
        if not people or not all(people):
            raise InvalidInputError("encode needs at least one picture per person")
        rows = encoder.coefficients([picture for person in people for picture in person])
        ends = np.cumsum([len(person) for person in people])
        found = [
            self.point(rows[end - len(person) : end, : self.k].mean(0), made="encoding", encoder=encoder.digest[:12])
            for person, end in zip(people, ends, strict=True)
        ]
        return found if several else found[0]

    @validated(encoder=ENCODER, overwrite=flag())
    def add_encoder(self, encoder: Encoder, *, overwrite: bool = False) -> str:
        """Store an encoder in the folder of this space; return its path in the folder.

        Parameters
        ----------
        overwrite : bool
            Replace an encoder that is there.

        Raises
        ------
        LayoutMismatchError, BaseModelMismatchError
            For an encoder of another weight space or base model.
        InvalidInputError
            If the space is not in a local folder.
        AlreadyExistsError, MissingPathError, DiskError
        """
        encoder.require_space(self.digest, self.compatibility.base_digest)
        add_file(self, FILE, encoder.to_bytes, overwrite=overwrite)
        self.stored_encoder = encoder
        return FILE

    def _required_encoder(self) -> Encoder:
        if self.encoder is None:
            raise InvalidInputError(
                f"weight space {self.name!r} has no encoder; fit one with: w2w fit-encoder, or set "
                "space.encoder = Encoder.load(path)"
            )
        return self.encoder

"""ExportMixin: writes the identities of a pipeline as saved points and LoRA folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.constraints import flag, optional, path, text, validated
from ...common.warn import warn_caller
from ...dialects.base_model import mixed_note
from ...errors import InvalidInputError
from ...space.identity import Identity
from ...space.keeping import export_identities, export_identity, save_identity
from ...space.slider import Slider, make_slider
from ...space.thumbnails import thumbnail_of
from .identities import IdentityMixin
from .thumbnails import draw_thumbnails


class ExportMixin(IdentityMixin):
    """The part of :class:`W2WMixin` that writes identities."""

    @validated(path=path(), overwrite=flag())
    def save_identity(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write the current identity to a path that sets it again (``pipe.identity = path``), and return the path.

        Parameters
        ----------
        path : path
            With the suffix ``.json`` or ``.safetensors``, the identity's point is written: a small file for this
            weight space. Without a suffix, a LoRA folder is, as by :meth:`export`.
        overwrite : bool
            Replace what an earlier call wrote there.

        Raises
        ------
        AlreadyExistsError
        InvalidInputError
            For another suffix, and if no identity or several are set.

        Warns
        -----
        UserWarning
            If the point keeps less than the identity: an adapter's weights outside of the space, or the start of a
            delayed edit.

        Examples
        --------
        >>> pipe.identity = "person-0010"            # doctest: +SKIP
        >>> pipe.edit({"Full_Beard": 4.5})           # doctest: +SKIP
        >>> pipe.save_identity("bearded.json")       # doctest: +SKIP
        """
        one = self._required_identity("save_identity")
        if isinstance(one, tuple):
            raise InvalidInputError(
                f"save_identity writes one identity, and pipe.identity holds {len(one)}; save pipe.identity[0].point "
                "and the others, or export them"
            )
        return save_identity(self.space, one, path, overwrite=overwrite)

    @validated(path=path(), trigger=optional(text()), overwrite=flag())
    def export(
        self, path: Path | str, identity: Any = None, *, trigger: str | None = None, thumbnail: Any = None,
        overwrite: bool = False, **options: Any,
    ) -> Path | list[Path]:  # fmt: skip
        """Write an identity (the current one by default) as a LoRA folder that stock libraries load.

        A delayed edit is written as if it applied from the first step.

        Parameters
        ----------
        path : path
            The folder to make. For several identities it gets one folder each, named by the row's id, or else
            ``identity-000`` by the position.
        identity : optional
            Whatever :attr:`identity` accepts.
        trigger : str, optional
            The phrase in a prompt that shows the person, for the header; by default the one that the space's rows
            were trained with, if the space states it.
        thumbnail : True, PIL image or path, optional
            A small picture for the header, with which programs show the LoRA. True draws each identity, with the
            trigger phrase as the prompt; another picture is that of one identity.
        overwrite : bool
            Replace what an earlier export wrote there.
        **options
            Keywords of :func:`w2w_hub.write_adapter`: `dialects`, by default PEFT and diffusers.

        Returns
        -------
        Path
            The folder; for several identities the list of their folders.

        Raises
        ------
        AlreadyExistsError
        InvalidInputError
            If no identity is set, or one of several is the base model; if several would get one picture.
        MissingPathError, CorruptFileError
            If the thumbnail cannot be read.

        Warns
        -----
        UserWarning
            If stock diffusers needs ``dtype=`` for the base model, see :meth:`from_pretrained`.
        """
        chosen = self._required_identity("export", None if identity is None else self._resolved(identity))
        note = mixed_note(self.space.path)
        if note is not None:
            warn_caller(note)
        several = isinstance(chosen, tuple)
        people = chosen if isinstance(chosen, tuple) else (chosen,)
        shown = self._thumbnails(people, thumbnail, trigger)
        if several:
            return export_identities(
                self.space, people, path, trigger=trigger, thumbnails=shown, overwrite=overwrite, **options
            )
        return export_identity(
            self.space, people[0], path, trigger=trigger, thumbnail=shown[0], overwrite=overwrite, **options
        )

    @validated(path=path(), dialect=text(), overwrite=flag())
    def export_slider(
        self,
        path: Path | str,
        attribute: str | Mapping[str, Any],
        dialect: str = "diffusers",
        *,
        at: Any = None,
        overwrite: bool = False,
        **options: Any,
    ) -> Slider:
        """Write the change of the weights by an edit as a LoRA whose weight is the strength, and return the slider.

        Load it beside a person's LoRA: base model + person + weight * slider is what :meth:`edit` gives.

        Parameters
        ----------
        path : path
            A file with the suffix ``.safetensors``, or a folder.
        attribute : str or mapping
            The direction to push along, or what to set: ``{"Beard": True}``.
        dialect : str
            ``"diffusers"``, ``"kohya"`` or ``"peft"``.
        at : optional
            The person at whom the change is taken: whatever :attr:`identity` accepts as one. By default the current
            identity, or the population's mean if none is set.
        overwrite : bool
            Replace what an earlier export wrote there.
        **options
            Keywords of :func:`w2w_hub.space.make_slider`: `unit`, `exact_at`, `layers`, `preserve`.

        Raises
        ------
        AlreadyExistsError, UnknownNameError
        InvalidInputError
            If several identities are set, or the edit changes nothing.

        Examples
        --------
        >>> pipe.export_slider("beard.safetensors", "Full_Beard", "kohya")     # doctest: +SKIP
        """
        chosen = self._identity if at is None else at
        if isinstance(chosen, tuple):
            raise InvalidInputError("a slider is made at one person; give at=, such as pipe.identity[0]", name="at")
        slider = make_slider(self.space, attribute, at=chosen, **options)
        slider.save(path, dialect, overwrite=overwrite)
        return slider

    def _thumbnails(self, people: Sequence[Identity], wanted: Any, trigger: str | None) -> Sequence[str | None]:
        """Return the thumbnail of each identity: drawn, given, or none."""
        if wanted is None or wanted is False:
            return [None] * len(people)
        if wanted is True:
            return draw_thumbnails(self, people, trigger)
        if len(people) > 1:
            raise InvalidInputError(
                f"one thumbnail for {len(people)} identities; export each with its own, or draw them with "
                "thumbnail=True",
                name="thumbnail",
            )
        return [thumbnail_of(wanted)]

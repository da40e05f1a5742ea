"""ExportMixin: writes the identities of a pipeline as saved points and LoRA folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.constraints import flag, path, text, validated
from ...common.warn import warn_caller
from ...dialects.base_model import mixed_note
from ...errors import InvalidInputError
from ...space.keeping import export_identities, export_identity, save_identity
from ...space.slider import Slider, make_slider
from .identities import IdentityMixin


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

    @validated(path=path(), overwrite=flag())
    def export(
        self, path: Path | str, identity: Any = None, *, overwrite: bool = False, **options: Any
    ) -> Path | list[Path]:
        """Write an identity (the current one by default) as a LoRA folder that stock libraries load.

        A delayed edit is written as if it applied from the first step.

        Parameters
        ----------
        path : path
            The folder to make. For several identities it gets one folder each, named by the row's id, or else
            ``identity-000`` by the position.
        identity : optional
            Whatever :attr:`identity` accepts.
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
            If no identity is set, or one of several is the base model.

        Warns
        -----
        UserWarning
            If stock diffusers needs ``dtype=`` for the base model, see :meth:`from_pretrained`.
        """
        chosen = self._required_identity("export", None if identity is None else self._resolved(identity))
        note = mixed_note(self.space.path)
        if note is not None:
            warn_caller(note)
        if isinstance(chosen, tuple):
            return export_identities(self.space, chosen, path, overwrite=overwrite, **options)
        return export_identity(self.space, chosen, path, overwrite=overwrite, **options)

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

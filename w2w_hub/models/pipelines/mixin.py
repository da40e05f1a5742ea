"""W2WMixin: identity, editing, inversion and export for a stock diffusers pipeline."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline

from ...common.arguments import SPACE
from ...common.constraints import flag, instance, optional, path, text, validated, whole
from ...space import WeightSpace
from ...space.storage import space_files
from ...store.atomic import require_output
from .exporting import ExportMixin
from .grids import preview_sheets
from .handover import notice_components, notice_from_pipe
from .inverting import PROMPT, InvertMixin
from .loading import HUB, PLACE, base_at, open_base, open_space, parts_for, require_same_kind, torch_dtype
from .rendering import RenderMixin
from .saving import save_folder

if TYPE_CHECKING:
    from ...release.publish import Published


class W2WMixin(ExportMixin, RenderMixin, InvertMixin):
    """Identity, editing, inversion and export for a stock diffusers pipeline with a UNet.

    The base model's weights are never written to: during a call an identity's weights replace those of the target
    modules, and when the call ends, also by an error, the originals are restored bit for bit.
    Calls from several threads run one after another; a call inside a callback generates what it would generate alone.

    A stock pipeline made of this one's components ignores the identity. For a stock class that
    :mod:`w2w_hub.models.pipelines` lacks, use this mixin:

    Examples
    --------
    >>> class W2WVariant(W2WMixin, StableDiffusionPAGPipeline):                       # doctest: +SKIP
    ...     stock_class = StableDiffusionPAGPipeline
    >>> W2WVariant.from_pipe(pipe)("sks person", pag_scale=2.0)                       # doctest: +SKIP
    """

    @property
    def config(self) -> Any:
        notice_from_pipe(self, sys._getframe(1), W2WMixin)
        return super().config  # type: ignore[misc]

    @property
    def components(self) -> dict[str, Any]:
        """The components by name, as the stock class returns them.

        Warns
        -----
        StockPipelineWarning
            If an identity is set, once per identity: a stock pipeline made of them ignores it.
        """
        notice_components(self, sys._getframe(1))
        return super().components  # type: ignore[misc,no-any-return]

    # ------------------------------------------------------------ load and save
    @classmethod
    @validated(path=PLACE, k=optional(whole(1)), **HUB)
    def from_pretrained(
        cls,
        path: Path | str,
        dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        *,
        k: int | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> Any:
        """Open a weight space with its base model: a folder, a Hub repository (``org/name``) or a pin in a lock file.

        :class:`AutoW2WPipeline` chooses the class by the base model.

        Parameters
        ----------
        dtype : torch dtype or str
            The base model's dtype; float32 by default. A name (``"bf16"``, ``"float16"``), a mapping from
            components to dtypes, and the keyword `torch_dtype` work too. Stock diffusers generates with the same folder
            without ``dtype=``, unless w2w_hub 0.1.0 embedded a base model of several dtypes.
        k : int, optional
            Number of components to read; fewer need fewer files.
        revision : str, optional
            Tag, branch or commit of a repository; ``main`` by default. `pipe.space.revision` has the commit.
        token, cache_dir, local_files_only
            As in huggingface_hub; also used for a base model by reference.
        **options
            Keywords of the stock class's `from_pretrained`. Options that unpickle files or run code of the base
            model are refused (`use_safetensors=False`, `custom_pipeline`, `trust_remote_code`).

        Raises
        ------
        UnsupportedFormatError
            If the base model has components that its pipeline does not expect, or pickled weights.
        BaseModelMismatchError
            If the base model is not the space's, or does not fit this class.
        HubError
            If the Hub does not have the files or cannot be reached.
        """
        return open_space(
            lambda base: cls, path, dtype, k=k, revision=revision, token=token, cache_dir=cache_dir,
            local_files_only=local_files_only, **options,
        )  # fmt: skip

    @classmethod
    @validated(base=PLACE, space=SPACE)
    def from_base(
        cls,
        base: Path | str,
        space: WeightSpace,
        dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Make a pipeline of a base model (a diffusers folder or repository) and a space in memory.

        `dtype` and `options` are those of :meth:`from_pretrained`.
        """
        dtype = torch_dtype(dtype, options)
        return open_base(lambda _: cls, base_at(base, options), space, dtype)

    @classmethod
    @validated(pipeline=instance(DiffusionPipeline, "a diffusers pipeline"), space=optional(SPACE))
    def from_pipe(cls, pipeline: Any, *, space: WeightSpace | None = None, **options: Any) -> Any:
        """Make a pipeline that shares another one's components, without loading or copying them.

        Parameters
        ----------
        pipeline : DiffusionPipeline
            A stock pipeline, or one with a weight space, whose space and identity are kept.
        space : WeightSpace, optional
            The space to attach to a stock pipeline; it must belong to this base model.
        **options
            Keywords of the stock `from_pipe`. The components keep their dtype unless one is given.
        """
        require_same_kind(cls, getattr(pipeline, "stock_class", type(pipeline)), "this pipeline")
        if {"dtype", "torch_dtype"} & set(options):
            options["dtype"] = torch_dtype(options.pop("dtype", None), options)
        else:
            options["dtype"] = pipeline.dtype
        made = super().from_pipe(pipeline, **options)  # type: ignore[misc]
        carried = getattr(pipeline, "_space", None)
        if space is not None:
            made.attach(space)
        elif carried is not None:
            made._space, made._identity = carried, pipeline._identity
            made._generation = pipeline._generation
        return made

    @validated(
        path=path(), base_model=optional(text()), revision=optional(text()), custom_pipeline=flag(),
        previews=optional(instance(Mapping, "a mapping")), overwrite=flag(),
    )  # fmt: skip
    def save_pretrained(  # type: ignore[override]
        self,
        path: Path | str,
        *,
        base_model: str | None = None,
        revision: str | None = None,
        custom_pipeline: bool = False,
        previews: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> None:
        """Write the space with this base model embedded; the folder opens as a stock pipeline too.

        :attr:`generation` is stored with it.

        Parameters
        ----------
        base_model, revision : str, optional
            Name the repository and commit of the base model instead of embedding it. Opening the folder fetches
            it from there and verifies its digest.
        custom_pipeline : bool
            Also write a `pipeline.py` for ``DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder)``: an
            import of this package.
        previews : mapping, optional
            Generate pictures for the card, with these options of the stock call: ``{"num_inference_steps": 25}``.
        overwrite : bool
            Replace an existing weight space, if its folder holds nothing else.
        **options
            Keywords of the stock `save_pretrained` (`variant`, `max_shard_size`).
        """
        require_output(path, overwrite=overwrite, own=space_files)
        drawn = None if previews is None else partial(preview_sheets, self, PROMPT, previews)
        stock = self.stock_class(**parts_for(self.stock_class, self))
        save_folder(
            self.space, stock, path, base_model, revision, custom_pipeline, options, self.generation, drawn, overwrite
        )

    @validated(repo_id=text(), version=optional(text()), private=flag(), token=HUB["token"], dry_run=flag())
    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        version: str | None = None,
        private: bool = False,
        token: str | bool | None = None,
        dry_run: bool = False,
        **options: Any,
    ) -> Published:
        """Publish the space with its base model as one version of a repository.

        Parameters
        ----------
        version, private, token, dry_run
            See :func:`w2w_hub.release.push`.
        **options
            Keywords of :meth:`save_pretrained`.

        Examples
        --------
        >>> pipe.push_to_hub("org/space", version="1.0.0", private=True)   # doctest: +SKIP
        """
        from ...release.publish import push

        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "space", **options)
            return push(Path(folder) / "space", repo_id, version=version, private=private, token=token, dry_run=dry_run)

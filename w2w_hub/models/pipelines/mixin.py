"""W2WMixin: identity, editing, inversion and export for a stock diffusers pipeline."""

from __future__ import annotations

import functools
import reprlib
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ...common.arguments import DATASET, SPACE
from ...common.constraints import either, flag, instance, names, optional, path, text, validated, whole
from ...common.deprecated import renamed_keywords
from ...common.progress import progress
from ...dialects.base_model import mixed_note
from ...dialects.generation import checked_settings
from ...errors import InvalidInputError, UnknownNameError
from ...space import Point, WeightSpace
from ...space.identity import Identity, edited, resolve
from ...space.keeping import export_identities, export_identity, save_identity
from ...space.storage import space_files
from ...store.atomic import require_output
from ...store.manifest import FILENAME as MANIFEST
from ..injection import injection, use_base
from ..inversion import SEED, Inversion, InversionSettings, Inverter
from .drawing import Identities, arguments_of, generating, nested_copy, one_prompt_each, with_settings
from .grids import preview_sheets
from .handover import notice_components, notice_from_pipe, notice_identity
from .inputs import as_list, encode_pictures, encode_text, latent_masks, nested
from .loading import HUB, PLACE, base_at, open_base, open_space, parts_for, require_base, require_same_kind, torch_dtype
from .saving import save_folder

if TYPE_CHECKING:
    from ...dataset import WeightDataset
    from ...release.publish import Published

PROMPT = "sks person"
# arguments of the stock call that `render` sets itself
RENDERED = ("prompt", "prompt_embeds", "generator", "latents", "return_dict", "num_images_per_prompt")
# the pipeline that `render` calls in this thread, and the identities of that call
_render_call: ContextVar[tuple[Any, Identities] | None] = ContextVar("render_call", default=None)


class W2WMixin:
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

    def __init_subclass__(cls, **options: Any) -> None:
        """Give the class's `__call__` the stock class's signature and documentation."""
        super().__init_subclass__(**options)
        stock = cls.__dict__.get("stock_class")
        if stock is not None and "__call__" not in cls.__dict__:

            @functools.wraps(stock.__call__)
            def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
                return self._generate(stock.__call__, args, kwargs)

            cls.__call__ = __call__  # type: ignore[attr-defined,method-assign]

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
        sheets = None if previews is None else preview_sheets(self, PROMPT, previews)
        stock = self.stock_class(**parts_for(self.stock_class, self))
        save_folder(
            self.space, stock, path, base_model, revision, custom_pipeline, options, self.generation, sheets, overwrite
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

    @property
    def generation(self) -> dict[str, Any]:
        """Keywords of the call that this pipeline uses where a call gives none; by default what the space states.

        Set it to a mapping of `num_inference_steps` and `guidance_scale`, or to ``{}`` for the stock class's own
        defaults. :meth:`save_pretrained` stores it.
        """
        stated = self._generation
        if stated is None:
            stated = {} if self._space is None else self._space.generation
        return dict(stated)

    @generation.setter
    def generation(self, settings: Mapping[str, Any]) -> None:
        self._generation = checked_settings(settings)

    # ------------------------------------------------------------ identity
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
            self.attach(WeightSpace.from_pretrained(opened_from))
        assert self._space is not None
        return self._space

    @property
    def identity(self) -> Any:
        """The identity to generate: None (the unchanged base model), one, or a tuple with one per prompt.

        Set it to coefficients, a :class:`Point`, a row's id, an adapter, its path or its weights, the path of a saved
        point, an :class:`Inversion`, or a list of these for one batched call, in which None is the base model. If set
        during a call, it applies from the next one.

        A row's id is the row's point in the space: what the principal components do not explain of its weights is
        left out, and ``pipe.identity.explained_ratio`` says how much is kept. The row's own LoRA is
        ``people["person-0001"]``, read from its dataset.

        Examples
        --------
        >>> pipe.identity = "person-0001"                      # its point in the space      # doctest: +SKIP
        >>> pipe.identity = people["person-0001"]              # its own LoRA                # doctest: +SKIP
        >>> pipe.identity = pipe.invert(picture)               # the person in a picture     # doctest: +SKIP
        >>> pipe.identity = "bearded.json"                     # what save_identity wrote    # doctest: +SKIP
        """
        return self._identity

    @identity.setter
    def identity(self, what: Any) -> None:
        if what is not None:
            notice_identity(self)
        self._identity = None if what is None else self._resolved(what)

    def _resolved(self, what: Any) -> Identity | Identities:
        """Return one identity, or a tuple of several, in which None is the base model."""
        if not _several(what):
            return self.resolve(what)
        if not len(what):
            raise InvalidInputError("pipe.identity cannot be an empty list; use None for the base model")
        return tuple(None if item is None else self.resolve(item) for item in what)

    @validated(dataset=optional(DATASET))
    def resolve(self, what: Any, dataset: WeightDataset | None = None) -> Identity:
        """Return the :class:`Identity` of anything that :attr:`identity` accepts as one.

        Parameters
        ----------
        dataset : WeightDataset, optional
            Read a row's id as the row's own LoRA in this dataset, instead of its point in the space.
        """
        return resolve(self.space, what, dataset)

    def sample_identity(self, seed: int = 0, truncation: float = 1.0) -> Point:
        """Sample a new identity, set it and return its point."""
        point = self.space.sample(1, seed, truncation)[0]
        self.identity = point
        return point

    @validated(preserve=either(text(), names()))
    def edit(
        self, strengths: Mapping[str, float], *, preserve: Iterable[str] = (), start: float = 0.0
    ) -> Identity | tuple[Identity, ...]:
        """Move the current identity, or each of several, along editing directions; set and return it.

        Strength is in standard deviations of the population: ``pipe.edit({"Beard": 2.0, "Young": -1})``.

        Parameters
        ----------
        preserve : iterable of str
            Attributes whose scores the edit does not change, see :meth:`WeightSpace.edit`.
        start : float
            Fraction of the denoising schedule that still uses the unedited identity: 0.3 to 0.7 keeps the
            composition and changes what the later steps add.

        Warns
        -----
        UserWarning
            If the edit is farther from the population's mean than every fitted row.
        """
        before = self._required_identity("edit")
        people = before if isinstance(before, tuple) else (before,)
        after = tuple(edited(self.space, person, strengths, start=start, preserve=preserve) for person in people)
        warn_if_far(self.space, (identity.point for identity in after), stacklevel=4)  # past the check of arguments
        self._identity = after if isinstance(before, tuple) else after[0]
        return self._identity

    @renamed_keywords(shares="weights")
    def interpolate(self, identities: Sequence[Any], weights: Sequence[float]) -> Point:
        """Set and return the weighted mean of several identities' points; the weights are normalized."""
        points = [self.resolve(i).point for i in as_list(identities, "identities")]
        point = self.space.interpolate(points, weights)
        self.identity = point
        return point

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
        return save_identity(self.space, one, path, overwrite=overwrite, stacklevel=4)

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
            warnings.warn(note, stacklevel=3)  # past the check of arguments
        if isinstance(chosen, tuple):
            return export_identities(self.space, chosen, path, overwrite=overwrite, **options)
        return export_identity(self.space, chosen, path, overwrite=overwrite, **options)

    def _required_identity(
        self, need: str, given: Identity | Identities | None = None
    ) -> Identity | tuple[Identity, ...]:
        """Return the given identities, or else the current ones, none of which may be the base model."""
        chosen = self._identity if given is None else given
        if chosen is None:
            raise InvalidInputError(f"{need} needs an identity; set pipe.identity or call sample_identity first")
        if isinstance(chosen, Identity):
            return chosen
        people = tuple(identity for identity in chosen if identity is not None)
        if len(people) < len(chosen):
            raise InvalidInputError(f"{need} takes no base model; remove None from the identities")
        return people

    # ------------------------------------------------------------ pictures
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
        resolved = [None if i is None else self.resolve(i) for i in as_list(identities, "identities")]
        cases = [_case(case) for case in as_list(cases, "cases")]
        jobs = [(start, case) for start in range(0, len(resolved), batch_size) for case in range(len(cases))]
        out: np.ndarray | None = None
        for start, case in progress(jobs, "rendering"):
            part = tuple(resolved[start : start + batch_size])
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

    # ------------------------------------------------------------ inversion
    @validated(prompt=text())
    def invert(
        self, images: Any, *, mask: Any = None, prompt: str = PROMPT, **options: Any
    ) -> Inversion | list[Inversion]:
        """Find the point with which the model best denoises one picture, or several of one person.

        Parameters
        ----------
        images : PIL image, ndarray, or list of them
            Pictures of one person. A list of lists inverts several people in one batch.
        mask : PIL image, ndarray, or list of them, optional
            Which pixels count (white or 1), one per picture, nested as `images` is.
        **options
            Fields of :class:`InversionSettings`.

        Returns
        -------
        Inversion
            The point and its losses; a list of them for a list of lists.

        Raises
        ------
        InvalidInputError
            If a picture or mask does not have the size that the base model generates, or a mask is empty.

        Examples
        --------
        >>> pipe.identity = pipe.invert(picture, num_steps=400, seed=0)   # doctest: +SKIP
        """
        settings = InversionSettings(**options)
        several = isinstance(images, (list, tuple)) and bool(images) and isinstance(images[0], (list, tuple))
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
        unet, scheduler = self.unet, self.scheduler
        with injection(unet).lock, torch.inference_mode(False), torch.enable_grad():
            try:
                latents = torch.stack([encode_pictures(self, pictures) for pictures in people])
                text, conditions = encode_text(self, prompt)
                masks = None if masks is None else masks.to(latents.device)
                found = Inverter(unet, scheduler, self.space, latents, text, settings, masks, conditions).run()
            finally:
                self.maybe_free_model_hooks()  # type: ignore[attr-defined]
        return found if several else found[0]


def warn_if_far(space: WeightSpace, points: Iterable[Point], stacklevel: int = 3) -> None:
    """Warn if a point is farther from the population's mean than every fitted row, with both distances."""
    farthest, known = max(space.distance(point) for point in points), space.largest_distance
    if known is not None and farthest > known:
        warnings.warn(
            f"this edit leaves the population: {farthest:.2f} standard deviations from its mean (Mahalanobis, root "
            f"mean square), the farthest fitted row has {known:.2f}; use a smaller strength",
            stacklevel=stacklevel,
        )


def _case(case: Any) -> tuple[str, int]:
    if not isinstance(case, (tuple, list)) or len(case) != 2 or not isinstance(case[0], str):
        raise InvalidInputError(f"a case is a prompt and a seed, not {reprlib.repr(case)}")
    return case[0], SEED.checked(case[1], "the seed of a case")


def _several(what: Any) -> bool:
    """Return whether a value is several identities: a list of anything but numbers, or a matrix of coefficients."""
    if isinstance(what, (list, tuple)):
        return not all(isinstance(item, Real) for item in what) or not what
    return getattr(what, "ndim", 1) == 2

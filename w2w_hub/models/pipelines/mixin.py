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

from ...common.constraints import either, flag, instance, names, optional, path, text, validated, whole
from ...common.progress import progress
from ...dataset.manifest import FILENAME as MANIFEST
from ...dialects import write_adapter
from ...errors import InvalidInputError, UnknownNameError
from ...space import Point, WeightSpace
from ...space.identity import Identity, edited, resolve
from ..injection import base_shown, injection
from ..inversion import SEED, Inversion, Inverter, Settings
from .drawing import arguments_of, drawn, nested_copy, one_prompt_each
from .grids import listed, preview_sheets
from .handover import notice_components, notice_from_pipe, warn_if_lent
from .inputs import encode_pictures, encode_text, latent_masks, nested
from .loading import open_space, require_base, require_same_kind, save_folder, torch_dtype, with_base

if TYPE_CHECKING:
    from ...release.publish import Published

PROMPT = "sks person"
# arguments of the stock call that `render` gives itself
RENDERED = ("prompt", "prompt_embeds", "generator", "latents", "return_dict", "num_images_per_prompt")
SPACE = instance(WeightSpace, "a WeightSpace")
PLACE = either(text(), instance(Path, "a path"))  # a folder, a repository or a lock's pin
HUB = {
    "revision": optional(text()), "token": optional(either(flag(), text())), "cache_dir": optional(path()),
    "local_files_only": flag(),
}  # fmt: skip
# the pipeline that `render` calls in this thread, and the people of that call
_asked: ContextVar[tuple[Any, tuple[Identity | None, ...]] | None] = ContextVar("asked", default=None)


class W2WMixin:
    """Identity, editing, inversion and export for a stock diffusers pipeline with a UNet.

    The base model is never changed for good: an identity stands in the target weights' place while the
    pipeline is called, and the originals are back, bit for bit, when the call ends, however it ends.
    Calls from several threads wait for each other; a call inside a callback draws what it would alone.

    A stock pipeline made of this one's parts draws the base model; mix this class into its class instead, as below.

    Examples
    --------
    >>> class W2WImg2Img(W2WMixin, StableDiffusionImg2ImgPipeline):                   # doctest: +SKIP
    ...     stock_class = StableDiffusionImg2ImgPipeline
    >>> W2WImg2Img.from_pipe(pipe)("sks person", image=picture, strength=0.6)         # doctest: +SKIP
    """

    stock_class: Any
    _space: WeightSpace | None = None
    _identity: Identity | tuple[Identity | None, ...] | None = None
    _drawing = False
    _lent: str | None = None  # the class of a stock pipeline that was made of this one's parts

    def __init_subclass__(cls, **options: Any) -> None:
        """Give the class the stock class's signature and documentation for its call."""
        super().__init_subclass__(**options)
        stock = cls.__dict__.get("stock_class")
        if stock is not None and "__call__" not in cls.__dict__:

            @functools.wraps(stock.__call__)
            def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
                return self._draw(stock.__call__, args, kwargs)

            cls.__call__ = __call__  # type: ignore[attr-defined,method-assign]

    @property
    def config(self) -> Any:
        notice_from_pipe(self, sys._getframe(1), W2WMixin)
        return super().config  # type: ignore[misc]

    @property
    def components(self) -> dict[str, Any]:
        """The modules, as of the stock class.

        Warns
        -----
        UserWarning
            If an identity is set: a stock pipeline made of them does not draw it.
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
        """Open a weight space with its base model: a folder, a Hub repository (``org/name``) or a lock's pin.

        Parameters
        ----------
        dtype : torch dtype or str
            Of the base model's weights; float32 by default. A name (``"bf16"``, ``"float16"``) or a mapping of
            components to dtypes is understood too, and so is `torch_dtype`.
        k : int, optional
            Components to read; fewer files are fetched.
        revision : str, optional
            Tag, branch or commit of a repository; ``main`` without it. Its commit is `pipe.space.revision`.
        token, cache_dir, local_files_only
            As in huggingface_hub; for a base model by reference too.
        **options
            Passed on to the base pipeline's `from_pretrained`, but those that unpickle files or run code of the
            base model (`use_safetensors=False`, `custom_pipeline`, `trust_remote_code`).

        Raises
        ------
        UnsupportedFormatError
            If the base model has components of other classes than its pipeline's, or weights that are pickles.
        BaseModelMismatchError
            If the base model is not the one that the space belongs to.
        HubError
            If something is asked of the Hub and it does not give it.
        """
        hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        space = WeightSpace.from_pretrained(path, k, revision=revision, **hub)  # type: ignore[arg-type]
        return open_space(cls, space, torch_dtype(dtype, options), options, hub)

    @classmethod
    @validated(base=PLACE, space=SPACE)
    def from_base(
        cls,
        base: Path | str,
        space: WeightSpace,
        dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """A pipeline of a base model (a diffusers folder or repository) and a space in memory.

        `dtype` and `options` are those of :meth:`from_pretrained`.
        """
        return with_base(cls, base, space, torch_dtype(dtype, options), options)

    @classmethod
    @validated(pipeline=instance(DiffusionPipeline, "a diffusers pipeline"), space=optional(SPACE))
    def from_pipe(cls, pipeline: Any, *, space: WeightSpace | None = None, **options: Any) -> Any:
        """A pipeline that shares another one's components, without loading or copying them.

        Parameters
        ----------
        pipeline : DiffusionPipeline
            A stock one, or one with a space: its space and identity come along.
        space : WeightSpace, optional
            The space to attach to a stock one; it must be of this base model.
        **options
            As of the stock `from_pipe`. The shared components keep their dtype unless one is given.
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
        return made

    @validated(space=SPACE, verify=flag())
    def attach(self, space: WeightSpace, *, verify: bool = True) -> None:
        """Give the pipeline a space; with `verify`, its base must have the space's base digest.

        A base that was cast to bfloat16 can only be held against the shapes; what opens one from a folder
        verifies the files.
        """
        unet = self.unet  # type: ignore[attr-defined]
        if verify:
            with base_shown(unet):
                require_base(unet, space)
        self._space, self._identity = space, None

    @validated(
        path=path(), base_model=optional(text()), revision=optional(text()), custom_pipeline=flag(),
        previews=optional(instance(Mapping, "a mapping")),
    )  # fmt: skip
    def save_pretrained(  # type: ignore[override]
        self,
        path: Path | str,
        *,
        base_model: str | None = None,
        revision: str | None = None,
        custom_pipeline: bool = False,
        previews: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Write the space with this base model embedded; the folder opens as a stock pipeline too.

        Parameters
        ----------
        base_model, revision : str, optional
            Instead of embedding the base, name the repository and commit that it comes from. Whoever opens the
            folder loads it from there; it is verified by its digest.
        custom_pipeline : bool
            Also write a `pipeline.py` for ``DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder)``: an
            import of this package.
        previews : mapping, optional
            Draw pictures for the card, with these options of the stock call: ``{"num_inference_steps": 25}``.
        **options
            As of the stock `save_pretrained` (`variant`, `max_shard_size`).
        """
        sheets = None if previews is None else preview_sheets(self, PROMPT, **previews)
        save_folder(self, path, base_model, revision, custom_pipeline, options, sheets)

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
            As of :meth:`save_pretrained`.

        Examples
        --------
        >>> pipe.push_to_hub("org/space", version="1.0.0", private=True)   # doctest: +SKIP
        """
        from ...release.publish import push

        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "space", **options)
            return push(Path(folder) / "space", repo_id, version=version, private=private, token=token, dry_run=dry_run)

    # ------------------------------------------------------------ identity
    @property
    def space(self) -> WeightSpace:
        """The weight space; that of the folder which a stock loader opened this pipeline from, if none was attached."""
        if self._space is None:
            opened_from = getattr(getattr(self, "config", None), "_name_or_path", None)
            # of a repository's name alone the revision would be a guess
            if not opened_from or not (Path(opened_from) / MANIFEST).is_file():
                raise UnknownNameError(
                    "this pipeline has no weight space yet; open one with W2WPipeline.from_pretrained or attach(space)"
                )
            self.attach(WeightSpace.from_pretrained(opened_from))
        assert self._space is not None
        return self._space

    @property
    def identity(self) -> Any:
        """The identity to draw: None (the base model, exactly), one, or a tuple of one for each prompt.

        Set it to coefficients, a :class:`Point`, the id of a row, an adapter or its path, a saved
        point's path, or a list of these for one batched call, in which None stands for the base model.
        What is set while a call draws is drawn by the next one.
        """
        return self._identity

    @identity.setter
    def identity(self, what: Any) -> None:
        if what is not None:
            warn_if_lent(self)
        if what is None:
            self._identity = None
        elif _several(what):
            if not len(what):
                raise InvalidInputError("an empty list of identities; set None for the base model")
            self._identity = tuple(None if item is None else self.resolve(item) for item in what)
        else:
            self._identity = self.resolve(what)

    def resolve(self, what: Any) -> Identity:
        """Anything that :attr:`identity` accepts for one, as an :class:`Identity`."""
        return resolve(self.space, what)

    def sample_identity(self, seed: int = 0, truncation: float = 1.0) -> Point:
        """Draw a new identity, set it and return it."""
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
            Attributes whose scores the edit leaves as they are, see :meth:`WeightSpace.edit`.
        start : float
            Share of the denoising schedule that is still drawn with the unedited identity: 0.3 to 0.7 keeps
            the composition and changes what the later steps draw.

        Warns
        -----
        UserWarning
            If the edit leaves the population: its distance is larger than that of every fitted row.
        """
        if self._identity is None:
            raise InvalidInputError("edit needs an identity; set pipe.identity or call sample_identity first")
        several = isinstance(self._identity, tuple)
        before = self._identity if isinstance(self._identity, tuple) else (self._identity,)
        people = [identity for identity in before if identity is not None]
        if len(people) < len(before):
            raise InvalidInputError("edit needs identities; one of these is the base model (None)")
        after = tuple(edited(self.space, person, strengths, start=start, preserve=preserve) for person in people)
        warn_if_far(self.space, (identity.point for identity in after), stacklevel=4)  # past the check of arguments
        self._identity = after if several else after[0]
        return self._identity

    def interpolate(self, identities: Sequence[Any], shares: Sequence[float]) -> Point:
        """Set and return the weighted mean of several identities' points; shares are normalised."""
        points = [self.resolve(i).point for i in listed(identities, "identities")]
        point = self.space.interpolate(points, shares)
        self.identity = point
        return point

    @validated(path=path())
    def export(self, path: Path | str, identity: Any = None, **options: Any) -> None:
        """Write an identity (the current one by default) as a folder that stock libraries open.

        `options` are those of :func:`w2w_hub.write_adapter`: `dialects`, by default PEFT and diffusers.
        A delayed edit is written as if it acted from the beginning.
        """
        chosen = self._identity if identity is None else self.resolve(identity)
        if not isinstance(chosen, Identity):
            raise InvalidInputError("export needs one identity; set pipe.identity first")
        adapter = self.space.layout.unflatten(chosen.vector, base_model=self.space.compatibility.base_model)
        write_adapter(adapter, path, **options)

    # ------------------------------------------------------------ pictures
    def _draw(self, stock_call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The stock call, under the identity that is set when it begins."""
        with injection(self.unet).lock:  # type: ignore[attr-defined]
            if self._drawing:
                return nested_copy(self)._draw(stock_call, args, kwargs)
            chosen = self._identity
            asked, of_render = _asked.get(), None
            if asked is not None and asked[0] is self:
                chosen, of_render = asked[1], _asked.set(None)  # a call inside a callback is another call
            people = chosen if isinstance(chosen, tuple) else (chosen,)
            images_a_prompt = 1
            if len(people) > 1:
                kwargs = one_prompt_each(people, arguments_of(stock_call, args, kwargs))
                args, images_a_prompt = (), kwargs.get("num_images_per_prompt") or 1
            self._drawing = True
            try:
                with drawn(self, people, images_a_prompt):
                    return stock_call(self, *args, **kwargs)
            finally:
                self._drawing = False
                if of_render is not None:
                    _asked.reset(of_render)

    @validated(batch_size=whole(1))
    def render(
        self, identities: Sequence[Any], cases: Sequence[tuple[str, int]], *, batch_size: int = 32, **options: Any
    ) -> np.ndarray:
        """Pictures of several identities under fixed (prompt, seed) pairs.

        Every identity starts a case from the same noise, so that what differs is the identity.

        Returns
        -------
        ndarray
            float32 ``(identities, cases, height, width, 3)`` in [0, 1]. None stands for the base model.

        Raises
        ------
        InvalidInputError
            For options of the stock call that this one gives itself (another `output_type`, `generator`, ...).
        """
        given = [name for name in RENDERED if name in options]
        if given or options.get("output_type", "np") != "np":
            named = (given or ["output_type"])[0]
            raise InvalidInputError(f"render returns arrays and gives {', '.join(RENDERED)} itself; leave out {named}")
        plain = {"output_type": "np", **options}
        resolved = [None if i is None else self.resolve(i) for i in listed(identities, "identities")]
        cases = [_case(case) for case in listed(cases, "cases")]
        jobs = [(start, case) for start in range(0, len(resolved), batch_size) for case in range(len(cases))]
        out: np.ndarray | None = None
        for start, case in progress(jobs, "drawing"):
            part = tuple(resolved[start : start + batch_size])
            prompt, seed = cases[case]
            noises = [torch.Generator().manual_seed(seed) for _ in part]
            token = _asked.set((self, part))
            try:
                pictures = self([prompt] * len(part), generator=noises, **plain).images  # type: ignore[operator]
            finally:
                _asked.reset(token)
            if out is None:
                out = np.empty((len(resolved), len(cases), *pictures.shape[1:]), np.float32)
            out[start : start + len(part), case] = pictures
        if out is None:
            raise InvalidInputError("render needs at least one identity and one case")
        return out

    # ------------------------------------------------------------ inversion
    @validated(prompt=text())
    def invert(
        self,
        images: Any,
        *,
        mask: Any = None,
        prompt: str = PROMPT,
        num_steps: int = 400,
        learning_rate: float = 0.1,
        k: int | None = None,
        batch_size: int = 4,
        prior: float = 0.0,
        tolerance: float = 0.0,
        restarts: int = 1,
        seed: int = 0,
    ) -> Inversion | list[Inversion]:
        """Find the point whose pictures explain one picture, or several of one person.

        Parameters
        ----------
        images : PIL image, ndarray, or list of them
            Pictures of one person. A list of lists inverts several people in one batch.
        mask : PIL image, ndarray, or list of them, optional
            Which pixels count (white or 1), one for each picture, nested as `images` is.
        num_steps, learning_rate : int, float
            Adam on standardised coefficients from the population's mean (paper, section 4.2 and appendix F).
        k : int, optional
            Components to use; all by default.
        batch_size : int
            Noises and timesteps of each step.
        prior : float
            Weight of the squared standardised coefficients in the loss: larger stays closer to the population.
        tolerance : float
            Stop when the mean loss of 50 steps is lower than that of the 50 before by less than this share; 0 never.
        restarts : int
            Descents from different starts; each person's best, under the same noises, is returned.
        seed : int
            Of noises, timesteps and starts: the same seed gives the same point.

        Returns
        -------
        Inversion
            The point and its loss history; a list of them for a list of lists.

        Raises
        ------
        InvalidInputError
            If a picture or mask has another size than the base model draws, or a mask is empty.
        """
        settings = Settings(num_steps, learning_rate, k, batch_size, prior, tolerance, restarts, seed)
        several = isinstance(images, (list, tuple)) and bool(images) and isinstance(images[0], (list, tuple))
        people = nested(images, several, 3)
        counts = {len(p) for p in people}
        if not people or 0 in counts or len(counts) > 1:
            raise InvalidInputError("invert needs at least one picture, and as many of every person")
        self.space.coordinates.require_k(k)
        masks = None
        if mask is not None:
            given = nested(mask, several, 2)
            if [len(m) for m in given] != [len(p) for p in people]:
                raise InvalidInputError("invert needs one mask for each picture, nested as the pictures are")
            masks = torch.stack([latent_masks(self, m) for m in given])
        unet, scheduler = self.unet, self.scheduler  # type: ignore[attr-defined]
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
    """Whether this is several identities: a list of anything but numbers, or a matrix of coefficients."""
    if isinstance(what, (list, tuple)):
        return not all(isinstance(item, Real) for item in what) or not what
    return getattr(what, "ndim", 1) == 2

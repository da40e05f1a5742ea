"""W2WPipeline: a Stable Diffusion pipeline whose weights have sliders."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import CONFIG, EMBEDDED, MODEL_INDEX, base_files, pipeline_class
from .errors import (
    BaseModelMismatchError,
    InvalidInputError,
    MissingPathError,
    UnknownNameError,
    UnsupportedFormatError,
    missing_extra,
)

try:
    import PIL.Image
    import torch
    from diffusers import StableDiffusionPipeline
except ImportError as error:
    raise missing_extra(error.name or "diffusers", "diffusers") from None

from .files import read_json, write_json
from .formats import write_adapter
from .hub.resolve import open_base
from .injection import base_digest, rows_attached, weights_rewritten
from .inversion import Inversion, Inverter, Settings
from .space import Point, WeightSpace
from .space.identity import Identity, edited, resolve
from .space.space import interpolate
from .space.storage import save_space

if TYPE_CHECKING:
    from .hub.publish import Published

PROMPT = "sks person"
_REPOSITORY = re.compile(r"^\w[\w.-]*/[\w.-]+$")


class W2WMixin:
    """Identity, editing, inversion and export for a stock diffusers pipeline with a UNet.

    The base model is never changed for good: an identity is written into the target weights when the
    pipeline is called, and the originals come back bit for bit when the call ends.
    """

    stock_class: Any
    _space: WeightSpace | None = None
    _identity: Identity | tuple[Identity, ...] | None = None

    # ------------------------------------------------------------ load and save
    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        dtype: torch.dtype = torch.float32,
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
        dtype : torch dtype
            Of the base model's weights.
        k : int, optional
            Components to read; fewer files are fetched.
        revision : str, optional
            Tag, branch or commit of a repository; ``main`` without it. Its commit is `pipe.space.revision`.
        token, cache_dir, local_files_only
            As in huggingface_hub; for the base model too.
        **options
            Passed on to the base pipeline's `from_pretrained`.

        Raises
        ------
        BaseModelMismatchError
            If the base model is not the one that the space belongs to.
        """
        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        space = WeightSpace.from_pretrained(path, k, revision=revision, **hub)
        assert space.path is not None
        assert space.source is not None
        space.source.need(base_files(space.source.files))
        if not (space.path / CONFIG).is_file():
            raise MissingPathError(
                f"{path} was built without a base model; build it again with: w2w build DATASET --base BASE, "
                "or use W2WPipeline.from_base"
            )
        config = read_json(space.path / CONFIG)
        base = config.get("base_model")
        source = space.path if base == EMBEDDED else base
        if not isinstance(source, (str, Path)):
            raise UnsupportedFormatError(f"{space.path}/{CONFIG} does not name a base model")
        if base != EMBEDDED and space.source.base is not None:
            source = open_base(space.source.base, **hub).folder
        elif base != EMBEDDED:
            options = {**hub, "revision": config.get("revision"), **options}
        return cls.from_base(source, space, dtype=dtype, **options)

    @classmethod
    def from_base(cls, base: Path | str, space: WeightSpace, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
        """A pipeline of a base model (a diffusers folder or repository) and a space in memory."""
        if not Path(base).exists() and not _REPOSITORY.match(str(base)):
            raise MissingPathError(f"{base} is neither a diffusers folder nor the name of a Hub repository")
        if (Path(base) / MODEL_INDEX).is_file():
            found = pipeline_class(base)
            if found != cls.stock_class.__name__:
                raise BaseModelMismatchError(
                    f"{base} is a {found}; {cls.__name__} needs a {cls.stock_class.__name__} base model"
                )
        stock = cls.stock_class.from_pretrained(base, dtype=dtype, **options)
        pipeline = cls(**stock.components, **_checker_option(stock.components))
        pipeline.attach(space, verify=dtype in (torch.float32, torch.float16))
        return pipeline

    def attach(self, space: WeightSpace, *, verify: bool = True) -> None:
        """Give the pipeline a space; with `verify`, its base must have the space's base digest."""
        stated = space.compatibility.base_digest
        found = base_digest(self.unet, space.layout)  # type: ignore[attr-defined]
        if verify and stated is not None and found != stated:
            raise BaseModelMismatchError(
                f"the base model's target weights have digest {found[:12]}, this weight space was made with "
                f"{stated[:12]} ({space.compatibility.base_model or 'base model not named'})"
            )
        self._space, self._identity = space, None

    def save_pretrained(self, path: Path | str, **options: Any) -> None:  # type: ignore[override]
        """Write the space with this base model embedded; the folder opens as a stock pipeline too."""
        stock = self.stock_class(**self.components, **_checker_option(self.components))  # type: ignore[attr-defined]

        def embed(folder: Path) -> None:
            stock.save_pretrained(folder, **options)
            write_json(folder / CONFIG, {"base_model": EMBEDDED})

        save_space(self.space, path, extend=embed)

    def push_to_hub(self, repo_id: str, *, version: str | None = None, **options: Any) -> Published:  # type: ignore[override]
        """Publish the space with this base model embedded as one version, see :func:`w2w_hub.hub.publish.publish`.

        Examples
        --------
        >>> pipe.push_to_hub("org/space", version="1.0.0", private=True)   # doctest: +SKIP
        """
        from .hub.publish import publish

        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "space")
            return publish(Path(folder) / "space", repo_id, version=version, **options)

    # ------------------------------------------------------------ identity
    @property
    def space(self) -> WeightSpace:
        if self._space is None:
            raise UnknownNameError("this pipeline has no weight space yet; open one with W2WPipeline.from_pretrained")
        return self._space

    @property
    def identity(self) -> Any:
        """The identity to draw: None (the base model, exactly), one, or a tuple of one for each prompt.

        Set it to coefficients, a :class:`Point`, the id of a row, an adapter or its path, a saved
        point's path, or a list of these for one batched call.
        """
        return self._identity

    @identity.setter
    def identity(self, what: Any) -> None:
        several = isinstance(what, (list, tuple)) and not isinstance(next(iter(what), None), (int, float))
        if what is None:
            self._identity = None
        elif several:
            if not what:
                raise InvalidInputError("an empty list of identities; set None for the base model")
            self._identity = tuple(self.resolve(item) for item in what)
        else:
            self._identity = self.resolve(what)

    def resolve(self, what: Any) -> Identity:
        """Anything that :attr:`identity` accepts, as an :class:`Identity`."""
        return resolve(self.space, what)

    def sample_identity(self, seed: int = 0, truncation: float = 1.0) -> Point:
        """Draw a new identity, set it and return it."""
        point = self.space.sample(1, seed, truncation)[0]
        self.identity = point
        return point

    def edit(self, strengths: Mapping[str, float], *, start: float = 0.0) -> Identity | tuple[Identity, ...]:
        """Move the current identity, or each of several, along editing directions; set and return it.

        Strength is in standard deviations of the population: ``pipe.edit({"Beard": 2.0, "Young": -1})``.

        Parameters
        ----------
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
        after = tuple(edited(self.space, identity, strengths, start=start) for identity in before)
        farthest = max(self.space.distance(identity.point) for identity in after)
        if farthest > self.space.largest_distance:
            warnings.warn(
                f"this edit leaves the population: {farthest:.2f} standard deviations from its mean, the farthest "
                f"fitted row has {self.space.largest_distance:.2f}; use a smaller strength",
                stacklevel=2,
            )
        self._identity = after if several else after[0]
        return self._identity

    def interpolate(self, identities: Sequence[Any], shares: Sequence[float]) -> Point:
        """Set and return the weighted mean of several identities' points; shares are normalised."""
        point = interpolate(self.space, [self.resolve(i).point for i in identities], shares)
        self.identity = point
        return point

    def export(self, path: Path | str, identity: Any = None) -> None:
        """Write an identity (the current one by default) as a folder that PEFT and diffusers both open."""
        chosen = self._identity if identity is None else self.resolve(identity)
        if not isinstance(chosen, Identity):
            raise InvalidInputError("export needs one identity; set pipe.identity first")
        adapter = self.space.layout.unflatten(chosen.vector)
        adapter.base_model = self.space.compatibility.base_model
        write_adapter(adapter, path)

    # ------------------------------------------------------------ pictures
    @contextmanager
    def _identity_applied(self, images_a_prompt: int) -> Iterator[None]:
        if self._identity is None:
            yield
            return
        unet, layout = self.unet, self.space.layout  # type: ignore[attr-defined]
        several = isinstance(self._identity, tuple)
        people = self._identity if isinstance(self._identity, tuple) else (self._identity,)

        def rows(share: float) -> torch.Tensor:
            stacked = torch.from_numpy(np.stack([identity.at(share) for identity in people]))
            if not several:
                return stacked[0]
            return stacked.to(self.device).repeat_interleave(images_a_prompt, 0)  # type: ignore[attr-defined]

        apply = rows_attached if several else weights_rewritten
        with apply(unet, layout, rows(0.0)) as use:
            if all(identity.start == 0 for identity in people):
                yield
                return

            started = [identity.start == 0 for identity in people]

            def follow(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                timestep = torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1]).flatten()[0]
                schedule = self.scheduler.timesteps  # type: ignore[attr-defined]
                share = float((schedule > timestep.to(schedule.device)).sum()) / len(schedule)
                now = [share >= identity.start for identity in people]
                if now != started:
                    started[:] = now
                    use(rows(share))

            handle = unet.register_forward_pre_hook(follow, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()

    def render(
        self, identities: Sequence[Any], cases: Sequence[tuple[str, int]], *, batch_size: int = 32, **options: Any
    ) -> np.ndarray:
        """Pictures of several identities under fixed (prompt, seed) pairs.

        Every identity starts a case from the same noise, so that what differs is the identity.

        Returns
        -------
        ndarray
            float32 ``(identities, cases, height, width, 3)`` in [0, 1]. None stands for the base model.
        """
        from .progress import progress

        before = self._identity
        unet = self.unet  # type: ignore[attr-defined]
        size = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        plain = {"output_type": "np", **options}
        resolved = [None if i is None else self.resolve(i) for i in identities]
        zero = np.zeros(self.space.layout.size, np.float32)
        zero_identity = Identity(zero, self.space.mean_point())
        jobs = [(start, case) for start in range(0, len(resolved), batch_size) for case in range(len(cases))]
        out: np.ndarray | None = None
        try:
            for start, case in progress(jobs, "drawing"):
                part = resolved[start : start + batch_size]
                prompt, seed = cases[case]
                noise = torch.randn((1, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
                latents = noise.repeat(len(part), 1, 1, 1).to(self.device, unet.dtype)  # type: ignore[attr-defined]
                self._identity = tuple(i or zero_identity for i in part)
                drawn = self([prompt] * len(part), latents=latents, **plain).images  # type: ignore[operator]
                if out is None:
                    out = np.empty((len(resolved), len(cases), *drawn.shape[1:]), np.float32)
                out[start : start + len(part), case] = drawn
        finally:
            self._identity = before
        if out is None:
            raise InvalidInputError("render needs at least one identity and one case")
        return out

    # ------------------------------------------------------------ inversion
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
        people = _nested(images, several)
        counts = {len(p) for p in people}
        if not people or 0 in counts or len(counts) > 1:
            raise InvalidInputError("invert needs at least one picture, and as many of every person")
        latents = torch.stack([self._encode(pictures) for pictures in people])
        masks = None
        if mask is not None:
            given = _nested(mask, several)
            if [len(m) for m in given] != [len(p) for p in people]:
                raise InvalidInputError("invert needs one mask for each picture, nested as the pictures are")
            masks = torch.stack([self._latent_masks(m) for m in given]).to(latents.device)
        found = Inverter(
            self.unet, self.scheduler, self.space, latents, self._encode_text(prompt), settings, masks  # type: ignore[attr-defined]
        ).run()  # fmt: skip
        return found if several else found[0]

    @torch.no_grad()
    def _encode_text(self, prompt: str) -> torch.Tensor:
        """The encoded prompt ``(tokens, width)``."""
        tokens = self.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")  # type: ignore[attr-defined]
        return self.text_encoder(tokens.input_ids.to(self.device))[0][0]  # type: ignore[attr-defined]

    @property
    def _picture_size(self) -> int:
        return self.unet.config.sample_size * self.vae_scale_factor  # type: ignore[attr-defined]

    @torch.no_grad()
    def _encode(self, pictures: Sequence[Any]) -> torch.Tensor:
        """Scaled latents ``(pictures, c, h, w)``."""
        vae, size = self.vae, self._picture_size  # type: ignore[attr-defined]
        if any(isinstance(p, PIL.Image.Image) for p in pictures):
            pictures = [p.convert("RGB") if isinstance(p, PIL.Image.Image) else p for p in pictures]
        processed = torch.cat([self.image_processor.preprocess(p) for p in pictures])  # type: ignore[attr-defined]
        if processed.shape[1:] != (3, size, size):
            raise InvalidInputError(
                f"pictures are {processed.shape[-1]}x{processed.shape[-2]} pixels of {processed.shape[1]} channels, "
                f"this base model needs {size}x{size} of 3"
            )
        encoded = vae.encode(processed.to(vae.device, vae.dtype)).latent_dist.mean
        return encoded * vae.config.scaling_factor

    def _latent_masks(self, masks: Sequence[Any]) -> torch.Tensor:
        """Masks as shares of each latent's pixels, ``(masks, 1, h, w)``."""
        size, found = self._picture_size, []
        for mask in masks:
            values = np.asarray(mask.convert("L") if isinstance(mask, PIL.Image.Image) else mask, np.float32)
            if values.max(initial=0) > 1:
                values = values / np.float32(255)
            if values.shape != (size, size):
                raise InvalidInputError(f"a mask is {values.shape}, this base model needs ({size}, {size})")
            if not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
                raise InvalidInputError("a mask is empty or not in 0 to 1 (or 0 to 255); white pixels count")
            found.append(torch.from_numpy(values)[None])
        return torch.nn.functional.avg_pool2d(torch.stack(found), self.vae_scale_factor)  # type: ignore[attr-defined]


class W2WPipeline(W2WMixin, StableDiffusionPipeline):  # type: ignore[misc]
    """Stable Diffusion 1.x or 2.x with a weight space.

    Examples
    --------
    >>> pipe = W2WPipeline.from_pretrained("space")                  # doctest: +SKIP
    >>> pipe.sample_identity(seed=0)                                 # doctest: +SKIP
    >>> pipe.edit({"Eyeglasses": 2.0})                               # doctest: +SKIP
    >>> pipe("sks person", num_inference_steps=15).images[0]         # doctest: +SKIP
    """

    stock_class = StableDiffusionPipeline

    @functools.wraps(StableDiffusionPipeline.__call__)
    def __call__(self, prompt: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self._identity is None:
            return super().__call__(prompt, *args, **kwargs)  # type: ignore[misc]
        if isinstance(self._identity, tuple):
            if isinstance(prompt, str):
                prompt = [prompt] * len(self._identity)
            if prompt is None or len(prompt) != len(self._identity):
                raise InvalidInputError(
                    f"{len(self._identity)} identities need one prompt, or as many; got "
                    f"{'none' if prompt is None else len(prompt)}"
                )
        with self._identity_applied(kwargs.get("num_images_per_prompt") or 1):
            return super().__call__(prompt, *args, **kwargs)  # type: ignore[misc]


def _nested(values: Any, several: bool) -> list[list[Any]]:
    """One list for each person, of one value or a list of them."""
    if several:
        return [list(v) if isinstance(v, (list, tuple)) else [v] for v in values]
    return [list(values) if isinstance(values, (list, tuple)) else [values]]


def _checker_option(components: Mapping[str, Any]) -> dict[str, bool]:
    """Keep a base without a safety checker from being warned about, and one that has it as it is."""
    return {"requires_safety_checker": False} if components.get("safety_checker") is None else {}


def best_device() -> str:
    """The fastest kind of device that torch has here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

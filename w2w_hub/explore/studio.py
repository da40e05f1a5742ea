"""Studio: an open pipeline, its dataset, and recent pictures; draws and inverts for one visitor at a time."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.extras import optional_imports
from ..dataset import WeightDataset
from ..errors import W2WError
from ..space import WeightSpace
from ..space.identity import Identity
from ..store.paths import is_name

with optional_imports("diffusers"):
    from PIL import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from ..models.inversion import Inversion

CACHED_BYTES = 64 * 2**20  # of recent pictures
BATCH, BATCH_OF_LARGE, SMALL_PICTURE = 32, 9, 128 * 128  # pictures in one call; pixels
PREVIEW_EVERY = 20  # steps of an inversion between previews
PREVIEW_STEPS = 12  # denoising steps of a preview, at most
OnStep = Callable[[float], object]  # called with the fraction that is done; an exception stops the drawing


class StoppedError(Exception):
    """Raised inside of a drawing that a visitor stopped."""


class Studio:
    """Everything that all visitors of one server share.

    Parameters
    ----------
    pipe : W2WMixin
    dataset : WeightDataset, optional
        With the labels of the space's rows.
    source : str
        What opens the pipeline again, for the Python that reproduces a picture.
    gpu : decorator, optional
        Decorates the functions that run the base model.
    """

    def __init__(
        self, pipe: Any, dataset: WeightDataset | None = None, *, source: str = "", gpu: Any = None,
    ):  # fmt: skip
        self.pipe, self.dataset, self.source = pipe, dataset, source
        self.steps_are_seen = gpu is None  # a decorated function may run in another process
        self._render: Callable[..., Any] = self._run if gpu is None else gpu(self._run)
        self._invert: Callable[..., Any] = self._descend if gpu is None else gpu(self._descend)
        self._recent: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, source: Any, *, dataset: Any = None, gpu: Any = None, **hub: Any) -> Studio:
        """Open a weight space with its base model and dataset, see :func:`w2w_hub.explore.create_app`."""
        from ..models.pipelines import AutoW2WPipeline, best_device

        pipe, name = source, ""
        if isinstance(source, (str, Path)):
            name = str(source)
            pipe = AutoW2WPipeline.from_pretrained(source, **hub).to(best_device())
        pipe.set_progress_bar_config(disable=True)
        opened = dataset_beside(pipe.space) if dataset is None else WeightDataset.open(dataset)
        return cls(pipe, opened, source=name or str(pipe.space.revision or pipe.space.path or pipe.space.name), gpu=gpu)

    @property
    def space(self) -> WeightSpace:
        space: WeightSpace = self.pipe.space
        return space

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width in pixels of the base model's pictures."""
        from ..models.pipelines.inputs import picture_size

        return picture_size(self.pipe)

    # ------------------------------------------------------------ pictures
    def draw(
        self, identities: Sequence[Identity | None], case: tuple[str, int], settings: dict[str, Any] | None = None,
        on_step: OnStep | None = None,
    ) -> list[Picture]:  # fmt: skip
        """Return one picture per identity, all new ones in one batched call; None is the base model.

        Parameters
        ----------
        on_step : callable, optional
            Called after each denoising step with the fraction that is done; it may raise :class:`StoppedError`.
        """
        settings = settings or {}
        keys = [_key(identity, case, settings) for identity in identities]
        with self._lock:
            found = {key: self._recent[key] for key in keys if key in self._recent}
        new = {key: one for key, one in zip(keys, identities, strict=True) if key not in found}
        if new:
            drawn = self._render(list(new.values()), case, settings, on_step if self.steps_are_seen else None)
            found |= dict(zip(new, drawn, strict=True))
            self._keep(found)
        return [Image.fromarray(found[key]) for key in keys]

    def _keep(self, pictures: dict[str, np.ndarray]) -> None:
        with self._lock:
            for key, picture in pictures.items():
                self._recent[key] = picture
                self._recent.move_to_end(key)
            while len(self._recent) > 1 and sum(each.nbytes for each in self._recent.values()) > CACHED_BYTES:
                self._recent.popitem(last=False)

    def _run(
        self, identities: list[Identity | None], case: tuple[str, int], settings: dict[str, Any], on_step: OnStep | None
    ) -> list[np.ndarray]:
        options = dict(settings)
        if on_step is not None:

            def after_step(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
                on_step((step + 1) / max(1, pipe.num_timesteps))
                return kwargs

            options["callback_on_step_end"] = after_step
        height, width = self.picture_size
        most = BATCH if height * width <= SMALL_PICTURE else BATCH_OF_LARGE
        found = self.pipe.render(identities, [case], batch_size=most, **options)[:, 0]
        return [(np.clip(each, 0, 1) * 255).round().astype(np.uint8) for each in found]

    # ------------------------------------------------------------ inversions
    def invert(
        self, picture: Picture, *, steps: int, seed: int = 0, prompt: str, stop: Callable[[], bool]
    ) -> Iterator[tuple[Inversion, Picture]]:
        """Yield the inversion of a picture so far with its preview, again and again until it ends or is stopped."""
        seen = stop if self.steps_are_seen else None  # another process is not asked: it is left
        running = self._invert(picture, steps, seed, prompt, seen)
        for found, drawn in running:
            yield found, Image.fromarray(drawn)
            if seen is None and stop():
                running.close()
                return

    def _descend(
        self, picture: Picture, steps: int, seed: int, prompt: str, stop: Callable[[], bool] | None
    ) -> Iterator[tuple[Inversion, np.ndarray]]:
        """Run the inversion in a thread that hands over its state; previews are drawn between its steps."""
        ready: queue.Queue[Any] = queue.Queue()
        left = threading.Event()

        def show(found: Inversion) -> bool:
            if left.is_set() or (stop is not None and stop()):
                return True
            if len(found.losses) % PREVIEW_EVERY == 0 or len(found.losses) == 1:
                ready.put((found, self._preview(found, prompt)))
            return False

        def work() -> None:
            try:
                found = self.pipe.invert(picture, num_steps=steps, seed=seed, prompt=prompt, callback=show)
                ready.put((found, self._preview(found, prompt)))
                ready.put(None)
            except BaseException as error:  # raised again where the visitor waits
                ready.put(error)

        thread = threading.Thread(target=work, name="w2w-inversion", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            left.set()
            thread.join()

    def _preview(self, found: Inversion, prompt: str) -> np.ndarray:
        steps = min(PREVIEW_STEPS, self.pipe.generation.get("num_inference_steps", PREVIEW_STEPS))
        return self._run([self.pipe.resolve(found)], (prompt, 0), {"num_inference_steps": steps}, None)[0]


def dataset_beside(space: WeightSpace) -> WeightDataset | None:
    """Return the dataset beside a local space that its recipe names; None unless its digest is the recipe's."""
    name, digest = space.recipe.get("dataset"), space.recipe.get("dataset_digest")
    if space.path is None or space.revision is not None or not isinstance(name, str) or not is_name(name):
        return None
    try:
        found = WeightDataset.open(Path(space.path).absolute().parent / name)
    except W2WError:
        return None
    return found if found.manifest.digest == digest else None


def _key(identity: Identity | None, case: tuple[str, int], settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(repr((case, sorted(settings.items()))).encode())
    if identity is not None:
        digest.update(identity.vector.tobytes())
        if identity.early is not None:
            digest.update(identity.early.tobytes() + repr(identity.start).encode())
    return digest.hexdigest()

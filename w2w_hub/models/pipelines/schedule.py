"""Where in its schedule a denoising loop is, told before every step, whatever is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import InvalidInputError

HOOK = "scale_model_input"


class Progress:
    """The share of a scheduler's steps that are over, from the timesteps in the order they are asked for.

    A step of a second-order scheduler (Heun, KDPM2) has two timesteps and counts once they both are over, so
    that one step is not drawn with two identities. A loop that starts late, as that of image-to-image, starts
    at its share of the whole schedule.
    """

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.order = max(1, int(getattr(scheduler, "order", 1)))
        self.times: list[float] | None = None
        self.index = -1

    def share(self, timestep: Any) -> float:
        """The share, 0 to 1, when the model is about to be called at `timestep`."""
        if self.times is None:  # they are set at the beginning of the call, after this was made
            self.times = [float(t) for t in self.scheduler.timesteps]
        now = float(timestep.flatten()[0] if hasattr(timestep, "flatten") else timestep)
        try:
            self.index = self.times.index(now, self.index + 1)
        except ValueError:  # a second call in one step, or a timestep of the pipeline's own
            if now not in self.times:
                self.index = max(self.index, sum(t > now for t in self.times))
        steps = math.ceil(len(self.times) / self.order)
        return (self.index // self.order) / steps


@contextmanager
def followed(scheduler: Any, on_step: Callable[[float], None]) -> Iterator[None]:
    """Tell `on_step` the share of the schedule that is over before every call of the model inside the block.

    The scheduler is asked to scale the model's input just before each; that is where this listens, since hooks of
    the model would be compiled with it.
    """
    if not hasattr(scheduler, HOOK):
        raise InvalidInputError(
            f"edits with a start need a scheduler that scales the model's input; {type(scheduler).__name__} does not"
        )
    progress, scale = Progress(scheduler), getattr(scheduler, HOOK)

    def listening(sample: Any, *args: Any, **kwargs: Any) -> Any:
        timestep = kwargs.get("timestep", args[0] if args else None)
        if timestep is not None:
            on_step(progress.share(timestep))
        return scale(sample, *args, **kwargs)

    setattr(scheduler, HOOK, listening)
    try:
        yield
    finally:
        scheduler.__dict__.pop(HOOK, None)

"""Reports the progress of a denoising loop through its schedule before each step, also for a compiled model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import InvalidInputError

HOOK = "scale_model_input"


class Progress:
    """Fraction of a scheduler's steps that are done, found from the timesteps of the model's calls.

    A step of a second-order scheduler (Heun, KDPM2) has two timesteps and counts as done after both, so that no step
    mixes two identities. A loop that starts late, as in image-to-image, starts at its fraction of the whole
    schedule.
    """

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.order = max(1, int(getattr(scheduler, "order", 1)))
        self.times: list[float] | None = None
        self.index = -1

    def fraction(self, timestep: Any) -> float:
        """Return the fraction done, 0 to 1, before the model is called at `timestep`."""
        if self.times is None:  # set by the call, after this object is made
            self.times = [float(t) for t in self.scheduler.timesteps]
        now = float(timestep.flatten()[0] if hasattr(timestep, "flatten") else timestep)
        try:
            self.index = self.times.index(now, self.index + 1)
        except ValueError:  # a second call in one step, or a timestep that is not the scheduler's
            if now not in self.times:
                self.index = max(self.index, sum(t > now for t in self.times))
        steps = math.ceil(len(self.times) / self.order)
        return (self.index // self.order) / steps


@contextmanager
def follow_schedule(scheduler: Any, on_step: Callable[[float], None]) -> Iterator[None]:
    """Call `on_step` with the fraction of the schedule that is done, before each call of the model in the block.

    This wraps the scheduler's `scale_model_input`, which pipelines call before each call of the model. Forward hooks
    would be compiled with the model.
    """
    if not hasattr(scheduler, HOOK):
        raise InvalidInputError(
            f"edits with a start need a scheduler that scales the model's input; {type(scheduler).__name__} does not"
        )
    progress, scale = Progress(scheduler), getattr(scheduler, HOOK)

    def listening(sample: Any, *args: Any, **kwargs: Any) -> Any:
        timestep = kwargs.get("timestep", args[0] if args else None)
        if timestep is not None:
            on_step(progress.fraction(timestep))
        return scale(sample, *args, **kwargs)

    setattr(scheduler, HOOK, listening)
    try:
        yield
    finally:
        scheduler.__dict__.pop(HOOK, None)

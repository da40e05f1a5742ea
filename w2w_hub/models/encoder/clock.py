"""The time that the fit of an encoder may take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

DRAWING = 2 / 3  # fraction of a limited time in which pictures are drawn


@dataclass
class Clock:
    """The time that a fit may take; without a limit, whatever it needs."""

    minutes: float | None
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Fraction of the time that has passed; 0 without a limit."""
        return 0.0 if self.minutes is None else (time.monotonic() - self.began) / (60 * self.minutes)

    def has_time_to_draw(self) -> bool:
        return self.spent < DRAWING

"""Engines: how the steps of a trainer run. All give the eager result up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from ..errors import InvalidInputError
from .data import Batch

AUTO = "auto"
# name: whether the denoiser is compiled, and whether steps are captured
KINDS = {
    "eager": (False, False), "compiled": (True, False), "captured": (False, True), "compiled+captured": (True, True),
}  # fmt: skip
ENGINES = (AUTO, *KINDS)
WARM_UP = 3  # steps before a graph is captured, so that libraries have chosen their kernels
# steps from which two minutes of compilation are less than what it saves: BENCHMARKS.md, "Training"
COMPILING_PAYS = 4_000
BACKEND: Any = "inductor"


class Steps(Protocol):
    """What a graph is captured of: a trainer."""

    def work(self, batch: Batch) -> None: ...
    def kept(self) -> list[torch.Tensor]: ...
    def put_back(self, kept: list[torch.Tensor]) -> None: ...


class Engine:
    """How the steps of the trainers of one model run; one engine serves all of them, so that it compiles once.

    Parameters
    ----------
    name : {"eager", "compiled", "captured", "compiled+captured"}
        "compiled" runs the denoiser through `torch.compile`. "captured" replays whole steps as one CUDA graph, without
        the cost of launching kernels from Python. "compiled+captured" does both.
    backend : str or callable, optional
        Backend of `torch.compile`.

    Attributes
    ----------
    compiles : bool
        Another number of samples per step is compiled anew, so that smaller batches are better padded.
    captures : bool
    shares_text : bool
        Whether frozen projections of prompts are computed once instead of in each step, see :mod:`.shared_text`.
    splits_gates : bool
        Whether gates of feed-forward blocks are products of their own, see :mod:`.split_gates`.
    compiles_next : bool
        Whether the next step has to compile first.

    Raises
    ------
    InvalidInputError
        For an unknown name.
    """

    def __init__(self, name: str, backend: str | Callable[..., Any] | None = None):
        if name not in KINDS:
            raise InvalidInputError(f"unknown engine {name!r}; choose from {', '.join(KINDS)}")
        self.name, self.backend = name, backend or BACKEND
        self.compiles, self.captures = KINDS[name]
        self.shares_text = self.compiles or self.captures
        self.splits_gates = self.compiles
        self._model: torch.nn.Module | None = None
        self._compiled: Any = None
        self.compiles_next = self.compiles

    def require(self, device: torch.device) -> None:
        """Raise unless the engine runs on a device.

        Raises
        ------
        InvalidInputError
        """
        if self.captures and device.type != "cuda":
            raise InvalidInputError(f"the engine {self.name!r} needs a CUDA device; choose 'eager' or 'compiled'")

    def callable_of(self, model: torch.nn.Module) -> Any:
        """Return a model as the engine calls it; compiled once for all trainers."""
        if not self.compiles:
            return model
        if self._model is not model:
            # sizes are taken as fixed: a step of any size costs the time of the slowest
            self._model, self._compiled = model, torch.compile(model, backend=self.backend, dynamic=False)
        return self._compiled

    def capture(self) -> Capture | None:
        """Return what replays one trainer's steps, or None if they run as they are."""
        return Capture() if self.captures else None

    @contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """Raise a failed compilation as an error of one line."""
        try:
            yield
        except Exception as error:
            if not self.compiles or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            first = next(iter(str(error).strip().splitlines()), "")
            raise InvalidInputError(
                f"the engine {self.name!r}: torch.compile failed here ({type(error).__name__}: {first[:200]}); choose "
                "'eager' or 'captured'"
            ) from error


class Capture:
    """One trainer's step as a CUDA graph. It holds no reference to the trainer, whose memory goes with it."""

    def __init__(self) -> None:
        self.graph: Any = None
        self.batch: Batch | None = None  # the memory that the graph reads

    def step(self, trainer: Steps, batch: Batch) -> None:
        """Take a step; the first one warms up and captures, and ends in the same state as any other."""
        if self.batch is None:
            self.batch = batch
            kept = trainer.kept()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    trainer.work(batch)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            self._record(trainer, batch)
            trainer.put_back(kept)
        else:
            self.batch.copy_(batch)
        self.graph.replay()

    def _record(self, trainer: Steps, batch: Batch) -> None:
        try:
            with torch.cuda.graph(self.graph):
                trainer.work(batch)
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None  # leaving the capture failed as well, with an error of its own
            raise


def engine_for(name: str, device: str, *, at_once: int, steps: int) -> str:
    """Return the engine that "auto" stands for; other names stay.

    Parameters
    ----------
    at_once : int
        Identities per batch.
    steps : int
        Steps of all batches that one process trains.
    """
    if name != AUTO:
        return name
    if not device.startswith("cuda"):
        return "eager"
    return "compiled+captured" if at_once > 1 and steps >= COMPILING_PAYS else "captured"

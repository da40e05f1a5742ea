"""What a model draws at the moment, and what it goes back to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...lora.adapter import Target
from .modules import uncompiled

Use = Callable[[torch.Tensor], None]


class Drawn(Protocol):
    """A way of drawing that can be put on and taken off a model, also a second time and when half of it is done."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...


class Injection:
    """What is drawn from a model at the moment, as a stack: a call inside a callback may want something else.

    There is one for each model, whichever pipelines share it. Blocks of different threads wait for each other.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stack: list[Drawn | None] = []
        self.copies: dict[Target, torch.Tensor] = {}  # second copies of target weights, kept for the next block
        self.hooks: dict[Target, Any] = {}  # forward hooks, kept so that a compiled model is not compiled again

    @contextmanager
    def show(self, state: Drawn | None) -> Iterator[None]:
        """Draw `state` (None: the base model, exactly) inside the block, and what was drawn before after it."""
        with self.lock:
            depth = len(self.stack)
            before = self.stack[-1] if self.stack else None
            try:
                self.stack.append(state)
                if before is not None:
                    before.leave()
                if state is not None:
                    state.enter()
                yield
            finally:
                try:
                    self._back(state, before, depth)
                except KeyboardInterrupt:  # every part of it can be done twice
                    self._back(state, before, depth)
                    raise

    def _back(self, state: Drawn | None, before: Drawn | None, depth: int) -> None:
        """Take `state` off and put on what was drawn before; an interrupt is raised when that is done."""

        def forget() -> None:
            del self.stack[depth:]

        actions = [forget] if before is None else [before.enter, forget]
        every(actions if state is None else [*actions, state.leave], lambda action: action())


_injections: WeakKeyDictionary[nn.Module, Injection] = WeakKeyDictionary()
_making = threading.Lock()


def injection(model: nn.Module) -> Injection:
    """The one :class:`Injection` of a model, compiled or not."""
    with _making:
        return _injections.setdefault(uncompiled(model), Injection())


@contextmanager
def base_shown(model: nn.Module) -> Iterator[None]:
    """The base model exactly, also inside a block that draws an identity."""
    with injection(model).show(None):
        yield


def every(things: list, action: Callable) -> None:  # type: ignore[type-arg]
    """Do it to all of a list, which is emptied; an interrupt is raised when all is done."""
    interrupt: KeyboardInterrupt | None = None
    while things:
        try:
            action(things[-1])
            things.pop()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt

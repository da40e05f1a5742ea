"""Stack of injections into one model: the last one is active, and the one before returns when its block ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...lora.adapter import Target
from .modules import uncompiled

T = TypeVar("T")
Use = Callable[[torch.Tensor], None]  # replaces the vectors of an injection


class Method(Protocol):
    """A way of injecting; `enter` and `leave` can be repeated, also after an interrupt in the middle."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...


class Injection:
    """Injections into a model as a stack, since a call inside a callback may inject another identity.

    There is one per model, whichever pipelines share it. Blocks of different threads run one after another.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stack: list[Method | None] = []
        self.copies: dict[Target, torch.Tensor] = {}  # second copies of target weights, reused by the next block
        self.hooks: dict[Target, Any] = {}  # forward hooks, reused so that a compiled model is not compiled again

    @contextmanager
    def active(self, state: Method | None) -> Iterator[None]:
        """Activate `state` inside the block (None: the unchanged base model), and the previous state after it."""
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
                except KeyboardInterrupt:  # every part can be repeated
                    self._back(state, before, depth)
                    raise

    def _back(self, state: Method | None, before: Method | None, depth: int) -> None:
        """Leave `state` and enter the previous one; defer KeyboardInterrupt until that is done."""

        def forget() -> None:
            del self.stack[depth:]

        actions = [forget] if before is None else [before.enter, forget]
        drain(actions if state is None else [*actions, state.leave], lambda action: action())


_injections: WeakKeyDictionary[nn.Module, Injection] = WeakKeyDictionary()
_making = threading.Lock()


def injection(model: nn.Module) -> Injection:
    """Return the :class:`Injection` of a model, compiled or not."""
    with _making:
        return _injections.setdefault(uncompiled(model), Injection())


@contextmanager
def use_base(model: nn.Module) -> Iterator[None]:
    """Run the base model exactly, also inside a block that injects an identity."""
    with injection(model).active(None):
        yield


def drain(items: list[T], action: Callable[[T], object]) -> None:
    """Pop and process every item; defer KeyboardInterrupt until the list is empty."""
    interrupt: KeyboardInterrupt | None = None
    while items:
        try:
            action(items[-1])
            items.pop()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt

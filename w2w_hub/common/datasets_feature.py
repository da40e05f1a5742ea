"""Registers our feature with `datasets` as soon as both packages are imported, in either order.

`datasets` has no entry points for features, and importing it takes seconds. A small stand-in is therefore registered
once it is imported; it turns into the real feature when a saved dataset needs it.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from importlib.abc import MetaPathFinder
else:
    MetaPathFinder = object  # importlib.abc takes as long to import as this package

NAME, MODULE = "WeightRow", "datasets.features.features"


@dataclass
class _StandIn:
    """The fields of `WeightRow`; instantiation returns a `WeightRow`."""

    load: ClassVar[Callable[[], type]]
    size: int
    source_dtype: str = "float32"
    decode: bool = True
    id: str | None = None

    def __new__(cls, **fields: Any) -> Any:
        return cls.load()(**fields)


def register(features: ModuleType, feature: type = _StandIn) -> None:
    """Register the stand-in, or the feature itself, with `datasets.features.features`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # registering features is experimental; our tests cover what we use
        features._FEATURE_TYPES.pop(NAME, None)
        features.register_feature(feature, NAME)


class _Finder(MetaPathFinder):
    """Waits for the module to be imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_when_imported(load: Callable[[], type]) -> None:
    """Register the stand-in now, or when `datasets` is imported; `load` imports the feature when one is made."""
    _StandIn.load = staticmethod(load)  # type: ignore[assignment]
    if MODULE in sys.modules:
        register(sys.modules[MODULE])
    elif not any(type(finder) is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

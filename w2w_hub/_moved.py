"""Keep the module paths of 0.1 importable until 0.3, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

from .common.deprecated import warn_renamed

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:
    Loader = MetaPathFinder = object  # importlib.abc takes as long to import as this package

# old path -> new path in this package; submodules of an old path follow it
MOVED = {
    "adapter": "lora.adapter",
    "base": "dialects.base_model",
    "canonical": "lora.canonical",
    "denoising": "models.denoising",
    "formats": "dialects",
    "formats.inspection": "dialects.inspection",
    "hub": "release",
    "hub.cite": "release.citation",
    "hub.publish": "release.publish",
    "hub.resolve": "store.hub.resolve",
    "hub.restore": "release.restoration",
    "hub.verify": "release.verification",
    "hub.versions": "release.difference",
    "injection": "models.injection",
    "inversion": "models.inversion",
    "layout": "lora.layout",
    "pictures": "models.pictures",
    "pipeline": "models.pipelines",
}


class _Finder(MetaPathFinder):
    """Finds modules under their old paths."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = _new_name(fullname)
        return None if new is None else importlib.util.spec_from_loader(fullname, _Loader(new))


class _Loader(Loader):
    """Returns the module at the new path, which keeps its own spec."""

    def __init__(self, new: str):
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warn_renamed(spec.name, self.new)
        module = importlib.import_module(self.new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _new_name(fullname: str) -> str | None:
    package, _, rest = fullname.partition(".")
    if package != __package__:
        return None
    parts = rest.split(".")
    for n in range(len(parts), 0, -1):
        new = MOVED.get(".".join(parts[:n]))
        if new is not None:
            return ".".join([package, new, *parts[n:]])
    return None


def find_moved_modules() -> None:
    """Make old module paths importable.

    The finder comes first: the search in the folder of an old package would find the new files under old names.
    """
    if not any(type(finder) is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

"""Public names that a package imports from its modules when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from .deprecated import warn_renamed

ROOT = __name__.partition(".")[0]


def lazy_names(
    package: str, where: Mapping[str, str], folders: Collection[str] = (), *, renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package: ``__getattr__, __dir__ = lazy_names(__name__, where)``.

    Parameters
    ----------
    where : mapping
        Public name to the module that defines it, relative to ``w2w_hub``.
    folders : collection of str, optional
        Modules of the package that are attributes before they are imported.
    renamed : mapping, optional
        Old public name to the new one.
    """
    old_names = renamed or {}

    def look_up(name: str) -> Any:
        if name in folders:
            return importlib.import_module(f"{package}.{name}")
        if name in old_names:
            warn_renamed(f"{package}.{name}", old_names[name])
            name = old_names[name]
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{ROOT}.{where[name]}"), name)

    def names() -> list[str]:
        return public_names(package, where)

    return look_up, names


def public_names(package: str, names: Iterable[str]) -> list[str]:
    """Return what ``dir()`` of a package lists: its public names, its imported modules and its dunders.

    Names that its code uses, such as ``Any``, are left out.
    """
    own = vars(sys.modules[package])
    modules = (n for n, value in own.items() if getattr(value, "__name__", "") == f"{package}.{n}" and n[0] != "_")
    return sorted({*names, *modules, *(n for n in own if n.startswith("__") and n.endswith("__"))})

"""Short reprs, and tables for notebooks, of objects that hold arrays or long lists."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .text import few, one_line

LONGEST, LONGEST_VALUE = 400, 200  # characters of a repr, and of one value in it
MANY = 6  # values that are counted instead of listed


class Displayed:
    """Give a class a repr of one line and an HTML table with the same facts, see :meth:`_facts`.

    Names in the facts may come from strangers: both are escaped. For dataclasses with ``repr=False``.
    """

    def _facts(self) -> Mapping[str, object]:
        """Return what is shown, by label: the fields of a dataclass, unless a class knows better."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]

    def __repr__(self) -> str:
        shown = ", ".join(f"{label} {brief(value)}".strip() for label, value in self._facts().items())
        return one_line(f"{type(self).__name__}({shown})", LONGEST)

    def _repr_html_(self) -> str:
        """Return the facts as an HTML table; Jupyter shows it instead of the repr."""
        from .pages import element

        rows = [
            element("tr", element("th", label or "is", style="text-align:left"), element("td", brief(value)))
            for label, value in self._facts().items()
        ]
        return str(element("table", element("caption", type(self).__name__), *rows))


def brief(value: object) -> str:
    """Return a value in one line: an array as its dtype and shape, many values as their number."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**15 else reprlib.repr(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and len(value) > MANY:
        return f"{len(value):,} {'entries' if isinstance(value, Mapping) else 'values'}"
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return one_line(reprlib.repr(value), LONGEST_VALUE)
    return one_line(value if isinstance(value, str) else repr(value), LONGEST_VALUE)


def percent(ratio: float) -> str:
    """Return a fraction as a percentage with three digits, such as ``86.3 %``."""
    return f"{100 * ratio:.3g} %" if abs(ratio) < 0.9995 or ratio == 1 else "99.9 %"


def listed(names: Any) -> str:
    """Return the first names of several, and how many more there are."""
    return few([str(name) for name in names], MANY) or "none"

"""Import what the weights2weights project published: weights, labels, components, points and adapters."""

from __future__ import annotations

from ..common.lazy import public_names
from .identities import import_point
from .importing import Imported, import_w2w
from .job import LeakingSplitWarning

__all__ = ["Imported", "LeakingSplitWarning", "import_point", "import_w2w"]


def __dir__() -> list[str]:
    return public_names(__name__, __all__)

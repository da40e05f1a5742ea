"""Versions of datasets and weight spaces: publish, compare, pin, verify, restore, archive and cite them.

Each function has the name of its command: :func:`push` is ``w2w push``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..store.hub.pins import BasePin as BasePin
    from ..store.hub.pins import Lock as Lock
    from ..store.hub.pins import Pin as Pin
    from ..store.hub.pins import read_lock as read_lock
    from ..store.verify import Report as Report
    from .bag import archive as archive
    from .citation import bibtex as bibtex
    from .citation import citation_file as citation_file
    from .citation import cite as cite
    from .difference import VersionDifference as VersionDifference
    from .difference import diff as diff
    from .history import Release as Release
    from .history import log as log
    from .lock import Check as Check
    from .lock import pin as pin
    from .lock import verify_lock as verify_lock
    from .publish import Published as Published
    from .publish import push as push
    from .restoration import restore as restore
    from .verification import verify as verify

# public name -> module, imported when first used
_WHERE = {
    "BasePin": "w2w_hub.store.hub.pins",
    "Check": "w2w_hub.release.lock",
    "Lock": "w2w_hub.store.hub.pins",
    "Pin": "w2w_hub.store.hub.pins",
    "Published": "w2w_hub.release.publish",
    "Release": "w2w_hub.release.history",
    "Report": "w2w_hub.store.verify",
    "VersionDifference": "w2w_hub.release.difference",
    "archive": "w2w_hub.release.bag",
    "bibtex": "w2w_hub.release.citation",
    "citation_file": "w2w_hub.release.citation",
    "cite": "w2w_hub.release.citation",
    "diff": "w2w_hub.release.difference",
    "log": "w2w_hub.release.history",
    "pin": "w2w_hub.release.lock",
    "push": "w2w_hub.release.publish",
    "read_lock": "w2w_hub.store.hub.pins",
    "restore": "w2w_hub.release.restoration",
    "verify": "w2w_hub.release.verification",
    "verify_lock": "w2w_hub.release.lock",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

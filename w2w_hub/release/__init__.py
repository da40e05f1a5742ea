"""Versions of datasets and weight spaces: publish, compare, pin, verify, restore, archive and cite them.

Each function has the name of its command: :func:`push` is ``w2w push``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy_names

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
    from .contribution.checks import Finding as Finding
    from .contribution.checks import Verdict as Verdict
    from .contribution.contribute import Contribution as Contribution
    from .contribution.contribute import contribute as contribute
    from .contribution.merge import Merged as Merged
    from .contribution.merge import merge as merge
    from .contribution.review import Review as Review
    from .contribution.review import contributions as contributions
    from .contribution.review import review as review
    from .contribution.trainers import TrainingStart as TrainingStart
    from .contribution.trainers import write_start as write_start
    from .difference import VersionDifference as VersionDifference
    from .difference import diff as diff
    from .explorer_app import SpaceApp as SpaceApp
    from .explorer_app import space_app as space_app
    from .history import Release as Release
    from .history import log as log
    from .lock import Check as Check
    from .lock import pin as pin
    from .lock import verify_lock as verify_lock
    from .next_version import Released as Released
    from .next_version import release as release
    from .publish import Published as Published
    from .publish import push as push
    from .restoration import restore as restore
    from .verification import verify as verify
    from .withdrawal import WithdrawalResult as WithdrawalResult
    from .withdrawal import withdraw as withdraw

# module -> its public names, imported when first used
_NAMES = {
    "release.bag": ["archive"],
    "release.citation": ["bibtex", "citation_file", "cite"],
    "release.contribution.checks": ["Finding", "Verdict"],
    "release.contribution.contribute": ["Contribution", "contribute"],
    "release.contribution.trainers": ["TrainingStart", "write_start"],
    "release.difference": ["VersionDifference", "diff"],
    "release.history": ["Release", "log"],
    "release.lock": ["Check", "pin", "verify_lock"],
    "release.publish": ["Published", "push"],
    "release.restoration": ["restore"],
    "release.explorer_app": ["SpaceApp", "space_app"],
    "release.verification": ["verify"],
    "release.contribution.merge": ["Merged", "merge"],
    "release.contribution.review": ["Review", "contributions", "review"],
    "release.next_version": ["Released", "release"],
    "release.withdrawal": ["WithdrawalResult", "withdraw"],
    "store.hub.pins": ["BasePin", "Lock", "Pin", "read_lock"],
    "store.verify": ["Report"],
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)


__getattr__, __dir__ = lazy_names(__name__, _WHERE)

"""The rows that were merged and wait for the next release, with which a further batch is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...dataset.reader import DatasetReader
from ...dataset.sketches import WIDTH, Sketches
from ...errors import W2WError
from ..remote import Remote
from .pending import MergeRecord, Pending
from .requests import fetch_batch


@dataclass(frozen=True)
class Waiting:
    """Rows of merged batches.

    Attributes
    ----------
    names : tuple of str
        How a message names each row whose weights were read: ``'person-1' of #12``.
    units : ndarray
        Their sketches ``(n, 47)`` of length 1, float32.
    ids : mapping of str to MergeRecord
        All ids in lower case, also those of batches whose weights could not be read.
    digests : mapping of str to MergeRecord
    unread : tuple of str
        Batches whose weights could not be read, each with the reason.
    """

    names: tuple[str, ...] = ()
    units: np.ndarray = field(default_factory=lambda: np.zeros((0, WIDTH), np.float32))
    ids: Mapping[str, MergeRecord] = field(default_factory=dict)
    digests: Mapping[str, MergeRecord] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def waiting_rows(
    remote: Remote, commit: str, pending: Pending, sizes: Mapping[str, int], dataset: DatasetReader,
    sketches: Sketches | None,
) -> Waiting:  # fmt: skip
    """Return the rows of the merged batches of a commit of main, sketched about the dataset's center.

    Their batches are downloaded, unless they are in the cache; a row has as many bytes as in the dataset.

    Parameters
    ----------
    sizes : mapping of str to int
        Bytes of the files of the commit.
    sketches : Sketches or None
        The dataset's; without them no weights are read.
    """
    names, units, unread = list[str](), list[np.ndarray](), list[str]()
    for record in pending.records if sketches is not None else ():
        try:
            batch, _ = fetch_batch(remote, commit, record.batch, sizes, dataset.layout)
        except (W2WError, ValueError) as error:
            unread.append(f"#{record.pull_request}: {error}")
            continue
        assert sketches is not None
        with np.errstate(all="ignore"):
            units.append(np.nan_to_num(sketches.units_of(batch.rows)))
        names += [f"{name!r} of #{record.pull_request}" for name in batch.ids]
    made = np.concatenate(units) if units else np.zeros((0, WIDTH), np.float32)
    return Waiting(tuple(names), made, pending.ids, pending.digests, tuple(unread))


__all__ = ["Waiting", "waiting_rows"]

"""Plan the next version of a dataset: offered rows are added and withdrawn rows removed, in one change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidInputError
from ..labels import table as label_table
from ..labels.kinds import CATEGORICAL
from ..labels.names import CONTRIBUTOR, CONTRIBUTOR_SOURCE, DEFAULT_SPLIT
from ..problems import Problems
from ..splits import SplitRule, placed_by_rule
from ..weight_dataset import WeightDataset
from .plan import Plan, RowPlan, draft_of, used_kinds
from .shard_writer import ArrayRows, RowSource
from .sources import DatasetRows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Offer:
    """Rows of one contributor.

    Attributes
    ----------
    contributor : str
        The account that offered them.
    rows : ndarray
        ``(n, size)``, float16 or float32.
    labels : sequence of mapping
        One per row: `id`, `source`, `licence`, `consent` and attributes.
    """

    contributor: str
    rows: np.ndarray
    labels: Sequence[Mapping[str, Any]]


def plan_folding(
    dataset: WeightDataset, offers: Sequence[Offer], gone: Sequence[str], *, version: str,
    history: Mapping[str, Any] | None = None,
) -> Plan:  # fmt: skip
    """Plan to remove the rows of some ids and to append offered ones, which the split rule places.

    The last rows move to the indices of removed ones, and offered rows follow in the order given: the same offers
    make the same dataset.

    Parameters
    ----------
    history : mapping, optional
        The entry of this version in the manifest's `history`.
    """
    import pandas as pd

    draft, problems = draft_of(dataset, version), Problems()
    removed = {dataset.position(name) for name in gone}
    kept = len(dataset) - len(removed)
    if not kept + sum(len(offer.rows) for offer in offers):
        raise InvalidInputError(f"this would leave {dataset.path} without rows; delete the repository instead")
    order = np.arange(kept)
    holes = sorted(index for index in removed if index < kept)
    order[holes] = sorted(set(range(kept, len(dataset))) - removed)
    old = dataset.labels.reset_index(names="id").iloc[order].reset_index(drop=True)
    parts: list[tuple[RowSource, Sequence[int] | np.ndarray]] = [(DatasetRows.of(dataset), order)]
    tables, known = [old], used_kinds(dataset)
    if offers:
        known[CONTRIBUTOR] = CATEGORICAL
        draft.column_info = {**draft.column_info, CONTRIBUTOR: {"source": CONTRIBUTOR_SOURCE}}
    for offer in offers:
        stored, error = _stored(offer.rows, dataset.dtype)
        if error is not None:
            draft.float16_max_error = max(error, draft.float16_max_error or 0.0)
        parts.append((ArrayRows(stored), range(len(stored))))
        tables.append(_labels(offer))
    ids = [str(name) for table in tables for name in table["id"]]
    merged = pd.concat(
        [t.drop(columns=["row", "row_sha256"], errors="ignore").astype(object) for t in tables if len(t)],
        ignore_index=True,
    )
    rule = None if draft.split_rule is None else SplitRule.from_json(draft.split_rule)
    if rule is None:
        merged["split"] = merged["split"].fillna(DEFAULT_SPLIT)
    table = label_table.normalize(merged, ids, problems, known=known, existing=old, open_split=rule is not None)
    if rule is not None:
        table = placed_by_rule(rule, table, kept, problems)
    if history is not None:
        draft.history = [*draft.history, dict(history)]
    return Plan(draft, ids, RowPlan.joined(parts), table, base=dataset, problems=problems)


def _labels(offer: Offer) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame([dict(label) for label in offer.labels], dtype=object)
    return table.assign(split=None, **{CONTRIBUTOR: offer.contributor}).astype(object)


def _stored(rows: np.ndarray, dtype: np.dtype[Any]) -> tuple[np.ndarray, float | None]:
    """Return rows in a dataset's dtype, and the largest rounding error if they were rounded."""
    if rows.dtype == dtype or dtype == np.float32:
        return rows.astype(dtype, copy=False), None
    stored = rows.astype(dtype)
    error = float(np.abs(stored.astype(np.float32) - rows).max(initial=0.0))
    return stored, error or None

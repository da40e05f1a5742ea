"""Remove rows from a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...common.arguments import checked
from ...common.checks import text_list
from ...errors import InvalidInputError
from ..problems import Problems
from ..weight_dataset import WeightDataset
from .commit import change
from .plan import Plan, RowPlan, draft_of
from .sources import DatasetRows


@checked()
def remove_rows(path: Path | str, ids: str | Sequence[str], *, version: str | None = None) -> WeightDataset:
    """Remove rows from a dataset, and their values from all of its files, in one atomic change.

    The last rows move to the indices of the removed rows, so that only the shards with removed rows and the last
    shards are rewritten. Row indices change; ids and digests do not.

    Raises
    ------
    UnknownNameError, InvalidInputError
        If an id does not exist, or all rows would be removed; the dataset is then unchanged.
    """
    names = list(dict.fromkeys(text_list(ids, "an id")))
    return change(path, lambda dataset: plan_removal(dataset, names, version))


def plan_removal(dataset: WeightDataset, ids: Sequence[str], version: str | None = None) -> Plan:
    """Plan the removal of rows."""
    problems = Problems()
    gone = []
    for name in ids:
        with problems.collecting():
            gone.append(dataset.position(name))
    if not problems.found and not gone:
        raise InvalidInputError("there are no rows to remove")
    if len(gone) == len(dataset):
        problems.add(InvalidInputError(f"this would remove all rows; delete the folder {dataset.path} instead"))
    problems.raise_if_any()
    n = len(dataset) - len(gone)
    order = np.arange(n)
    holes = sorted(g for g in gone if g < n)
    order[holes] = sorted(set(range(n, len(dataset))) - set(gone))
    table = dataset.labels.reset_index(names="id").iloc[order].reset_index(drop=True)
    rows = RowPlan.joined([(DatasetRows.of(dataset), order)])
    return Plan(draft_of(dataset, version), table["id"].tolist(), rows, table, base=dataset)

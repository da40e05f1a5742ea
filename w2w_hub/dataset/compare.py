"""Compare two datasets, or two states of one: rows by id, values by digest, labels by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.arguments import DATASET, checked
from ..common.constraints import either, path
from ..common.display import Displayed
from .labels import table as label_table
from .weight_dataset import WeightDataset


@dataclass(repr=False)
class Difference(Displayed):
    """Differences between two datasets.

    Attributes
    ----------
    added, removed : list of str
        Ids that only the second dataset has, and ids that only the first has.
    changed : list of str
        Ids whose weights differ.
    relabelled : dict of str to dict
        Id -> column -> (before, after) of labels that differ, whether or not the weights do.
    columns : dict of str to tuple
        Attribute columns that one dataset lacks or whose kinds differ: (before, after), None for a missing column.
    facts : dict of str to tuple
        Other manifest fields that differ: (before, after).
    """

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    relabelled: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    columns: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    facts: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(vars(self).values())


@checked(first=either(DATASET, path()), second=either(DATASET, path()))
def diff(first: Path | str | WeightDataset, second: Path | str | WeightDataset) -> Difference:
    """Compare two datasets by their labels and manifests, without reading weights.

    Examples
    --------
    >>> diff("people-1.0", "people").added   # doctest: +SKIP
    """
    a, b = (d if isinstance(d, WeightDataset) else WeightDataset.open(d) for d in (first, second))
    found = Difference()
    mine, theirs = set(a.ids), set(b.ids)
    found.added = [name for name in b.ids if name not in mine]
    found.removed = [name for name in a.ids if name not in theirs]
    both = [name for name in a.ids if name in theirs]
    before = {r.pop("id"): r for r in label_table.records(a.labels.loc[both].reset_index(names="id"))}
    after = {r.pop("id"): r for r in label_table.records(b.labels.loc[both].reset_index(names="id"))}
    # rows of different layouts differ, even if their numbers are equal
    same_kind = a.layout == b.layout
    for name in both:
        old, new = before[name], after[name]
        if old.pop("row_sha256") != new.pop("row_sha256") or not same_kind:
            found.changed.append(name)
        changes = {k: (old.get(k), new.get(k)) for k in [*old, *(k for k in new if k not in old)]}
        changes = {k: pair for k, pair in changes.items() if pair[0] != pair[1]}
        if changes:
            found.relabelled[name] = changes
    kinds = [{name: kind.describe() for name, kind in d.manifest.kinds.items()} for d in (a, b)]
    found.columns = {
        k: (kinds[0].get(k), kinds[1].get(k)) for k in {**kinds[0], **kinds[1]} if kinds[0].get(k) != kinds[1].get(k)
    }
    for fact in ("name", "version", "licence", "dtype", "compatibility", "column_info", "split_rule", "digest"):
        pair = tuple(getattr(d.manifest, fact) for d in (a, b))
        if pair[0] != pair[1]:
            found.facts[fact] = pair if fact != "compatibility" else (vars(pair[0]), vars(pair[1]))
    if not same_kind:
        found.facts["layout"] = (a.layout.digest, b.layout.digest)
    return found

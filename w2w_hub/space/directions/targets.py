"""Targets of directions: numbers derived from label columns, or the reasons why there are none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...common.text import command
from ...dataset.credits import states_contributors
from ...dataset.labels.kinds import MIN_ROWS_A_CLASS as MIN_ROWS_A_CLASS
from ...dataset.labels.kinds import AttributeTarget, LabelKind
from ...dataset.labels.names import CONTRIBUTOR
from ...errors import DatasetChangedError, InvalidInputError, UnknownNameError
from .missing import condensed

if TYPE_CHECKING:
    from ...dataset import WeightDataset
    from ..population import Population

COMPONENT_NAME = re.compile(r"PC[0-9]+")  # name of a principal component as a slider


class FittedSpace(Protocol):
    """The part of a weight space that directions need: its population and its recipe."""

    recipe: dict[str, Any]

    @property
    def k(self) -> int: ...

    def require_population(self, need: str) -> Population: ...


def targets_of(
    space: FittedSpace, dataset: WeightDataset, attributes: Sequence[str] | None = None
) -> tuple[list[AttributeTarget], dict[str, str]]:
    """Return the targets of a dataset's columns, and the reason for each that cannot be fitted.

    Parameters
    ----------
    attributes : sequence of str, optional
        Columns or names of targets (``Hair=red``); all without it. What is asked for must be possible.

    Raises
    ------
    UnknownNameError, InvalidInputError
        If an attribute that is asked for does not exist or cannot be fitted.
    DatasetChangedError
        If the dataset is not the one that the space was built from.
    """
    found, reasons, _ = _possible(space, dataset)
    if attributes is None:
        return list(found.values()), reasons
    split_column = _split_column(dataset)
    chosen: dict[str, AttributeTarget] = {}
    for name in attributes:
        if split_column is not None and (name == split_column or name.startswith(f"{split_column}=")):
            raise InvalidInputError(
                f"no direction for {name}: {split_column!r} is the column that the rows are split by"
            )
        own = {t.name: t for t in found.values() if name in (t.name, t.attribute)}
        if not own and name not in reasons and name not in dataset.manifest.columns:
            raise UnknownNameError(f"no attribute {name!r}; available: {', '.join(found) or 'none'}")
        if not own:
            raise InvalidInputError(f"no direction for {name}: {reasons.get(name, 'none of its levels can be fitted')}")
        chosen |= own
    return list(chosen.values()), reasons


def why_not(space: FittedSpace, dataset: WeightDataset) -> dict[str, str]:
    """Return the attributes without a direction, each with the reason; many levels of one are named together."""
    _, reasons, targets = _possible(space, dataset)
    return condensed(reasons, targets, space.require_population("row to fit directions to").fitted)


def require_dataset(space: FittedSpace, dataset: WeightDataset) -> None:
    """Raise an error unless `dataset` has the digest that the space was built from.

    Raises
    ------
    DatasetChangedError
    """
    stated = space.recipe.get("dataset_digest")
    if dataset.manifest.digest != stated:
        raise DatasetChangedError(
            f"{dataset.path} has digest {dataset.manifest.digest[:12]}, this weight space was built from "
            f"{str(stated)[:12]} ({space.recipe.get('dataset')} {space.recipe.get('dataset_version')}): open that "
            f"version, or build a new space with: {command('w2w build', dataset.path, options=('--out', 'SPACE'))}",
            path=dataset.path,
        )


def _split_column(dataset: WeightDataset) -> str | None:
    """Return the column that the rows are split by, which is no attribute: it says which side a row is on."""
    rule = dataset.manifest.split_rule
    return None if rule is None else str(rule["column"])


def attribute_kinds(dataset: WeightDataset) -> dict[str, LabelKind]:
    """Return the kinds of the columns that describe a person, by name.

    Left out are the column that the rows are split by, and that of releases which says who offered a row.
    """
    others = {_split_column(dataset), CONTRIBUTOR if states_contributors(dataset.manifest) else None}
    return {name: kind for name, kind in dataset.manifest.kinds.items() if name not in others}


def _possible(
    space: FittedSpace, dataset: WeightDataset
) -> tuple[dict[str, AttributeTarget], dict[str, str], dict[str, AttributeTarget]]:
    """Return the targets that can be fitted, the reason for each that cannot, and all targets, by name."""
    require_dataset(space, dataset)
    population = space.require_population("row to fit directions to")
    named: dict[str, list[AttributeTarget]] = {}
    for column, kind in attribute_kinds(dataset).items():
        for target in kind.targets(column, dataset.labels[column].loc[list(population.ids)]):
            named.setdefault(target.name, []).append(target)
    found: dict[str, AttributeTarget] = {}
    reasons: dict[str, str] = {}
    for name, (target, *others) in named.items():
        reason = _clash(target, others) or target.why_not(population.fitted)
        if reason:
            reasons[name] = reason
        else:
            found[name] = target
    return found, reasons, {name: targets[0] for name, targets in named.items()}


def preserved_by_name(
    targets: Sequence[AttributeTarget], preserve: Sequence[str] | Mapping[str, Sequence[str]]
) -> np.ndarray:
    """Return which targets (columns) a caller wants each target (row) to be controlled for, boolean ``(a, a)``.

    Raises
    ------
    UnknownNameError
    """
    names = [t.name for t in targets]
    found = np.zeros((len(targets), len(targets)), bool)
    for i, name in enumerate(names):
        for other in preserve.get(name, ()) if isinstance(preserve, Mapping) else preserve:
            own = [j for j, t in enumerate(targets) if other in (t.name, t.attribute)]
            if not own:
                raise UnknownNameError(f"no attribute {other!r} to preserve; available: {', '.join(names)}")
            found[i, [j for j in own if targets[j].attribute != targets[i].attribute]] = True
    return found


def _clash(target: AttributeTarget, others: list[AttributeTarget]) -> str:
    """Return the reason why a name is ambiguous; empty if it is not."""
    if others:
        origins = [
            f"column {t.attribute!r}" + ("" if t.level is None else f" at {t.level!r}") for t in (target, *others)
        ]
        return f"{' and '.join(origins)} have the same name; rename one"
    if COMPONENT_NAME.fullmatch(target.name):
        return f"column {target.attribute!r} has the name of a principal component; rename it"
    return ""

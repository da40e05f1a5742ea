"""What directions are fitted to: numbers made of a dataset's label columns, and why some make none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...common.text import command
from ...errors import DatasetChangedError, InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from ...dataset import WeightDataset
    from ..population import Population
    from ..weight_space import WeightSpace

MIN_ROWS_A_CLASS = 5
COMPONENT_NAME = re.compile(r"PC[0-9]+")  # what a principal component is called as a slider


@dataclass(frozen=True)
class Target:
    """One attribute, or one level of it.

    Attributes
    ----------
    values : ndarray
        float64 ``(n,)`` in the order of the space's rows: 0 and 1, or the numbers of a continuous attribute; NaN where
        there is no label.
    """

    name: str
    attribute: str
    level: str | None
    kind: str
    values: np.ndarray


def targets_of(
    space: WeightSpace, dataset: WeightDataset, attributes: Sequence[str] | None = None
) -> tuple[list[Target], dict[str, str]]:
    """The targets of a dataset's columns, and the reason for each that cannot be fitted.

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
    require_dataset(space, dataset)
    population = space.require_population("row to fit directions to")
    named: dict[str, list[Target]] = {}
    for column, kind in dataset.manifest.columns.items():
        for target in _of_column(population, dataset, column, kind):
            named.setdefault(target.name, []).append(target)
    found: dict[str, Target] = {}
    reasons: dict[str, str] = {}
    for name, (target, *others) in named.items():
        reason = _clash(target, others) or _why_not(target, population.fitted)
        if reason:
            reasons[name] = reason
        else:
            found[name] = target
    if attributes is None:
        return list(found.values()), reasons
    chosen = []
    for name in attributes:
        own = [t for t in found.values() if name in (t.name, t.attribute)]
        if not own and name not in reasons and name not in dataset.manifest.columns:
            known = ", ".join(found) or "none"
            raise UnknownNameError(f"no attribute {name!r}; there are {known}")
        if not own:
            raise InvalidInputError(f"no direction for {name}: {reasons.get(name, 'none of its levels can be fitted')}")
        chosen += own
    return list({t.name: t for t in chosen}.values()), reasons


def why_not(space: WeightSpace, dataset: WeightDataset) -> dict[str, str]:
    """The attributes without a direction, each with the reason."""
    return targets_of(space, dataset)[1]


def require_dataset(space: WeightSpace, dataset: WeightDataset) -> None:
    """Raise unless `dataset` has the digest that the space was built from."""
    stated = space.recipe.get("dataset_digest")
    if dataset.manifest.digest != stated:
        raise DatasetChangedError(
            f"{dataset.path} has digest {dataset.manifest.digest[:12]}, this weight space was built from "
            f"{str(stated)[:12]} ({space.recipe.get('dataset')} {space.recipe.get('dataset_version')}): open that "
            f"version, or build a new space with: {command('w2w build', dataset.path, options=('--out', 'SPACE'))}"
        )


def _of_column(population: Population, dataset: WeightDataset, column: str, kind: str) -> list[Target]:
    labels = dataset.labels[column].loc[list(population.ids)]
    if kind != "categorical":
        values = labels.astype("Float64").to_numpy(float, na_value=np.nan)
        return [Target(column, column, None, kind, values)]
    texts = labels.astype("string")
    missing = texts.isna().to_numpy(bool)
    levels = sorted(set(texts[~missing]))
    if not levels:
        return [Target(column, column, None, "binary", np.full(len(texts), np.nan))]
    plain = texts.fillna("").to_numpy(object)
    return [
        Target(f"{column}={level}", column, level, kind, np.where(missing, np.nan, (plain == level).astype(float)))
        for level in levels
    ]


def _clash(target: Target, others: list[Target]) -> str:
    """Why a name could mean something else; empty if it cannot."""
    if others:
        origins = [
            f"column {t.attribute!r}" + ("" if t.level is None else f" at {t.level!r}") for t in (target, *others)
        ]
        return f"{' and '.join(origins)} have the same name; rename one"
    if COMPONENT_NAME.fullmatch(target.name):
        return f"column {target.attribute!r} has the name of a principal component; rename it"
    return ""


def _why_not(target: Target, fitted: np.ndarray) -> str:
    values = target.values[fitted]
    known = values[~np.isnan(values)]
    if not len(known):
        return "no fitted row has a label"
    if np.ptp(known) == 0:
        return f"all {len(known)} labelled fitted rows have the same label"
    if target.kind == "float":
        few = 2 * MIN_ROWS_A_CLASS
        return "" if len(known) >= few else f"{len(known)} fitted rows have a label, at least {few} are needed"
    has = int((known == 1).sum())
    lacks = len(known) - has
    if has < MIN_ROWS_A_CLASS:
        return f"{has} of {len(known)} labelled fitted rows have it, at least {MIN_ROWS_A_CLASS} are needed"
    if lacks < MIN_ROWS_A_CLASS:
        return f"{lacks} of {len(known)} labelled fitted rows lack it, at least {MIN_ROWS_A_CLASS} are needed"
    return ""

"""Fit a population model to the rows of a weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import DATASET, SPACE
from ...common.constraints import names_by_name, optional, validated
from ..directions.targets import FittedSpace, attribute_kinds, require_dataset
from .calibration import calibrate
from .columns import columns_of
from .discovery import Structure, find_structure
from .evidence import evidence_of
from .hyperparameters import choose, sample_of
from .joint import Joint
from .kernel import Kernel
from .model import PopulationModel
from .readers import fit_readers
from .regression import Regression, fit
from .residual import nearest_cosines, residual_factor
from .residual_share import amounts, choose_share

if TYPE_CHECKING:
    from ...dataset import WeightDataset

RESIDUAL_ROWS, NEIGHBORS, PEOPLE = 8192, 4096, 256
FEWEST_ROWS = 10
GROUPS = "groups"  # key of the evidence: the caller's, for a rebuild


@validated(space=SPACE, dataset=DATASET, groups=optional(names_by_name()))
def fit_population_model(
    space: FittedSpace, dataset: WeightDataset, *, groups: Mapping[str, Sequence[str]] | None = None
) -> PopulationModel | None:
    """Fit a model of a space's population to its fitted rows; None if no label column is an attribute.

    Factors are found from the label columns (:mod:`.discovery`), what excludes or implies what by a test with a bound
    for wrong labels (:mod:`.relations`). The mean is a kernel ridge regression on all factors together; its
    hyperparameters, the typical strength and the gain of samples are chosen by cross-validation on the fitted rows.

    Parameters
    ----------
    groups : mapping of str to sequence of str, optional
        Binary columns that exclude each other, by the name of their group, in place of those found.

    Raises
    ------
    DatasetChangedError
        If the dataset is not the one that the space was built from.
    UnknownNameError, InvalidInputError
        If a group names a column that is not binary, or one twice.
    """
    require_dataset(space, dataset)
    population = space.require_population("row to fit a model to")
    order = np.argsort(np.asarray(population.ids))  # that in which a dataset keeps its rows changes nothing
    labels = dataset.labels.loc[[population.ids[i] for i in order]]
    coefficients, fitted = population.coefficients, population.fitted[order]
    if (np.diff(order) < 0).any():
        coefficients = coefficients[order]
    columns, reasons = columns_of(labels, attribute_kinds(dataset), fitted)
    structure = find_structure(columns, fitted, groups)
    if not structure.factors or fitted.sum() < FEWEST_ROWS:
        return None
    model = fit_to(structure, coefficients, fitted, reasons)
    return (
        replace(model, evidence={**model.evidence, GROUPS: {n: list(g) for n, g in groups.items()}})
        if groups
        else model
    )


def fit_to(
    structure: Structure, coefficients: np.ndarray, fitted: np.ndarray, reasons: Mapping[str, str]
) -> PopulationModel:
    """Fit a model to the coefficients ``(n, k)`` of the rows in a mask ``(n,)``.

    Parameters
    ----------
    reasons : mapping of str to str
        Columns that are no attributes.
    """
    factors, used = structure.factors, np.flatnonzero(fitted)
    codes, values = structure.codes[fitted], coefficients if len(used) == len(fitted) else coefficients[fitted]
    mean = values.mean(0, dtype=np.float64)
    chosen = choose(factors, codes, values, mean)
    model = fit(Kernel(factors, chosen.rhos), chosen.noise, codes, values, mean)
    calibration = calibrate(factors, structure.attributes, structure.excluded, chosen, codes, values)
    readers = fit_readers(factors, codes, values)
    some = sample_of(len(codes), RESIDUAL_ROWS)
    factor, rest = residual_factor(values[some] - mean - model.predict(codes[some]))
    joint = Joint(factors, structure.excluded, model.codes, model.counts)
    share = choose_share(factors, structure.excluded, chosen, codes, values)
    gain, scale, nearest = _sampling(share.share, model, joint, factor, rest, values, coefficients[~fitted], mean)
    evidence: dict[str, Any] = {
        "explained_variance": evidence_of(
            model, factors, chosen, (codes, values), (structure.codes[~fitted], coefficients[~fitted]), mean
        ),
        "reader_strength": calibration.by_attribute,
        "nearest_row": nearest,
        "residual_share": share.evidence(),
        "relations": [asdict(relation) for relation in structure.relations],
        "no_attribute": dict(reasons),
        "rows": len(used),
        "inducing": model.induced,
    }
    return PopulationModel(
        factors=factors, attributes=structure.attributes, excluded=structure.excluded, mean=mean,
        codes=model.codes, counts=model.counts, weights=model.weights.astype(np.float32),
        rhos=chosen.rhos, noise=chosen.noise, reading=readers.weights, intercepts=readers.intercepts,
        residual=factor * np.float32(scale), rest=rest * np.float32(scale), strength=calibration.strength, gain=gain,
        evidence=evidence,
    )  # fmt: skip


def _sampling(
    share: float,
    model: Regression,
    joint: Joint,
    factor: np.ndarray,
    rest: np.ndarray,
    values: np.ndarray,
    held_out: np.ndarray,
    mean: np.ndarray,
) -> tuple[float, float, dict[str, float]]:
    """Return the gain of f and the factor of the residual in samples, and how near samples are to fitted rows.

    Samples are as spread as fitted rows, and a share of their variance is residual. The residual is what the fit itself
    leaves: that of left-out people also has the looks that f does not predict, which do not fit another person's.
    """
    rng = np.random.default_rng(0)
    means = model.predict(joint.draw(PEOPLE, rng))
    residuals = rng.standard_normal((PEOPLE, len(factor))) @ factor + rng.standard_normal((PEOPLE, len(mean))) * rest
    rows = values[sample_of(len(values), NEIGHBORS)] - mean
    gain, scale = amounts(share, rows, means, residuals)
    nearest = {"samples": round(float(nearest_cosines(gain * means + scale * residuals, rows).mean()), 4)}
    if len(held_out):
        nearest["held_out"] = round(float(nearest_cosines(held_out[:PEOPLE] - mean, rows).mean()), 4)
    return gain, scale, nearest

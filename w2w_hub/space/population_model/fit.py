"""Fit a population model to the rows of a weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import DATASET, SPACE
from ...common.constraints import names_by_name, optional, validated
from ..directions.targets import FittedSpace, require_dataset
from .columns import columns_of
from .discovery import find_structure
from .kernel import Kernel
from .model import PopulationModel
from .readers import fit_readers
from .regression import NOISES, RHOS, SAMPLE, Configurations, exact_weights, left_out_errors

if TYPE_CHECKING:
    from ...dataset import WeightDataset


@validated(space=SPACE, dataset=DATASET, groups=optional(names_by_name()))
def fit_population_model(
    space: FittedSpace, dataset: WeightDataset, *, groups: Mapping[str, Sequence[str]] | None = None
) -> PopulationModel | None:
    """Fit a model of a space's population to its fitted rows; None if no label column is an attribute.

    Parameters
    ----------
    groups : mapping, optional
        Names of factors, each with the binary columns that exclude each other in it, in place of those found.

    Raises
    ------
    DatasetChangedError, UnknownNameError, InvalidInputError
    """
    require_dataset(space, dataset)
    population = space.require_population("row to fit a model to")
    labels = dataset.labels.loc[list(population.ids)]
    rule = dataset.manifest.split_rule
    kinds = {n: kind for n, kind in dataset.manifest.kinds.items() if rule is None or n != rule["column"]}
    columns, reasons = columns_of(labels, kinds, population.fitted)
    structure = find_structure(columns, population.fitted, groups)
    if not structure.factors:
        return None
    fitted = population.fitted
    codes, coefficients = structure.codes[fitted], population.coefficients[fitted].astype(np.float64)
    mean = coefficients.mean(0)
    rows = np.arange(len(codes))
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False))
    best = (np.inf, 1.0, 1.0)
    for rho in RHOS:
        errors = left_out_errors(
            Kernel(structure.factors, rho).matrix(codes[rows], codes[rows]), NOISES, coefficients[rows] - mean
        )
        best = min(best, (float(errors.min()), rho, NOISES[int(errors.argmin())]))
    _, rho, noise = best
    kernel = Kernel(structure.factors, rho)
    found = Configurations.of(codes)
    sums = np.zeros((len(found.codes), coefficients.shape[1]))
    np.add.at(sums, found.inverse, coefficients - mean)
    weights = exact_weights(kernel, noise, found, sums / found.counts[:, None])
    left = coefficients - mean - (kernel.matrix(found.codes, found.codes) @ weights)[found.inverse]
    _, values, vectors = np.linalg.svd(left / np.sqrt(len(left)), full_matrices=False)
    readers = fit_readers(structure.factors, codes, coefficients)
    evidence: dict[str, Any] = {"no_attribute": reasons}
    return PopulationModel(
        factors=structure.factors, attributes=structure.attributes, excluded=structure.excluded, mean=mean,
        codes=found.codes, counts=found.counts, weights=weights.astype(np.float32), rho=rho, noise=noise,
        reading=readers.weights, intercepts=readers.intercepts,
        residual=(values[:, None] * vectors)[:512].astype(np.float32), rest=np.zeros(len(mean), np.float32),
        strength=1.5, gain=1.3, evidence=evidence,
    )  # fmt: skip

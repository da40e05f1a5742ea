"""Figures of a report as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidInputError
from ..directions.entanglement import cosines, mean_off_diagonal
from ..directions.synonyms import synonyms
from ..directions.targets import require_dataset, targets_of
from ..fit.build import build_space
from ..fit.diagnostics import held_out_curve
from ..fit.nulls import gaussian_spectrum
from ..layers import block_sizes, shares_by_block
from ..population_model import summary_lines

if TYPE_CHECKING:
    from ...dataset import WeightDataset
    from ..population import Population
    from ..weight_space import WeightSpace

HISTOGRAMS, SCATTERS, EXAMPLES, SAMPLES = 6, 6, 12, 200
POPULATIONS = (10, 100, 1000, 10_000)
SCATTERED = 1500  # rows at most


def figures(space: WeightSpace, dataset: WeightDataset | None = None) -> dict[str, Any]:
    """Return the report's data, JSON throughout.

    Parameters
    ----------
    dataset : WeightDataset, optional
        Adds scatter plots by attribute, and entanglement by population size.
    """
    if dataset is not None:
        require_dataset(space, dataset)
    population = space.population
    data: dict[str, Any] = {
        "name": space.name,
        "version": space.version,
        "digest": space.digest,
        "k": space.k,
        "numbers": space.layout.size,
        "recipe": space.recipe,
        "diagnostics": space.diagnostics,
        "spectrum": spectrum(space),
        "reconstruction_error": None if population is None else reconstruction(population),
        "coefficients": {} if population is None else histograms(population),
        "directions": {name: d.evidence() for name, d in space.directions.items()},
        "population_model": _population_model(space),
        "synonyms": synonyms(space.directions),
        "entanglement": None if population is None else space.entanglement().to_json(),
        "neighbours": None if population is None else neighbors(space, population),
        "layers": layers(space),
    }
    if dataset is not None:
        data["scatter"] = scatters(space, dataset)
        data["entanglement_by_population"] = entanglement_by_population(space, dataset)
    return data


def _population_model(space: WeightSpace) -> dict[str, Any] | None:
    model = space.population_model
    if model is None:
        return None
    return {
        "factors": [{"name": f.name, "levels": len(f.levels), "columns": list(f.columns)} for f in model.factors],
        "strength": model.strength, "evidence": model.evidence, "lines": summary_lines(model),
    }  # fmt: skip


def spectrum(space: WeightSpace) -> dict[str, Any]:
    """Return the fraction of variance per component, and cumulated, with the nulls: lists of k."""
    population = space.population
    norms = None if population is None else population.squared_norms
    n, d = space.spread.rows, space.layout.size - int(space.recipe.get("constant_numbers", 0))
    total = _total(space) if population is None or norms is None else float(norms[population.fitted].sum())
    share = space.coordinates.singular_values**2 / total
    noise = gaussian_spectrum(n, d)[: space.k]
    noise = np.pad(noise, (0, space.k - len(noise)))  # with fewer rows than components the rest is 0
    found: dict[str, Any] = {
        "share": share.tolist(),
        "gaussian_null": noise.tolist(),
        "fitted": np.cumsum(share).tolist(),
        "held_out": None,
        "gaussian_null_cumulated": np.cumsum(noise).tolist(),
        "held_out_chance": (np.arange(1, space.k + 1) / max(d, 1)).tolist(),
    }
    if population is not None and norms is not None and not population.fitted.all():
        found["held_out"] = held_out_curve(population).tolist()
    return found


def layers(space: WeightSpace) -> dict[str, Any]:
    """Return the fraction of the weights in each block of the network, and of each editing direction's squared norm."""
    sizes = block_sizes(space.layout)
    return {
        "weights": {block: size / space.layout.size for block, size in sizes.items()},
        "directions": shares_by_block(space.coordinates, {n: d.editing for n, d in space.directions.items()}),
    }


def _total(space: WeightSpace) -> float:
    """Return the total variance, from the explained fraction in the diagnostics if rows' norms are not stored."""
    shares = space.diagnostics.get("explained_variance", {})
    return float((space.coordinates.singular_values**2).sum() / (shares.get(str(space.k)) or 1.0))


def reconstruction(population: Population) -> dict[str, list[float]] | None:
    """Return the reconstruction error of every row with all components, fitted and held out."""
    if population.squared_norms is None:
        return None
    errors = population.reconstruction_error().round(6)
    return {"fitted": errors[population.fitted].tolist(), "held_out": errors[~population.fitted].tolist()}


def histograms(population: Population) -> dict[str, Any]:
    """Return the coefficients of the first components over the fitted rows, and how Gaussian each is."""
    from scipy.stats import kurtosis, skew

    rows = population.coefficients[population.fitted].astype(np.float64)
    found = {}
    for j in range(min(HISTOGRAMS, population.k)):
        values = rows[:, j]
        found[f"PC{j + 1}"] = {
            "values": values.round(5).tolist(),
            "skew": float(skew(values)),
            "excess_kurtosis": float(kurtosis(values)),
        }
    return found


def neighbors(space: WeightSpace, population: Population) -> dict[str, Any]:
    """Return the cosine to the nearest fitted row: of fitted rows to another one, of held-out rows, and of samples."""
    fitted = unit(population.coefficients[population.fitted])
    held_out = unit(population.coefficients[~population.fitted])
    samples = unit(np.stack([point.coefficients for point in space.sample(SAMPLES, seed=0)]))
    gaussian = unit(population.sample(SAMPLES, seed=0).astype(np.float32))
    names = population.fitted_ids
    others = [name for name, used in zip(population.ids, population.fitted, strict=True) if not used]
    examples = []
    for i in range(min(EXAMPLES, len(held_out))):
        cosine = fitted @ held_out[i]
        best = np.argsort(-cosine, kind="stable")[:3]
        examples.append({"row": others[i], "nearest": [[names[j], round(float(cosine[j]), 4)] for j in best]})
    return {
        "fitted": _nearest(fitted, fitted, skip_self=True),
        "held_out": _nearest(held_out, fitted),
        "samples": _nearest(samples, fitted),
        "gaussian": _nearest(gaussian, fitted) if space.population_model is not None else [],
        "examples": examples,
    }


def unit(rows: np.ndarray) -> np.ndarray:
    values = rows.astype(np.float64)
    result: np.ndarray = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)
    return result


def _nearest(rows: np.ndarray, fitted: np.ndarray, skip_self: bool = False) -> list[float]:
    found: list[float] = []
    for start in range(0, len(rows), 512):
        cosine = rows[start : start + 512] @ fitted.T
        if skip_self:
            cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = -np.inf
        found += cosine.max(1).round(5).tolist()
    return [value for value in found if np.isfinite(value)]


def scatters(space: WeightSpace, dataset: WeightDataset) -> list[dict[str, Any]]:
    """Return, for the attributes that two components show best, these two and the rows with and without it."""
    targets, _ = targets_of(space, dataset)
    population = space.require_population("scatter of rows")
    fitted = np.flatnonzero(population.fitted)
    if len(fitted) > SCATTERED:
        fitted = np.sort(np.random.default_rng(0).choice(fitted, SCATTERED, replace=False))
    rows = population.coefficients[fitted].astype(np.float64)
    shown = []
    for target in targets:
        values = target.values[fitted]
        known = ~np.isnan(values)
        x, y = rows[known], values[known]
        if len(y) < 3 or np.ptp(y) == 0 or space.k < 2:
            continue
        split = target.kind.halves(y) == 1
        centered = (x - x.mean(0)) / np.maximum(x.std(0), 1e-300)
        strength = np.abs(centered.T @ (y - y.mean())) / (len(y) * y.std())
        first, second = sorted(np.argsort(-strength, kind="stable")[:2])
        shown.append({
            "attribute": target.name,
            "continuous": target.kind.graded,
            "groups": list(target.kind.group_names),
            "components": [int(first) + 1, int(second) + 1],
            "correlation": float(np.sqrt((strength[[first, second]] ** 2).sum())),
            "with": x[split][:, [first, second]].round(4).tolist(),
            "without": x[~split][:, [first, second]].round(4).tolist(),
        })  # fmt: skip
    return sorted(shown, key=lambda s: -s["correlation"])[:SCATTERS]


def entanglement_by_population(
    space: WeightSpace, dataset: WeightDataset, sizes: tuple[int, ...] = POPULATIONS, draws: int = 3
) -> list[dict[str, Any]]:
    """Return the mean |cosine| of reading directions of spaces built from fewer people (the paper's figure 9).

    Mean, deviation and components are fitted anew for each size; readers are least-squares fits on the coefficients,
    as in the paper, of the attributes that have both classes in every draw. `draws` random subsets per size.
    """
    require_dataset(space, dataset)
    population = space.require_population("smaller population")
    fitted = population.fitted_ids
    targets = [t for t in targets_of(space, dataset)[0] if not t.kind.graded]
    where = {name: i for i, name in enumerate(population.ids)}
    found = []
    for size in [*(s for s in sizes if s < len(fitted)), len(fitted)]:
        measured = []
        for draw in range(1 if size == len(fitted) else draws):
            rng = np.random.default_rng([draw, size])
            rows = sorted(rng.choice(fitted, size, replace=False).tolist())
            picked, place = [where[row] for row in rows], {row: i for i, row in enumerate(rows)}
            labels = np.array([t.values[picked] for t in targets]).reshape(len(targets), size).T
            usable = np.array([not np.isnan(c).any() and np.ptp(c) > 0 for c in labels.T], bool)
            if usable.sum() < 2:
                continue
            try:
                smaller = build_space(
                    dataset, min(space.k, size - 1), split=population.fitted_split, rows=rows, directions=False,
                    population_model=False, standardize=space.recipe.get("standardised", True),
                    canonical=space.recipe.get("canonical"),
                ).require_population("row")  # fmt: skip
            except InvalidInputError:  # few rows may span fewer dimensions
                continue
            coefficients = smaller.coefficients[smaller.fitted].astype(np.float64)
            order = smaller.fitted_ids
            y = labels[[place[name] for name in order]][:, usable]
            weights = np.linalg.pinv(coefficients - coefficients.mean(0)) @ (y - y.mean(0))
            measured.append((mean_off_diagonal(cosines(weights.T)), int(usable.sum())))
        if measured:
            values = [float(value) for value, _ in measured if value is not None]
            found.append({
                "people": size, "mean_cosine": float(np.mean(values)), "draws": values,
                "attributes": min(count for _, count in measured),
            })  # fmt: skip
    return found

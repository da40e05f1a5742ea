"""Time and accuracy of population models on synthetic populations: `python scripts/bench_population.py`.

People have noisy binary attributes as CelebA's: some exclude each other, most are entangled, 2 % of the labels are
wrong. Their coefficients have a decaying spectrum, of which attributes and their interactions explain a part. Shown are
the time and the largest memory of a fit, and with ``--compare`` inducing rows beside the exact solution.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import click
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from w2w_hub.space.population_model.columns import Column  # noqa: E402
from w2w_hub.space.population_model.discovery import find_structure  # noqa: E402
from w2w_hub.space.population_model.fit import fit_to  # noqa: E402
from w2w_hub.space.population_model.hyperparameters import choose  # noqa: E402
from w2w_hub.space.population_model.kernel import Kernel  # noqa: E402
from w2w_hub.space.population_model.regression import fit  # noqa: E402

WRONG, HAIR = 0.02, 5


def population(n: int, k: int, attributes: int, seed: int = 0) -> tuple[list[Column], np.ndarray]:
    """Return columns and float32 coefficients ``(n, k)``."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 6)).astype(np.float32)
    labels = hidden @ rng.normal(size=(6, attributes)) + rng.normal(size=(n, attributes)) > rng.normal(size=attributes)
    hair = rng.integers(0, HAIR + 1, n)  # one color, or none
    labels[:, :HAIR] = hair[:, None] == np.arange(HAIR)
    spread = (1 + np.arange(k)) ** -0.5
    signs = np.where(labels, 1, -1).astype(np.float32)
    effects = rng.normal(size=(attributes, k)).astype(np.float32)
    pairs = rng.integers(0, attributes, (3 * attributes, 2))
    between = rng.normal(size=(len(pairs), k)).astype(np.float32)
    found = np.empty((n, k), np.float32)
    for start in range(0, n, 4096):
        part = slice(start, start + 4096)
        products = signs[part][:, pairs[:, 0]] * signs[part][:, pairs[:, 1]]
        f = signs[part] @ effects + 0.5 * products @ between
        noise = rng.standard_normal(f.shape, np.float32) * (2 * attributes) ** 0.5
        found[part] = (f + noise) * spread
    found -= found.mean(0)
    wrong = rng.random(labels.shape) < WRONG
    noisy = labels ^ wrong
    names = [*(f"Hair_{i}" for i in range(HAIR)), *(f"Attribute_{i}" for i in range(HAIR, attributes))]
    return [Column(name, "binary", ("False", "True"), noisy[:, i].astype(float)) for i, name in enumerate(names)], found


def timed(n: int, k: int, attributes: int) -> dict[str, object]:
    columns, coefficients = population(n, k, attributes)
    fitted = np.arange(n) < n - min(2048, n // 10)
    start = time.perf_counter()
    model = fit_to(find_structure(columns, fitted), coefficients, fitted, {})
    seconds = time.perf_counter() - start
    person = coefficients[~fitted][0]
    changed = {"Attribute_7": not model.read(person)["Attribute_7"]}
    start = time.process_time()
    for _ in range(20):
        model.step(person, changed)
    step = (time.process_time() - start) / 20
    return {
        "fitted": n, "k": k, "attributes": attributes, "seconds": round(seconds, 1), "step_ms": round(1e3 * step, 2),
        "factors": len(model.factors), "stored_rows": len(model.codes), "strength": model.strength,
        **model.evidence["explained_variance"],
        "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "coefficients_GiB": round(coefficients.nbytes / 2**30, 2),
    }  # fmt: skip


def compared(n: int, k: int, attributes: int, most: int) -> dict[str, object]:
    """Return the held-out explained variance of the exact solution and of inducing rows."""
    columns, coefficients = population(n + 2000, k, attributes)
    fitted = np.arange(n + 2000) < n
    structure = find_structure(columns, fitted)
    codes, mean = structure.codes[fitted], coefficients[fitted].mean(0, dtype=np.float64)
    chosen = choose(structure.factors, codes, coefficients[fitted], mean)
    truth = coefficients[~fitted] - mean
    found: dict[str, object] = {"rows": n}
    for name, limit in (("exact", n), ("inducing", most)):
        start = time.perf_counter()
        model = fit(Kernel(structure.factors, chosen.rhos), chosen.noise, codes, coefficients[fitted], mean, limit)
        left = truth - model.predict(structure.codes[~fitted])
        explained = 1 - float((left**2).sum() / (truth**2).sum())
        found[name] = {"stored": len(model.codes), "explained": round(explained, 4),
                       "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip
    return found


@click.command()
@click.option("--rows", default=65_000, show_default=True)
@click.option("--k", default=1_000, show_default=True)
@click.option("--attributes", default=40, show_default=True)
@click.option("--compare", is_flag=True, help="Compare inducing rows with the exact solution at 8,000 rows.")
def main(rows: int, k: int, attributes: int, compare: bool) -> None:
    """Print figures as JSON."""
    click.echo(json.dumps(compared(8_000, k, attributes, 4_096) if compare else timed(rows, k, attributes)))


if __name__ == "__main__":
    main()

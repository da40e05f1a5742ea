"""Which direction to edit along, by what the edit does: `python scripts/avatars/compare_directions.py --work work`.

Every kind of direction is tried on held-out people at several strengths, and the judge reads the pictures:
reading AUC says nothing about it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import config as configs  # noqa: E402
import world  # noqa: E402
from evaluate_stage import Evaluation, able_to_gain  # noqa: E402

from w2w_hub.demo.report import edits_reached  # noqa: E402
from w2w_hub.demo.settings import CASES  # noqa: E402
from w2w_hub.space import WeightSpace  # noqa: E402

STRENGTHS = (2.5, 3.5, 4.0, 4.5, 5.0, 6.0)


def effects_with_all_held(coefficients: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Least-squares effects of all attributes at once, with the small ridge that exclusive ones need."""
    centred = labels - labels.mean(0)
    covariance = centred.T @ centred + 1e-2 * len(labels) * np.diag(centred.var(0))
    return np.linalg.solve(covariance, centred.T @ (coefficients - coefficients.mean(0)))


def directions(space: WeightSpace, people: list[world.Identity]) -> dict[str, dict[str, np.ndarray]]:
    """Every kind's direction of every attribute, ``(k,)``."""
    names = list(space.directions)
    labels = np.array([[world.has(p, name) for name in names] for p in people])
    fitted, rows = labels[space.fitted], space.coefficients[space.fitted].astype(np.float64)
    means = {n: rows[fitted[:, j]].mean(0) - rows[~fitted[:, j]].mean(0) for j, n in enumerate(names)}
    return {
        "the library's": {n: space.directions[n].editing.astype(np.float64) for n in names},
        "class means apart": means,
        "class means apart, 100 components": {n: np.where(np.arange(space.k) < 100, v, 0) for n, v in means.items()},
        "all others held": dict(zip(names, effects_with_all_held(rows, fitted.astype(float)), strict=True)),
        "the classifier's weights": {n: space.directions[n].reading.astype(np.float64) for n in names},
    }


@click.command()
@click.option("--config", "name", type=click.Choice(sorted(configs.CONFIGS)), default="gpu", show_default=True)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path("work"), show_default=True)
@click.option("--people", default=64, show_default=True, help="Held-out people without the attribute.")
@click.option("--strength", "strengths", type=float, multiple=True, default=STRENGTHS, show_default=True)
def main(name: str, work: Path, people: int, strengths: tuple[float, ...]) -> None:
    """Print, for each kind of direction and strength, how many attributes could be edited."""
    evaluation = Evaluation(configs.CONFIGS[name], work)
    space, scorer, base = evaluation.space, evaluation.scorer, evaluation.base
    held_out = [scorer.people[i] for i in evaluation.unseen]
    before = evaluation.read(base.draw(torch.from_numpy(evaluation.rows), CASES[:1]))
    fitted = space.coefficients[space.fitted].astype(np.float64)
    for kind, found in directions(space, [scorer.people[int(i.split("-")[1])] for i in space.ids]).items():
        for strength in strengths:
            edits = {}
            for attribute, direction in found.items():
                unit = direction / np.linalg.norm(direction)
                step = strength * (fitted @ unit).std(ddof=1) * unit
                able = able_to_gain(held_out, attribute)[:people]
                vectors = evaluation.rows[able] + (step.astype(np.float32) @ space.basis) * space.std
                after = evaluation.read(base.draw(torch.from_numpy(vectors), CASES[:1]))
                edits[attribute] = {f"{strength:g}": evaluation.compare(attribute, before, able, after)}
            figures = [edit[f"{strength:g}"] for edit in edits.values()]
            shown, each, all_kept = (
                np.mean([figure[key] for figure in figures])
                for key in ("after", "each_other_factor_kept", "all_other_factors_kept")
            )
            print(
                f"{kind}, +{strength:g} sd: {len(edits_reached(edits, f'{strength:g}'))} of {len(edits)} attributes; "
                f"shown {shown:.3f}, each other factor kept {each:.3f}, all of them {all_kept:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Compare kinds of edit directions by the pictures that they give.

    python scripts/avatars/compare_directions.py                     # the shipped population, on a CPU
    python scripts/avatars/compare_directions.py --work work --config gpu --people 64   # the whole one, where it is

Every kind of direction is tried on held-out people who lack the attribute, and the judge reads the pictures: the AUC
of the reading direction says nothing about it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from w2w_hub import Direction, WeightDataset, WeightSpace, build_space  # noqa: E402
from w2w_hub.demo.assets import Assets  # noqa: E402
from w2w_hub.demo.judge import Judge  # noqa: E402
from w2w_hub.demo.measure import able_to_gain, attribute_shown, others_kept  # noqa: E402
from w2w_hub.demo.settings import CASES, COMPONENTS, EDIT_WISH, GUIDANCE, SAMPLING_STEPS  # noqa: E402
from w2w_hub.space.directions import fit_directions, overlap  # noqa: E402

Fit = Callable[[WeightSpace, WeightDataset, list[str]], dict[str, Direction]]


def held_by_binaries(space: WeightSpace, dataset: WeightDataset, names: list[str]) -> dict[str, Direction]:
    """Hold only the overlapping binary attributes, not the levels of the others."""
    labels = dataset.labels.loc[list(space.population.ids), names].astype("Float64").to_numpy(float, na_value=np.nan)
    together = overlap(labels[space.population.fitted])
    preserve = {name: [names[j] for j in np.flatnonzero(row)] for name, row in zip(names, together, strict=True)}
    return fit_directions(space, dataset, attributes=names, preserve=preserve)


KINDS: dict[str, Fit] = {
    "default (held where attributes overlap)": lambda s, d, n: fit_directions(s, d, attributes=n),
    "ridge weights": lambda s, d, n: fit_directions(s, d, attributes=n, reading="ridge", editing="reading"),
    "logistic weights": lambda s, d, n: fit_directions(s, d, attributes=n, editing="reading"),
    "class means apart": lambda s, d, n: fit_directions(s, d, attributes=n, editing="means"),
    "class means apart, whitened": lambda s, d, n: fit_directions(s, d, attributes=n, editing="means", whiten=True),
    "covariance times logistic weights": lambda s, d, n: fit_directions(s, d, attributes=n, editing="covariance"),
    "all others held": lambda s, d, n: fit_directions(s, d, attributes=n, editing="all"),
    "held where binary attributes overlap": held_by_binaries,
    "default, components by cross-validation": lambda s, d, n: fit_directions(s, d, attributes=n, components="cv"),
    "default, 100 components": lambda s, d, n: fit_directions(s, d, attributes=n, components=min(100, s.k)),
}


@dataclass
class Population:
    """People, their space, the judge, and how vectors ``(n, d)`` become pictures ``(n, h, w, 3)``."""

    space: WeightSpace
    dataset: WeightDataset
    judge: Judge
    draw: Callable[[np.ndarray], np.ndarray]

    @property
    def attributes(self) -> list[str]:
        return [n for n in self.judge.attributes if n in self.space.directions]

    def able_to_gain(self, attribute: str, people: int) -> list[str]:
        """Return at most `people` held-out people without the attribute."""
        known = self.space.population
        held_out = self.dataset.labels[~np.isin(self.dataset.ids, np.asarray(known.ids)[known.fitted])]
        return able_to_gain(self.judge, held_out, attribute)[:people]


def shipped() -> Population:
    """Return the population in the repository: 960 people fitted, 64 held out."""
    from w2w_hub import W2WPipeline

    assets = Assets()
    dataset = WeightDataset.open(assets.rows)
    space = build_space(dataset, COMPONENTS)
    pipe = W2WPipeline.from_base(assets.base, space)
    pipe.set_progress_bar_config(disable=True)

    def draw(vectors: np.ndarray) -> np.ndarray:
        identities = [space.layout.unflatten(v) for v in vectors]
        options = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE}
        return pipe.render(identities, CASES[:1], **options)[:, 0]

    return Population(space, dataset, Judge.load(assets.judge), draw)


def trained(config: str, work: Path) -> Population:
    """Return the whole population that the recipe trained."""
    import config as configs
    from evaluate_stage import Evaluation

    evaluation = Evaluation(configs.CONFIGS[config], work)

    def draw(vectors: np.ndarray) -> np.ndarray:
        pictures = evaluation.base.draw(torch.from_numpy(vectors), CASES[:1])[:, 0]
        return pictures.permute(0, 2, 3, 1).cpu().numpy()

    return Population(evaluation.space, evaluation.dataset, evaluation.scorer.judge, draw)


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="The recipe's folder.")
@click.option("--config", default="gpu", show_default=True, help="The recipe's preset, with --work.")
@click.option("--people", default=8, show_default=True, help="Held-out people without the attribute, at most.")
@click.option("--strength", "strengths", type=float, multiple=True, default=(3.0, 4.5, 6.0), show_default=True)
@click.option("--kind", "kinds", multiple=True, help="Those whose names start with this.  [default: the first two]")
@click.option("--all", "everything", is_flag=True, help="Every kind of direction.")
def main(
    work: Path | None, config: str, people: int, strengths: tuple[float, ...], kinds: tuple[str, ...], everything: bool
) -> None:
    """Print, for each kind of direction and strength, how many attributes could be edited."""
    population = shipped() if work is None else trained(config, work)
    space, names = population.space, population.attributes
    chosen = [k for k in KINDS if everything or (k.startswith(kinds) if kinds else k in list(KINDS)[:2])]
    able = {name: population.able_to_gain(name, people) for name in names}
    rows = {person: population.dataset[person].astype(np.float32) for person in {p for ps in able.values() for p in ps}}
    began = time.monotonic()
    before = dict(zip(rows, population.draw(np.stack(list(rows.values()))), strict=True))
    click.echo(
        f"{space.spread.rows:,} people fitted, {space.k} components, up to {people} held-out people without it\n"
    )
    click.echo("| direction | AUC | strength | reached | before | shown after | each other factor kept |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in chosen:
        found = KINDS[kind](space, population.dataset, names)
        auc = np.mean([d.auc for d in found.values() if d.auc is not None])
        for strength in strengths:
            figures = measure(population, found, able, rows, before, strength)
            first, after, kept = np.array(list(figures.values())).mean(0)
            reached = sum(min(a, k) >= EDIT_WISH for _, a, k in figures.values())
            click.echo(
                f"| {kind} | {auc:.3f} | +{strength:g} sd | {reached} of {len(figures)} | {first:.2f} | {after:.2f} | "
                f"{kept:.2f} |"
            )
    click.echo(
        f"\n{time.monotonic() - began:.0f} s. Reached: shown, and each other factor kept, in {EDIT_WISH:g} of pictures."
    )


def measure(
    population: Population,
    found: Mapping[str, Direction],
    able: Mapping[str, list[str]],
    rows: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    strength: float,
) -> dict[str, tuple[float, float, float]]:
    """Return, per attribute, the share of pictures that show it before and after, and of other factors kept."""
    jobs = [(name, person) for name in found for person in able[name]]
    c = population.space.coordinates
    steps = {name: strength * d.sd * (d.editing @ c.basis) * c.std for name, d in found.items()}
    drawn = population.draw(np.stack([(rows[person] + steps[name]).astype(np.float32) for name, person in jobs]))
    figures = {}
    for name in found:
        picked = [i for i, (other, _) in enumerate(jobs) if other == name]
        if not picked:
            continue
        old, new = np.stack([before[jobs[i][1]] for i in picked]), drawn[picked]
        figures[name] = (
            float(attribute_shown(population.judge, old, name).mean()),
            float(attribute_shown(population.judge, new, name).mean()),
            float(others_kept(population.judge, old, new, name).mean()),
        )
    return figures


if __name__ == "__main__":
    main()

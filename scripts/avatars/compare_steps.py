"""How many steps are needed: `python scripts/avatars/compare_steps.py --work work/steps`, a few minutes on a GPU.

Trains the 64 held-out people of the demo's assets, each from seven pictures beside class pictures, one of each a step,
with several learning rates, schedules, averages of the last steps and numbers of steps. Prints for each recipe the mean
loss on fixed noise of the three other pictures, and the judge's identity score under three prompts, as ratios to the
recipe of 800 steps at a constant rate with the lowest loss. `--people 2 --steps 4` is a try on a CPU.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from population_stage import ALPHA, Base  # noqa: E402
from resume import DEVICE, machine  # noqa: E402

from w2w_hub.demo.assets import Assets  # noqa: E402
from w2w_hub.demo.judge import Judge  # noqa: E402
from w2w_hub.demo.measure import IdentityScorer  # noqa: E402
from w2w_hub.models.pipelines.inputs import encode_pictures  # noqa: E402
from w2w_hub.training import TrainingRecipe, train_many  # noqa: E402
from w2w_hub.training.data import Draws, Prompts, TrainingData  # noqa: E402
from w2w_hub.training.objective import objective_of  # noqa: E402
from w2w_hub.training.trainer import Trainer  # noqa: E402

TRAINED_ON, NOISES = 7, 8  # pictures of each person; noises and timesteps of each other picture
STEPS = (800, 600, 500, 400, 300, 200)
RATES = (1e-3, 3e-3)
REFERENCE_RATES = (3e-4, 1e-3, 2e-3, 3e-3)
WAYS: dict[str, dict[str, Any]] = {
    "constant": {}, "constant, last quarter averaged": {"average_last": 0.25}, "cosine": {"schedule": "cosine"},
    "cosine, last quarter averaged": {"schedule": "cosine", "average_last": 0.25},
}  # fmt: skip


class Quality:
    """Reads trained rows: loss on pictures that were not trained on, and the judge's identity score."""

    def __init__(self, real: dict[str, np.ndarray]):
        self.base, self.people = Base(Assets().folder), list(real)
        self.scorer = IdentityScorer(Judge.load(Assets().judge), real)
        latents = tuple(encode_pictures(self.base.pipe, list(each[TRAINED_ON:])) for each in real.values())
        caption = torch.zeros((len(latents[0]), 1), dtype=torch.long, device=DEVICE)
        self.data = TrainingData(latents, (caption,) * len(latents), Prompts(self.base.text()[None]))
        self.recipe = TrainingRecipe(class_prompt=None, batch_size=NOISES * len(latents[0]), seed=1)

    def of(self, rows: torch.Tensor) -> dict[str, float]:
        """Return the figures of trained rows ``(people, d)``."""
        base, objective = self.base, objective_of(self.base.pipe.scheduler)
        losses = Trainer(base.unet, base.layout, objective, self.data, rows[0].cpu(), self.recipe)
        noised = Draws(self.data, objective.steps, 1, self.recipe.batch_size, self.recipe.seed).batch(0)
        with torch.no_grad():
            loss = float(losses.identity_losses(rows, noised).mean())
        drawn = base.draw(rows).permute(0, 1, 3, 4, 2).cpu().numpy()
        return {"loss": loss, "identity": self.scorer.relative(self.scorer.id_score(drawn, self.people))}


def write_pictures(folder: Path, real: dict[str, np.ndarray]) -> None:
    for person, pictures in real.items():
        (folder / person).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures[:TRAINED_ON]):
            Image.fromarray((picture * 255 + 0.5).astype(np.uint8)).save(folder / person / f"{number}.png")


def trained(work: Path, recipe: TrainingRecipe, engine: str, people: int) -> torch.Tensor:
    result = train_many(
        work / "people", Assets().base, work / "rows", recipe=recipe, devices=[DEVICE], engine=engine, at_once=people,
        cache=work / "class-pictures", overwrite=True,
    )  # fmt: skip
    if result.lost:
        raise SystemExit(f"no finite loss: {', '.join(result.lost)}")
    return torch.from_numpy(result.dataset.to_numpy().astype(np.float32)).to(DEVICE)


@click.command()
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path("work/steps"), show_default=True)
@click.option("--people", default=64, show_default=True)
@click.option("--steps", multiple=True, type=int, default=STEPS, show_default=True)
@click.option("--class-pictures", default=200, show_default=True)
@click.option("--minutes", type=float, help="Begin no further recipe after so many minutes; run again to go on.")
def main(work: Path, people: int, steps: tuple[int, ...], class_pictures: int, minutes: float | None) -> None:
    """Compare recipes, and keep what is measured in WORK/steps.json."""
    began, most = time.monotonic(), max(steps)
    real = {p.stem: Assets().pictures(p.stem) for p in sorted((Assets().folder / "heldout").glob("*.png"))[:people]}
    write_pictures(work / "people", real)
    quality, engine = Quality(real), "captured" if DEVICE == "cuda" else "eager"
    cells = [("constant", most, rate) for rate in REFERENCE_RATES]
    cells += [cell for cell in product(WAYS, steps, RATES) if cell not in cells]
    file = work / "steps.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"machine": machine(), "recipes": {}}
    for way, count, rate in cells:
        name = f"{way}, {count} steps, rate {rate:g}"
        if name in found["recipes"] or (minutes is not None and time.monotonic() - began > 60 * minutes):
            continue
        recipe = TrainingRecipe(
            steps=count, learning_rate=rate, class_pictures=class_pictures, alpha=ALPHA, **WAYS[way]
        )
        found["recipes"][name] = {"steps": count, **quality.of(trained(work, recipe, engine, len(real)))}
        file.write_text(json.dumps(found, indent=1))
        print(f"{time.monotonic() - began:.0f} s, {name}: {found['recipes'][name]}", flush=True)
    references = [value for name, value in found["recipes"].items() if name.startswith(f"constant, {most} ")]
    best = min(references, key=lambda value: value["loss"])
    print(f"{'steps':>5} {'loss':>7} {'identity':>8}  of {best}")
    for name, value in found["recipes"].items():
        loss, identity = value["loss"] / best["loss"], value["identity"] / best["identity"]
        print(f"{value['steps']:5} {loss:7.4f} {identity:8.3f}  {name}")


if __name__ == "__main__":
    main()

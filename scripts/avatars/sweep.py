"""Compare LoRA settings for training the population: `python scripts/avatars/sweep.py --work work`.

Trains a few fitted people under each setting and prints their scores; nothing is kept.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from population_stage import START_SEED, Base, Scorer, mean_start, people_latents  # noqa: E402
from resume import DEVICE  # noqa: E402

from w2w_hub.demo.settings import CASES  # noqa: E402
from w2w_hub.training import kaiming_start, train_identities  # noqa: E402


@click.command()
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path("work"), show_default=True)
@click.option("--people", default=16, show_default=True)
@click.option("--samples", default=400, show_default=True, help="Samples of each person, steps times batch.")
@click.option("--setting", "settings", multiple=True, default=("kaiming:3e-3:4", "mean:3e-3:4"), show_default=True,
              help="START:LEARNING_RATE:BATCH, START being kaiming or mean.")  # fmt: skip
def main(work: Path, people: int, samples: int, settings: tuple[str, ...]) -> None:
    """Compare starts, learning rates and batch sizes at the same number of samples."""
    base, scorer = Base(work), Scorer(work)
    some = list(range(100, 100 + people))
    latents = people_latents(base, work, some)
    starts = {"kaiming": kaiming_start(base.layout, START_SEED)}
    for setting in settings:
        start, rate, batch = setting.split(":")
        if start not in starts:
            starts[start] = mean_start(base, work, samples // 4, 3e-3)
        began = time.monotonic()
        rows = train_identities(
            base.unet, base.layout, base.pipe.scheduler, latents, base.text(), starts[start],
            steps=samples // int(batch), batch_size=int(batch), learning_rate=float(rate),
            autocast_dtype=torch.bfloat16 if DEVICE == "cuda" else None,
        )  # fmt: skip
        seconds = time.monotonic() - began
        print(setting, f"{seconds:.0f} s", scorer.score(base.draw(rows, CASES[:2]), some), flush=True)


if __name__ == "__main__":
    main()

"""Training rate of the avatars' population: `python scripts/avatars/bench_rate.py`, one GPU, a few minutes.

Trains as many people at once as the recipe does, four samples of each a step, from the shipped base model and the
pictures of its held-out people, with every engine of `train_identities`; prints one line and one JSON object of samples
per second, of the best of `--rounds` rounds of `--steps` steps. `--people 16 --steps 2 --rounds 1` is a try on a CPU.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from config import GPU  # noqa: E402
from population_stage import START_SEED, Base  # noqa: E402
from resume import DEVICE, machine  # noqa: E402

from w2w_hub.demo.assets import Assets  # noqa: E402
from w2w_hub.models.pipelines.inputs import encode_pictures  # noqa: E402
from w2w_hub.training import kaiming_start, train_identities  # noqa: E402
from w2w_hub.training.engines import KINDS, WARM_UP  # noqa: E402


class Clock:
    """Called after each step; keeps the seconds of the fastest round, without the steps before the first."""

    def __init__(self, before: int, steps: int):
        self.before, self.steps = before, steps
        self.began, self.rounds = 0.0, list[float]()

    def __call__(self, step: int, loss: float) -> None:  # the loss was read, so the device has finished the step
        done = step - self.before
        if done > 0 and done % self.steps == 0:
            self.rounds.append(time.perf_counter() - self.began)
        if done >= 0 and done % self.steps == 0:
            self.began = time.perf_counter()


@click.command()
@click.option("--people", multiple=True, type=int, default=(GPU.people_a_batch,), show_default=True)
@click.option("--engine", "engines", multiple=True, help="[default: all that the device runs]")
@click.option("--steps", default=50, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(people: tuple[int, ...], engines: tuple[str, ...], steps: int, rounds: int) -> None:
    """Measure samples per second of each engine."""
    base, files = Base(Assets().folder), sorted((Assets().folder / "heldout").glob("*.png"))
    pictures = torch.stack([encode_pictures(base.pipe, list(Assets().pictures(file.stem))) for file in files])
    found: dict[str, Any] = {}
    for count in people:
        latents = pictures.repeat(-(-count // len(pictures)), 1, 1, 1, 1)[:count]
        for engine in engines or [name for name, (_, captured) in KINDS.items() if DEVICE == "cuda" or not captured]:
            before = WARM_UP
            clock, began = Clock(before, steps), time.perf_counter()
            train_identities(
                base.unet, base.layout, base.pipe.scheduler, latents, base.text(),
                kaiming_start(base.layout, START_SEED), steps=before + rounds * steps, batch_size=GPU.lora_batch,
                learning_rate=GPU.lora_lr, autocast_dtype=torch.bfloat16 if DEVICE == "cuda" else None, engine=engine,
                on_step=clock,
            )  # fmt: skip
            rate = count * GPU.lora_batch * steps / min(clock.rounds)
            total = time.perf_counter() - began
            found[f"{engine}, {count} people"] = {
                "samples per second": round(rate), "ms per step": round(min(clock.rounds) / steps * 1e3, 2),
                "seconds before the first round": round(total - sum(clock.rounds), 1),
            }  # fmt: skip
            print(engine, count, found[f"{engine}, {count} people"], flush=True)
            torch._dynamo.reset()
    print(json.dumps({"machine": machine(), "torch": torch.__version__, "rates": found}, indent=1))


if __name__ == "__main__":
    main()

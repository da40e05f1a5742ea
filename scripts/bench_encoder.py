"""Benchmark of encoders: inversion from an encoder's guess and from the population's mean, on held-out people.

    python scripts/bench_encoder.py --work work/encoder                            # one GPU, 24,000 pictures, 64 people
    python scripts/bench_encoder.py --work work/encoder --pictures 3200 --steps 200 --batch-size 128 \\
        --people 8 --device cpu                                                    # two processor cores
    python scripts/bench_encoder.py --work work/tiny --pictures 64 --steps 2 --people 2 --cells 1 --device cpu   # a try

The people are those of the demo's assets that no space or encoder is fitted on. One real picture of each is inverted,
by 400 components; the score is the judge's, over the demo's three cases, against the person's other real pictures,
relative as in the demo: 1 is as good as real pictures, 0 no better than a stranger's. Prints one JSON object, which is
kept in the work folder after each cell, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2w_hub import Encoder, W2WPipeline, WeightDataset, build_space, fit_encoder
from w2w_hub.demo.assets import Assets
from w2w_hub.demo.judge import Judge, identity_score
from w2w_hub.demo.measure import IdentityScorer, tensor
from w2w_hub.demo.settings import CASES, COMPONENTS, GUIDANCE, SAMPLING_STEPS

CELLS = (
    (40, "encoded"), (40, "mean"), (400, "mean"), (100, "encoded"), (10, "encoded"), (100, "mean"), (10, "mean"),
    (400, "encoded"),
)  # fmt: skip
DRAWN: dict[str, Any] = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE}


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    space = args.work / "space"
    if not space.exists():
        rows = WeightDataset.open(Assets().rows)
        options = {"base": Assets().base, "generation": DRAWN}
        build_space(rows, COMPONENTS, population_model=args.population_model).save(space, **options)
    pipe = W2WPipeline.from_pretrained(space).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, Any] = json.loads(args.json.read_text()) if args.json.exists() else {"cells": {}}
    pipe.space.encoder = encoder_of(pipe, args, found)
    scores = Scores(pipe, args.people)
    if "guess" not in found:
        guesses = [pipe.encode(picture) for picture in scores.pictures]
        found["guess"] = scores.of(guesses)
        found["mean"] = scores.of([pipe.space.mean_point()])
        found["own point"] = scores.of([pipe.space.row(person) for person in scores.people])
        found["cosine of the guess"] = round(cosine(pipe.space, guesses, scores.people), 3)
        keep(found, args.json)
    for steps, start in CELLS[: args.cells]:
        name = f"{steps} steps from {start}"
        if name in found["cells"]:
            continue
        began = time.perf_counter()
        points = pipe.invert([[p] for p in scores.pictures], start=start, num_steps=steps, seed=args.seed)
        seconds = time.perf_counter() - began
        found["cells"][name] = {**scores.of(points), "seconds": round(seconds, 1)}
        keep(found, args.json)
    print(json.dumps(found, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--drawing-steps", type=int, default=10, help="Denoising steps of the pictures to learn from.")
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--cells", type=int, default=len(CELLS), help="How many of the inversions.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--population-model", action="store_true", help="Draw samples through the population model.")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    args.json = args.work / "bench.json"
    return args


def encoder_of(pipe: W2WPipeline, args: argparse.Namespace, found: dict[str, Any]) -> Encoder:
    """Return the encoder in the work folder, fitted if it is not there."""
    path = args.work / "encoder.safetensors"
    if not path.exists():
        pipe.generation = {**DRAWN, "num_inference_steps": args.drawing_steps}
        began = time.perf_counter()
        encoder = fit_encoder(
            pipe, pictures=args.pictures, steps=args.steps, batch_size=args.batch_size, width=args.width,
            seed=args.seed, work=args.work, draw_batch_size=256 if args.device.startswith("cuda") else 16,
        )  # fmt: skip
        encoder.save(path)
        found["fit"] = {"seconds": round(time.perf_counter() - began, 1)}
        pipe.generation = DRAWN
    encoder = Encoder.load(path)
    evidence = {name: value for name, value in encoder.evidence.items() if name != "loss"}
    recipe = {name: encoder.recipe[name] for name in ("pictures", "steps", "batch_size", "width", "device", "seed")}
    found.setdefault("fit", {}).update({"bytes": path.stat().st_size, **recipe, "evidence": evidence})
    return encoder


class Scores:
    """Scores points of held-out people by the judge, with the first real picture of each to invert."""

    def __init__(self, pipe: W2WPipeline, count: int):
        assets = Assets()
        files = sorted((assets.folder / "heldout").glob("*.png"))[:count]
        self.pipe, self.people = pipe, [file.stem for file in files]
        real = {person: assets.pictures(person) for person in self.people}
        self.pictures = [pictures[0] for pictures in real.values()]
        judge = Judge.load(assets.judge)
        self.scorer = IdentityScorer(judge, real)
        self.others = {person: judge.embed(tensor(pictures[1:])) for person, pictures in real.items()}

    def of(self, points: list[Any]) -> dict[str, Any]:
        """Return the mean relative score of points, one per person or one for all, with its 95 % interval."""
        pictures = self.pipe.render(points, CASES, **DRAWN)
        pictures = np.repeat(pictures, len(self.people) // len(points), 0)
        embedded = self.scorer.judge.embed(tensor(pictures)).view(len(self.people), len(CASES), -1)
        each = [
            self.scorer.relative(float(identity_score(e, self.others[person]).mean()))
            for e, person in zip(embedded, self.people, strict=True)
        ]
        error = 1.96 * float(np.std(each, ddof=1)) / len(each) ** 0.5 if len(each) > 1 else 0.0
        return {"score": round(float(np.mean(each)), 3), "interval": round(error, 3), "people": len(each)}


def cosine(space: Any, guesses: list[Any], people: list[str]) -> float:
    """Return the mean cosine of guesses with the people's own points, about the population's mean."""
    first, second = (
        np.stack([space.coefficients_of(one) - space.spread.mean for one in several]) for several in (guesses, people)
    )
    return float(((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).mean())


def keep(found: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

"""Stage `evaluate`: what the population, the space and the inversion reach on held-out people.

Edits are measured on what is shipped, once the assets are there: `shipped_edits.py`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import world
from assets_stage import population_dataset
from config import Config
from images_stage import held_out
from population_stage import Base, Scorer, people_latents
from resume import OutOfTime, Stage, machine

from w2w_hub.demo.judge import identity_score, real_score
from w2w_hub.demo.settings import (
    CASES,
    COMPONENTS,
    GUIDANCE,
    INVERSION_PRIOR,
    INVERSION_STEPS,
    SAMPLING_STEPS,
)
from w2w_hub.models.inversion import InversionSettings, Inverter
from w2w_hub.space import WeightSpace, build_space

INVERTED_PEOPLE = 64


class Evaluation:
    """The held-out people, their LoRAs, the space fitted on everybody else, and the judge."""

    def __init__(self, config: Config, work: Path):
        self.config, self.work = config, work
        self.base, self.scorer = Base(work), Scorer(work)
        self.unseen = sorted(held_out(config))
        folder = work / "evaluation_dataset"
        shutil.rmtree(folder, ignore_errors=True)
        everybody = list(range(config.people))
        self.dataset = population_dataset(config, work, everybody, folder, dtype="float16", parquet_view=False)
        self.space: WeightSpace = build_space(
            self.dataset, min(COMPONENTS, config.fitted + config.adapters + config.extra_fitted - 1)
        )
        self.rows = self.dataset[[f"person-{i:04d}" for i in self.unseen]].astype(np.float32)
        real = [self.scorer.real(i) for i in self.unseen]
        self.real = torch.stack([real_score(r).mean() for r in real]).mean().item()
        strangers = [identity_score(real[i], real[i - 1]).mean() for i in range(len(real))]
        self.strangers = torch.stack(strangers).mean().item()

    def relative(self, score: float) -> float:
        return round((score - self.strangers) / (self.real - self.strangers), 4)

    def scored(self, vectors: np.ndarray, people: list[int]) -> dict[str, float]:
        figures = self.scorer.score(self.base.draw(torch.from_numpy(vectors)), people)
        return {"relative_score": self.relative(figures["identity"]), **figures}

    # ------------------------------------------------------------ parts
    def scale(self) -> dict[str, Any]:
        return {"real": round(self.real, 4), "strangers": round(self.strangers, 4), "held_out_people": len(self.unseen)}

    def loras(self) -> dict[str, float]:
        """Score the pictures of the held-out LoRAs."""
        return self.scored(self.rows, self.unseen)

    def reconstruction(self) -> dict[str, Any]:
        """Score their projections into the space, and as the floor the mean identity for everybody."""
        projected = self.space.decode(self.space.project(self.rows))
        mean = np.repeat(self.space.decode(self.space.mean_point())[None], len(self.unseen), 0)
        return {
            "projected": self.scored(projected, self.unseen),
            "mean_only": self.scored(mean, self.unseen),
            "explained_variance": self.space.diagnostics["held_out"]["explained_variance"],
        }

    def reading(self) -> dict[str, Any]:
        """Return the held-out AUC of every attribute from coefficients, and the label prior."""
        return {
            name: {"auc": round(d.auc, 4) if d.auc is not None else None, "positives": round(d.positives / d.rows, 3)}
            for name, d in self.space.directions.items()
            if name in world.ATTRIBUTES  # not the levels of the factors that they are made of
        }

    def inversion(self) -> dict[str, Any]:
        """Score inversions of one picture per person, in contexts other than that of the picture."""
        some = self.unseen[:INVERTED_PEOPLE]
        latents = people_latents(self.base, self.work, some)[:, :1]
        points = []
        for start in range(0, len(some), 16):
            found = Inverter(
                self.base.unet, self.base.pipe.scheduler, self.space, latents[start : start + 16], self.base.text(),
                InversionSettings(num_steps=INVERSION_STEPS, prior=INVERSION_PRIOR),
            ).run()  # fmt: skip
            points += [inversion.point.coefficients for inversion in found]
        return {
            "people": len(some),
            "steps": INVERSION_STEPS,
            "prior": INVERSION_PRIOR,
            **self.scored(self.space.decode(np.stack(points)), some),
        }

    def samples(self) -> dict[str, Any]:
        """Score Gaussian samples: consistent across cases, distinct from each other, not copies."""
        points = self.space.sample(64, seed=0, method="gaussian")
        pictures = self.base.draw(torch.from_numpy(self.space.decode(np.stack([p.coefficients for p in points]))))
        embedded = self.scorer.judge.embed(pictures.flatten(0, 1)).view(64, len(CASES), -1)
        same = (embedded[:, 0] * embedded[:, 1]).sum(-1).mean().item()
        different = (embedded[1:, 0] * embedded[:-1, 0]).sum(-1).mean().item()
        nearest = np.array([self.space.nearest(p)[0][1] for p in points])
        held_out_rows = [self.space.nearest(self.space.row(f"person-{i:04d}"))[0][1] for i in self.unseen[:64]]
        return {
            "same_identity_cosine": round(same, 4),
            "different_identity_cosine": round(different, 4),
            "nearest_neighbour_cosine": round(float(nearest.mean()), 4),
            "nearest_neighbour_cosine_of_held_out_people": round(float(np.mean(held_out_rows)), 4),
        }


def evaluate(config: Config, work: Path, minutes: float) -> None:
    stage = Stage(work, "evaluate", minutes)
    path = work / "evaluation.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    evaluation = Evaluation(config, work)
    parts: list[Callable[[], dict[str, Any]]] = [
        evaluation.scale,
        evaluation.loras,
        evaluation.reconstruction,
        evaluation.reading,
        evaluation.samples,
        evaluation.inversion,
    ]
    for part in parts:
        if part.__name__ in results:
            continue
        if time.monotonic() - stage.started > 60 * minutes:
            raise OutOfTime("evaluate: some parts are still to do; run the same command again")
        results[part.__name__] = part()
        stage.say(part.__name__, json.dumps(results[part.__name__]))
        machines = results.get("setting", {}).get("machines", {})
        results["setting"] = {
            "machines": machines | {part.__name__: machine()},
            "config": config.name,
            "components": evaluation.space.k,
            "fitted_rows": evaluation.space.recipe["rows"],
            "cases": CASES,
            "sampling_steps": SAMPLING_STEPS,
            "guidance": GUIDANCE,
        }
        path.write_text(json.dumps(results, indent=1))
    stage.done(parts=len(parts))

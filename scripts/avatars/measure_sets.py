"""Sets and samples of the shipped population, read by the judge: `python scripts/avatars/measure_sets.py`.

Fits a space and its population model to 864 people and edits the 192 others, of whom no picture chose anything: kernel,
noise and strength come from cross-validation on the fitted rows. Needs the installed package alone. ``--people 8`` is a
quick look; all of it takes about half an hour on two CPU cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from resume import machine  # noqa: E402
from shipped_edits import population, split_anew  # noqa: E402

from w2w_hub import W2WPipeline, WeightDataset, WeightSpace, build_space, calibrate_sets  # noqa: E402
from w2w_hub.demo.assets import Assets  # noqa: E402
from w2w_hub.demo.judge import Judge  # noqa: E402
from w2w_hub.demo.measure import able_to_gain, attribute_shown, kept_factors, read_avatars, tensor  # noqa: E402
from w2w_hub.demo.settings import CASES, COMPONENTS, GUIDANCE, SAMPLING_STEPS  # noqa: E402
from w2w_hub.space.identity import Identity, resolve  # noqa: E402

DRAWN: dict[str, Any] = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE, "batch_size": 128}
RESAMPLES, PUSH = 1000, 4.5


def interval(values: np.ndarray, statistic: Any = np.mean) -> dict[str, Any]:
    """Return a statistic of values ``(people, ...)``, its 95 % bootstrap interval over people, and their number."""
    rng = np.random.default_rng(0)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"value": round(float(statistic(values)), 3), "interval": [round(float(low), 3), round(float(high), 3)],
            "n": len(values)}  # fmt: skip


def summary(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return what sets or pushes of all attributes reach, from (shown, kept) of each.

    Shapes are ``(people, cases)`` and ``(factors, people, cases)``.
    """
    rng = np.random.default_rng(0)
    both = {name: (shown * kept.all(0)).mean(1) for name, (shown, kept) in found.items()}
    result: dict[str, Any] = {}
    for goal in (0.8, 0.9):
        counts = []
        for resample in range(RESAMPLES + 1):
            reached = 0
            for shown, kept in found.values():
                rows = np.arange(len(shown)) if resample == 0 else rng.integers(0, len(shown), len(shown))
                reached += bool(shown[rows].mean() >= goal and kept[:, rows].mean() >= goal)
            counts.append(reached)
        low, high = np.quantile(counts[1:], (0.025, 0.975))
        result[f"reached {goal}"] = {"value": counts[0], "interval": [int(low), int(high)], "of": len(found)}
    result["after"] = round(float(np.mean([shown.mean() for shown, _ in found.values()])), 3)
    result["each"] = round(float(np.mean([kept.mean() for _, kept in found.values()])), 3)
    result["all"] = round(float(np.mean([kept.all(0).mean() for _, kept in found.values()])), 3)
    means = [
        float(np.mean([v[rng.integers(0, len(v), len(v))].mean() for v in both.values()])) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    result["both"] = {"value": round(float(np.mean([v.mean() for v in both.values()])), 3),
                      "interval": [round(float(low), 3), round(float(high), 3)]}  # fmt: skip
    result["people"] = {name: len(shown) for name, (shown, _) in found.items()}
    result["by_attribute"] = {
        name: [round(float(shown.mean()), 3), round(float(kept.mean()), 3)] for name, (shown, kept) in found.items()
    }
    return result


class Measurement:
    """Draws people of one space and reads the pictures."""

    def __init__(self, assets: Assets, folder: Path):
        self.judge = Judge.load(assets.judge)
        self.people: WeightDataset = split_anew(population(assets, folder / "people"), folder / "split")
        self.space: WeightSpace = build_space(self.people, COMPONENTS)
        assert self.space.population_model is not None
        self.model = self.space.population_model
        self.pipe = W2WPipeline.from_base(assets.base, self.space)
        self.pipe.set_progress_bar_config(disable=True)
        self.held_out = [self.people.ids[i] for i in self.people.where(split="test")]
        self.own = {name: resolve(self.space, self.people.adapter(name)) for name in self.held_out}
        self.before: dict[str, np.ndarray] = {}

    def able(self, attribute: str, most: int) -> list[str]:
        """Return held-out people without an attribute who could show it."""
        return able_to_gain(self.judge, self.people.labels.loc[self.held_out], attribute)[:most]

    def draw_before(self, people: list[str]) -> np.ndarray:
        missing = [p for p in dict.fromkeys(people) if p not in self.before]
        if missing:
            self.before |= dict(
                zip(missing, self.pipe.render([self.own[p] for p in missing], CASES, **DRAWN), strict=True)
            )
        return np.stack([self.before[p] for p in people])

    def edited(self, people: list[str], *strengths: dict[str, float], **options: Any) -> list[Identity]:
        """Return people's own adapters after one edit."""
        self.pipe.identity = [self.own[p] for p in people]
        with warnings.catch_warnings():  # that a strong push leaves the population; the figures say what it does
            warnings.simplefilter("ignore", UserWarning)
            found = self.pipe.edit(*strengths, **options)
        self.pipe.identity = None
        return list(found)

    def sets(self, most: int, strength: float | None, push: bool = False) -> dict[str, Any]:
        """Return what sets of all attributes at one strength reach, or pushes of so many standard deviations."""
        able = {name: self.able(name, most) for name in self.judge.attributes}
        jobs = [(name, p) for name, people in able.items() for p in people]
        before = self.draw_before([p for _, p in jobs])
        changed: list[Identity] = []
        for name, people in able.items():
            if push:
                changed += self.edited(people, {name: PUSH if strength is None else strength})
            else:
                changed += self.edited(people, set={name: True}, strength="typical" if strength is None else strength)
        after = self.pipe.render(changed, CASES, **DRAWN)
        found = {}
        for name in self.judge.attributes:
            rows = [i for i, (other, _) in enumerate(jobs) if other == name]
            kept = kept_factors(self.judge, before[rows], after[rows], name)
            found[name] = (attribute_shown(self.judge, after[rows], name), kept)
        return summary(found)

    def calibrate(self, most: int) -> dict[str, Any]:
        """Choose the strength of sets by pictures of fitted people; return what was measured."""
        self.space = calibrate_sets(self.pipe, read_avatars, people=most, cases=CASES, **DRAWN)
        self.pipe.attach(self.space)
        assert self.space.population_model is not None
        self.model = self.space.population_model
        return {"strength": self.model.strength, **self.model.evidence["pictures"]}

    def own_people(self, most: int) -> dict[str, Any]:
        """Return how well held-out people's own adapters hold together over the prompts."""
        people = self.held_out[:most]
        return self._together(self.draw_before(people), np.stack([self.own[p].point.coefficients for p in people]))

    def samples(self, coefficients: np.ndarray, attributes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Return how well samples ``(n, k)`` hold together, how near they are to fitted rows, and what is read back."""
        pictures = self.pipe.render([self.space.point(c) for c in coefficients], CASES, **DRAWN)
        found = self._together(pictures, coefficients)
        if attributes is not None:
            read = {
                f: p.argmax(1).numpy().reshape(pictures.shape[:2]) for f, p in self.judge.read(tensor(pictures)).items()
            }
            found["read_back"] = {
                f: interval(levels == np.array([[self.judge.factors[f].index(a[f])] for a in attributes]))
                for f, levels in read.items()
            }
        return found

    def _together(self, pictures: np.ndarray, coefficients: np.ndarray) -> dict[str, Any]:
        embedded = self.judge.embed(tensor(pictures)).numpy().reshape(*pictures.shape[:2], -1)
        pairs = [(a, b) for a in range(len(CASES)) for b in range(a)]
        same = np.mean([(embedded[:, a] * embedded[:, b]).sum(1) for a, b in pairs], 0)
        read = {
            f: p.argmax(1).numpy().reshape(pictures.shape[:2]) for f, p in self.judge.read(tensor(pictures)).items()
        }
        return {
            "same_person": interval(same),
            "nearest_row": interval(np.array([self.space.nearest(c)[0][1] for c in coefficients])),
            "kept": {f: interval((levels == levels[:, :1]).all(1)) for f, levels in read.items()},
            "looks": len({tuple(levels[i, 0] for levels in read.values()) for i in range(len(pictures))}),
        }


@click.command()
@click.option("--people", "most", default=64, show_default=True, help="People an attribute.")
@click.option("--strengths", default="", help="Strengths of sets besides the typical one, as 1.25,1.75.")
@click.option("--samples", "count", default=128, show_default=True, help="People to sample; 0 for none.")
@click.option("--pushes/--no-pushes", default=True, show_default=True, help="Also push by 4.5 standard deviations.")
@click.option(
    "--calibrate", default=0, show_default=True, help="Fitted people an attribute, whose pictures choose a strength."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures here, as JSON.")
def main(most: int, strengths: str, count: int, pushes: bool, calibrate: int, out: Path | None) -> None:
    """Measure sets of all attributes for held-out people without each, and samples."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        m = Measurement(Assets(), Path(scratch))
        figures: dict[str, Any] = {
            "machine": machine(), "fitted": m.space.recipe["rows"], "held_out": len(m.held_out), "k": m.space.k,
            "strength": m.model.strength, "gain": m.model.gain, "rhos": m.model.rhos.tolist(), "noise": m.model.noise,
            "explained_variance": m.model.evidence["explained_variance"],
        }  # fmt: skip

        def report(name: str, value: Any) -> None:
            figures[name] = value
            click.echo(f"{time.monotonic() - started:6.0f} s  {name}: {json.dumps(value)}")
            if out is not None:
                out.write_text(json.dumps(figures, indent=1) + "\n")

        click.echo(json.dumps(figures))
        if most:
            report("sets, typical strength", m.sets(most, None))
        if calibrate:
            report("calibrated", m.calibrate(calibrate))
            if most:
                report("sets, calibrated strength", m.sets(most, None))
        for strength in [float(s) for s in strengths.split(",") if s]:
            report(f"sets, strength {strength:g}", m.sets(most, strength))
        if most and pushes:
            report(f"pushes, {PUSH:g} sd", m.sets(most, PUSH, push=True))
        if count:
            report("held-out people", m.own_people(min(count, len(m.held_out))))
            report("samples", m.samples(*m.model.sample(count, seed=0)))
            gaussian = m.space.spread.sample(count, seed=0)
            report("independent Gaussians", m.samples(gaussian))


if __name__ == "__main__":
    main()

"""Runs the demo: commands that a user would type, then figures and a report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging

from ..dataset import WeightDataset, load_dataset
from ..models.pictures import contact_sheet, to_picture
from ..models.pipelines import AutoW2WPipeline, strength_grid
from .assets import FOLDER, Assets
from .judge import Judge
from .measure import IdentityScorer, attribute_shown, others_kept
from .report import Section, evaluated_edits, measured_on, report, wished_beside_reached
from .settings import (
    CASES,
    COMPONENTS,
    EDIT_ATTRIBUTES,
    GUIDANCE,
    INVERSION_PRIOR,
    INVERSION_STEPS,
    SAMPLING_STEPS,
    STRENGTHS,
    SUMMARY_STRENGTH,
)  # fmt: skip

SAMPLES, EDITED_PEOPLE, INVERTED_PEOPLE, SCORED_PEOPLE = 8, 4, 4, 24
DRAWN: dict[str, Any] = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE}

Say = Callable[[str], None]
Run = Callable[[Sequence[Any]], str]


def run_demo(out: Path, assets: Path | None, say: Say, run: Run) -> dict[str, Any]:
    """Run the whole demo into the new folder `out`, which is removed on an error.

    Parameters
    ----------
    run : callable
        Prints and executes one `w2w` command, given as its words, and returns the printed line. A list among the words
        is all files of a folder.
    """
    out.mkdir(parents=True)
    try:
        return Demo(out, Assets(assets or FOLDER), say, run).run()
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


class Demo:
    """One run of the demo, in timed stages."""

    def __init__(self, out: Path, assets: Assets, say: Say, run: Run):
        self.out, self.assets, self.say, self._run = out, assets, say, run
        self.folder = out / "space"
        self.seconds: dict[str, float] = {}
        self.commands: list[str] = []
        self.sections: list[Section] = []
        self.metrics: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Run all stages; return the metrics that ``metrics.json`` holds."""
        torch.manual_seed(0)
        logging.disable_progress_bar()
        stages = {
            "dataset": self.make_dataset, "weight space": self.make_space, "held-out people": self.render_people,
            "samples": self.render_samples, "edits": self.render_edits, "inversion": self.invert_pictures,
            "export": self.export_person, "report": self.write_report,
        }  # fmt: skip
        for name, stage in stages.items():
            self.say(f"\n# {name}")
            began = time.monotonic()
            stage()
            self.seconds[name] = round(time.monotonic() - began, 1)
        self.seconds["total"] = round(sum(self.seconds.values()), 1)
        self.metrics["seconds"] = self.seconds
        (self.out / "metrics.json").write_text(json.dumps(self.metrics, indent=2), "utf-8")
        self.say(f"done in {self.seconds['total']:.0f} s: open {self.out / 'report.html'}")
        return self.metrics

    def command(self, *words: Any) -> None:
        """Run a command and keep the line for the report."""
        self.commands.append(self._run(words))

    # ------------------------------------------------------------ stages
    def make_dataset(self) -> None:
        adapters, a, d = self.assets.adapters, self.assets, self.out / "dataset"
        start = WeightDataset.open(a.rows).manifest.compatibility.initialisation
        options = ["--labels", a.labels, "--base", a.base, "--initialisation", start, "--out", d]
        self.command("pack", adapters, *options)
        self.command("add", d, a.rows)
        people = load_dataset(d, cache_dir=str(self.out / ".cache"))
        shutil.rmtree(self.out / ".cache", ignore_errors=True)
        self.say(f">>> load_dataset({str(d)!r})\n{people}")
        self.dataset = WeightDataset.open(d)
        splits = {name: len(rows) for name, rows in people.items()}
        self.metrics["dataset"] = {"rows": len(self.dataset), "numbers": self.dataset.layout.size, "splits": splits}

    def make_space(self) -> None:
        train = self.dataset.manifest.splits["train"]
        k = min(COMPONENTS, train - 1)
        drawn = [word for name, value in DRAWN.items() for word in (f"--{name.replace('_', '-')}", value)]
        self.command("build", self.out / "dataset", "--k", k, "--base", self.assets.base, *drawn, "--out", self.folder)
        self.pipe = AutoW2WPipeline.from_pretrained(self.folder)
        self.pipe.set_progress_bar_config(disable=True)
        self.space = self.pipe.space
        self.judge = Judge.load(self.assets.judge)
        held_out = [self.dataset.ids[i] for i in self.dataset.where(split="test")]
        self.real = {person: self.assets.pictures(person) for person in held_out}
        self.scorer = IdentityScorer(self.judge, self.real)
        self.metrics |= {
            "real_id_score": self.scorer.real_id_score,
            "cross_id_score": self.scorer.cross_id_score,
            "components": self.space.k,
            "explained_variance": self.space.diagnostics["explained_variance"],
            "held_out_explained_variance": self.space.diagnostics["held_out"]["explained_variance"],
            "held_out_auc": {name: d.auc for name, d in self.space.directions.items()},
        }

    def own(self, person: str) -> Any:
        """Return the identity of a person's own LoRA: its exact vector and its coordinates in the space."""
        return self.pipe.resolve(self.dataset.adapter(person))

    def render(self, identities: list[Any], cases: tuple[tuple[str, int], ...] = CASES) -> np.ndarray:
        result: np.ndarray = self.pipe.render(identities, cases, **DRAWN)
        return result

    def render_people(self) -> None:
        people = list(self.real)[:SCORED_PEOPLE]
        pictures = self.render([self.own(p) for p in people])
        mean = np.repeat(self.render([self.space.mean_point()]), len(people), 0)
        self.metrics["lora_id_score"] = self.scorer.id_score(pictures, people)
        self.metrics["mean_only_id_score"] = self.scorer.id_score(mean, people)
        self.metrics["lora_relative_score"] = self.scorer.relative(self.metrics["lora_id_score"])
        some = slice(0, 8)
        real = np.stack([self.real[p][:1] for p in people[some]])
        self.sheet(
            "held-out", np.concatenate([real, pictures[some]], 1), people[some], ["real picture", *captions()],
            "Held-out people: a real picture, and their own LoRAs under three prompts",
            f"Identity score {self.metrics['lora_id_score']:.2f} (real pictures {self.scorer.real_id_score:.2f}, "
            f"strangers {self.scorer.cross_id_score:.2f}, the population's mean "
            f"{self.metrics['mean_only_id_score']:.2f}).",
        )  # fmt: skip
        self.space.add_preview(self.out / "held-out.png")

    def render_samples(self) -> None:
        points = self.out / "points" / "samples"
        self.command("sample", self.folder, "--count", SAMPLES, "--seed", 0, "--out", points)
        files = sorted(points.glob("*.json"))
        cases = [word for prompt, _ in CASES for word in ("--prompt", prompt)]
        picture = self.out / "samples-one-seed.png"
        self.command("render", self.folder, *files, *cases, "--seed", CASES[0][1], "--out", picture)
        nearest = [self.space.nearest(self.pipe.resolve(f).point)[0][1] for f in files]
        self.metrics["sample_nearest_neighbour_cosine"] = float(np.mean(nearest))
        self.sheet(
            "samples", self.render(list(files)), [f.stem for f in files], captions(),
            "New people, sampled from the weight space",
            f"Mean cosine to the nearest fitted person: {np.mean(nearest):.2f} (a copy would be 1).",
        )  # fmt: skip

    def render_edits(self) -> None:
        names = [n for n in EDIT_ATTRIBUTES if n in self.space.directions] or list(self.space.directions)[:5]
        table = self.dataset.labels.loc[list(self.real), names].astype(bool)
        people = list(table.sum(axis=1).sort_values(kind="stable").index[:EDITED_PEOPLE])
        own = {p: self.own(p) for p in people}
        before = dict(zip(people, self.render([own[p] for p in people]), strict=True))
        rows, edits, middle = {}, {}, SUMMARY_STRENGTH
        for name in names:
            grids = [strength_grid(self.pipe, list(own.values()), name, STRENGTHS, case, **DRAWN) for case in CASES]
            pictures = np.stack(grids, axis=2)  # (people, strengths, cases, h, w, 3)
            rows[name] = {(p, s): pictures[i, j] for i, p in enumerate(people) for j, s in enumerate(STRENGTHS)}
            direction, without = self.space.direction(name), [p for p in people if not table.loc[p, name]]
            if not without:
                continue
            first = np.stack([before[p] for p in without])
            second = np.stack([rows[name][p, middle] for p in without])
            edits[name] = {
                "people": len(without),
                "before": float(attribute_shown(self.judge, first, name).mean()),
                "after": float(attribute_shown(self.judge, second, name).mean()),
                "other_attributes_kept": float(others_kept(self.judge, first, second, name).mean()),
                "label_prior": direction.positives / direction.rows,
            }
        self.metrics["edits"], self.metrics["edit_strength_sd"] = edits, middle
        for person in people:
            sheet = [
                [before[person][0], *(rows[n][person, s][0] for s in STRENGTHS), *rows[n][person, middle][1:]]
                for n in names
            ]
            columns = ["before", *(f"+{s:g} sd" for s in STRENGTHS), *(f"+{middle:g} sd: {c}" for c in captions()[1:])]
            self.sheet(
                f"edits-{person}", np.array(sheet), names, columns, f"Edits of held-out {person}",
                "Rows: the attribute; columns: its strength in standard deviations of the population.",
            )  # fmt: skip
        header = ("attribute", "people", "before", "after", "others kept", "label prior")
        table_rows = [(n, *e.values()) for n, e in edits.items()]
        self.sections.append(Section(f"Edits at +{middle:g} sd", header=header, rows=table_rows))
        point = self.out / "points" / "edited.json"
        self.command("edit", self.folder, people[0], f"{names[0]}={middle:g}", "--out", point)

    def invert_pictures(self) -> None:
        people, folder = list(self.real)[:INVERTED_PEOPLE], self.out / "pictures"
        folder.mkdir()
        for person in people:
            to_picture(self.real[person][0]).save(folder / f"{person}.png")
        points = self.out / "points" / "inverted"
        files = [folder / f"{person}.png" for person in people]
        options = ["--steps", INVERSION_STEPS, "--prior", INVERSION_PRIOR, "--out", points]
        self.command("invert", self.folder, *files, *options)
        pictures = self.render([points / f"{person}.json" for person in people])
        score = self.scorer.id_score(pictures, people)
        mean = np.repeat(self.render([self.space.mean_point()]), len(people), 0)
        floor = self.scorer.id_score(mean, people)
        self.metrics |= {
            "inversion_id_score": score,
            "inversion_relative_score": self.scorer.relative(score),
            "inversion_mean_only_id_score": floor,
        }
        shown = np.stack([self.real[p][:1] for p in people])
        self.sheet(
            "inversion", np.concatenate([shown, pictures], 1), people, ["the one picture", *captions()],
            "Inversion of one picture of a held-out person",
            f"Identity score {score:.2f}; the population's mean {floor:.2f}.",
        )  # fmt: skip

    def export_person(self) -> None:
        point, folder = self.out / "points" / "edited.json", self.out / "exported"
        self.command("export", self.folder, point, "--out", folder)
        ours = self.render([point], CASES[:1])[0, 0]
        base = self.render([None], CASES[:1])[0, 0]
        with_diffusers, with_peft = stock_pictures(self.folder, folder, self.pipe.unet.config)
        difference = max(float(np.abs(ours - other).max()) for other in (with_diffusers, with_peft))
        self.metrics["export_max_abs_diff"] = difference
        self.metrics["export_base_max_abs_diff"] = float(np.abs(ours - base).max())
        self.sheet(
            "export", np.array([[ours, with_diffusers, with_peft, base]]), ["edited person"],
            [type(self.pipe).__name__, "diffusers, load_lora_weights", "PEFT, PeftModel", "base model"],
            "The exported LoRA in stock libraries",
            f"Largest difference per pixel from the pipeline's picture: {difference:.1e}; from the base model's: "
            f"{self.metrics['export_base_max_abs_diff']:.2f}.",
        )  # fmt: skip

    def write_report(self) -> None:
        evaluation: Any = self.assets.evaluation
        self.metrics["evaluation"] = evaluation
        if evaluation:
            text = (
                f"Measured once on {measured_on(evaluation)} over {evaluation['scale']['held_out_people']} people that "
                "nothing was fitted on: targets beside the figures reached."
            )
            title, header = "The recipe's evaluation on held-out people", ("figure", "target", "reached", "")
            self.sections.append(Section(title, text, header=header, rows=wished_beside_reached(evaluation)))
            if "edits" in evaluation:
                self.sections.append(evaluated_edits(evaluation, f"{SUMMARY_STRENGTH:g}"))
        intro = (
            f"{len(self.dataset):,} LoRAs of drawn people and a weight space of {self.space.k} components. Every "
            "figure is measured on pictures by a judge that nothing was fitted with."
        )
        page = report("w2w demo", intro, self.sections, self.commands)
        (self.out / "report.html").write_text(page, "utf-8")

    def sheet(
        self, name: str, pictures: np.ndarray, rows: list[str], columns: list[str], title: str, text: str
    ) -> None:
        picture = contact_sheet(pictures, rows, columns)
        picture.save(self.out / f"{name}.png")
        self.sections.append(Section(title, text, picture))


def captions() -> list[str]:
    return [prompt for prompt, _ in CASES]


def stock_pictures(base: Path, exported: Path, unet_config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the first case's picture from exported files, by stock diffusers and by stock PEFT."""
    from diffusers import StableDiffusionPipeline
    from peft import PeftModel

    prompt, seed = CASES[0]
    size = unet_config.sample_size
    noise = torch.randn((1, unet_config.in_channels, size, size), generator=torch.Generator().manual_seed(seed))
    drawn = []
    for library in ("diffusers", "peft"):
        pipe = StableDiffusionPipeline.from_pretrained(base)
        pipe.set_progress_bar_config(disable=True)
        if library == "diffusers":
            pipe.load_lora_weights(str(exported))
        else:
            pipe.unet = PeftModel.from_pretrained(pipe.unet, str(exported))
        drawn.append(pipe([prompt], latents=noise, output_type="np", **DRAWN).images[0])
    return drawn[0], drawn[1]

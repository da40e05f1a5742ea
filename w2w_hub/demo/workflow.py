"""The stages of the demo: commands that a user would type, pictures of people, and figures measured on them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.progress import progress
from ..dataset import WeightDataset, load_dataset
from ..models.pictures import contact_sheet, save_picture, to_picture
from ..models.pipelines import AutoW2WPipeline
from ..store.atomic import write_bytes
from .assets import Assets
from .judge import Judge
from .lines import ReportLines
from .measure import IdentityScorer, edit_figures, holds, same_person
from .report import evaluated_edits, measured_on, reached, report, wished_beside_reached
from .settings import (
    CASES,
    COMPONENTS,
    EDIT_ATTRIBUTES,
    EDIT_WISH,
    GUIDANCE,
    INVERSION_PRIOR,
    INVERSION_STEPS,
    SAMPLING_STEPS,
    SUMMARY_STRENGTH,
)  # fmt: skip
from .stages import Record, Section

SAMPLES, EDITED_PEOPLE, SHOWN_EDITED, INVERTED_PEOPLE, SCORED_PEOPLE, SHOWN_PEOPLE = 8, 8, 4, 4, 24, 8
SAMPLING_METHODS = ("population", "gaussian")
DRAWN: dict[str, Any] = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE}
SCALE = 3  # of pictures on sheets

Say = Callable[[str], None]
Run = Callable[[Sequence[Any]], None]


class Workflow:
    """The stages of the demo in the folder `out`.

    Stages pass results to each other through files and `records` alone, so that any of them may have been done by
    another process.

    Attributes
    ----------
    stages : dict
        Per stage, in their order: the method, and glob patterns of all that it writes.
    records : dict of str to Record
        Finished stages by name.
    record : Record
        Results of the stage that is running.
    """

    def __init__(self, out: Path, assets: Assets, records: dict[str, Record], say: Say, run: Run):
        self.out, self.assets, self.records, self.say, self._run = out, assets, records, say, run
        self.folder = out / "space"
        self.lines, self.record = ReportLines(out, assets.folder), Record()
        self.stages: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
            "dataset": (self.make_dataset, ("dataset",)),
            "weight space": (self.make_space, ("space",)),
            "held-out people": (self.render_people, ("held-out.png",)),
            "samples": (self.render_samples, ("points/samples*", "samples.png", "samples-one-seed.png")),
            "edits": (self.render_edits, ("edits-*.png", "points/edited.json")),
            "inversion": (self.invert_pictures, ("pictures", "points/inverted", "inversion.png")),
            "export": (self.export_person, ("exported", "export.png")),
            "report": (self.write_report, ("report.html",)),
        }

    def command(self, *words: Any) -> None:
        """Run a command, and keep it for the report."""
        self._run(words)
        self.record.commands.append(self.lines.line(*words))

    # ------------------------------------------------------------ what stages share
    @cached_property
    def dataset(self) -> WeightDataset:
        return WeightDataset.open(self.out / "dataset")

    @cached_property
    def pipe(self) -> Any:
        pipe = AutoW2WPipeline.from_pretrained(self.folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def space(self) -> Any:
        return self.pipe.space

    @cached_property
    def judge(self) -> Judge:
        return Judge.load(self.assets.judge)

    @cached_property
    def scorer(self) -> IdentityScorer:
        return IdentityScorer(self.judge, self.real)

    @cached_property
    def real(self) -> dict[str, np.ndarray]:
        """Real pictures of each held-out person."""
        return {p: self.assets.pictures(p) for p in (self.dataset.ids[i] for i in self.dataset.where(split="test"))}

    def own(self, person: str) -> Any:
        """Return the identity of a person's own LoRA: its exact vector and its coordinates in the space."""
        return self.pipe.resolve(self.dataset.adapter(person))

    def render(self, identities: list[Any], cases: tuple[tuple[str, int], ...] = CASES) -> np.ndarray:
        result: np.ndarray = self.pipe.render(identities, cases, **DRAWN)
        return result

    def sheet(
        self, name: str, pictures: np.ndarray, rows: list[str], columns: list[str], title: str, text: str,
        command: str = "",
    ) -> None:  # fmt: skip
        """Write a sheet, and make it a section of the report."""
        save_picture(contact_sheet(pictures, rows, columns, scale=SCALE), self.out / f"{name}.png")
        self.record.sections.append(Section(title, text, f"{name}.png", command))

    # ------------------------------------------------------------ stages
    def make_dataset(self) -> None:
        adapters, a, d = self.assets.adapters, self.assets, self.out / "dataset"
        start = WeightDataset.open(a.rows).manifest.compatibility.initialisation
        options = ["--labels", a.labels, "--base", a.base, "--initialization", start, "--out", d]
        self.command("pack", adapters, *options)
        self.command("add", d, a.rows)
        shutil.rmtree(self.out / ".cache", ignore_errors=True)
        people = load_dataset(d, cache_dir=str(self.out / ".cache"))
        self.say(f">>> load_dataset({str(d)!r})\n{people}")
        splits = {name: len(rows) for name, rows in people.items()}
        shutil.rmtree(self.out / ".cache", ignore_errors=True)
        size = self.dataset.layout.size
        self.record.metrics["dataset"] = {"rows": len(self.dataset), "numbers": size, "splits": splits}

    def make_space(self) -> None:
        train = self.dataset.manifest.splits["train"]
        k = min(COMPONENTS, train - 1)
        drawn = [word for name, value in DRAWN.items() for word in (f"--{name.replace('_', '-')}", value)]
        self.command("build", self.out / "dataset", "--k", k, "--base", self.assets.base, *drawn, "--out", self.folder)
        self.record.metrics |= {
            "real_id_score": self.scorer.real_id_score,
            "cross_id_score": self.scorer.cross_id_score,
            "components": self.space.k,
            "explained_variance": self.space.diagnostics["explained_variance"],
            "held_out_explained_variance": self.space.diagnostics["held_out"]["explained_variance"],
            "held_out_auc": {name: d.auc for name, d in self.space.directions.items()},
        }

    def render_people(self) -> None:
        people = list(self.real)[:SCORED_PEOPLE]
        own = [self.own(p) for p in people]
        pictures = np.concatenate([self.render(own, (case,)) for case in progress(CASES, "held-out people")], 1)
        mean = np.repeat(self.render([self.space.mean_point()]), len(people), 0)
        score = self.scorer.id_score(pictures, people)
        floor = self.scorer.id_score(mean, people)
        self.record.metrics |= {
            "lora_id_score": score,
            "mean_only_id_score": floor,
            "lora_relative_score": self.scorer.relative(score),
        }
        some = people[:SHOWN_PEOPLE]
        real = np.stack([self.real[p][:1] for p in some])
        self.sheet(
            "held-out", np.concatenate([real, pictures[: len(some)]], 1), some, ["real picture", *captions()],
            "Held-out people: a real picture, and their own LoRAs under three prompts",
            "Each row shows a person's own LoRA from the dataset, not a point of the weight space, which was fitted "
            f"without these people. Identity score {score:.2f} (real pictures {self.scorer.real_id_score:.2f}, "
            f"strangers {self.scorer.cross_id_score:.2f}, the population's mean {floor:.2f}).",
            self.redraw("render", self.folder, *some, "--dataset", self.dataset.path, out="people.png"),
        )  # fmt: skip

    def redraw(self, name: str, *words: Any, out: str) -> str:
        """Return the command that draws the first case of such a sheet, for the report."""
        return self.lines.line(name, *words, "--prompt", CASES[0][0], "--seed", CASES[0][1], "--out", out)

    def render_samples(self) -> None:
        drawn, found = {}, {}
        for method in SAMPLING_METHODS:
            points = self.out / "points" / ("samples" if method == SAMPLING_METHODS[0] else f"samples-{method}")
            self.command("sample", self.folder, "--count", SAMPLES, "--seed", 0, "--method", method, "--out", points)
            files = sorted(points.glob("*.json"))
            pictures = [self.render(list(files), (case,)) for case in progress(CASES, f"{method} samples")]
            drawn[method] = np.concatenate(pictures, 1)
            near = [self.pipe.resolve(file).point.history["nearest"]["cosine"] for file in files]
            alike, different = same_person(self.judge, drawn[method])
            found[method] = {
                "same_person_cosine": alike, "different_people_cosine": different,
                "nearest_row_cosine": float(np.mean(near)),
            }  # fmt: skip
        first, second = (found[method] for method in SAMPLING_METHODS)
        files = sorted((self.out / "points" / "samples").glob("*.json"))
        self.record.metrics |= {
            "samples": found, "sample_nearest_neighbour_cosine": first["nearest_row_cosine"],
        }  # fmt: skip
        columns = [f"{method}: {caption}" for method in SAMPLING_METHODS for caption in captions()]
        self.sheet(
            "samples", np.concatenate([drawn[method] for method in SAMPLING_METHODS], 1), [f.stem for f in files],
            columns, "New people, sampled from the weight space",
            "Three columns are one point of the weight space under three prompts and noise seeds. On the left, people "
            "drawn through the population model: attributes as they occur, then the mean of people with them, then "
            f"what attributes do not explain. The same person: {first['same_person_cosine']:.2f}, different people: "
            f"{first['different_people_cosine']:.2f}. On the right, each coefficient drawn on its own, as in the "
            f"paper: {second['same_person_cosine']:.2f} and {second['different_people_cosine']:.2f}. Mean cosine to "
            f"the nearest fitted person: {first['nearest_row_cosine']:.2f} and {second['nearest_row_cosine']:.2f} (a "
            "copy would be 1).",
            self.redraw("render", self.folder, files, out="samples.png"),
        )  # fmt: skip
        cases = [word for prompt, _ in CASES for word in ("--prompt", prompt)]
        picture, seed = self.out / "samples-one-seed.png", CASES[0][1]
        self.command("render", self.folder, files, *cases, "--seed", seed, "--scale", SCALE, "--out", picture)
        title, text = "The same samples with one noise seed", f"All columns start from the noise of seed {seed}."
        self.record.sections.append(Section(title, text, picture.name))

    def render_edits(self) -> None:
        names = [n for n in EDIT_ATTRIBUTES if n in self.space.directions] or list(self.space.directions)[:5]
        people = list(self.real)[:EDITED_PEOPLE]
        table = self.dataset.labels.loc[people, names].astype(bool)
        own = [self.own(p) for p in people]
        before = self.render(own)  # (people, cases, h, w, 3)
        after: dict[str, dict[str, np.ndarray]] = {"push": {}, "set": {}}
        figures: dict[str, dict[str, Any]] = {"push": {}, "set": {}}
        for name in progress(names, "edits"):
            without = np.flatnonzero(~table[name].to_numpy())
            pushed, changed = self.edited(own, {name: SUMMARY_STRENGTH}), self.edited(own, set={name: True})
            after["push"][name], after["set"][name] = np.split(self.render([*pushed, *changed]), 2)
            direction = self.space.direction(name)
            for kind in after if len(without) else ():
                found = edit_figures(self.judge, before[without], after[kind][name][without], name)
                prior = {"people": len(without), "label_prior": direction.positives / direction.rows}
                figures[kind][name] = prior | found
        done = {kind: reached(figures[kind], EDIT_WISH) for kind in figures}
        self.record.metrics |= {
            "edits": figures["push"], "edit_strength_sd": SUMMARY_STRENGTH,
            "sets": figures["set"], "set_strength": self.space.population_model.strength,
            "edits_reached": {
                "pushes": len(done["push"]), "sets": len(done["set"]), "attributes": len(figures["set"]),
            },
        }  # fmt: skip
        held = sum(
            holds(self.judge, before, after["set"][name], name).mean(1) * ~table[name].to_numpy() for name in names
        )
        for i in sorted(np.argsort(-np.asarray(held), kind="stable")[:SHOWN_EDITED]):
            pairs = {
                f"{name}{' (is there already)' if table[name].iloc[i] else ''}": (
                    after["set"][name][i], after["push"][name][i],
                )
                for name in names
            }  # fmt: skip
            self.edit_sheet(people[i], before[i], pairs)
        header = (
            "attribute", "edit", "people", "before", "after", "others kept", "least kept", "seen and all kept",
            "label prior", "",
        )  # fmt: skip
        shown = (
            "people", "before", "after", "other_attributes_kept", "each_other_factor_kept", "seen_and_all_kept",
            "label_prior",
        )  # fmt: skip
        rows = [
            (name, kind, *(figures[kind][name][key] for key in shown), "reached" if name in done[kind] else "missed")
            for name in figures["set"]
            for kind in after
        ]
        text = (
            f"Pushes by +{SUMMARY_STRENGTH:g} standard deviations and sets at the weight space's own strength, of "
            f"{len(people)} held-out people, over those without the attribute. Sheets show the {SHOWN_EDITED} whose "
            f"sets hold best. Reached: {len(done['set'])} of {len(figures['set'])} attributes by sets, "
            f"{len(done['push'])} by pushes."
        )
        self.record.sections.append(Section("Edits in figures", text, header=header, rows=rows))
        point = self.out / "points" / "edited.json"
        lacking = next((name for name in names if not table[name].iloc[0]), names[0])
        self.command("edit", self.folder, people[0], "--set", f"{lacking}=true", "--out", point)

    def edited(self, people: list[Any], *strengths: Any, **options: Any) -> list[Any]:
        """Return several identities after one edit."""
        self.pipe.identity = people
        with warnings.catch_warnings():  # that a strong push leaves the population; the figures say what it does
            warnings.simplefilter("ignore", UserWarning)
            found = list(self.pipe.edit(*strengths, **options))
        self.pipe.identity = None
        return found

    def edit_sheet(self, person: str, before: np.ndarray, after: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Write one person's sheet: for each case the person before an edit, with the attribute set, and pushed.

        `before` is ``(cases, h, w, 3)``, as are the two arrays per attribute.
        """
        rows = [[part[case] for case in range(len(CASES)) for part in (before, *edits)] for edits in after.values()]
        columns = [
            f"{kind}{caption}"
            for caption in captions()
            for kind in ("before: ", "set, ", f"push +{SUMMARY_STRENGTH:g} sd, ")
        ]
        name = next((name for name in after if " " not in name), next(iter(after)).partition(" ")[0])
        words = [self.folder, person, "--dataset", self.dataset.path, "--set", f"{name}=true"]
        self.sheet(
            f"edits-{person}", np.array(rows), list(after), columns, f"Edits of {person}, who is held out",
            "The person's own LoRA; the attribute in the row set, and pushed along its direction by "
            f"{SUMMARY_STRENGTH:g} standard deviations (sd) of the population. To the left of both, the same prompt "
            "and seed without an edit.",
            self.redraw("grid", *words, out="edits.png"),
        )  # fmt: skip

    def invert_pictures(self) -> None:
        people, folder = list(self.real)[:INVERTED_PEOPLE], self.out / "pictures"
        for person in people:
            save_picture(to_picture(self.real[person][0]), folder / f"{person}.png")
        points = self.out / "points" / "inverted"
        files = [folder / f"{person}.png" for person in people]
        options = ["--steps", INVERSION_STEPS, "--prior", INVERSION_PRIOR, "--out", points]
        self.command("invert", self.folder, files, *options)
        pictures = self.render([points / f"{person}.json" for person in people])
        score = self.scorer.id_score(pictures, people)
        mean = np.repeat(self.render([self.space.mean_point()]), len(people), 0)
        floor = self.scorer.id_score(mean, people)
        self.record.metrics |= {
            "inversion_id_score": score,
            "inversion_relative_score": self.scorer.relative(score),
            "inversion_mean_only_id_score": floor,
        }
        shown = np.stack([self.real[p][:1] for p in people])
        self.sheet(
            "inversion", np.concatenate([shown, pictures], 1), people, ["the one picture", *captions()],
            "Inversion of one picture of a held-out person",
            "Each row shows the point of the weight space that was found for the picture on the left. Identity score "
            f"{score:.2f}; the population's mean {floor:.2f}.",
            self.redraw("render", self.folder, [points / f"{people[0]}.json"], out="inverted.png"),
        )  # fmt: skip

    def export_person(self) -> None:
        point, folder = self.out / "points" / "edited.json", self.out / "exported"
        self.command("export", self.folder, point, "--out", folder)
        ours = self.render([point], CASES[:1])[0, 0]
        base = self.render([None], CASES[:1])[0, 0]
        with_diffusers, with_peft = stock_pictures(self.folder, folder, self.pipe.unet.config)
        difference = max(float(np.abs(ours - other).max()) for other in (with_diffusers, with_peft))
        from_base = float(np.abs(ours - base).max())
        self.record.metrics |= {"export_max_abs_diff": difference, "export_base_max_abs_diff": from_base}
        self.sheet(
            "export", np.array([[ours, with_diffusers, with_peft, base]]), ["edited person"],
            [type(self.pipe).__name__, "diffusers, load_lora_weights", "PEFT, PeftModel", "base model"],
            "The exported LoRA in stock libraries",
            f"Under {captions()[0]}. Largest difference per pixel from the pipeline's picture, of 0 to 1: "
            f"{difference:.1e}; from the base model's: {from_base:.2f}.",
        )  # fmt: skip

    def write_report(self) -> None:
        self.space.add_preview(self.out / "held-out.png", overwrite=True)  # on the card
        evaluation: Any = self.assets.evaluation
        self.record.metrics["evaluation"] = evaluation
        if evaluation:
            text = (
                f"Measured once on {measured_on(evaluation)} over {evaluation['scale']['held_out_people']} people that "
                "nothing was fitted on: targets beside the figures reached."
            )
            title, header = "The recipe's evaluation on held-out people", ("figure", "target", "reached", "")
            rows = wished_beside_reached(evaluation)
            self.record.sections.append(Section(title, text, header=header, rows=rows))
            if "edits" in evaluation:
                self.record.sections.append(evaluated_edits(evaluation, f"{SUMMARY_STRENGTH:g}"))
        side = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        intro = (
            f"{len(self.dataset):,} LoRAs of drawn people and a weight space of {self.space.k} components. The base "
            f"model draws pictures of {side} x {side} pixels; the sheets show them {SCALE} times as large. Figures are "
            "measured on pictures by a judge that nothing was fitted with."
        )
        records = [*(self.records[name] for name in self.stages if name in self.records), self.record]
        sections = [section for record in records for section in record.sections]
        commands = [self.lines.first(), *(line for record in records for line in record.commands)]
        page = report("w2w demo", intro, sections, commands, self.out)
        write_bytes(self.out / "report.html", page.encode())


def captions() -> list[str]:
    return [f"{prompt} (seed {seed})" for prompt, seed in CASES]


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

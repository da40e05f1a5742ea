"""Stage `population`: one LoRA per person, and its score."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import world
from base_stage import encode
from config import Config
from resume import DEVICE, OutOfTime, Stage, pixels

from w2w_hub.demo.judge import Judge, identity_score
from w2w_hub.demo.settings import CASES, GUIDANCE, PROMPT, SAMPLING_STEPS
from w2w_hub.lora.layout import ParameterLayout
from w2w_hub.models.injection import inject_hooks
from w2w_hub.training import kaiming_start, train_identities

ALPHA = 27.0
START_SEED = 0


class Base:
    """The trained base model in float32, ready to train on and to draw with."""

    def __init__(self, work: Path):
        from diffusers import StableDiffusionPipeline

        self.pipe = StableDiffusionPipeline.from_pretrained(work / "base", dtype=torch.float32).to(DEVICE)
        self.pipe.set_progress_bar_config(disable=True)
        self.unet = self.pipe.unet.requires_grad_(False)
        self.layout = ParameterLayout.from_model(self.unet, rank=1, scale=ALPHA)

    @torch.no_grad()
    def text(self, prompt: str = PROMPT) -> torch.Tensor:
        tokens = self.pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids.to(DEVICE)
        return self.pipe.text_encoder(tokens).last_hidden_state[0]

    @torch.no_grad()
    def draw(self, rows: torch.Tensor, cases=CASES) -> torch.Tensor:
        """Generate pictures ``(n, cases, 3, 64, 64)`` in [0, 1]; the initial noise depends only on the case."""
        out = []
        for part in rows.split(64 if DEVICE == "cpu" else 512):
            pictures = []
            for prompt, seed in cases:
                noise = torch.randn(
                    (1, self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size),
                    generator=torch.Generator().manual_seed(seed),
                )
                with inject_hooks(self.unet, self.layout, part.to(DEVICE)):
                    drawn = self.pipe(
                        [prompt] * len(part), num_inference_steps=SAMPLING_STEPS, guidance_scale=GUIDANCE,
                        latents=noise.repeat(len(part), 1, 1, 1).to(DEVICE), output_type="pt",
                    ).images  # fmt: skip
                pictures.append(drawn.float())
            out.append(torch.stack(pictures, 1))
        return torch.cat(out)


def people_latents(base: Base, work: Path, which) -> torch.Tensor:
    images = torch.from_numpy(np.load(work / "people.npy", mmap_mode="r")[which])
    flat = encode(base.pipe.vae, images.flatten(0, 1))
    return flat.view(len(images), -1, *flat.shape[1:])


class Scorer:
    """Scores pictures of people with the judge."""

    def __init__(self, work: Path):
        self.judge = Judge.load(work / "judge.safetensors").to(DEVICE)
        self.images = np.load(work / "people.npy", mmap_mode="r")
        self.people = json.loads((work / "people.json").read_text())

    def real(self, person: int) -> torch.Tensor:
        return self.judge.embed((pixels(torch.from_numpy(self.images[person])) + 1) / 2)

    def score(self, pictures: torch.Tensor, people: list[int]) -> dict[str, float]:
        """Return the mean identity score and the accuracy per factor (visible hair colors only)."""
        n, cases = pictures.shape[:2]
        embedded = self.judge.embed(pictures.flatten(0, 1)).view(n, cases, -1)
        ids = [identity_score(embedded[i], self.real(p)).mean().item() for i, p in enumerate(people)]
        figures = {"identity": float(np.mean(ids))}
        read = self.judge.read(pictures.flatten(0, 1))
        for j, (name, probabilities) in enumerate(read.items()):
            mean = probabilities.view(n, cases, -1).mean(1).argmax(1).cpu()
            truth = torch.tensor([world.factor_labels(self.people[p])[j] for p in people])
            seen = torch.tensor([name != "hair_color" or world.has_hair(self.people[p]) for p in people])
            figures[name] = (mean == truth)[seen].float().mean().item()
        return {name: round(value, 4) for name, value in figures.items()}


def mean_start(base: Base, work: Path, steps: int, rate: float, people: int = 64, batch: int = 4) -> torch.Tensor:
    """Return a shared initialization: the mean row of a few people trained first.

    One round of Reptile (Nichol et al. 2018) from the Kaiming start. The people are fitted ones.
    """
    rows = train_identities(
        base.unet, base.layout, base.pipe.scheduler, people_latents(base, work, list(range(people))), base.text(),
        kaiming_start(base.layout, START_SEED), steps=steps, batch_size=batch, learning_rate=rate, seed=1,
        autocast_dtype=torch.bfloat16 if DEVICE == "cuda" else None,
    )  # fmt: skip
    return rows.mean(0).cpu()


def shared_start(base: Base, config: Config, work: Path) -> torch.Tensor:
    """Return the initialization that every person is trained from, made once."""
    if config.lora_start == "kaiming":
        return kaiming_start(base.layout, START_SEED)
    path = work / "start.pt"
    if not path.exists():
        torch.save(mean_start(base, work, config.lora_steps, config.lora_lr, min(64, config.fitted)), path)
    return torch.load(path, weights_only=True)


def population(config: Config, work: Path, minutes: float) -> None:
    stage = Stage(work, "population", minutes)
    base = Base(work)
    folder = work / "population"
    folder.mkdir(exist_ok=True)
    start = shared_start(base, config, work)
    groups = [
        list(range(i, min(i + config.people_a_batch, config.people)))
        for i in range(0, config.people, config.people_a_batch)
    ]
    slowest = 0.0
    for number, group in enumerate(groups):
        path = folder / f"{number:03d}.npz"
        if path.exists():
            stage.before += float(np.load(path)["seconds"])
            continue
        if time.monotonic() - stage.started + slowest > 60 * minutes:
            raise OutOfTime(f"population: {number} of {len(groups)} groups done; run the same command again")
        began = time.monotonic()
        rows = train_identities(
            base.unet, base.layout, base.pipe.scheduler, people_latents(base, work, group), base.text(), start,
            steps=config.lora_steps, batch_size=config.lora_batch, learning_rate=config.lora_lr,
            average_last=config.lora_average, autocast_dtype=torch.bfloat16 if DEVICE == "cuda" else None,
        )  # fmt: skip
        seconds = time.monotonic() - began
        slowest = max(slowest, seconds)
        np.savez(folder / "partial.npz", rows=rows.cpu().numpy(), seconds=seconds)
        (folder / "partial.npz").rename(path)
        stage.say(f"group {number + 1} of {len(groups)}: {len(group)} people in {seconds:.0f} s")
    rows = torch.from_numpy(np.concatenate([np.load(p)["rows"] for p in sorted(folder.glob("[0-9]*.npz"))]))
    torch.save({"rows": rows, "layout": base.layout.to_json()}, work / "population.pt")
    some = list(range(0, config.people, max(1, config.people // 64)))[:64]
    stage.done(
        people=config.people, numbers=base.layout.size, samples_a_person=config.lora_steps * config.lora_batch,
        first_look=Scorer(work).score(base.draw(rows[some]), some),
    )  # fmt: skip

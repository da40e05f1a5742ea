"""Stages `render` and `judge`: the pictures, and the reader that all scores come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import world
from config import Config
from resume import DEVICE, Stage, pixels

from w2w_hub.demo.judge import Judge, identity_score, real_score

PEOPLE_SEED, BASE_SEED, CONTEXT_SEED = 0, 1, 2
CAPTIONS = 4


def held_out(config: Config) -> set[int]:
    """Return positions of the held-out people: no judge, base model, space or direction is fitted on them."""
    start = config.fitted
    shipped = range(start, start + config.heldout_shipped)
    more_start = start + config.heldout_shipped + config.adapters
    return {*shipped, *range(more_start, more_start + config.heldout_more)}


def render(config: Config, work: Path, minutes: float) -> None:
    import render as draw

    stage = Stage(work, "render", minutes)
    people = world.distinct_people(config.people, PEOPLE_SEED)
    (work / "people.json").write_text(json.dumps(people))
    np.save(work / "people.npy", draw.people_images(people, config.pictures_per_person, CONTEXT_SEED))
    unseen = {world.appearance(people[i]) for i in held_out(config)}
    base = draw.base_images(config.base_pictures, unseen, BASE_SEED, CAPTIONS)
    np.save(work / "base_images.npy", base["images"])
    np.save(work / "base_labels.npy", base["labels"])
    (work / "base_captions.json").write_text(json.dumps(base["captions"]))
    positives = {name: round(sum(world.has(p, name) for p in people) / len(people), 3) for name in world.ATTRIBUTES}
    stage.done(people=len(people), base_pictures=config.base_pictures, attribute_positives=positives)


def judge(config: Config, work: Path, minutes: float) -> None:
    stage = Stage(work, "judge", minutes)
    torch.manual_seed(0)
    images = torch.from_numpy(np.load(work / "base_images.npy"))
    labels = torch.from_numpy(np.load(work / "base_labels.npy"))
    model = Judge(world.FACTORS, world.ATTRIBUTES).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, config.judge_steps + 1)
    validation = max(64, len(images) // 20)
    parts = (model, optimizer, schedule)

    def load(state: list[dict]) -> None:
        for part, value in zip(parts, state, strict=True):
            part.load_state_dict(value)

    model.train()
    for step in stage.steps(config.judge_steps, lambda: [p.state_dict() for p in parts], load):
        torch.manual_seed(step)
        picked = torch.randint(validation, len(images), (128,))
        x, y = pixels(images[picked]), labels[picked].to(DEVICE)
        x = x + torch.randn_like(x) * torch.rand(len(x), 1, 1, 1, device=DEVICE) * 0.12
        if step % 2:  # soft pictures, as a decoder draws them
            x = 0.3 * x + 0.7 * F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        loss = sum(F.cross_entropy(logits, y[:, j]) for j, logits in enumerate(model(x)[0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            stage.say(step, float(loss))
    model.eval().requires_grad_(False)
    model.save(work / "judge.safetensors")
    shipped = Judge.load(work / "judge.safetensors").to(DEVICE)  # measured as shipped, in float16
    read = shipped.read((pixels(images[:validation]) + 1) / 2)
    right = {
        name: round((p.argmax(1).cpu() == labels[:validation, j]).float().mean().item(), 4)
        for j, (name, p) in enumerate(read.items())
    }
    people = torch.from_numpy(np.load(work / "people.npy")[sorted(held_out(config))])
    real = torch.stack([shipped.embed((pixels(p) + 1) / 2) for p in people])
    strangers = torch.stack([identity_score(real[i], real[i - 1]).mean() for i in range(len(real))])
    stage.done(
        accuracy=right,
        real=round(torch.stack([real_score(r).mean() for r in real]).mean().item(), 4),
        strangers=round(strangers.mean().item(), 4),
    )

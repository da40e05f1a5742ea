"""Compare slider LoRAs with the edits that they stand for, in stock diffusers, on the shipped avatars.

    python scripts/avatars/measure_slider_loras.py SPACE --people 12

Each held-out person without the attribute is drawn as base + person + weight * slider, for a slider made at the person
and for one made at the population's mean, and by `pipe.edit`. Printed are the mean difference of pixels (0 to 1), the
fraction of people in whom the judge sees the attribute, and the slider's own error of dW. SPACE is the demo's
(`w2w demo`).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import set_weights_and_activate_adapters

from w2w_hub import W2WPipeline
from w2w_hub.demo.measure import read_avatars
from w2w_hub.demo.settings import GUIDANCE, SAMPLING_STEPS
from w2w_hub.space import make_slider

ATTRIBUTES = ("Full_Beard", "Sunglasses", "Wearing_Hat")
WAYS = ("edit", "made at the person", "made at the mean")
CALL: dict[str, Any] = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE, "output_type": "np"}


class Stock:
    """Stock diffusers with a person and a slider loaded as two adapters."""

    def __init__(self, base: Path, folder: Path):
        self.pipe = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
        self.pipe.set_progress_bar_config(disable=True)
        self.folder = folder

    def load(self, **files: Path) -> None:
        self.pipe.unload_lora_weights()
        for name, file in files.items():
            self.pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)

    def draw(self, weight: float) -> np.ndarray:
        # not pipe.set_adapters, which fails for a UNet whose blocks have different numbers of layers
        set_weights_and_activate_adapters(self.pipe.unet, ["person", "slider"], [1.0, weight])
        drawn: np.ndarray = self.pipe("sks person", generator=torch.Generator().manual_seed(0), **CALL).images[0]
        return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--attributes", nargs="+", default=ATTRIBUTES)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    pipe = W2WPipeline.from_pretrained(given.space)
    pipe.set_progress_bar_config(disable=True)
    population = pipe.space.require_population("held-out person")
    held_out = [i for i, used in zip(population.ids, population.fitted, strict=True) if not used]
    held_out = held_out or list(population.ids[-4 * given.people :])
    seen = read_avatars(pipe.render(held_out, [("sks person", 0)])[:, 0])
    with tempfile.TemporaryDirectory() as folder:
        stock = Stock(given.space, Path(folder))
        for name in given.attributes:
            people = [person for person, shows in zip(held_out, seen[name], strict=True) if not shows]
            measure(pipe, stock, name, people[: given.people])


def measure(pipe: Any, stock: Stock, name: str, people: list[str]) -> None:
    space = pipe.space
    weights = (1.0, 3.0, float(space.direction(name).typical))
    pictures: dict[tuple[str, float], list[np.ndarray]] = {(way, weight): [] for way in WAYS for weight in weights}
    errors: dict[float, list[float]] = {weight: [] for weight in weights}
    mean = make_slider(space, name)
    for i, person in enumerate(people):
        pipe.identity = person
        own = make_slider(space, name, at=person)
        lora = pipe.export(stock.folder / f"{name}-{i}") / "pytorch_lora_weights.safetensors"
        for way, slider in zip(WAYS[1:], (own, mean), strict=True):
            stock.load(person=lora, slider=slider.save(stock.folder / "slider.safetensors", overwrite=True))
            for weight in weights:
                pictures[way, weight].append(stock.draw(weight))
        for weight in weights:
            pictures["edit", weight] += list(pipe.render([space.edit(person, {name: weight})], [("sks person", 0)])[0])
            errors[weight].append(own.error(weight))
    for weight in weights:
        edit = np.stack(pictures["edit", weight])
        shown = {way: read_avatars(np.stack(pictures[way, weight]))[name].mean() for way in WAYS}
        apart = {way: np.abs(np.stack(pictures[way, weight]) - edit).mean((1, 2, 3)) for way in WAYS[1:]}
        print(
            f"{name} {weight:.1f} sd, {len(people)} people: dW off by {np.mean(errors[weight]):.2f}; shown by the edit "
            f"{shown['edit']:.2f}; "
            + "; ".join(
                f"{way}: {shown[way]:.2f}, pixels {np.median(values):.4f} (largest {values.max():.3f})"
                for way, values in apart.items()
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()

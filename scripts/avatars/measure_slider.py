"""Train a slider by prompts on the shipped avatars, and let the judge read what it does to held-out people.

    python scripts/avatars/measure_slider.py
    python scripts/avatars/measure_slider.py --positive "sks person hat" --negative "sks person" --attribute Wearing_Hat

Nothing here uses a label: the base model knows the words. A few minutes on two idle cores with the default settings.
"""

from __future__ import annotations

import argparse

import numpy as np

from w2w_hub import W2WPipeline, WeightDataset, build_space, fit_slider
from w2w_hub.demo.assets import Assets
from w2w_hub.demo.measure import read_avatars
from w2w_hub.demo.settings import CASES, COMPONENTS, GUIDANCE, SAMPLING_STEPS
from w2w_hub.models.sliders import SliderSettings

FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0)


def main() -> None:
    default = SliderSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positive", default="sks person glasses")
    parser.add_argument("--negative", default="sks person")
    parser.add_argument("--attribute", default="Eyeglasses", help="what the judge calls it")
    parser.add_argument("--steps", type=int, default=default.num_steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--people", type=int, default=64)
    given = parser.parse_args()
    space = build_space(WeightDataset.open(Assets().rows), COMPONENTS, directions=False)
    pipe = W2WPipeline.from_base(Assets().base, space)
    pipe.set_progress_bar_config(disable=True)
    pipe.generation = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": GUIDANCE}
    slider = fit_slider(
        pipe, positive=given.positive, negative=given.negative, num_steps=given.steps, batch_size=given.batch_size,
        learning_rate=given.learning_rate,
    )  # fmt: skip
    assert slider.typical is not None
    print(f"R2 {slider.r2:.2f} {slider.interval}, random directions {slider.null}, p {slider.p_value:.3f}")
    space = space.with_direction("slider", slider)
    population = space.require_population("held-out person")
    people = [i for i, used in zip(population.ids, population.fitted, strict=True) if not used][: given.people]
    before = {}
    for factor in FACTORS:
        pushed = [space.edit(person, {"slider": factor * slider.typical}) for person in people]
        seen = read_avatars(pipe.render(pushed, CASES[:1])[:, 0])
        before = before or seen
        without = ~before[given.attribute]
        kept = [(seen[n] == before[n])[without].mean() for n in seen if n != given.attribute]
        shown = seen[given.attribute][without].mean()
        print(
            f"{factor * slider.typical:5.1f} sd: {given.attribute} in {shown:.2f} of {without.sum()} without it, "
            f"each other attribute kept in {np.mean(kept):.3f} (least {min(kept):.2f})"
        )


if __name__ == "__main__":
    main()

"""Time setting attributes against decoding a point, at the size of Stable Diffusion 1.5's LoRAs.

    python scripts/bench_edits.py                         # k = 1,000, d = 99,648, 4,096 people, 40 attributes

The population model is fitted to random people with 40 binary attributes, so that there are as many configurations as a
stored model may have. Times are medians, and in turns, so that a busy machine slows them alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pandas as pd

from w2w_hub import ParameterLayout, WeightSpace, build_space, write_dataset
from w2w_hub.lora.adapter import Target
from w2w_hub.space import Coordinates
from w2w_hub.space.identity import edited, resolve


def make_space(people: int, numbers: int, k: int, attributes: int, work: Path) -> WeightSpace:
    """Return a space whose model is fitted to a small matrix, with coordinates of the full size."""
    rng = np.random.default_rng(0)
    small = k + 200
    labels = rng.random((people, attributes)) < rng.uniform(0.1, 0.5, attributes)
    rows = rng.standard_normal((people, small)) + labels @ rng.standard_normal((attributes, small))
    table = pd.DataFrame(labels, columns=[f"attribute_{i}" for i in range(attributes)])
    table.insert(0, "id", [f"p{i}" for i in range(people)])
    layout = ParameterLayout({Target("unet", "a.to_q"): (1, small // 2, small - small // 2)}, 27.0)
    dataset = write_dataset(
        rows.astype(np.float32), work / "people", layout=layout, ids=list(table["id"]), labels=table,
        initialization="seed-0", parquet_view=False,
    )  # fmt: skip
    fitted = build_space(dataset, k, directions=False)
    basis = rng.standard_normal((k, numbers), np.float32) / np.sqrt(numbers, dtype=np.float32)
    large = ParameterLayout({Target("unet", "a.to_q"): (1, numbers // 2, numbers - numbers // 2)}, 27.0)
    coordinates = Coordinates(
        large, np.zeros(numbers, np.float32), np.ones(numbers, np.float32), basis,
        fitted.coordinates.singular_values,
    )  # fmt: skip
    return replace(fitted, coordinates=coordinates)


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@click.command()
@click.option("--people", default=4096, show_default=True)
@click.option("--numbers", default=99_648, show_default=True)
@click.option("--k", default=1000, show_default=True)
@click.option("--attributes", default=40, show_default=True)
@click.option("--rounds", default=40, show_default=True)
def main(people: int, numbers: int, k: int, attributes: int, rounds: int) -> None:
    """Print a table of milliseconds."""
    with tempfile.TemporaryDirectory() as work:
        space = make_space(people, numbers, k, attributes, Path(work))
    model = space.population_model
    assert model is not None
    identity = resolve(space, space.point(space.population.coefficients[0]))  # type: ignore[union-attr]
    wanted = {name: not value for name, value in list(model.read(identity.point.coefficients).items())[:2]}
    calls: dict[str, Callable[[], Any]] = {
        "`space.decode(point)`": lambda: space.decode(identity.point),
        "`edited(space, identity, set=...)`, two attributes": lambda: edited(space, identity, set=wanted),
        "`edited(space, identity, {...})`, a push": lambda: edited(space, identity, {"PC1": 1.0}),
        "`space.edit(point, set=...)`, which decodes nothing": lambda: space.edit(identity.point, set=wanted),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(timed(call))
    whole = {name: 1e3 * median(values[1:]) for name, values in times.items()}
    decode = whole["`space.decode(point)`"]
    click.echo(f"k = {k:,}, d = {numbers:,}, {len(model.codes):,} configurations, {len(model.attributes)} attributes\n")
    click.echo("| call | ms | beyond a decode |\n| --- | --- | --- |")
    for name, value in whole.items():
        click.echo(f"| {name} | {value:.1f} | {value - decode:+.1f} |")


if __name__ == "__main__":
    main()

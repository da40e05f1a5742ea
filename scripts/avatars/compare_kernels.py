"""Kernels of the population model compared on pictures: `python scripts/avatars/compare_kernels.py`.

Fits the model to 864 of the shipped people with each kernel, sets every attribute of held-out people at several
strengths, and draws samples with several shares of residual; the judge reads the pictures. For a GPU (three minutes);
``--people 4 --samples 8`` is a try.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from measure_sets import DRAWN, Measurement  # noqa: E402
from resume import machine  # noqa: E402

from w2w_hub.demo.assets import Assets  # noqa: E402
from w2w_hub.space import PopulationModel, fit_population_model  # noqa: E402
from w2w_hub.space.population_model import fit as fitting  # noqa: E402
from w2w_hub.space.population_model import hyperparameters  # noqa: E402
from w2w_hub.space.population_model.hyperparameters import Hyperparameters  # noqa: E402
from w2w_hub.space.population_model.residual_share import ResidualShare  # noqa: E402

KERNELS: dict[str, tuple[float, float] | None] = {
    "as built": None, "best left out": None, "0.6 0.3": (0.6, 0.3), "0.7 0.15": (0.7, 0.15), "0.8 0.1": (0.8, 0.1),
    "0.9 0.05": (0.9, 0.05),
}  # fmt: skip
SHOWN = ("reached 0.8", "reached 0.9", "after", "each", "all", "both")


def model_of(m: Measurement, kernel: str, share: float | None) -> PopulationModel:
    """Return the population model with a kernel (rho and noise), and a share of residual in samples."""
    given = KERNELS[kernel]
    with mock.patch.multiple(hyperparameters, SHARES=() if kernel == "best left out" else hyperparameters.SHARES):
        patches: dict[str, Any] = {"FEWEST_ROWS": fitting.FEWEST_ROWS}
        if given is not None:
            patches["choose"] = lambda factors, *_: Hyperparameters(np.full(len(factors), given[0]), given[1])
        if share is not None:
            patches["choose_share"] = lambda *_: ResidualShare(share)
        with mock.patch.multiple(fitting, **patches):
            model: PopulationModel | None = fit_population_model(m.space, m.people)
    assert model is not None
    return model


def values(table: dict[str, Any]) -> dict[str, Any]:
    return {name: table[name]["value"] if isinstance(table[name], dict) else table[name] for name in SHOWN}


@click.command()
@click.option("--people", default=96, show_default=True, help="People an attribute; 0 for no sets.")
@click.option("--strengths", default="1.4,1.5,1.6,1.75", show_default=True)
@click.option("--samples", "count", default=256, show_default=True, help="0 for none.")
@click.option("--shares", default="0.05,0.1,0.15,0.25", show_default=True, help="Of residual in samples.")
@click.option("--kernel", "kernels", multiple=True, type=click.Choice(list(KERNELS)), help="[default: all]")
@click.option("--seed", default=1, show_default=True, help="Of the samples.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(
    people: int, strengths: str, count: int, shares: str, kernels: tuple[str, ...], seed: int, device: str
) -> None:
    """Print what sets and samples reach with each kernel."""
    started = time.monotonic()

    def report(*words: Any) -> None:
        click.echo(f"{time.monotonic() - started:6.0f} s  " + "  ".join(str(word) for word in words))

    DRAWN["batch_size"] = 1024 if device != "cpu" else 128
    with tempfile.TemporaryDirectory() as scratch:
        m = Measurement(Assets(), Path(scratch))
        m.pipe.to(device)
        report(machine(), f"{len(m.held_out)} people held out")
        for kernel in kernels or KERNELS:
            model = model_of(m, kernel, None)
            report(kernel, f"rhos {model.rhos.tolist()}, noise {model.noise:g}, strength {model.strength:g}")
            for share in [float(s) for s in shares.split(",") if s and count]:
                drawn = model_of(m, kernel, share)
                found = m.samples(drawn.sample(count, seed=seed)[0])
                same, near = found["same_person"]["value"], found["nearest_row"]["value"]
                report(kernel, f"samples, share {share:g}: same person {same}, nearest row {near}")
            m.pipe.attach(replace(m.space, population_model=model))
            for strength in [float(s) for s in strengths.split(",") if s and people]:
                report(kernel, f"sets, strength {strength:g}: {json.dumps(values(m.sets(people, strength)))}")


if __name__ == "__main__":
    main()

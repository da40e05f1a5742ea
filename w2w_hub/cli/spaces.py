"""`w2w build`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import examples, json_option, out_option, print_json, say


@click.command(epilog=examples("w2w build people --k 200 --out space --base ./my-base-model"))
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--k", type=click.IntRange(1), help="Principal components; as many as the rows allow without it.")
@out_option("The weight-space folder to make.")
@click.option(
    "--base", type=click.Path(path_type=Path), help="Folder of the base model; embedded, so the space opens offline."
)
@click.option("--split", default="train", show_default=True, help="The split that is fitted.")
@click.option("--version", "version", default="0.1.0", show_default=True, help="Version of the content.")
@json_option
def build(dataset: Path, k: int | None, out: Path, base: Path | None, split: str, version: str, as_json: bool) -> None:
    """Build a weight space: PCA of the training split and a direction for each attribute."""
    from ..dataset import WeightDataset
    from ..files import require_new
    from ..space import build_space
    from ..space.storage import publish_space

    require_new(out)
    space = build_space(WeightDataset.open(dataset), k, split=split, name=out.name, version=version)
    publish_space(space, out, base)
    if as_json:
        print_json(
            {"path": str(out), "k": space.k, "digest": space.digest, "diagnostics": space.diagnostics,
             "directions": {name: {"auc": d.auc, "sd": d.sd} for name, d in space.directions.items()}}
        )  # fmt: skip
        return
    explained = list(space.diagnostics["explained_variance"].values())[-1]
    held_out = space.diagnostics["held_out"]
    say(f"{out}: {space.k} components carry {explained:.1%} of the variance of {space.recipe['rows']:,} rows")
    if held_out["rows"]:
        there = list(held_out["explained_variance"].values())[-1]
        say(f"of {held_out['rows']:,} held-out rows they carry {there:.1%} (the mean alone: 0 %)")
    for name, direction in space.directions.items():
        auc = "-" if direction.auc is None else f"{direction.auc:.3f}"
        say(f"  {name:<16} held-out AUC {auc}  1 sd = {direction.sd:.2f}")
    say(f"digest {space.digest[:16]}; next: w2w sample {out} --count 8 --out points")

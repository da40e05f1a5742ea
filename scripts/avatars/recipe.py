"""Make the demo's assets: `python scripts/avatars/recipe.py --config gpu --work work --out assets all`.

Each stage saves what it made under `--work`, stops after `--minutes`, and goes on when run again. The last stage writes
the assets into a new folder; only with `--into-package` does it replace those that the package ships.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import config as configs  # noqa: E402
from resume import OutOfTime  # noqa: E402

STAGES = ("render", "judge", "vae", "base", "population", "evaluate", "assets")


@click.command()
@click.argument("stages", nargs=-1, required=True, type=click.Choice((*STAGES, "all")))
@click.option("--config", "name", type=click.Choice(sorted(configs.CONFIGS)), default="gpu", show_default=True)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path("work"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="New folder of the assets.")
@click.option("--into-package", is_flag=True, help="Replace the package's own assets instead.")
@click.option("--minutes", default=9.5, show_default=True, help="Stop a stage after so long, to go on later.")
def main(
    stages: tuple[str, ...], name: str, work: Path, out: Path | None, into_package: bool, minutes: float
) -> None:  # fmt: skip
    """Run STAGES of the avatars recipe, or `all` of them."""
    if {"assets", "all"} & {*stages} and (out is None) != into_package:
        raise click.UsageError("the stage assets needs one of --out FOLDER and --into-package")
    if out is not None and out.exists():
        raise click.UsageError(f"{out} already exists; choose another folder")
    import assets_stage
    import base_stage
    import evaluate_stage
    import images_stage
    import population_stage

    work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    run = {
        "render": images_stage.render,
        "judge": images_stage.judge,
        "vae": base_stage.vae,
        "base": base_stage.base,
        "population": population_stage.population,
        "evaluate": evaluate_stage.evaluate,
        "assets": partial(assets_stage.assets, folder=out or assets_stage.SHIPPED),
    }
    for stage in STAGES if "all" in stages else stages:
        try:
            run[stage](configs.CONFIGS[name], work, minutes)
        except OutOfTime as stop:
            raise click.ClickException(str(stop)) from None


if __name__ == "__main__":
    main()

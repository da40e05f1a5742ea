"""The command `w2w fit-encoder`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.text import command
from .common import (
    FINITE,
    GUIDANCE,
    PROMPT,
    examples,
    given_settings,
    json_option,
    open_pipeline,
    out_option,
    space_argument,
)
from .output import print_json, say

if TYPE_CHECKING:
    from ..space import WeightSpace
    from ..space.encoder.encoder import Encoder

SMALL_SEED = click.IntRange(0, 2**31 - 1)


@click.command(
    "fit-encoder",
    epilog=examples(
        "w2w fit-encoder space --num-inference-steps 10 --out encoder.safetensors",
        "w2w fit-encoder space --minutes 20 --store",
        "w2w fit-encoder space --base my-base-model --out space-with-encoder",
    ),
)
@space_argument
@click.option("--base", help="Base model, if SPACE has none: a diffusers folder or org/name.")
@click.option(
    "--pictures", default=24_000, show_default=True, type=click.IntRange(2), help="Pictures to draw and learn from."
)
@click.option("--steps", default=5_000, show_default=True, type=click.IntRange(1), help="Training steps.")
@click.option("--batch-size", default=256, show_default=True, type=click.IntRange(2), help="Pictures per step.")
@click.option("--minutes", type=FINITE, help="Stop after this time, with what was drawn and trained by then.")
@click.option(
    "--prompt", "prompts", multiple=True, type=PROMPT,
    help='Prompt of the pictures. May be repeated.  [default: "sks person" in 60 contexts]',
)  # fmt: skip
@click.option("--k", type=click.IntRange(1), help="Components to predict.  [default: all, at most 1,000]")
@click.option("--width", default=32, show_default=True, type=click.IntRange(1, 256), help="Size of the network.")
@click.option("--seed", default=0, show_default=True, type=SMALL_SEED, help="The same seed gives the same encoder.")
@click.option(
    "--num-inference-steps",
    type=click.IntRange(1, 1000),
    help="Denoising steps of the pictures.  [default: what SPACE states]",
)
@click.option(
    "--guidance-scale",
    type=GUIDANCE,
    help="How closely the pictures follow the prompts.  [default: what SPACE states]",
)
@click.option("--store", is_flag=True, help="Store the encoder in SPACE itself.")
@out_option(
    "The encoder to write (.safetensors), or a folder for a copy of SPACE with the encoder in it.", required=False
)
@json_option
def fit_encoder(
    space: Path, base: str | None, prompts: tuple[str, ...], num_inference_steps: int | None,
    guidance_scale: float | None, store: bool, out: Path | None, force: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Fit a network that guesses a person's point of SPACE from one picture, as a start for `w2w invert`.

    It learns from pictures that the base model draws of points. A fit that was interrupted continues when the same
    command is repeated.
    """
    import shutil

    if store == (out is not None):
        raise click.UsageError("give either --out, or --store to store the encoder in SPACE")
    from ..models.encoder import fit_encoder as fit

    opened = _opened(space)
    _require_place(opened, out, force)
    pipe = open_pipeline(space, base)
    pipe.generation = {**pipe.generation, **given_settings(num_inference_steps, guidance_scale)}
    place = space if out is None else out
    work = place.with_name(f".{place.name}.w2w-encoder")
    encoder = fit(pipe, work=work, prompts=prompts, **settings)
    _write(opened, encoder, out, force)
    shutil.rmtree(work, ignore_errors=True)
    if as_json:
        print_json({"path": str(place), "digest": encoder.digest, "evidence": encoder.evidence})
        return
    _report(encoder, space, out)


def _opened(space: Path) -> WeightSpace:
    from ..space import WeightSpace

    return WeightSpace.from_pretrained(space)


def _require_place(space: WeightSpace, out: Path | None, force: bool) -> None:
    """Raise before the work if its result could not be written."""
    from ..space.additions import require_addable
    from ..space.encoder.encoder import FILE, SUFFIX
    from ..space.storage import space_files
    from ..store.atomic import require_output

    if out is None:
        require_addable(space, FILE, overwrite=force)
    else:
        require_output(out, overwrite=force, own=None if out.suffix == SUFFIX else space_files)


def _write(space: WeightSpace, encoder: Encoder, out: Path | None, force: bool) -> None:
    from ..space.encoder.encoder import SUFFIX
    from ..space.resaving import resave

    if out is None:
        space.add_encoder(encoder, overwrite=force)
    elif out.suffix == SUFFIX:
        encoder.save(out, overwrite=force)
    else:
        space.encoder = encoder
        resave(space, out, overwrite=force)


def _report(encoder: Encoder, space: Path, out: Path | None) -> None:
    found, recipe = encoder.evidence, encoder.recipe
    say(
        f"{out or space}: fitted on {recipe['pictures']:,} pictures in {recipe['steps']:,} steps; cosine of the guess "
        f"with the point {found['cosine']:.2f} for pictures of {found['people']} {found['of']} (of other people: "
        f"{found['cosine_shuffled']:.2f})"
    )
    say(
        f"the person's own point is the nearest in {found['nearest']:.0%} of pictures (by chance "
        f"{found['nearest_chance']:.0%}); {found['explained_variance']:.0%} of the points' variance (the mean: 0 %)"
    )
    where, more = (out or space, ()) if out is None or not out.suffix else (space, ("--encoder", out))
    options = ("--start", "encoded", "--steps", 40, *more, "--out", "points")
    say(f"next: {command('w2w invert', where, 'picture.png', options=options)}")

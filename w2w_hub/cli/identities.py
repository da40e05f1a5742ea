"""Commands `w2w sample`, `edit` and `invert`."""

from __future__ import annotations

from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.text import command, counted, files_of
from .common import (
    FINITE,
    PROMPT,
    SEED,
    StrengthType,
    examples,
    json_option,
    open_pipeline,
    out_option,
    space_argument,
)
from .edits import ValueType, edit_options, factor_option, layer_names, once, set_options
from .output import print_json, say
from .rows import find_identity, people_option, say_which

if TYPE_CHECKING:
    from ..store.replacing import OwnFiles

KINDS = ("json", "safetensors")
METHODS = ("population", "neighbors", "gaussian")  # w2w_hub.space.sampling.METHODS, without importing NumPy for --help
kind_option = click.option("--kind", type=click.Choice(KINDS), default="json", show_default=True, help="File format.")


# ---------------------------------------------------------------- points
@click.command(
    epilog=examples(
        "w2w sample space --count 8 --seed 0 --out points",
        "w2w sample space --attribute Bald=true --attribute facial_hair=BEARD_LIGHT --out points",
        "w2w sample space --method gaussian --out points",
    )
)
@space_argument
@click.option("--count", "-n", type=click.IntRange(1), default=1, show_default=True, help="Points to sample.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="The same seed gives the same points.")
@click.option(
    "--truncation", default=1.0, show_default=True, type=FINITE, help="Factor of the spread: below 1, nearer the mean."
)
@click.option(
    "--attribute",
    "wanted",
    multiple=True,
    type=ValueType(),
    metavar="ATTRIBUTE=VALUE",
    help="An attribute of all points: true or false, a level, or a number. May be repeated.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Through the population model, near the mean of similar rows (needs no labels), or Gaussian coefficients as "
    "in the paper.  [default: the first that SPACE has the data for]",
)
@kind_option
@out_option("New folder for the points.")
@json_option
def sample(
    space: Path, count: int, seed: int, truncation: float, wanted: tuple[tuple[str, str], ...], method: str | None,
    kind: str, out: Path, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Sample new identities from a weight space, each with the most similar row of the dataset."""
    from ..space import WeightSpace
    from ..space.points import save_point
    from ..store.atomic import new_folder, require_output

    own, attributes = _points_named("sample-*"), once(wanted, "give one value")
    require_output(out, overwrite=force, own=own)
    opened = WeightSpace.from_pretrained(space)
    points = opened.sample(count, seed, truncation, attributes=attributes or None, method=method)
    names = [f"sample-{i:03d}.{kind}" for i in range(count)]
    with new_folder(out, overwrite=force, own=own) as folder:
        for name, point in zip(names, points, strict=True):
            save_point(point, folder / name)
    rows: list[dict[str, Any]] = []
    for name, point in zip(names, points, strict=True):
        found = {"point": str(out / name)}
        if near := point.history.get("nearest"):
            found |= {"nearest": near["row"], "cosine": near["cosine"]}
        rows.append(found | {key: point.history[key] for key in ("method", "attributes") if key in point.history})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        near = f"  nearest row {row['nearest']} (cosine {row['cosine']:.2f})" if "nearest" in row else ""
        say(f"{row['point']}{near}")
    say(f"next: {_render_command(space, files_of(out, f'*.{kind}'), into='people.png')}")


@click.command(
    epilog=examples(
        "w2w edit space person-0010 --set Full_Beard=true --set hair_color=BLACK --out black.json",
        "w2w edit space person-0010 Full_Beard=+4.5 --out bearded.json",
        "w2w edit space person-0010 Full_Beard=1 --unit typical --out bearded.json",
        "w2w edit space person-0010 Dark_Skin=+4.5 --layers up --out dark-lora",
        "w2w edit space points/sample-000.json Wearing_Hat=+4.5 --preserve Eyeglasses --out hat.json",
    )
)
@space_argument
@click.argument("identity")
@click.argument("strengths", nargs=-1, type=StrengthType(), metavar="[ATTRIBUTE=STRENGTH]...")
@set_options
@factor_option
@edit_options
@people_option
@out_option("The point to write (.json or .safetensors); without a suffix, the folder of a LoRA, with all weights.")
@json_option
def edit(
    space: Path, identity: str, strengths: tuple[tuple[str, float], ...], wanted: tuple[tuple[str, str], ...],
    factor: float | None, unit: str, layers: tuple[str, ...], preserve: tuple[str, ...], people: Path | None, out: Path,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Edit IDENTITY: set attributes with --set, or push along them by a STRENGTH.

    A set reads the person's own attributes, and adds what the population changes with the wanted ones. A push adds the
    same step to everybody; its unit is one standard deviation of the population.
    """
    from ..space import WeightSpace
    from ..space.edits import changed_attributes
    from ..space.identity import edited
    from ..space.keeping import require_identity_output, save_identity
    from ..space.layers import block_shares

    if not strengths and not wanted:
        raise click.UsageError("give STRENGTHS such as Beard=+2, or --set ATTRIBUTE=VALUE")
    pushes, values = once(strengths, "give the sum of its strengths"), once(wanted, "give one value")
    require_identity_output(out, overwrite=force)
    opened = WeightSpace.from_pretrained(space)
    before = find_identity(opened, identity, people)
    found = edited(
        opened, before, pushes, set=values or None, strength="typical" if factor is None else factor, unit=unit,
        layers=layer_names(layers), preserve=preserve,
    )  # fmt: skip
    changes = changed_attributes(opened, before.point, values) if values else {}
    save_identity(opened, found, out, overwrite=force)
    distance, farthest = opened.distance(found.point), opened.largest_distance
    if as_json:
        reads = {n: [round(opened.read(i.point, n), 4) for i in (before, found)] for n in opened.directions}
        where = block_shares(opened.coordinates, found.vector - before.vector)
        print_json({
            "point": str(out), "distance": distance, "farthest_row": farthest, "before_after": reads,
            "set": {name: list(pair) for name, pair in changes.items()},
            "layers": {block: round(share, 4) for block, share in where.items()},
        })  # fmt: skip
        return
    say_which([identity], [before])
    for name, (old, new) in changes.items():
        say(f"{name}: {old} -> {new}" if old != new else f"{name}: {old} already")
    say(f"{out}: {distance:.2f} standard deviations from the mean (1 is typical)")
    if farthest is not None and distance > farthest:
        say(f"this leaves the population: no fitted row is farther than {farthest:.2f}; use a smaller strength")
    say(f"next: {_render_command(space, identity, out, into='before-after.png', people=people)}")


@click.command(
    epilog=examples(
        "w2w invert space picture.png --out points",
        "w2w invert space a.png b.png --together --out points",
        "w2w invert space picture.png --mask face.png --restarts 3 --out points",
        "w2w invert space picture.png --start encoded --encoder encoder.safetensors --steps 40 --out points",
    )
)
@space_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--together", is_flag=True, help="All pictures show one person: find a single point.")
@click.option(
    "--mask",
    "masks",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Mask of a picture, one for each: only white pixels enter the loss.",
)
@click.option("--prompt", default="sks person", show_default=True, type=PROMPT, help="What the pictures show.")
@click.option(
    "--start",
    "starts",
    multiple=True,
    default=("mean",),
    show_default=True,
    metavar="POINT",
    help="Start from a saved point, a row's id, an adapter, or encoded: the guess of an encoder (w2w fit-encoder). One "
    "for all people, or one for each.",
)
@click.option(
    "--encoder", type=click.Path(path_type=Path), help="Encoder for --start encoded, instead of the one in SPACE."
)
@click.option(
    "--num-steps", "--steps", "steps", default=400, show_default=True, type=click.IntRange(1), help="Descent steps."
)
@click.option("--learning-rate", default=0.1, show_default=True, type=FINITE, help="Size of a step.")
@click.option("--prior", default=0.0, show_default=True, type=FINITE, help="Pull towards the population's mean.")
@click.option(
    "--tolerance",
    default=0.0,
    show_default=True,
    type=FINITE,
    help="Stop early when the mean loss fell by less than this fraction in 50 steps; 0 never stops early.",
)
@click.option("--restarts", default=1, show_default=True, type=click.IntRange(1), help="Optimizations; best is kept.")
@click.option("--k", type=click.IntRange(1), help="Components to use; all by default.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of noises and timesteps.")
@kind_option
@out_option("New folder for the points.")
@json_option
def invert(
    space: Path, images: tuple[Path, ...], together: bool, masks: tuple[Path, ...], prompt: str,
    starts: tuple[str, ...], encoder: Path | None, steps: int, learning_rate: float, prior: float, tolerance: float,
    restarts: int, k: int | None, seed: int, kind: str, out: Path, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find the point of SPACE that reproduces the person in each picture."""
    from ..errors import InvalidInputError
    from ..models.pictures import open_mask, open_picture
    from ..space.encoder.encoder import Encoder
    from ..space.keeping import distinct
    from ..space.points import save_point
    from ..store.atomic import new_folder, require_output

    stems = distinct([path.stem for path in (images[:1] if together else images)])
    own = _points_named(*map(escape, stems))
    require_output(out, overwrite=force, own=own)
    pictures = [open_picture(path) for path in images]
    if masks and len(masks) != len(images):
        raise InvalidInputError(
            f"{counted(len(images), 'picture needs', 'pictures need')} as many masks, not {len(masks)}"
        )
    opened = [open_mask(path) for path in masks]
    people = [pictures] if together else [[picture] for picture in pictures]
    kept = None if not masks else [opened] if together else [[mask] for mask in opened]
    loaded = None if encoder is None else Encoder.load(encoder)
    pipe = open_pipeline(space)
    if loaded is not None:
        pipe.space.encoder = loaded
    found = pipe.invert(
        people, mask=kept, prompt=prompt, start=list(starts), num_steps=steps, learning_rate=learning_rate, prior=prior,
        tolerance=tolerance, restarts=restarts, k=k, seed=seed,
    )  # fmt: skip
    names = [f"{stem}.{kind}" for stem in stems]
    with new_folder(out, overwrite=force, own=own) as folder:
        for name, inversion in zip(names, found, strict=True):
            save_point(inversion.point, folder / name)
    rows = [
        {"point": str(out / name), "steps": len(inversion.losses), "losses": [round(x, 6) for x in inversion.losses]}
        for name, inversion in zip(names, found, strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    for name, inversion in zip(names, found, strict=True):
        say(f"{out / name}  loss {inversion.losses[0]:.4f} -> {inversion.losses[-1]:.4f}")
    say(f"next: {_render_command(space, files_of(out, f'*.{kind}'), into='inverted.png')}")


def _points_named(*patterns: str) -> OwnFiles:
    """Recognize saved points of these names, so that no other point in a folder is lost when it is replaced."""
    from ..space.points import POINT_FILES
    from ..store.replacing import files_named, files_of_all

    return files_of_all(POINT_FILES, files_named(*(f"{pattern}.{kind}" for pattern in patterns for kind in KINDS)))


def _render_command(space: Path, *identities: object, into: str, people: Path | None = None) -> str:
    """Return the command that renders identities."""
    more = () if people is None else ("--dataset", people)
    return command("w2w render", space, *identities, options=(*more, "--out", into))

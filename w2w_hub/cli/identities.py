"""Commands `w2w sample`, `edit`, `invert`, `render`, `grid` and `export`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..common.text import command, counted, few, files_of
from .common import (
    FINITE,
    PROMPT,
    SEED,
    StrengthType,
    WriterChoice,
    examples,
    generation_options,
    given_settings,
    json_option,
    open_pipeline,
    out_option,
)
from .output import print_json, say
from .rows import captions, find_identities, find_identity, people_option, say_which

if TYPE_CHECKING:
    from ..store.replacing import OwnFiles

F = TypeVar("F", bound=Callable[..., Any])
KINDS = ("json", "safetensors")
space_argument = click.argument("space", type=click.Path(path_type=Path))
kind_option = click.option("--kind", type=click.Choice(KINDS), default="json", show_default=True, help="File format.")
preserve_option = click.option(
    "--preserve", multiple=True, metavar="ATTRIBUTE", help="Attribute whose score must not change. May be repeated."
)


def picture_options(function: F) -> F:
    """Add the options of commands that generate pictures."""
    for option in (
        click.option("--scale", default=2, show_default=True, type=click.IntRange(1, 8), help="Enlargement factor."),
        generation_options(".  [default: what SPACE states, or else its pipeline's]"),
        click.option("--seed", "seeds", multiple=True, type=SEED, help="May be given several times.  [default: 0]"),
        click.option(
            "--prompt", "prompts", multiple=True, type=PROMPT, help="May be given several times.  [default: sks person]"
        ),
    ):
        function = option(function)
    return function


# ---------------------------------------------------------------- points
@click.command(epilog=examples("w2w sample space --count 8 --seed 0 --out points"))
@space_argument
@click.option("--count", "-n", type=click.IntRange(1), default=1, show_default=True, help="Points to sample.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="The same seed gives the same points.")
@click.option(
    "--truncation", default=1.0, show_default=True, type=FINITE, help="Factor of the spread: below 1, nearer the mean."
)
@kind_option
@out_option("New folder for the points.")
@json_option
def sample(
    space: Path, count: int, seed: int, truncation: float, kind: str, out: Path, force: bool, as_json: bool
) -> None:
    """Sample new identities from a weight space."""
    from ..space import WeightSpace
    from ..space.points import save_point
    from ..store.atomic import new_folder, require_output

    own = _points_named("sample-*")
    require_output(out, overwrite=force, own=own)
    opened = WeightSpace.from_pretrained(space)
    points = opened.sample(count, seed, truncation)
    names = [f"sample-{i:03d}.{kind}" for i in range(count)]
    with new_folder(out, overwrite=force, own=own) as folder:
        for name, point in zip(names, points, strict=True):
            save_point(point, folder / name)
    rows: list[dict[str, Any]] = [{"point": str(out / file)} for file in names]
    if opened.population is not None:
        for row, point in zip(rows, points, strict=True):
            [(name, cosine)] = opened.nearest(point)
            row |= {"nearest": name, "cosine": round(cosine, 4)}
    if as_json:
        print_json(rows)
        return
    for row in rows:
        near = f"  nearest row {row['nearest']} (cosine {row['cosine']:.2f})" if "nearest" in row else ""
        say(f"{row['point']}{near}")
    say(f"next: {_render_command(space, files_of(out, f'*.{kind}'), into='people.png')}")


@click.command(
    epilog=examples(
        "w2w edit space person-0010 Full_Beard=+4.5 --out bearded.json",
        "w2w edit space person-0005 Sunglasses=-4.5 --out bare.json",
        "w2w edit space points/sample-000.json Wearing_Hat=+4.5 --preserve Eyeglasses --out hat.json",
    )
)
@space_argument
@click.argument("identity")
@click.argument("strengths", nargs=-1, required=True, type=StrengthType())
@preserve_option
@people_option
@out_option("The point to write (.json or .safetensors); without a suffix, the folder of a LoRA, with all weights.")
@json_option
def edit(
    space: Path, identity: str, strengths: tuple[tuple[str, float], ...], preserve: tuple[str, ...],
    people: Path | None, out: Path, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Move IDENTITY along attributes; one unit is one standard deviation of the population."""
    from ..space import WeightSpace
    from ..space.identity import edited
    from ..space.keeping import require_identity_output, save_identity

    twice = [name for name, times in Counter(name for name, _ in strengths).items() if times > 1]
    if twice:
        raise click.UsageError(f"{twice[0]} is given twice; give the sum of its strengths")
    require_identity_output(out, overwrite=force)
    opened = WeightSpace.from_pretrained(space)
    before = find_identity(opened, identity, people)
    found = edited(opened, before, dict(strengths), preserve=preserve)
    save_identity(opened, found, out, overwrite=force)
    distance, farthest = opened.distance(found.point), opened.largest_distance
    if as_json:
        reads = {n: [round(opened.read(i.point, n), 4) for i in (before, found)] for n in opened.directions}
        print_json({"point": str(out), "distance": distance, "farthest_row": farthest, "before_after": reads})
        return
    say_which([identity], [before])
    say(f"{out}: {distance:.2f} standard deviations from the mean (1 is typical)")
    if farthest is not None and distance > farthest:
        say(f"this leaves the population: no fitted row is farther than {farthest:.2f}; use a smaller strength")
    say(f"next: {_render_command(space, identity, out, into='before-after.png', people=people)}")


@click.command(
    epilog=examples(
        "w2w invert space picture.png --out points",
        "w2w invert space a.png b.png --together --out points",
        "w2w invert space picture.png --mask face.png --restarts 3 --out points",
        "w2w invert space picture.png --start points/sample-000.json --steps 100 --out points",
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


# ---------------------------------------------------------------- pictures
@click.command(
    epilog=examples(
        "w2w render space person-0010 bearded.json --out sheet.png",
        'w2w render space points/*.json --prompt "sks person smiling" --seed 1 --seed 2 --out sheet.png',
    )
)
@space_argument
@click.argument("identities", nargs=-1, required=True)
@people_option
@picture_options
@click.option("--preview", is_flag=True, help="Also show the sheet on the card of SPACE.")
@out_option("The contact sheet to write (.png, .jpg or .webp).")
def render(
    space: Path, identities: tuple[str, ...], people: Path | None, prompts: tuple[str, ...], seeds: tuple[int, ...],
    num_inference_steps: int | None, guidance_scale: float | None, scale: int, preview: bool, out: Path, force: bool,
) -> None:  # fmt: skip
    """Render IDENTITIES (points, row ids, adapters, or "base") on a contact sheet, one row each.

    A row's id is its point in SPACE; with --dataset it is the row's own LoRA.
    """
    settings = given_settings(num_inference_steps, guidance_scale)
    _render_cases(space, identities, people, prompts, seeds, settings, scale, out, force, preview)


@click.command(
    epilog=examples(
        "w2w grid space person-0001 person-0007 --attribute Full_Beard --strengths=0,1.5,3,4.5 --out beards.png",
        "w2w grid space person-0007 --attribute Wearing_Hat --from 0 --to 4.5 --count 10 --out slider.gif",
        'w2w grid space person-0001 person-0007 --prompt "sks person smiling" --prompt "sks person" --out prompts.png',
    )
)
@space_argument
@click.argument("identities", nargs=-1, required=True)
@click.option("--attribute", help="Edit this attribute: one column per strength. Without it: per prompt and seed.")
@click.option("--strengths", help="Comma-separated, in standard deviations.  [default: from --from to --to]")
@click.option("--from", "low", default=-3.0, show_default=True, type=FINITE, help="The first strength.")
@click.option("--to", "high", default=6.0, show_default=True, type=FINITE, help="The last strength.")
@click.option("--count", default=4, show_default=True, type=click.IntRange(2), help="Number of strengths.")
@preserve_option
@click.option("--start", default=0.0, show_default=True, type=FINITE, help="Fraction of steps before the edit starts.")
@people_option
@picture_options
@out_option("The sheet to write (.png, .jpg or .webp), or with --attribute an animation (.gif).")
def grid(
    space: Path, identities: tuple[str, ...], attribute: str | None, strengths: str | None, low: float, high: float,
    count: int, preserve: tuple[str, ...], start: float, people: Path | None, prompts: tuple[str, ...],
    seeds: tuple[int, ...], num_inference_steps: int | None, guidance_scale: float | None, scale: int, out: Path,
    force: bool,
) -> None:  # fmt: skip
    """Render IDENTITIES in a grid: over the strengths of an edit, or over prompts."""
    from ..models.pictures import animation, contact_sheet, picture_kind, save_picture
    from ..store.atomic import require_output

    moving, settings = picture_kind(out) == "GIF", given_settings(num_inference_steps, guidance_scale)
    if attribute is None:
        source = click.get_current_context().get_parameter_source
        own = ("strengths", "low", "high", "count", "preserve", "start")
        if moving or any(source(name) is ParameterSource.COMMANDLINE for name in own):
            raise click.UsageError(
                "an animation, --strengths, --from, --to, --count, --preserve and --start need an --attribute"
            )
        _render_cases(space, identities, people, prompts, seeds, settings, scale, out, force)
        return
    if len(prompts) > 1 or len(seeds) > 1:
        raise click.UsageError("with --attribute there is one prompt and one seed: the columns are strengths")
    values = _strengths(strengths, low, high, count)
    require_output(out, overwrite=force)
    from ..models.pipelines import strength_grid  # imports torch

    pipe = open_pipeline(space)
    case = ((prompts or ("sks person",))[0], (seeds or (0,))[0])
    chosen = find_identities(pipe.space, identities, people)
    pictures = strength_grid(pipe, chosen, attribute, values, case, preserve=preserve, start=start, **settings)
    rows = captions(identities, chosen)
    columns = [f"{attribute} {value:+.3g}" if value else "as it is" for value in values]
    made: Any = animation if moving else contact_sheet
    save_picture(made(pictures, rows, columns, scale=scale), out, overwrite=force)
    say_which(identities, chosen)
    say(f"{out}: {counted(len(rows), 'identity')} x {counted(len(columns), 'strength')}")


def _strengths(text: str | None, low: float, high: float, count: int) -> list[float]:
    import math

    if text is None:
        values = [low + (high - low) * i / (count - 1) for i in range(count)]
    else:
        try:
            values = [float(word) for word in text.split(",")]
        except ValueError:
            raise click.UsageError(f"--strengths {text!r} is not a list of numbers such as -3,0,3") from None
    if not all(map(math.isfinite, values)):
        raise click.UsageError("strengths must be finite numbers")
    return values


def _render_cases(
    space: Path, identities: tuple[str, ...], people: Path | None, prompts: tuple[str, ...], seeds: tuple[int, ...],
    settings: dict[str, Any], scale: int, out: Path, force: bool, preview: bool = False,
) -> None:  # fmt: skip
    """Write a sheet of identities by (prompt, seed)."""
    from ..models.pictures import contact_sheet, picture_kind, save_picture
    from ..space.previews import preview_name
    from ..store.atomic import require_output

    if picture_kind(out) != "PNG" and preview:
        raise click.UsageError("a preview is a .png; give --out such a name")
    require_output(out, overwrite=force)
    pipe = open_pipeline(space)
    if preview:
        preview_name(pipe.space, out, overwrite=force)  # raise before anything is drawn
    cases = [(prompt, seed) for prompt in prompts or ("sks person",) for seed in seeds or (0,)]
    named = [name for name in identities if name != "base"]
    found = find_identities(pipe.space, named, people)
    left = iter(found)
    chosen = [None if name == "base" else next(left) for name in identities]
    pictures = pipe.render(chosen, cases, **settings)
    rows, columns = captions(identities, chosen), [f"{p} #{s}" for p, s in cases]
    save_picture(contact_sheet(pictures, rows, columns, scale=scale), out, overwrite=force)
    say_which(named, found)
    say(f"{out}: {counted(len(identities), 'identity')} x {counted(len(cases), 'picture')}")
    if preview:
        from ..store.cards import is_rendered, read_card

        name = pipe.space.add_preview(out, overwrite=force)
        edited = "" if is_rendered(read_card(space)) else "; its card was edited by hand, add the picture there"
        say(f"{space}: {name} is {'added' if edited else 'on its card'}{edited}")


# ---------------------------------------------------------------- export
@click.command(
    epilog=examples(
        "w2w export space bearded.json --out bearded-lora",
        "w2w export space person-0001 --dialect peft --dialect diffusers --dialect kohya --out lora",
        "w2w export space person-0001 person-0002 --dataset people --out loras",
    )
)
@space_argument
@click.argument("identities", nargs=-1, required=True, metavar="IDENTITY...")
@click.option(
    "--dialect", "dialects", multiple=True, type=WriterChoice(),
    help="May be given several times.  [default: peft and diffusers]",
)  # fmt: skip
@people_option
@out_option("The folder to make; for several identities, with one folder each in it.")
def export(
    space: Path, identities: tuple[str, ...], dialects: tuple[str, ...], people: Path | None, out: Path, force: bool
) -> None:
    """Write IDENTITY as a LoRA that stock PEFT, diffusers and other tools open, or several as one folder each.

    A row's id is its point in SPACE; with --dataset it is the row's own LoRA.
    """
    from ..dialects import writers
    from ..dialects.base_model import mixed_note
    from ..dialects.generation import shown_settings
    from ..dialects.writing import DEFAULT_DIALECTS, adapter_files
    from ..space import WeightSpace
    from ..space.keeping import export_identities, export_identity, exported_files, folder_names
    from ..store.atomic import require_output

    opened = WeightSpace.from_pretrained(space)
    found = find_identities(opened, identities, people)
    names = [n if i.point.history.get("row") == n else Path(n).stem for n, i in zip(identities, found, strict=True)]
    require_output(out, overwrite=force, own=adapter_files if len(found) == 1 else exported_files(folder_names(names)))
    chosen = dialects or DEFAULT_DIALECTS
    if len(found) == 1:
        made = [export_identity(opened, found[0], out, dialects=chosen, overwrite=force)]
    else:
        made = export_identities(opened, found, out, names, dialects=chosen, overwrite=force)
    say_which(identities, found)
    # a folder with several dialects is not what every one of them loads
    loadable = [
        form for name in chosen if (form := writers()[name]).load_hint and (form.folder_use or len(chosen) == 1)
    ]
    shown = [form.load_hint.format(path=str(made[0])) for form in loadable]
    if len(made) > 1:
        say(f"{out}: {counted(len(made), 'folder')}, {few([folder.name for folder in made])}")
    say(f"{made[0]}: {' or '.join(shown) if shown else ', '.join(p.name for p in sorted(made[0].iterdir()))}")
    if opened.generation:
        say(f"generate with {shown_settings(opened.generation)}, as {space} states")
    if note := mixed_note(opened.path):
        say(f"w2w: note: {note}")

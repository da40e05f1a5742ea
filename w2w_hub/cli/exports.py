"""Commands `w2w export` and `export-slider`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..common.text import counted, few
from .common import (
    PROMPT,
    FiniteType,
    WriterChoice,
    examples,
    json_option,
    open_pipeline,
    out_option,
    space_argument,
)
from .edits import edit_options, layer_names, once, set_options
from .output import print_json, say
from .rows import find_identities, find_identity, people_option, say_which

if TYPE_CHECKING:
    from ..space.identity import Identity


@click.command(
    epilog=examples(
        "w2w export space bearded.json --out bearded-lora",
        "w2w export space person-0001 --dialect peft --dialect diffusers --dialect kohya --out lora",
        "w2w export space person-0001 person-0002 --dataset people --out loras",
        'w2w export space person-0001 --draw --trigger "sks person" --out lora-with-picture',
    )
)
@space_argument
@click.argument("identities", nargs=-1, required=True, metavar="IDENTITY...")
@click.option(
    "--dialect", "--to", "dialects", multiple=True, type=WriterChoice(),
    help="Dialect to write. May be repeated.  [default: peft and diffusers]",
)  # fmt: skip
@click.option(
    "--trigger",
    type=PROMPT,
    metavar="PHRASE",
    help="The phrase in a prompt that shows the person, for the header.  [default: what SPACE states of its training]",
)
@click.option(
    "--thumbnail",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="A picture for the header of one LoRA, with which other programs show it.",
)
@click.option("--draw", is_flag=True, help="Draw the picture of each with the base model of SPACE.")
@people_option
@out_option("The folder to make; for several identities, with one folder each in it.")
def export(
    space: Path, identities: tuple[str, ...], dialects: tuple[str, ...], trigger: str | None, thumbnail: Path | None,
    draw: bool, people: Path | None, out: Path, force: bool,
) -> None:  # fmt: skip
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

    if thumbnail is not None and (draw or len(identities) > 1):
        raise click.UsageError("--thumbnail is of one IDENTITY, and not beside --draw")
    shown = None
    if thumbnail is not None:
        from ..space.thumbnails import thumbnail_of  # needs Pillow

        shown = [thumbnail_of(thumbnail)]
    opened = WeightSpace.from_pretrained(space)
    found = find_identities(opened, identities, people)
    names = [n if i.point.history.get("row") == n else Path(n).stem for n, i in zip(identities, found, strict=True)]
    require_output(out, overwrite=force, own=adapter_files if len(found) == 1 else exported_files(folder_names(names)))
    chosen = dialects or DEFAULT_DIALECTS
    if draw:
        shown = _drawn(space, found, trigger)
    if len(found) == 1:
        picture = None if shown is None else shown[0]
        made = [
            export_identity(opened, found[0], out, trigger=trigger, thumbnail=picture, dialects=chosen, overwrite=force)
        ]
    else:
        made = export_identities(
            opened, found, out, names, trigger=trigger, thumbnails=shown, dialects=chosen, overwrite=force
        )
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


def _drawn(space: Path, people: Sequence[Identity], trigger: str | None) -> list[str]:
    """Draw the thumbnail of each identity with the space's base model."""
    from ..models.pipelines.thumbnails import draw_thumbnails

    return draw_thumbnails(open_pipeline(space), people, trigger)


@click.command(
    "export-slider",
    epilog=examples(
        "w2w export-slider space --attribute Full_Beard --to kohya --out beard.safetensors",
        "w2w export-slider space --attribute Full_Beard --at person-0001 --to diffusers --out slider.safetensors",
        "w2w export-slider space --set hair_color=RED --at person-0001 --to peft --out red-hair",
    ),
)
@space_argument
@click.option("--attribute", help="The direction to push along.")
@set_options
@click.option(
    "--at", "person", metavar="PERSON",
    help="The row, saved point or adapter at which the change is taken.  [default: the mean of the population]",
)  # fmt: skip
@people_option
@click.option("--to", "--dialect", "dialect", type=WriterChoice(), required=True, help="The dialect to write.")
@click.option(
    "--exact-at", type=FiniteType(-100, 100),
    help="Weight at which the slider is exactly the edit.  [default: the recommended one]",
)  # fmt: skip
@edit_options
@out_option("The LoRA to write: FILE.safetensors, or a folder.")
@json_option
def export_slider(
    space: Path, attribute: str | None, wanted: tuple[tuple[str, str], ...], person: str | None, people: Path | None,
    dialect: str, exact_at: float | None, unit: str, layers: tuple[str, ...], preserve: tuple[str, ...], out: Path,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write an edit of SPACE as a slider LoRA: a LoRA for any program whose weight is the strength of the edit.

    Use it beside a person's LoRA. How many standard deviations a weight of 1 is, the recommended weight and the range
    are in its header.
    """
    from ..dialects.writing import require_writable, writer_of
    from ..space import WeightSpace, make_slider

    values = once(wanted, "give one value")
    if (attribute is None) == (not values):
        raise click.UsageError("give either --attribute, a push, or --set")
    require_writable(out, dialect, overwrite=force)
    opened = WeightSpace.from_pretrained(space)
    at = None if person is None else find_identity(opened, person, people)
    slider = make_slider(
        opened, attribute or values, at=at, unit=unit, exact_at=exact_at, layers=layer_names(layers), preserve=preserve
    )
    slider.save(out, dialect, overwrite=force)
    errors = {weight: slider.error(weight) for weight in dict.fromkeys((1.0, slider.recommended, slider.high))}
    if as_json:
        print_json(
            {"path": str(out), "name": slider.name, "unit": slider.unit, "recommended": slider.recommended,
             "range": [slider.low, slider.high], "measured": slider.measured, "exact_at": slider.exact_at,
             "at": slider.at, "error": {f"{weight:g}": error for weight, error in errors.items()}}
        )  # fmt: skip
        return
    how = "" if slider.measured else ", not measured"
    say(f"{out}: weight 1 is {slider.unit}")
    say(f"recommended {slider.recommended:.3g}, range {slider.low:.3g} to {slider.high:.3g}{how}; made at {slider.at}")
    off = ", ".join(f"{100 * error:.0f} % at {weight:.3g}" for weight, error in errors.items() if error)
    say(f"exactly the edit at {slider.exact_at:.3g}{f'; dW is off by {off}' if off else ''}")
    if at is None:
        say("for everybody; for one person exactly, add: --at PERSON")
    say(f"load it beside a person: {writer_of(dialect).load_hint.format(path=str(out))}")

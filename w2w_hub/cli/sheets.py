"""Commands `w2w render` and `grid`: sheets of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..common.text import counted
from .common import (
    FINITE,
    case_options,
    complete_attributes,
    drawing_cases,
    examples,
    finite_numbers,
    generation_options,
    given_settings,
    open_pipeline,
    out_option,
    space_argument,
)
from .edits import edit_options, layer_names, once, set_options
from .output import say
from .rows import captions, find_identities, people_option, say_which

F = TypeVar("F", bound=Callable[..., Any])


def picture_options(function: F) -> F:
    """Add the options of commands that generate pictures."""
    for option in (
        click.option("--scale", default=2, show_default=True, type=click.IntRange(1, 8), help="Enlargement factor."),
        generation_options(".  [default: what SPACE states, or else its pipeline's]"),
        case_options,
    ):
        function = option(function)
    return function


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
        "w2w grid space person-0001 person-0007 --set hair_color=BLACK --out black.png",
        "w2w grid space person-0001 person-0007 --attribute Full_Beard --strengths=0,1.5,3,4.5 --out beards.png",
        "w2w grid space person-0007 --attribute Wearing_Hat --from 0 --to 4.5 --count 10 --out slider.gif",
        'w2w grid space person-0001 person-0007 --prompt "sks person smiling" --prompt "sks person" --out prompts.png',
    )
)
@space_argument
@click.argument("identities", nargs=-1, required=True)
@click.option(
    "--attribute", shell_complete=complete_attributes, help="Push along this attribute: one column per strength."
)
@set_options
@click.option(
    "--strengths",
    help="Comma-separated: of a push in its --unit, of --set as factors.  [default: from --from to --to]",
)
@click.option("--from", "low", type=FINITE, help="The first strength.  [default: -3; of --set 0]")
@click.option(
    "--to", "high", type=FINITE, help="The last strength.  [default: 6; of --set 1.5 times what SPACE recommends]"
)
@click.option("--count", default=4, show_default=True, type=click.IntRange(2), help="Number of strengths.")
@edit_options
@click.option("--start", default=0.0, show_default=True, type=FINITE, help="Fraction of steps before the edit starts.")
@people_option
@picture_options
@out_option("The sheet to write (.png, .jpg or .webp), or of an edit an animation (.gif).")
def grid(
    space: Path, identities: tuple[str, ...], attribute: str | None, wanted: tuple[tuple[str, str], ...],
    strengths: str | None, low: float | None, high: float | None, count: int, unit: str, layers: tuple[str, ...],
    preserve: tuple[str, ...], start: float, people: Path | None, prompts: tuple[str, ...], seeds: tuple[int, ...],
    num_inference_steps: int | None, guidance_scale: float | None, scale: int, out: Path, force: bool,
) -> None:  # fmt: skip
    """Render IDENTITIES in a grid: over the strengths of an edit, or without one over prompts and seeds."""
    from ..models.pictures import animation, contact_sheet, picture_kind, save_picture
    from ..store.atomic import require_output

    moving, settings = picture_kind(out) == "GIF", given_settings(num_inference_steps, guidance_scale)
    values = once(wanted, "give one value")
    if attribute is not None and values:
        raise click.UsageError("give --attribute, a push, or --set; w2w edit does both in one")
    if attribute is None and not values:
        source = click.get_current_context().get_parameter_source
        own = ("strengths", "low", "high", "count", "unit", "layers", "preserve", "start")
        if moving or any(source(name) is ParameterSource.COMMANDLINE for name in own):
            raise click.UsageError(
                "an animation, --strengths, --from, --to, --count, --unit, --layers, --preserve and --start need an "
                "--attribute or --set"
            )
        _render_cases(space, identities, people, prompts, seeds, settings, scale, out, force)
        return
    if len(prompts) > 1 or len(seeds) > 1:
        raise click.UsageError("an edit has one prompt and one seed: the columns are strengths")
    listed = None if strengths is None else finite_numbers(strengths, "--strengths")
    require_output(out, overwrite=force)
    from ..space import WeightSpace
    from ..space.edits import require_model

    opened = WeightSpace.from_pretrained(space)
    chosen = find_identities(opened, identities, people)
    pipe = open_pipeline(opened)
    if listed is None:
        first, last = (-3.0, 6.0) if not values else (0.0, 1.5 * require_model(pipe.space).strength)
        listed = _even(first if low is None else low, last if high is None else high, count)
    from ..models.pipelines import strength_grid  # imports torch

    case = drawing_cases(prompts, seeds)[0]
    pictures = strength_grid(
        pipe, chosen, attribute or values, listed, case, unit=unit, layers=layer_names(layers), preserve=preserve,
        start=start, **settings,
    )  # fmt: skip
    rows = captions(identities, chosen)
    if attribute is not None:
        columns = [f"{attribute} {value:+.3g}" if value else "as it is" for value in listed]
    else:
        named = ", ".join(f"{name} = {value}" for name, value in values.items())
        columns = [f"{named} x {value:.3g}" if value else "as it is" for value in listed]
    made: Any = animation if moving else contact_sheet
    save_picture(made(pictures, rows, columns, scale=scale), out, overwrite=force)
    say_which(identities, chosen)
    say(f"{out}: {counted(len(rows), 'identity')} x {counted(len(columns), 'strength')}")


def _even(low: float, high: float, count: int) -> list[float]:
    import math

    values = [low + (high - low) * i / (count - 1) for i in range(count)]
    if not all(map(math.isfinite, values)):
        raise click.UsageError("strengths must be finite numbers")
    return values


def _render_cases(
    space: Path, identities: tuple[str, ...], people: Path | None, prompts: tuple[str, ...], seeds: tuple[int, ...],
    settings: dict[str, Any], scale: int, out: Path, force: bool, preview: bool = False,
) -> None:  # fmt: skip
    """Write a sheet of identities by (prompt, seed)."""
    from ..models.pictures import contact_sheet, picture_kind, save_picture
    from ..space import WeightSpace
    from ..space.previews import preview_name
    from ..store.atomic import require_output

    if picture_kind(out) != "PNG" and preview:
        raise click.UsageError("a preview is a .png; give --out such a name")
    require_output(out, overwrite=force)
    opened = WeightSpace.from_pretrained(space)
    if preview:
        preview_name(opened, out, overwrite=force)  # raise before anything is drawn
    cases = drawing_cases(prompts, seeds)
    named = [name for name in identities if name != "base"]
    found = find_identities(opened, named, people)
    pipe = open_pipeline(opened)
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

"""Command `w2w export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..common.text import counted, few
from .common import PROMPT, WriterChoice, examples, open_pipeline, out_option, space_argument
from .output import say
from .rows import find_identities, people_option, say_which

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
    "--dialect", "dialects", multiple=True, type=WriterChoice(),
    help="May be given several times.  [default: peft and diffusers]",
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
    from ..space.thumbnails import thumbnail_of
    from ..store.atomic import require_output

    if thumbnail is not None and (draw or len(identities) > 1):
        raise click.UsageError("--thumbnail is of one IDENTITY, and not beside --draw")
    shown = None if thumbnail is None else [thumbnail_of(thumbnail)]
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

"""Command `w2w export`."""

from __future__ import annotations

from pathlib import Path

import click

from ..common.text import counted, few
from .common import WriterChoice, examples, out_option, space_argument
from .output import say
from .rows import find_identities, people_option, say_which


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

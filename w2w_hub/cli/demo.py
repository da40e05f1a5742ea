"""Command `w2w demo`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from ..common.text import files_of, quote
from .common import examples, out_option
from .output import say
from .signals import interrupted_status

_FILES = (
    "demo.json", "report.html", "metrics.json", "held-out.png", "samples.png", "samples-one-seed.png", "edits-*.png",
    "inversion.png", "export.png", "pictures/*.png", "points/edited.json", "points/*/*.json",
)  # fmt: skip


@click.command(epilog=examples("w2w demo --out w2w-demo", "w2w demo --out w2w-demo --resume"))
@out_option("The folder to make: dataset, weight space, contact sheets, report.html and metrics.json.")
@click.option("--resume", is_flag=True, help="Go on with a demo that was stopped: finished stages are kept.")
@click.option("--assets", type=click.Path(path_type=Path), hidden=True, help="Folder of another population.")
def demo(out: Path, force: bool, resume: bool, assets: Path | None) -> None:
    """Run the whole workflow on LoRAs of cartoon avatars; takes less than three minutes on a CPU.

    Finished stages are kept when the demo is stopped.
    """
    from ..common.extras import optional_imports
    from ..demo.stages import remove_demo, require_place
    from ..store.atomic import require_output

    if resume and force:
        raise click.UsageError("--resume keeps the finished stages and --force does them again; give one of them")
    # before the slow imports of torch and diffusers
    require_place(out, resume=resume, force=force)
    if force:
        require_output(out, overwrite=True, own=_demo_files)
    with optional_imports("demo"):
        import datasets  # noqa: F401

        from ..demo.run import run_demo
    if force:
        remove_demo(out, _demo_files)
    context = click.get_current_context()
    try:
        run_demo(out, assets, lambda text: say(*text.split("\n")), run_command, resume=resume)
    except (KeyboardInterrupt, click.Abort):
        context.exit(interrupted_status())


def run_command(words: Sequence[Any]) -> None:
    """Print and run one `w2w` command in this process; a list among its words is all files of a folder."""
    group = click.get_current_context().find_root().command
    assert isinstance(group, click.Group)
    say("$ " + " ".join(["w2w", *(files_of(w[0].parent, "*") if isinstance(w, list) else quote(w) for w in words)]))
    name, *given = [str(word) for each in words for word in (each if isinstance(each, list) else [each])]
    group.commands[name].main(given, prog_name=f"w2w {name}", standalone_mode=False)


def _demo_files(folder: Path) -> Iterable[str]:
    """Return the files in a folder that a demo makes, finished or not."""
    from ..dialects.writing import adapter_files
    from ..store.manifest import DATASET, SPACE
    from ..store.replacing import files_below, files_listed, files_named, files_of_any

    return files_of_any(
        files_named(*_FILES),
        files_below("dataset", files_listed(DATASET)),
        files_below("space", files_listed(SPACE)),
        files_below("exported", adapter_files),
        _unfinished,
    )(folder)


def _unfinished(folder: Path) -> list[str]:
    """Return what a killed demo leaves in hidden files and folders of the library's names."""
    from ..store.paths import list_files

    def is_hidden(part: str) -> bool:
        return part in (".cache", ".space.build") or (part.startswith(".") and ".w2w-" in part)

    return [name for name in list_files(folder) if any(map(is_hidden, name.split("/")))]

"""Command `w2w demo`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from ..common.text import files_of, quote
from .common import examples, out_option
from .output import say

_FILES = (
    "report.html", "metrics.json", "held-out.png", "samples.png", "samples-one-seed.png", "edits-*.png",
    "inversion.png", "export.png", "pictures/*.png", "points/edited.json", "points/*/*.json",
)  # fmt: skip


@click.command(epilog=examples("w2w demo --out w2w-demo"))
@out_option("The folder to make: dataset, weight space, contact sheets, report.html and metrics.json.")
@click.option("--assets", type=click.Path(path_type=Path), hidden=True, help="Folder of another population.")
def demo(out: Path, force: bool, assets: Path | None) -> None:
    """Run the whole workflow on LoRAs of cartoon avatars; takes less than three minutes on a CPU."""
    from ..common.extras import optional_imports
    from ..store.atomic import remove_output, require_output

    require_output(out, overwrite=force, own=_demo_files)  # before the slow imports of torch and diffusers
    with optional_imports("demo"):
        import datasets  # noqa: F401

        from ..demo.run import run_demo
    remove_output(out, _demo_files)

    group = click.get_current_context().parent
    assert group is not None
    assert isinstance(group.command, click.Group)
    commands = group.command.commands

    def run(words: Sequence[Any]) -> str:
        line = " ".join(["w2w", *(files_of(w[0].parent, "*") if isinstance(w, list) else quote(w) for w in words)])
        say(f"$ {line}")
        name, *given = [str(word) for each in words for word in (each if isinstance(each, list) else [each])]
        commands[name].main(given, prog_name=f"w2w {name}", standalone_mode=False)
        return line

    run_demo(out, assets, lambda text: say(*text.split("\n")), run)


def _demo_files(folder: Path) -> Iterable[str]:
    """Return the files in a folder that a demo makes."""
    from ..dialects.writing import adapter_files
    from ..store.manifest import DATASET, SPACE
    from ..store.replacing import files_below, files_listed, files_named, files_of_any

    return files_of_any(
        files_named(*_FILES),
        files_below("dataset", files_listed(DATASET)),
        files_below("space", files_listed(SPACE)),
        files_below("exported", adapter_files),
    )(folder)

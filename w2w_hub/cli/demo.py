"""Command `w2w demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..common.text import files_of, quote
from .common import examples, out_option
from .output import say


@click.command(epilog=examples("w2w demo --out w2w-demo"))
@out_option("The folder to make: dataset, weight space, contact sheets, report.html and metrics.json.")
@click.option("--assets", type=click.Path(path_type=Path), hidden=True, help="Folder of another population.")
def demo(out: Path, assets: Path | None) -> None:
    """Run the whole workflow on LoRAs of cartoon avatars; takes less than three minutes on a CPU."""
    from ..store.atomic import require_new

    require_new(out)  # before the slow imports of torch and diffusers
    from ..demo.run import run_demo

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

"""`w2w demo`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import examples, out_option
from .output import say


@click.command(epilog=examples("w2w demo --out w2w-demo"))
@out_option("The folder to make: dataset, weight space, contact sheets, report.html and metrics.json.")
@click.option("--assets", type=click.Path(path_type=Path), hidden=True, help="Another population than the shipped one.")
def demo(out: Path, assets: Path | None) -> None:
    """Everything once, on a shipped population of drawn people; under three minutes on a CPU."""
    from ..store.atomic import require_new

    require_new(out)  # said before the seconds that torch and diffusers take to import
    from ..demo.story import tell

    group = click.get_current_context().parent
    assert group is not None
    assert isinstance(group.command, click.Group)
    commands = group.command.commands

    def run(words: list[str]) -> None:
        commands[words[0]].main(words[1:], prog_name=f"w2w {words[0]}", standalone_mode=False)

    tell(out, assets, lambda text: say(*text.split("\n")), run)

"""Command `w2w demo`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..common.text import files_of, quote
from .common import examples, out_option
from .output import say


@click.command(
    epilog=examples("w2w demo --out w2w-demo", "w2w demo --out w2w-demo --resume"),
)
@out_option("The folder to make: dataset, weight space, contact sheets, report.html and metrics.json.")
@click.option("--resume", is_flag=True, help="Go on with a demo that was stopped: finished stages are kept.")
@click.option("--force", is_flag=True, help="Do all stages again in the folder of an earlier demo.")
@click.option("--assets", type=click.Path(path_type=Path), hidden=True, help="Folder of another population.")
def demo(out: Path, resume: bool, force: bool, assets: Path | None) -> None:
    """Run the whole workflow on LoRAs of cartoon avatars; takes less than three minutes on a CPU.

    Finished stages are kept when the demo is stopped.
    """
    from ..demo.stages import require_output

    if resume and force:
        raise click.UsageError("--resume keeps the finished stages and --force does them again; give one of them")
    require_output(out, resume=resume, force=force)  # before the slow imports of torch and diffusers
    context = click.get_current_context()
    try:
        with stopped_by_terminate():
            from ..demo.run import run_demo

            run_demo(out, assets, lambda text: say(*text.split("\n")), run_command, resume=resume, force=force)
    except (KeyboardInterrupt, click.Abort):
        context.exit(128 + signal.SIGINT)


def run_command(words: Sequence[Any]) -> None:
    """Print and run one `w2w` command in this process; a list among its words is all files of a folder."""
    group = click.get_current_context().find_root().command
    assert isinstance(group, click.Group)
    say("$ " + " ".join(["w2w", *(files_of(w[0].parent, "*") if isinstance(w, list) else quote(w) for w in words)]))
    name, *given = [str(word) for each in words for word in (each if isinstance(each, list) else [each])]
    group.commands[name].main(given, prog_name=f"w2w {name}", standalone_mode=False)


@contextmanager
def stopped_by_terminate() -> Iterator[None]:
    """Let a terminating signal end the program as an error does: what is unfinished is removed on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

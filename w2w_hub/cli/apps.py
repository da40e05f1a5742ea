"""The command `w2w space-app`, which publishes the explorer of a weight space."""

from __future__ import annotations

from pathlib import Path

import click

from ..common.text import command
from .common import examples, json_option, out_option
from .output import print_json, say


@click.command(
    "space-app",
    epilog=examples(
        "w2w space-app org/space@v1.0.0 --out app",
        "w2w space-app org/space@v1.0.0 --out app --push org/space-explorer --public",
    ),
)
@click.argument("space", type=click.Path(path_type=Path))
@out_option("The folder to make: app.py, requirements.txt and README.md of a Hugging Face Space.")
@click.option(
    "--hardware", type=click.Choice(["cpu", "zero"]),
    help="CPU or ZeroGPU.  [default: by the size of the base model, CPU up to 1 GB]",
)  # fmt: skip
@click.option("--package", help="Requirement by which pip installs w2w-hub there.  [default: as it is installed here]")
@click.option("--push", metavar="REPO", help="Also publish it as this Space (org/name); private without --public.")
@click.option("--public", is_flag=True, help="Make a new Space public, or replace a public one.")
@json_option
def space_app(
    space: Path, out: Path, force: bool, hardware: str | None, package: str | None, push: str | None, public: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a Hugging Face Space that serves the explorer of SPACE (org/space@v1.0.0), and publish it with --push.

    The Space reads the weight space from the Hub: a local folder is published first, by w2w push.
    """
    from ..release import space_app as write

    done = write(space, out, hardware=hardware, package=package, push=push, public=public, overwrite=force)
    if as_json:
        print_json(done.to_json())
        return
    where = "ZeroGPU" if done.hardware == "zero" else "CPU"
    here = f"; to try it here: {command('python', out / 'app.py')}" if done.hardware == "cpu" else ""
    say(f"{out}: a Space for {done.source}, on {where}{here}")
    if done.repo is None:
        again: list[object] = ["--out", out, "--force", "--push", "ORG/NAME"]
        say(f"to publish it: {command('w2w space-app', space, options=again)}")
        return
    say(f"{done.url}: {'private' if done.private else 'public'}, commit {done.commit}")
    if done.hardware == "zero":
        say("choose ZeroGPU, or a GPU, in its settings; the free hardware draws slowly")

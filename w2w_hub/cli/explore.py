"""Command `w2w explore`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import examples
from .output import say


@click.command(epilog=examples("w2w explore w2w-demo/space", "w2w explore org/space@v1.0.0 --port 7861"))
@click.argument("space", type=click.Path(path_type=Path))
@click.option(
    "--dataset", type=click.Path(path_type=Path), metavar="PEOPLE",
    help="The dataset of SPACE, for labels.  [default: the folder beside SPACE that it was built from]",
)  # fmt: skip
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Address to listen on. Another than the default lets other machines in.",
)  # fmt: skip
@click.option(
    "--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 chooses a free one."
)
@click.option("--browser", is_flag=True, help="Also open the page in the browser.")
def explore(space: Path, dataset: Path | None, host: str, port: int, browser: bool) -> None:
    """Look at SPACE in a browser: sample, edit, invert, compare and export people without writing code.

    The page works offline and keeps nothing that a visitor uploads. Ctrl-C ends it.
    """
    from ..common.extras import optional_imports
    from ..common.progress import notice
    from ..space import WeightSpace
    from .common import no_loading_bars

    WeightSpace.from_pretrained(space)  # what is not one is refused before torch and Gradio are imported
    with notice("loading torch and Gradio", logged=False), optional_imports("explore"):
        import gradio  # noqa: F401, first: the extra includes diffusers

        from ..explore import launch

        no_loading_bars()
    launch(
        str(space), dataset=dataset, host=host, port=port, browser=browser,
        ready=lambda address: say(f"{space}: open {address} in a browser; Ctrl-C ends the server"),
    )  # fmt: skip

"""The explorer: a local web page to look at a weight space, and to sample, edit, invert and export people in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import RULES, place
from ..common.constraints import Rule, either, flag, has, optional, text, validated, whole
from ..common.extras import optional_imports

if TYPE_CHECKING:
    import gradio

__all__ = ["HOST", "PORT", "create_app", "launch"]
HOST, PORT = "127.0.0.1", 7860


def _decorator(value: Any) -> Any:
    if not callable(value):
        raise ValueError
    return value


_OPENED = {name: RULES[name] for name in ("revision", "token", "cache_dir", "local_files_only")} | {
    "source": either(place(), has("render", "a pipeline with a weight space")), "dataset": optional(place()),
}  # fmt: skip
_GPU = optional(Rule("a decorator such as spaces.GPU", _decorator))


@validated(**_OPENED, gpu=_GPU)
def create_app(
    source: str | Path | Any,
    *,
    dataset: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
    gpu: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
) -> gradio.Blocks:
    """Return the explorer of a weight space as a Gradio app; its ``launch()`` serves it.

    The app loads nothing from other machines, collects nothing, and keeps nothing that a visitor uploads.

    Parameters
    ----------
    source : str, Path or pipeline
        A folder, a repository (``org/space@v1.0.0``), a pin in a lock file, or an open pipeline.
    dataset : str or Path, optional
        The dataset that the space was built from, for labels. By default the folder beside a local space that its
        recipe names, if its digest is the recipe's.
    revision, token, cache_dir, local_files_only
        See :meth:`w2w_hub.W2WPipeline.from_pretrained`.
    gpu : decorator, optional
        Decorates the functions that run the base model: ``spaces.GPU`` on a Hugging Face Space with ZeroGPU.

    Returns
    -------
    gradio.Blocks

    Raises
    ------
    MissingExtraError
        Without Gradio; the message has the pip command.
    MissingPathError, CorruptFileError, UnsupportedFormatError, BaseModelMismatchError, HubError
        See :meth:`w2w_hub.W2WPipeline.from_pretrained`.

    Examples
    --------
    >>> demo = create_app("org/space@v1.0.0")     # doctest: +SKIP
    """
    with optional_imports("explore"):
        import gradio  # noqa: F401, first: the extra includes diffusers

        from .app import build_app
    from .studio import Studio

    hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    return build_app(Studio.open(source, dataset=dataset, gpu=gpu, **hub))


@validated(**_OPENED, host=text(), port=whole(0, 65535), browser=flag(), ready=optional(has("__call__", "a function")))
def launch(
    source: str | Path | Any,
    *,
    dataset: str | Path | None = None,
    host: str = HOST,
    port: int = PORT,
    browser: bool = False,
    ready: Callable[[str], object] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> None:
    """Serve the explorer of a weight space until it is interrupted.

    Parameters
    ----------
    host : str
        Address to listen on; the default is reachable from this machine only.
    port : int
        0 takes a free one.
    browser : bool
        Also open the page in the default browser.
    ready : callable, optional
        Called with the page's address once it can be opened.
    source, dataset, revision, token, cache_dir, local_files_only
        See :func:`create_app`.

    Raises
    ------
    InvalidInputError
        If the address cannot be listened on, for instance because the port is taken.
    MissingExtraError, MissingPathError, CorruptFileError, UnsupportedFormatError, BaseModelMismatchError, HubError
        As :func:`create_app` raises them.
    """
    app = create_app(
        source, dataset=dataset, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    app.serve(host, port, browser=browser, ready=ready)  # type: ignore[attr-defined]

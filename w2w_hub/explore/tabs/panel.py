"""Panels: parts of the page rendered by Python, whose controls send their values when they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from .. import markup

SCRIPT = markup.read_page("controls.js")


def panel(name: str, value: str = "") -> Any:
    """Return an empty panel with the events ``edit`` (a control changed) and ``act`` (a button was clicked).

    Parameters
    ----------
    name : str
        Its id in the page.
    """
    return gr.HTML(value, elem_id=f"w2w-{name}", js_on_load=SCRIPT, apply_default_css=False)


def upload_field(label: str, suffixes: Sequence[str], name: str, *, several: bool) -> Any:
    """Return a field for files, whose value is the list of their paths in Gradio's temporary folder.

    Parameters
    ----------
    name : str
        Its id in the page.
    """
    field = gr.File(
        label=label, file_count="multiple" if several else "single", file_types=list(suffixes), height=120,
        elem_id=f"w2w-{name}",
    )  # fmt: skip
    field.preprocess = paths_of  # type: ignore[method-assign]  # Gradio's own leaves an empty file behind for each one
    return field


def paths_of(payload: Any) -> list[str]:
    """Return the paths of uploaded files, which Gradio has found to be uploads."""
    files = [] if payload is None else getattr(payload, "root", [payload])
    return [each.path for each in files]

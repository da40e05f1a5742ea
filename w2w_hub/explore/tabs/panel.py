"""Panels: parts of the page rendered by Python, whose controls send their values when they change."""

from __future__ import annotations

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

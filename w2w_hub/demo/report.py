"""The demo's report: one HTML file with everything inside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image as Picture

from .settings import DEFINITIONS, EDIT_WISH, STRENGTHS

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}
img{max-width:100%;image-rendering:pixelated;border:1px solid #ddd}
table{border-collapse:collapse;margin:.7em 0}
th,td{border-bottom:1px solid #ddd;padding:.25em .9em .25em 0;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f6f6f6;padding:.8em;overflow-x:auto}
dt{font-weight:600}.missed{color:#a33}
"""


@dataclass(frozen=True)
class Section:
    """One part of the report: text, a picture, a table; any may be left out."""

    title: str
    text: str = ""
    picture: Picture | None = None
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


def report(title: str, intro: str, sections: Sequence[Section], commands: Sequence[str]) -> str:
    """The whole page."""
    body = [f"<h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            body.append(f"<p>{html.escape(section.text)}</p>")
        if section.rows:
            body.append(table(section.header, section.rows))
        if section.picture is not None:
            body.append(f'<img alt="{html.escape(section.title)}" src="{data_url(section.picture)}">')
    body.append("<h2>Commands</h2><pre>" + html.escape("\n".join(commands)) + "</pre>")
    body.append("<h2>What the figures mean</h2><dl>")
    body += [f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in DEFINITIONS.items()]
    body.append("</dl>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; numbers are rounded and set to the right."""
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in header) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(_cell(value) for value in row) + "</tr>")
    return "".join(lines) + "</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="n">{value:.3g}</td>' if abs(value) < 1e-2 and value else f'<td class="n">{value:.2f}</td>'
    if isinstance(value, int):
        return f'<td class="n">{value:,}</td>'
    text = html.escape(str(value))
    return f'<td class="missed">{text}</td>' if text == "missed" else f"<td>{text}</td>"


def data_url(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def measured_on(evaluation: Mapping[str, Any]) -> str:
    """The machines that the evaluation ran on, each with its parts where there was more than one."""
    parts: dict[str, list[str]] = {}
    for part, machine in evaluation["setting"]["machines"].items():
        parts.setdefault(machine, []).append(part)
    if len(parts) == 1:
        return next(iter(parts))
    return " and ".join(f"{machine} ({', '.join(names)})" for machine, names in parts.items())


def edits_reached(edits: Mapping[str, Any], strength: str, wished: float = EDIT_WISH) -> list[str]:
    """Attributes that are there after the edit, and leave each other factor alone, in `wished` of the pictures."""
    return [
        name
        for name, edit in edits.items()
        if min(edit[strength]["after"], edit[strength]["each_other_factor_kept"]) >= wished
    ]


def wished_beside_reached(evaluation: Mapping[str, Any]) -> list[tuple[str, str, float, str]]:
    """The evaluation's figures beside the wished ones: what, wished, reached, reached or missed."""
    rows: list[tuple[str, str, float, str]] = []

    def add(what: str, wished: float, reached: float, least: bool = True) -> None:
        met = reached >= wished if least else reached <= wished
        rows.append((what, f"{'>=' if least else '<='} {wished:g}", float(reached), "reached" if met else "missed"))

    add("identity score of real pictures", 0.95, evaluation["scale"]["real"])
    add("identity score of strangers", 0.62, evaluation["scale"]["strangers"], least=False)
    loras = evaluation["loras"]
    add("relative score of the held-out people's own LoRAs", 0.8, loras["relative_score"])
    for factor, wished in (
        ("top", 0.85),
        ("skin_color", 0.85),
        ("facial_hair", 0.85),
        ("accessory", 0.85),
        ("hair_color", 0.75),
    ):
        add(f"{factor} read back right", wished, loras[factor])
    aucs = [entry["auc"] for entry in evaluation["reading"].values() if entry["auc"] is not None]
    add("attributes read from coefficients with AUC >= .95", 10, sum(auc >= 0.95 for auc in aucs))
    strength = f"{STRENGTHS[len(STRENGTHS) // 2]:g}"
    if edits := evaluation.get("edits"):  # measured when the assets are there, by a script of its own
        add(
            f"attributes edited at +{strength} sd: there in {EDIT_WISH:g}, the others kept in {EDIT_WISH:g}",
            len(edits),
            len(edits_reached(edits, strength)),
        )
    add("relative score of inversions of one picture", 0.45, evaluation["inversion"]["relative_score"])
    return rows


def evaluated_edits(evaluation: Mapping[str, Any], strength: str) -> Section:
    """The evaluation's edits at one strength, attribute by attribute."""
    rows = [
        (
            name,
            evaluation["reading"][name]["auc"],
            evaluation["reading"][name]["positives"],
            edit["people"],
            edit[strength]["before"],
            edit[strength]["after"],
            edit[strength]["each_other_factor_kept"],
        )
        for name, edit in evaluation["edits"].items()
        if strength in edit
    ]
    return Section(
        f"The recipe's evaluation of edits at +{strength} sd",
        "Held-out people without the attribute. AUC: the attribute read from coefficients of held-out people.",
        header=("attribute", "AUC", "label prior", "people", "before", "after", "others kept"),
        rows=rows,
    )

"""Renders the demo's report as one HTML file without links to other files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image as Picture

from ..common.pages import render
from .settings import DEFINITIONS, EDIT_WISH, SUMMARY_STRENGTH

TEMPLATE = Path(__file__).parent / "report.html"


@dataclass(frozen=True)
class Section:
    """One section of the report: a title, and optionally text, a picture and a table."""

    title: str
    text: str = ""
    picture: Picture | None = None
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


def report(title: str, intro: str, sections: Sequence[Section], commands: Sequence[str]) -> str:
    """Return the report as HTML."""
    return render(
        TEMPLATE, title=title, intro=intro, sections=sections, commands=commands, definitions=DEFINITIONS,
        data_url=data_url, cell=cell, is_number=lambda value: isinstance(value, (int, float)),
    )  # fmt: skip


def cell(value: Any) -> str:
    """Return a table's value as text; numbers are rounded."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-2 and value else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def data_url(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def measured_on(evaluation: Mapping[str, Any]) -> str:
    """Return the machines of the evaluation, each with its parts if there are several."""
    parts: dict[str, list[str]] = {}
    for part, machine in evaluation["setting"]["machines"].items():
        parts.setdefault(machine, []).append(part)
    if len(parts) == 1:
        return next(iter(parts))
    return " and ".join(f"{machine} ({', '.join(names)})" for machine, names in parts.items())


def edits_reached(edits: Mapping[str, Any], strength: str, wished: float = EDIT_WISH) -> list[str]:
    """Return the attributes whose edit shows, and keeps each other factor, in a fraction of at least `wished`."""
    return [
        name
        for name, edit in edits.items()
        if min(edit[strength]["after"], edit[strength]["each_other_factor_kept"]) >= wished
    ]


def wished_beside_reached(evaluation: Mapping[str, Any]) -> list[tuple[str, str, float, str]]:
    """Return one row per figure of the evaluation: name, target, value, and "reached" or "missed"."""
    rows: list[tuple[str, str, float, str]] = []

    def add(what: str, wished: float, reached: float, least: bool = True) -> None:
        met = reached >= wished if least else reached <= wished
        rows.append((what, f"{'>=' if least else '<='} {wished:g}", float(reached), "reached" if met else "missed"))

    add("identity score of real pictures", 0.95, evaluation["scale"]["real"])
    add("identity score of strangers", 0.62, evaluation["scale"]["strangers"], least=False)
    loras = evaluation["loras"]
    add("relative score of the held-out people's own LoRAs", 0.8, loras["relative_score"])
    for factor in ("top", "skin_color", "facial_hair", "accessory", "hair_color"):
        add(f"{factor} read back right", 0.75 if factor == "hair_color" else 0.85, loras[factor])
    aucs = [entry["auc"] for entry in evaluation["reading"].values() if entry["auc"] is not None]
    add("attributes read from coefficients with AUC >= .95", 10, sum(auc >= 0.95 for auc in aucs))
    strength = f"{SUMMARY_STRENGTH:g}"
    if edits := evaluation.get("edits"):  # measured on finished assets, by a script of its own
        title = f"attributes edited at +{strength} sd: there in {EDIT_WISH:g}, the others kept in {EDIT_WISH:g}"
        add(title, len(edits), len(edits_reached(edits, strength)))
    add("relative score of inversions of one picture", 0.45, evaluation["inversion"]["relative_score"])
    return rows


def evaluated_edits(evaluation: Mapping[str, Any], strength: str) -> Section:
    """Return the section with the evaluation's edits at one strength, one row per attribute."""
    columns, rows = ("before", "after", "each_other_factor_kept"), []
    for name, edit in evaluation["edits"].items():
        if strength in edit:
            probe = evaluation["reading"][name]
            rows.append((name, probe["auc"], probe["positives"], edit["people"], *(edit[strength][c] for c in columns)))
    return Section(
        f"The recipe's evaluation of edits at +{strength} sd",
        "Held-out people without the attribute. AUC: the attribute scored from coefficients of held-out people.",
        header=("attribute", "AUC", "label prior", "people", "before", "after", "others kept"),
        rows=rows,
    )

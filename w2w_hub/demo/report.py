"""Renders the demo's report as one HTML file without links to other files."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.limits import MAX_PICTURE_BYTES
from ..common.pages import render
from ..store.paths import read_file
from .settings import DEFINITIONS, EDIT_WISH, SUMMARY_STRENGTH
from .stages import Section

MOST_DECIMALS = 6
TEMPLATE = Path(__file__).parent / "report.html"


def report(title: str, intro: str, sections: Sequence[Section], commands: Sequence[str], folder: Path) -> str:
    """Return the report as HTML, with the sections' pictures from a folder in it."""
    pictures = {s.picture: read_file(folder, s.picture, MAX_PICTURE_BYTES) for s in sections if s.picture}
    return render(
        TEMPLATE, title=title, intro=intro, sections=sections, commands=commands, definitions=DEFINITIONS,
        data_urls={name: data_url(png) for name, png in pictures.items()},
        widths={name: width_of(png) for name, png in pictures.items()}, cells=cells, is_number=is_number,
    )  # fmt: skip


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def cells(rows: Sequence[Sequence[Any]]) -> list[list[tuple[str, Any]]]:
    """Return a table's cells, each with its text; all numbers of a column have the same decimals.

    There are two of them, or as many more as the smallest number needs that is not 0.
    """
    columns = [_texts(column) for column in zip(*rows, strict=True)]
    texts = list(zip(*columns, strict=True))
    return [list(zip(shown, row, strict=True)) for shown, row in zip(texts, rows, strict=True)]


def _texts(column: Sequence[Any]) -> list[str]:
    floats = [abs(v) for v in column if isinstance(v, float) and v]
    decimals = next((d for d in range(2, MOST_DECIMALS) if all(v >= 0.5 * 10**-d for v in floats)), MOST_DECIMALS)
    return [f"{v:.{decimals}f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v) for v in column]


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def width_of(png: bytes) -> int:
    """Return the width of a PNG file's picture, from its header."""
    return int(struct.unpack_from(">I", png, 16)[0])


def measured_on(evaluation: Mapping[str, Any]) -> str:
    """Return the machines of the evaluation, each with its parts if there are several."""
    parts: dict[str, list[str]] = {}
    for part, machine in evaluation["setting"]["machines"].items():
        parts.setdefault(machine, []).append(part)
    if len(parts) == 1:
        return next(iter(parts))
    return " and ".join(f"{machine} ({', '.join(names)})" for machine, names in parts.items())


def reached(edits: Mapping[str, Mapping[str, float]], wished: float) -> list[str]:
    """Return the attributes whose edit shows, and keeps each other factor, in a fraction of at least `wished`."""
    return [name for name, edit in edits.items() if min(edit["after"], edit["each_other_factor_kept"]) >= wished]


def edits_reached(edits: Mapping[str, Any], strength: str, wished: float = EDIT_WISH) -> list[str]:
    """Return the attributes that an evaluation's edits reach at one strength, see :func:`reached`."""
    return reached({name: edit[strength] for name, edit in edits.items()}, wished)


def wished_beside_reached(evaluation: Mapping[str, Any]) -> list[tuple[str, str, float, str]]:
    """Return one row per figure of the evaluation: name, target, value, and "reached" or "missed"."""
    rows: list[tuple[str, str, float, str]] = []

    def add(what: str, wished: float, reached: float, least: bool = True) -> None:
        met = reached >= wished if least else reached <= wished
        rows.append((what, f"{'>=' if least else '<='} {wished:g}", reached, "reached" if met else "missed"))

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

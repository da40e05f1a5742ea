"""Renders a report's data as HTML; the text is in the template ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.pages import render
from ...common.text import few
from ...dataset.labels.scores import SCORES
from ..directions.direction import read_out_of
from ..directions.missing import by_reason
from ..directions.synonyms import synonyms_text
from . import svg
from .curves import strength_charts

if TYPE_CHECKING:
    from markupsafe import Markup


WEIGHTS = "share of all weights"


def page(data: dict[str, Any]) -> str:
    """Return the whole page, which loads no other resource."""
    return render(
        "report.html",
        title=f"{data['name']} {data['version']}",
        k=data["k"],
        numbers=data["numbers"],
        recipe=data["recipe"],
        tiles=_tiles(data),
        spectrum=_spectrum(data),
        reconstruction=_reconstruction(data),
        directions=_directions(data),
        layers=_layers(data),
        population_model=data["population_model"],
        entanglement=_entanglement(data),
        scatters=_scatters(data),
        coefficients=_coefficients(data),
        neighbours=_neighbors(data),
        facts=_facts(data),
    )


def _tiles(data: dict[str, Any]) -> list[tuple[str, str]]:
    spectrum, diagnostics = data["spectrum"], data["diagnostics"]
    tiles = [(f"{spectrum['fitted'][-1]:.1%}", "of the fitted rows' variance")]
    if spectrum["held_out"]:
        tiles.append((f"{spectrum['held_out'][-1]:.1%}", "of the held-out rows' variance"))
    tiles.append((f"{spectrum['gaussian_null_cumulated'][-1]:.1%}", "of Gaussian noise, same shape"))
    scores = [d for d in data["directions"].values() if d["auc"] is not None]
    if scores:
        good = sum(d["auc"] >= 0.95 for d in scores)
        tiles.append((f"{good} of {len(scores)}", "attributes read with AUC of at least .95"))
    bad = sum(bool(d["unreliable"]) for d in data["directions"].values())
    if bad:
        tiles.append((str(bad), "unreliable directions"))
    if "largest_residual" in diagnostics:
        tiles.append((f"{diagnostics['largest_residual']:.0e}", "largest residual of a component"))
    return tiles


def _curve(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return at most 400 points of a curve, denser at the start."""
    count = len(values)
    picked = sorted(
        {*range(min(count, 100)), *np.unique(np.geomspace(1, count, 300).astype(int) - 1).tolist(), count - 1}
    )
    return [(i + 1, float(values[i])) for i in picked]


def _spectrum(data: dict[str, Any]) -> dict[str, Any]:
    s = data["spectrum"]
    curves = {"fitted rows": _curve(s["fitted"])}
    if s["held_out"]:
        curves["held-out rows"] = _curve(s["held_out"])
    curves["fitted, Gaussian noise of the same shape"] = _curve(s["gaussian_null_cumulated"])
    if s["held_out"]:
        curves["held out, random components"] = _curve(s["held_out_chance"])
    nulls = [name for name in curves if "noise" in name or "random" in name]
    scree = {"fitted rows": _curve(s["share"]), "Gaussian noise of the same shape": _curve(s["gaussian_null"])}
    return {
        "curves": svg.line_chart(curves, "components", "share of variance", dashed=nulls),
        "above": sum(a > b for a, b in zip(s["share"], s["gaussian_null"], strict=True)),
        "scree": svg.line_chart(scree, "component", "share of variance", logarithmic=True, dashed=list(scree)[1:]),
    }


def _reconstruction(data: dict[str, Any]) -> Markup | None:
    errors = data["reconstruction_error"]
    if errors is None:
        return None
    groups = {"fitted": np.array(errors["fitted"])}
    if errors["held_out"]:
        groups["held out"] = np.array(errors["held_out"])
    return svg.histogram(groups, "error of a row")


def _directions(data: dict[str, Any]) -> dict[str, Any]:
    found, distinct = data["directions"], data["synonyms"]
    same = {name: synonyms_text(others) for name, others in distinct.items()}
    same |= {other: f"see {name}" for name, others in distinct.items() for other in others}
    charts = []
    for score in SCORES:
        figure = score.field
        scored = [(name, found[name]) for name in distinct if found[name][figure] is not None]
        if scored:
            scored.sort(key=lambda item: -item[1][figure])
            bars = [
                (n, d[figure], d["interval"], d["null"][1] if d["null"] else None, bool(d["unreliable"]))
                for n, d in scored
            ]
            charts.append(svg.bars(bars, f"{score.symbol} on held-out rows", score.axis))
    return {
        "charts": charts,
        "methods": ", ".join(sorted({d["interval_method"] for d in found.values() if d["interval_method"]})),
        "distinct": len(distinct),
        "rows": [{**_direction(name, d), "same": same[name]} for name, d in found.items()],
        "curves": strength_charts(found, list(distinct)),
        "missing": {few(names): reason for names, reason in by_reason(data["diagnostics"].get("no_direction", {}))},
    }


def _direction(name: str, d: dict[str, Any]) -> dict[str, Any]:
    kind = read_out_of(d["kind"], d.get("label_kind"))
    score = d[kind.score.field]
    figures = (
        "" if kind.graded else f"{d['positives']:,}",
        f"{d['rows']:,}",
        f"{d['held_out_rows']:,}",
        "-" if score is None else f"{score:.3f}",
        "" if d["interval"] is None else f"{d['interval'][0]:.3f} to {d['interval'][1]:.3f}",
        "" if d["p_value"] is None else f"{d['p_value']:.3f}",
        f"{d['sd']:.2f}",
        _typical(d),
    )
    return {"name": name, "unreliable": bool(d["unreliable"]), "figures": figures, "held": d["held"]}


def _layers(data: dict[str, Any]) -> Markup | None:
    """Return attributes by blocks of the network, below a row for the weights themselves."""
    found = data["layers"]
    blocks, names = list(found["weights"]), [name for name in data["synonyms"] if name in found["directions"]]
    if len(blocks) < 2 or not names:
        return None
    rows = [found["weights"], *(found["directions"][name] for name in names)]
    return svg.heatmap(np.array([list(row.values()) for row in rows]), [WEIGHTS, *names], columns=blocks)


def _typical(d: dict[str, Any]) -> str:
    strength = (d.get("picture_curve") or d.get("curve") or {}).get("typical")
    return "" if strength is None else f"{strength:.1f}"


def _entanglement(data: dict[str, Any]) -> dict[str, Any] | None:
    table = data["entanglement"]
    if table is None or len(table["names"]) < 2:
        return None
    sizes, names = data.get("entanglement_by_population"), [n for n in table["names"] if n in data["synonyms"]]
    places = [table["names"].index(name) for name in names]
    spill, cosines = (np.array(table[key])[np.ix_(places, places)] for key in ("spill", "editing"))
    chart = {"mean |cosine| of reading directions": [(row["people"], row["mean_cosine"]) for row in sizes or ()]}
    return {
        "spill": svg.heatmap(spill, names),
        "cosines": svg.heatmap(cosines, names),
        "sizes": sizes,
        "chart": svg.line_chart(chart, "people", "mean |cosine|", log_x=True, dots=True, high=1.0),
    }


def _scatters(data: dict[str, Any]) -> list[tuple[str, Markup]]:
    shown = []
    for s in data.get("scatter") or ():
        first, second = s["components"]
        lower, higher = s["groups"]
        groups = {lower: s["without"], higher: s["with"]}
        plot = svg.scatter(groups, f"PC{first}", f"PC{second}", colors=(svg.GRAY, svg.COLORS[1]))
        shown.append((s["attribute"], plot))
    return shown


def _coefficients(data: dict[str, Any]) -> list[tuple[Markup, str]]:
    return [
        (
            svg.histogram({name: np.array(c["values"])}, name, normal=True, width=310, height=200, bins=30),
            f"skew {c['skew']:+.2f}, excess kurtosis {c['excess_kurtosis']:+.2f}",
        )
        for name, c in data["coefficients"].items()
    ]


def _neighbors(data: dict[str, Any]) -> dict[str, Any] | None:
    found = data["neighbours"]
    if found is None:
        return None
    names = {"fitted": "fitted rows, to another one", "held_out": "held-out rows", "samples": "samples"}
    names |= {"gaussian": "Gaussian samples"}
    groups = {text: np.array(found[key]) for key, text in names.items() if found[key]}
    return {"chart": svg.histogram(groups, "cosine to the nearest fitted row"), "examples": found["examples"]}


def _facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = {"space digest": data["digest"], **data["recipe"]}
    for key in ("orthogonality_error", "largest_residual", "passes", "missed"):
        if key in data["diagnostics"]:
            rows[key] = data["diagnostics"][key]
    return [(name.replace("_", " "), _plain(value)) for name, value in rows.items()]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

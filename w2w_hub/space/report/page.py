"""The report as HTML, from its data alone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import svg

STYLE = """
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;color:#222;background:#fff;max-width:1020px;
margin:2.2em auto;padding:0 1.2em}
h1{font-size:1.7em;margin:0}h2{font-size:1.25em;margin:2.4em 0 .3em;border-top:1px solid #e3e5e8;padding-top:1em}
h3{font-size:1em;margin:1.4em 0 .2em}
p{max-width:72ch;margin:.4em 0}.lead{color:#555}code{font-size:.9em;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:10px;margin:1.2em 0}
.tile{background:#f5f6f8;border-radius:8px;padding:.7em .9em}.tile b{display:block;font-size:1.35em;font-weight:600}
.tile span{color:#555;font-size:.86em}
table{border-collapse:collapse;margin:.7em 0;font-size:.93em}
th,td{border-bottom:1px solid #e3e5e8;padding:.25em 1.1em .25em 0;text-align:left;vertical-align:top}
td.n,th.n{white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums}.bad{color:#c0392b}
.row{display:flex;flex-wrap:wrap;gap:14px 26px}.row figure{margin:0}figure{margin:.6em 0}
figcaption{font-size:.88em;color:#555}
svg{max-width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:#444}
svg text.label{font-size:12px;fill:#222}svg text.cell{font-size:9px}svg text.bad{fill:#c0392b}
.grid{stroke:#eceef1}.axis,.tick{stroke:#9aa0a8}
.legend{font-size:.86em;color:#333;margin:.4em 0 .1em}.legend span{margin-right:1.3em;white-space:nowrap}
.legend i{display:inline-block;width:20px;margin-right:.45em;vertical-align:middle}
details{margin:1em 0}summary{cursor:pointer;color:#0072b2}
"""


def page(data: dict[str, Any]) -> str:
    """The whole page; it loads nothing."""
    title = f"{data['name']} {data['version']}"
    body = [
        f"<h1>{_e(title)}</h1>",
        f'<p class="lead">A weight space of {data["k"]:,} principal components of {data["numbers"]:,} numbers, fitted '
        f"on {data['recipe']['rows']:,} adapters of {_e(data['recipe']['dataset'])}. How far it can be trusted, with "
        "what nothing would look like beside it.</p>",
        _tiles(data),
        _spectrum(data),
        _reconstruction(data),
        _directions(data),
        _entanglement(data),
        _scatter(data),
        _coefficients(data),
        _neighbours(data),
        _recipe(data),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_e(title)}</title>'
    style = f"<style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}{style}</head><body>{''.join(body)}</body></html>\n"


def _e(text: Any) -> str:
    return html.escape(str(text))


def _tiles(data: dict[str, Any]) -> str:
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
    cells = "".join(f'<div class="tile"><b>{_e(value)}</b><span>{_e(text)}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{cells}</div>'


def _curve(values: Sequence[float]) -> list[tuple[float, float]]:
    """At most 400 points, denser at the start."""
    count = len(values)
    picked = sorted(
        {*range(min(count, 100)), *np.unique(np.geomspace(1, count, 300).astype(int) - 1).tolist(), count - 1}
    )
    return [(i + 1, float(values[i])) for i in picked]


def _spectrum(data: dict[str, Any]) -> str:
    s = data["spectrum"]
    curves = {"fitted rows": _curve(s["fitted"])}
    if s["held_out"]:
        curves["held-out rows"] = _curve(s["held_out"])
    curves["fitted, Gaussian noise of the same shape"] = _curve(s["gaussian_null_cumulated"])
    if s["held_out"]:
        curves["held out, random components"] = _curve(s["held_out_chance"])
    nulls = [name for name in curves if "noise" in name or "random" in name]
    above = sum(a > b for a, b in zip(s["share"], s["gaussian_null"], strict=True))
    scree = {"fitted rows": _curve(s["share"]), "Gaussian noise of the same shape": _curve(s["gaussian_null"])}
    return (
        "<h2>Explained variance</h2><p>Share of the standardised rows' variance about the fitted mean that the first "
        "components carry. The mean alone carries 0. Components that describe only the fitted rows raise the first "
        "curve and not the second.</p><figure>"
        + svg.line_chart(curves, "components", "share of variance", dashed=nulls)
        + f"</figure><h3>Scree</h3><p>{above:,} of {data['k']:,} components carry more than noise's do. "
        "Where neighbours carry nearly the same, only their span is known, not each of them.</p><figure>"
        + svg.line_chart(scree, "component", "share of variance", logarithmic=True, dashed=list(scree)[1:])
        + "</figure>"
    )


def _reconstruction(data: dict[str, Any]) -> str:
    errors = data["reconstruction_error"]
    if errors is None:
        return ""
    groups = {"fitted": np.array(errors["fitted"])}
    if errors["held_out"]:
        groups["held out"] = np.array(errors["held_out"])
    return (
        f"<h2>Reconstruction of single rows</h2><p>Share of a row's squared norm that all {data['k']:,} components "
        "leave out: 0 is exact, 1 is no better than the mean.</p><figure>"
        + svg.histogram(groups, "error of a row")
        + "</figure>"
    )


def _directions(data: dict[str, Any]) -> str:
    found = data["directions"]
    parts = ["<h2>Directions</h2>"]
    if not found:
        return parts[0] + "<p>No attribute has a direction. Principal components can be used as sliders.</p>"
    ends = {"auc": (0.4, 1.0), "r2": (-0.2, 1.0)}
    for figure, label in (("auc", "AUC on held-out rows"), ("r2", "R² on held-out rows")):
        rows = sorted(((n, d) for n, d in found.items() if d[figure] is not None), key=lambda item: -item[1][figure])
        if rows:
            parts.append("<figure>" + svg.bars(
                [(n, d[figure], d["interval"], d["null"][1] if d["null"] else None, bool(d["unreliable"]))
                 for n, d in rows], label, ends[figure],
            ) + "</figure>")  # fmt: skip
    methods = sorted({d["interval_method"] for d in found.values() if d["interval_method"]})
    parts.append(
        f"<p>Reading directions on rows that nothing was fitted on. Whiskers: 95 % intervals "
        f"({_e(', '.join(methods))}). Red lines: what 95 % of permuted labels stay below; a direction that does not "
        "pass its line is unreliable, and the pipeline warns before it is used. Reading well is not editing well.</p>"
    )
    parts.append("<details open>" if len(found) <= 25 else "<details>")
    parts.append(f"<summary>All {len(found)} directions</summary>")
    parts.append(
        '<table><tr><th>attribute</th><th class="n">with it</th><th class="n">fitted</th><th class="n">held out</th>'
        '<th class="n">AUC or R²</th><th class="n">interval</th><th class="n">p</th><th class="n">1 sd</th><th>held by '
        "the editing direction</th></tr>"
    )
    for name, d in found.items():
        score = d["r2"] if d["kind"] == "float" else d["auc"]
        p = "" if d["p_value"] is None else f"{d['p_value']:.3f}"
        interval = "" if d["interval"] is None else f"{d['interval'][0]:.3f} to {d['interval'][1]:.3f}"
        positives = "" if d["kind"] == "float" else f"{d['positives']:,}"
        mark = ' class="bad"' if d["unreliable"] else ""
        held = ", ".join(d["held"][:3]) or "nothing"
        if len(d["held"]) > 3:
            held = f'<span title="{_e(", ".join(d["held"]))}">{_e(held)} and {len(d["held"]) - 3} more</span>'
        else:
            held = _e(held)
        parts.append(
            f'<tr><td{mark}>{_e(name)}</td><td class="n">{positives}</td><td class="n">{d["rows"]:,}</td>'
            f'<td class="n">{d["held_out_rows"]:,}</td><td class="n">{"-" if score is None else f"{score:.3f}"}</td>'
            f'<td class="n">{interval}</td><td class="n">{p}</td>'
            f'<td class="n">{d["sd"]:.2f}</td><td>{held}</td></tr>'
        )
    parts.append("</table></details>")
    reasons = data["diagnostics"].get("no_direction", {})
    if reasons:
        parts.append("<h3>Attributes without a direction</h3><table>")
        parts += [f"<tr><td>{_e(name)}</td><td>{_e(reason)}</td></tr>" for name, reason in reasons.items()]
        parts.append("</table>")
    return "".join(parts)


def _entanglement(data: dict[str, Any]) -> str:
    table = data["entanglement"]
    if len(table["names"]) < 2:
        return ""
    parts = [
        "<h2>Entanglement</h2><p>How far one standard deviation along an attribute's editing direction (row) moves the "
        "read-out of the others (columns), in standard deviations of that read-out over the population. The diagonal "
        "is what the edit is for.</p><figure>",
        svg.heatmap(np.array(table["spill"]), table["names"]),
        f"</figure><details><summary>Cosines of the editing directions</summary><figure>"
        f"{svg.heatmap(np.array(table['editing']), table['names'])}</figure></details>",
    ]
    sizes = data.get("entanglement_by_population")
    if sizes:
        chart = {"mean |cosine| of reading directions": [(row["people"], row["mean_cosine"]) for row in sizes]}
        parts.append(
            "<h3>Against the number of people</h3><p>Everything fitted anew from fewer people, over the pairs of "
            "attributes that can be read in all of them.</p><figure>"
            + svg.line_chart(chart, "people", "mean |cosine|", log_x=True, dots=True, high=1.0)
            + '</figure><table><tr><th class="n">people</th><th class="n">attributes</th>'
            '<th class="n">mean |cosine|</th></tr>'
        )
        parts += [
            f'<tr><td class="n">{row["people"]:,}</td><td class="n">{row["attributes"]}</td>'
            f'<td class="n">{row["mean_cosine"]:.3f}</td></tr>'
            for row in sizes
        ]
        parts.append("</table>")
    return "".join(parts)


def _scatter(data: dict[str, Any]) -> str:
    shown = data.get("scatter")
    if not shown:
        return ""
    parts = ["<h2>Components by attribute</h2><p>Fitted rows on the two components that show an attribute best.</p>",
             '<div class="row">']  # fmt: skip
    for s in shown:
        first, second = s["components"]
        names = ("below the median", "above the median") if s["continuous"] else ("without", "with")
        plot = svg.scatter({names[0]: s["without"], names[1]: s["with"]}, f"PC{first}", f"PC{second}",
                           colours=(svg.GREY, svg.COLOURS[1]))  # fmt: skip
        parts.append(f"<figure><figcaption><b>{_e(s['attribute'])}</b></figcaption>{plot}</figure>")
    return "".join(parts) + "</div>"


def _coefficients(data: dict[str, Any]) -> str:
    parts = ["<h2>Coefficients</h2><p>Fitted rows, with the Gaussian that sampling draws from (dashed).</p>",
             '<div class="row">']  # fmt: skip
    for name, c in data["coefficients"].items():
        plot = svg.histogram({name: np.array(c["values"])}, name, normal=True, width=310, height=200, bins=30)
        caption = f"skew {c['skew']:+.2f}, excess kurtosis {c['excess_kurtosis']:+.2f}"
        parts.append(f"<figure>{plot}<figcaption>{caption}</figcaption></figure>")
    return "".join(parts) + "</div>"


def _neighbours(data: dict[str, Any]) -> str:
    found = data["neighbours"]
    names = {"fitted": "fitted rows, to another one", "held_out": "held-out rows", "samples": "samples"}
    groups = {text: np.array(found[key]) for key, text in names.items() if found[key]}
    parts = ["<h2>Nearest neighbours</h2><p>Cosine of coefficients to the nearest fitted row. Samples near 1 would be "
             "copies; samples far below the rows themselves are unlike anybody.</p><figure>",
             svg.histogram(groups, "cosine to the nearest fitted row"), "</figure>"]  # fmt: skip
    if found["examples"]:
        parts.append("<table><tr><th>held-out row</th><th>nearest fitted rows</th></tr>")
        for example in found["examples"]:
            near = ", ".join(f"{_e(name)} ({cosine:.2f})" for name, cosine in example["nearest"])
            parts.append(f"<tr><td>{_e(example['row'])}</td><td>{near}</td></tr>")
        parts.append("</table>")
    return "".join(parts)


def _recipe(data: dict[str, Any]) -> str:
    rows = {"space digest": data["digest"], **data["recipe"]}
    for key in ("orthogonality_error", "largest_residual", "passes", "missed"):
        if key in data["diagnostics"]:
            rows[key] = data["diagnostics"][key]
    lines = "".join(f"<tr><td>{_e(k.replace('_', ' '))}</td><td><code>{_e(_plain(v))}</code></td></tr>"
                    for k, v in rows.items())  # fmt: skip
    return (
        f"<h2>Recipe</h2><p>With the dataset of that digest, <code>w2w rebuild SPACE --check --dataset DATASET</code> "
        f"builds this space again and tells whether it is the same.</p><table>{lines}</table>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

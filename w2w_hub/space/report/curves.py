"""Charts of strength curves: one small chart per direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..directions.curve import StrengthCurve
from . import svg

if TYPE_CHECKING:
    from markupsafe import Markup

LINES = {
    "shown": ("show the attribute", svg.COLORS[0]),
    "least_kept": ("keep the attribute that changes most", svg.COLORS[1]),
    "inside": ("stay inside of the population", svg.GRAY),
}
GONE = ("show it no longer, pushed the other way", svg.COLORS[2])
WIDTH, HEIGHT = 300, 190
DOTS = 3.0  # radius, of what a judge saw in pictures


def strength_charts(directions: Mapping[str, Mapping[str, Any]], names: list[str]) -> dict[str, Any] | None:
    """Return a legend, and per direction its name, chart and caption; None if no direction has a curve.

    Lines are what readers of coefficients said, dots what a judge of pictures said; the vertical line is the typical
    strength. The line of people who show the attribute no longer is of pushes against the direction.
    """
    charts = []
    for name in names:
        found = [directions[name].get(field) for field in ("curve", "picture_curve", "removal_curve")]
        curve, pictures, removal = (None if data is None else StrengthCurve.from_json(data) for data in found)
        judged = pictures or curve
        if judged is not None:
            charts.append((name, _chart(curve, pictures, removal, judged.typical), _caption(judged, removal)))
    if not charts:
        return None
    words, colors = zip(*LINES.values(), GONE, strict=True)
    return {"legend": svg.legend(list(words), colors, [False, False, True, False]), "charts": charts}


def _chart(
    curve: StrengthCurve | None, pictures: StrengthCurve | None, removal: StrengthCurve | None, typical: float | None
) -> Markup:
    both = [c for c in (curve, pictures) if c is not None]
    end = max(c.strengths[-1] for c in both)
    plot = svg.Plot((0.0, end), (0.0, 1.0), "strength, sd", "share of people", width=WIDTH, height=HEIGHT, left=50)
    if typical is not None:
        where = f"{plot.x(typical):.1f}"
        bottom = plot.height - plot.bottom
        plot.add("line", x1=where, x2=where, y1=plot.top, y2=bottom, stroke=svg.INK, stroke_dasharray="2 3")
    for field, (_, color) in LINES.items():
        if curve is not None:
            points = list(zip(curve.strengths, getattr(curve, field), strict=True))
            plot.line(points, color, dashed=field == "inside")
        if pictures is not None:
            plot.dots(
                list(zip(pictures.strengths, getattr(pictures, field), strict=True)), color, radius=DOTS, opacity=1
            )
    if removal is not None:
        plot.line([(x, y) for x, y in zip(removal.strengths, removal.shown, strict=True) if x <= end], GONE[1])
    return plot.svg("share of people by the strength of a push")


def _caption(curve: StrengthCurve, removal: StrengthCurve | None) -> str:
    gone = [] if removal is None or removal.typical is None else [f"removed by -{removal.typical:.1f}"]
    if curve.typical is None:
        return "; ".join(["no strength shows it in half of the people", *gone])
    words = [f"typical {curve.typical:.1f} sd"]
    for name, verb in (("reaches", "reaches 80 %"), ("saturates", "saturates"), ("breaks", "others break")):
        value = getattr(curve, name)
        words.append(f"{verb} at {value:.1f}" if value is not None else f"{verb}: not up to {curve.strengths[-1]:g}")
    return "; ".join([*words, *gone])

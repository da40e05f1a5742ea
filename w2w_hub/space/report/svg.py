"""Charts as inline SVG, made of escaped elements without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...common.pages import element
from ...common.text import one_line

if TYPE_CHECKING:
    from markupsafe import Markup

# palette of Okabe and Ito, distinguishable by color-blind readers
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
GRAY, RED, INK = "#8a8f98", "#c0392b", "#222222"
LONGEST_NAME = 60  # characters of a label that fit
Points = Sequence[tuple[float, float]]


class Plot:
    """Axes with ticks and a grid, on which marks are placed in data coordinates."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], xlabel: str, ylabel: str, *, width: int = 640,
        height: int = 320, log_x: bool = False, log_y: bool = False, left: int = 62,
    ):  # fmt: skip
        self.width, self.height, self.left, self.right, self.top, self.bottom = width, height, left, 14, 12, 44
        self.log = (log_x, log_y)
        self.range = (self._span(x, log_x), self._span(y, log_y))
        self.parts: list[Markup] = []
        self._axes(xlabel, ylabel)

    @staticmethod
    def _span(values: tuple[float, float], log: bool) -> tuple[float, float]:
        low, high = (math.log10(max(v, 1e-300)) for v in values) if log else values
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def x(self, value: float) -> float:
        return self._place(value, 0, self.left, self.width - self.right)

    def y(self, value: float) -> float:
        return self._place(value, 1, self.height - self.bottom, self.top)

    def _place(self, value: float, axis: int, start: float, stop: float) -> float:
        low, high = self.range[axis]
        where = math.log10(max(value, 1e-300)) if self.log[axis] else value
        return start + (min(max(where, low), high) - low) / (high - low) * (stop - start)

    def _axes(self, xlabel: str, ylabel: str) -> None:
        bottom, right = self.height - self.bottom, self.width - self.right
        for value in ticks(*self.range[1], self.log[1]):
            y = self.y(value)
            self.add("line", class_="grid", x1=self.left, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}")
            self.text(self.left - 6, y + 4, number(value), "end")
        for value in ticks(*self.range[0], self.log[0]):
            x = self.x(value)
            self.add("line", class_="tick", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=bottom, y2=bottom + 4)
            self.text(x, bottom + 17, number(value), "middle")
        self.add("line", class_="axis", x1=self.left, x2=right, y1=bottom, y2=bottom)
        self.text((self.left + right) / 2, self.height - 8, xlabel, "middle", "label")
        middle = (self.top + bottom) / 2
        where = f"translate(13 {middle:.0f}) rotate(-90)"
        self.add("text", ylabel, class_="label", text_anchor="middle", transform=where)

    def add(self, tag: str, *children: object, **attributes: object) -> None:
        self.parts.append(element(tag, *children, **attributes))

    def text(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> None:
        self.add("text", text, class_=kind, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)

    def line(self, points: Points, color: str, *, dashed: bool = False) -> None:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        dash = "5 4" if dashed else None
        self.add("polyline", fill="none", stroke=color, stroke_width=2, stroke_dasharray=dash, points=path)

    def dots(self, points: Points, color: str, *, radius: float = 2.2, opacity: float = 0.55) -> None:
        marks = [element("circle", cx=f"{self.x(x):.1f}", cy=f"{self.y(y):.1f}", r=radius) for x, y in points]
        self.add("g", *marks, fill=color, fill_opacity=opacity)

    def box(self, x: tuple[float, float], y: tuple[float, float], color: str, opacity: float = 0.5) -> None:
        left, right, top, bottom = self.x(x[0]), self.x(x[1]), self.y(y[1]), self.y(y[0])
        width, height = f"{max(right - left, 0):.1f}", f"{max(bottom - top, 0):.1f}"
        self.add(
            "rect", x=f"{left:.1f}", y=f"{top:.1f}", width=width, height=height, fill=color, fill_opacity=opacity
        )  # fmt: skip

    def svg(self, title: str) -> Markup:
        return wrap(self.parts, self.width, self.height, title)


def wrap(parts: Sequence[Markup], width: float, height: float, title: str) -> Markup:
    return element(
        "svg", element("title", title), *parts, xmlns="http://www.w3.org/2000/svg", role="img",
        viewBox=f"0 0 {width:.0f} {height:.0f}", width=f"{width:.0f}", height=f"{height:.0f}",
    )  # fmt: skip


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between the ends; of a logarithmic axis the powers of ten, with more of them if there are few."""
    if log:
        powers = range(math.floor(low), math.ceil(high) + 1)
        steps: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
        if high - low > 1:
            steps = (1.0,) if high - low > 2.5 else (1.0, 2.0, 5.0)
        return [s * 10.0**p for p in powers for s in steps if low - 1e-9 <= math.log10(s * 10.0**p) <= high + 1e-9]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def legend(names: Sequence[str], colors: Sequence[str] = COLORS, dashed: Sequence[bool] = ()) -> Markup:
    """Return a line of names with their colors, as HTML above a chart."""
    parts = []
    for i, name in enumerate(names):
        style = "dashed" if i < len(dashed) and dashed[i] else "solid"
        sample = element("i", "", style=f"border-top:3px {style} {colors[i % len(colors)]}")
        parts.append(element("span", sample, name))
    return element("div", *parts, class_="legend")


def nothing() -> Markup:
    return element("p", "nothing to show")


def line_chart(
    series: Mapping[str, Points], xlabel: str, ylabel: str, *, logarithmic: bool = False, log_x: bool = False,
    dashed: Sequence[str] = (), dots: bool = False, low: float | None = None, high: float | None = None,
) -> Markup:  # fmt: skip
    """Return lines with a legend; `logarithmic` applies to both axes."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points if y > 0 or not logarithmic]
    if not xs or not ys:
        return nothing()
    bottom = (min(ys) if logarithmic else min(0.0, *ys)) if low is None else low
    plot = Plot(
        (min(xs), max(xs)), (bottom, (max(ys) * (1.1 if logarithmic else 1.02)) if high is None else high),
        xlabel, ylabel, log_x=logarithmic or log_x, log_y=logarithmic,
    )  # fmt: skip
    for i, (name, points) in enumerate(series.items()):
        plot.line(points, COLORS[i % len(COLORS)], dashed=name in dashed)
        if dots:
            plot.dots(points, COLORS[i % len(COLORS)], radius=3.5, opacity=1)
    names = list(series)
    return legend(names, dashed=[n in dashed for n in names]) + plot.svg(f"{ylabel} against {xlabel}")


def histogram(
    groups: Mapping[str, np.ndarray], xlabel: str, *, bins: int = 40, normal: bool = False, width: int = 640,
    height: int = 260,
) -> Markup:  # fmt: skip
    """Return overlaid densities of several groups; `normal` adds the Gaussian fitted to the first."""
    every = np.concatenate([np.asarray(v, float) for v in groups.values()])
    if not len(every):
        return nothing()
    low, high = float(every.min()), float(every.max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    heights = {n: np.histogram(v, edges, density=True)[0] for n, v in groups.items() if len(v)}
    curve: list[tuple[float, float]] = []
    first = next(iter(groups.values()))
    if normal and len(first) > 1 and np.std(first) > 0:
        x = np.linspace(low, high, 120)
        z = (x - np.mean(first)) / np.std(first, ddof=1)
        density = np.exp(-(z**2) / 2) / (np.std(first, ddof=1) * np.sqrt(2 * np.pi))
        curve = list(zip(x.tolist(), density.tolist(), strict=True))
    top = max([h.max() for h in heights.values()] + [y for _, y in curve])
    plot = Plot((low, high), (0, float(top) * 1.05), xlabel, "density", width=width, height=height)
    for i, (_name, values) in enumerate(heights.items()):
        for j, value in enumerate(values):
            if value:
                plot.box((edges[j], edges[j + 1]), (0, float(value)), COLORS[i % len(COLORS)], 0.45)
    if curve:
        plot.line(curve, INK, dashed=True)
    chart = plot.svg(f"histogram of {xlabel}")
    return legend(list(heights)) + chart if len(heights) > 1 else chart


def scatter(
    groups: Mapping[str, Points], xlabel: str, ylabel: str, *, colors: Sequence[str] = COLORS, size: int = 300
) -> Markup:
    """Return a scatter plot of several groups, the first at the back."""
    xs = [x for points in groups.values() for x, _ in points]
    ys = [y for points in groups.values() for _, y in points]
    if not xs:
        return nothing()
    plot = Plot((min(xs), max(xs)), (min(ys), max(ys)), xlabel, ylabel, width=size, height=size, left=52)
    for i, points in enumerate(groups.values()):
        plot.dots(points, colors[i % len(colors)])
    return legend(list(groups), colors) + plot.svg(f"{ylabel} against {xlabel}")


def bars(
    rows: Sequence[tuple[str, float, tuple[float, float] | None, float | None, bool]], xlabel: str,
    ends: tuple[float, float],
) -> Markup:  # fmt: skip
    """Return one bar per row: name, figure, interval, null, and whether it is bad (red)."""
    rows = [(one_line(name, LONGEST_NAME), *others) for name, *others in rows]  # type: ignore[misc]
    left, line = 24 + 7 * max((len(name) for name, *_ in rows), default=0), 20
    plot = Plot(ends, (0, 1), xlabel, "", width=640, height=60 + line * len(rows), left=left)
    plot.parts = [p for p in plot.parts if 'class="grid"' not in p and f'x="{left - 6:.1f}"' not in p]
    bottom = plot.height - plot.bottom
    for value in ticks(*ends, False):
        where = f"{plot.x(value):.1f}"
        plot.add("line", class_="grid", x1=where, x2=where, y1=plot.top, y2=bottom)
    for i, (name, value, interval, null, bad) in enumerate(rows):
        y = plot.top + line * (i + 0.5)
        color = RED if bad else COLORS[0]
        plot.text(left - 8, y + 4, name, "end", "bad" if bad else "")
        start, stop = plot.x(ends[0]), plot.x(value)
        plot.add(
            "rect", element("title", f"{name}: {value:.3f}"), x=f"{start:.1f}", y=f"{y - 6:.1f}",
            width=f"{max(stop - start, 0):.1f}", height=12, fill=color, fill_opacity=".55",
        )  # fmt: skip
        if interval is not None:
            a, b = plot.x(interval[0]), plot.x(interval[1])
            path = f"M{a:.1f} {y - 4:.1f}v8M{a:.1f} {y:.1f}H{b:.1f}M{b:.1f} {y - 4:.1f}v8"
            plot.add("path", d=path, stroke=INK, fill="none")
        if null is not None:
            x = f"{plot.x(null):.1f}"
            plot.add("line", x1=x, x2=x, y1=f"{y - 8:.1f}", y2=f"{y + 8:.1f}", stroke=RED, stroke_width=2)
    return plot.svg(xlabel)


def heatmap(
    matrix: np.ndarray, names: Sequence[str], limit: float = 1.0, *, columns: Sequence[str] | None = None
) -> Markup:
    """Return a table of signed numbers: blue below zero, orange above; a square one if no `columns` are named."""
    across = names if columns is None else columns
    cell = 30 if len(across) <= 24 else max(8, 720 // len(across))
    line = cell if columns is None else min(cell, 20)
    names, across = ([one_line(name, LONGEST_NAME) for name in given] for given in (names, across))
    left, top = (16 + 7 * max(map(len, given)) for given in (names, across))
    parts = []
    for j, other in enumerate(across):
        x = left + cell * (j + 0.5)
        parts.append(element("text", other, transform=f"translate({x + 4:.1f} {top - 6}) rotate(-90)"))
    for i, name in enumerate(names):
        y = top + line * (i + 0.5)
        parts.append(element("text", name, x=left - 6, y=f"{y + 4:.1f}", text_anchor="end"))
        for j, other in enumerate(across):
            value = float(matrix[i, j])
            strength = min(abs(value) / limit, 1.0)
            color = COLORS[1] if value > 0 else COLORS[0]
            title = element("title", f"{name} / {other}: {value:.2f}")
            parts.append(element(
                "rect", title, x=left + cell * j, y=top + line * i, width=cell - 1, height=line - 1, fill=color,
                fill_opacity=f"{strength:.3f}",
            ))  # fmt: skip
            if cell >= 26:
                ink = "#fff" if strength > 0.6 else INK
                parts.append(element(
                    "text", _short(value), class_="cell", x=f"{left + cell * (j + 0.5) - 0.5:.1f}", y=f"{y + 3.5:.1f}",
                    text_anchor="middle", style=f"fill:{ink}",
                ))  # fmt: skip
    what = "matrix of " + ", ".join(names if columns is None else [*names, "by", *across])
    return wrap(parts, left + cell * len(across) + 6, top + line * len(names) + 6, what)


def _short(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 9.95 else f"{value:.0f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text

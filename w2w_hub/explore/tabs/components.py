"""Tab Components: principal components as sliders, and a contact sheet of several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import markup
from ..page import Page, Session, Shown, number_of, one
from ..people import people_of
from ..state import State
from .edit import draw_strip
from .panel import panel

COMPONENT = re.compile(r"PC[0-9]{1,9}")
SHOWN, LIMIT, SHEET = 8, 6.0, (-3.0, 0.0, 3.0)


@dataclass(frozen=True)
class Component:
    """One principal component; `share` is its part of the variance that all components explain."""

    number: int
    name: str
    share: float
    strength: float


def components_of(page: Page, state: State, first: int) -> list[Component]:
    """Return some components from number `first`, 1 or more."""
    values = np.asarray(page.studio.space.coordinates.singular_values, np.float64) ** 2
    shares, k = values / max(values.sum(), 1e-300), page.studio.space.k
    first = min(max(first, 1), k)
    return [
        Component(i, f"PC{i}", float(shares[i - 1]), state.pushes.get(f"PC{i}", 0.0))
        for i in range(first, min(first + SHOWN, k + 1))
    ]


def render(page: Page, state: State, first: int = 1) -> str:
    found = components_of(page, state, first)
    return markup.part(
        "components", components=found, k=page.studio.space.k, first=found[0].number, limit=LIMIT, start=state.start
    )


def shown_again(page: Page, session: Session) -> str:
    """Return the panel at the first component that is pushed."""
    pushed = [int(name[2:]) for name in session.state.pushes if COMPONENT.fullmatch(name)]
    return render(page, session.state, 1 + SHOWN * ((min(pushed) - 1) // SHOWN) if pushed else 1)


def build(page: Page) -> None:
    """Add the tab's parts to the page."""
    controls, sheet = panel("components"), panel("components-sheet")

    page.redraw.append((controls, lambda session, people: shown_again(page, session)))
    page.redraw.append((sheet, lambda session, people: ""))

    def changed(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        return page.show(edited(session, event), on_step, panels=False)

    def acted(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        session = edited(session, event)
        first = int(number_of(event, "first", 1))
        if event["act"] == "strip":
            return {page.session: session, sheet: draw_strip(page, session, event["name"], on_step)}
        if event["act"] == "first":
            return {page.session: session, controls: render(page, session.state, first)}
        return {page.session: session, sheet: draw_sheet(page, session, first, on_step)}

    page.listeners.append(lambda: page.on(controls.edit, changed))
    page.listeners.append(lambda: page.on(controls.act, acted))


def edited(session: Session, event: dict[str, Any]) -> Session:
    """Return the session with the strengths and the start that the panel says."""
    pushes = {**session.state.pushes, **event["values"].get("push", {})}
    found = State.from_json({"push": {n: a for n, a in pushes.items() if a}, "start": one(event, "start", 0.0)})
    return session.with_state(pushes=found.pushes, start=found.start)


def draw_sheet(page: Page, session: Session, first: int, on_step: Any) -> str:
    """Return the person at three strengths of each component, in one batched call."""
    studio, state = page.studio, session.state
    rows = components_of(page, state, first)
    people = [
        people_of(
            studio.space, State.from_json({**state.to_json(), "push": {**state.pushes, row.name: s}}), session.own
        )
        for row in rows
        for s in SHEET
    ]
    pictures = iter(studio.draw([each.after for each in people], state.case, state.settings, on_step))
    shown = []
    for row in rows:
        name = f"Component {row.number}"
        cells = [(next(pictures), f"{s:+g}" if s else "0") for s in SHEET]
        shown.append((name, [markup.Shown(markup.address_of(p), word, f"{name} at {word}") for p, word in cells]))
    return markup.strip(shown, "Components at -3, 0 and +3 standard deviations")

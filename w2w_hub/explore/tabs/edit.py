"""Tab Edit: one control per feature, and a strip from low to high."""

from __future__ import annotations

from typing import Any

from .. import markup
from ..evidence import in_words, strip_values
from ..page import Page, Session, Shown, chosen, number_of, one
from ..people import people_of
from ..state import State
from .panel import panel

COUNT = 9  # pictures of a strip
HALF_STEP = 0.026  # of the slider of the factor, which cannot state the typical one exactly


def build(page: Page) -> None:
    """Add the tab's parts to the page."""
    space = page.studio.space
    controls = panel("edit")
    strip = panel("edit-strip")
    page.redraw.append((
        controls, lambda session, people: markup.edit_panel(space, page.controls, session.state, people)
    ))  # fmt: skip
    page.redraw.append((strip, lambda session, people: ""))

    def changed(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        return page.show(session.with_state(**edits_in(page, session, event)), on_step, panels=False)

    def acted(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        if event["act"] == "reset":
            return page.show(Session(session.state.of(session.state.person), session.own, session.upload), on_step)
        session = session.with_state(**edits_in(page, session, event))
        return {page.session: session, strip: draw_strip(page, session, event["name"], on_step)}

    page.listeners.append(lambda: page.on(controls.edit, changed))
    page.listeners.append(lambda: page.on(controls.act, acted, more=[]))


def edits_in(page: Page, session: Session, event: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a state that a panel's controls say; pushes of other panels stay."""
    values, shown = event["values"], {slider.name for control in page.controls for slider in control.sliders}
    others = {name: amount for name, amount in session.state.pushes.items() if name not in shown}
    model = page.studio.space.population_model
    usual = 1.0 if model is None else model.strength
    factor = number_of(event, "factor", usual)
    found = State.from_json({
        "set": chosen(page.controls, values.get("set", {})),
        "push": others | {name: amount for name, amount in values.get("push", {}).items() if amount},
        "keep": [name for name, kept in values.get("keep", {}).items() if kept is True],
        "start": one(event, "start", 0.0),
        "factor": None if abs(factor - usual) <= HALF_STEP else factor,
    })  # fmt: skip
    return {name: getattr(found, name) for name in ("wanted", "pushes", "preserve", "start", "factor")}


def draw_strip(page: Page, session: Session, name: str, on_step: Any) -> str:
    """Return the person along one direction from low to high, in one batched call."""
    studio, state = page.studio, session.state
    strengths = strip_values(studio.space, name, COUNT)
    along = [
        State.from_json({**state.to_json(), "push": {**state.pushes, name: amount}}) if amount or state.is_edited
        else state
        for amount in strengths
    ]  # fmt: skip
    people = [people_of(studio.space, each, session.own).after for each in along]
    pictures = studio.draw(people, state.case, state.settings, on_step)
    label = in_words(name.replace("=", ": "))
    shown = [
        markup.Shown(markup.address_of(picture), f"{amount:+.3g}" if amount else "0", f"{label} {amount:+.3g}")
        for picture, amount in zip(pictures, strengths, strict=True)
    ]
    return markup.strip([(label, shown)], f"{label}, from low to high (standard deviations)")

"""Tab Compare: people beside each other, and mixes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import markup
from ..comparison import compare_people, overlaps
from ..evidence import in_words
from ..page import Page, Session, Shown, one
from ..people import people_of, point_of, saved
from ..state import MOST_COMPARED, Mixed, Origin, State
from .panel import panel


@dataclass(frozen=True)
class Compared:
    """One person of the tab."""

    label: str
    picture: str
    distance: float
    share: float


def build(page: Page) -> None:
    """Add the tab's parts to the page."""
    controls = panel("compare")
    related = [
        (in_words(one.replace("=", ": ")), in_words(other.replace("=", ": ")), cosine)
        for one, other, cosine in overlaps(page.studio.space)
    ]

    def render(session: Session, shares: dict[str, Any] | None = None, on_step: Any = None) -> str:
        studio, state = page.studio, session.state
        people = [people_of(studio.space, state.of(each)).before for each in state.compared]
        pictures = studio.draw(people, state.case, state.settings, on_step) if people else []
        found = compare_people(studio.space, [each.point for each in people])
        shown = [
            Compared(
                markup.label_of(origin), markup.address_of(picture), distance,
                share_of((shares or {}).get(str(i)), 100 / len(people)),
            )
            for i, (origin, picture, distance) in enumerate(zip(state.compared, pictures, found.distances, strict=True))
        ]  # fmt: skip
        return markup.part(
            "compare", people=shown, most=MOST_COMPARED, cosines=found.cosines.tolist(), differing=found.differing,
            overlaps=related, example=example_row(page),
        )  # fmt: skip

    def acted(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        act, name, state = event["act"], event["name"], session.state
        shares = event["values"].get("share", {})
        people = list(state.compared)
        if act == "add":
            people.append(current(page, session))
            shares = {}
        elif act == "add-row":
            row = session.with_row(one(event, "row", "")).state.person
            point_of(page.studio.space, row)  # raises for one that is not there
            people.append(row)
            shares = {}
        elif act == "remove" and name in map(str, range(len(people))):
            del people[int(name)]
            shares = {}
        elif act == "mix" and len(people) > 1:
            parts = tuple((p, share_of(shares.get(str(i)), 100 / len(people))) for i, p in enumerate(people))
            mixed = session.with_person(State.from_json({"person": as_json(Mixed(parts))}).person)
            return page.show(mixed, on_step) | {controls: render(mixed, shares, on_step)}
        session = session.with_state(compared=tuple(people[:MOST_COMPARED]))
        return page.show(session, on_step, panels=False) | {controls: render(session, shares, on_step)}

    page.restored.append((controls, lambda session, on_step: render(session, None, on_step)))
    page.listeners.append(lambda: page.on(controls.act, acted, more=[controls]))


def current(page: Page, session: Session) -> Origin:
    """Return the person in the picture, after edits, as one to compare."""
    if not session.state.is_edited and session.own is None and not isinstance(session.state.person, Mixed):
        return session.state.person
    return saved(people_of(page.studio.space, session.state, session.own).after)


def share_of(value: Any, default: float) -> float:
    """Return the share that a slider says; the default for anything else."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100
    return float(value) if known else default


def as_json(origin: Origin) -> dict[str, Any]:
    found: dict[str, Any] = State(person=origin).to_json()["person"]
    return found


def example_row(page: Page) -> str:
    """Return the id of a row, as an example; empty in a space without its population."""
    population = page.studio.space.population
    return "" if population is None else population.ids[0]

"""HTML of the page's parts; every text is escaped by the templates in ``pages/``."""

from __future__ import annotations

import base64
import html as entities
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.display import percent
from ..common.pages import render
from ..common.text import terminal
from ..space import WeightSpace
from .evidence import Change, Control, in_words, own_values, values_in_words
from .people import People
from .state import Mixed, Origin, Row, Sampled, State

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PAGES = Path(__file__).parent / "pages"
SMALLEST = 256  # pixels; a smaller picture is enlarged


def part(name: str, **values: Any) -> str:
    """Return the HTML of one template as a part of the page."""
    return f'<div class="w2w">{render(PAGES / f"{name}.html", **values)}</div>'


def numbered(html: str, number: int) -> str:
    """Return a part with a number in its outermost element."""
    return html.replace('<div class="w2w">', f'<div class="w2w" data-rendering="{number}">', 1)


def read_page(name: str) -> str:
    """Return a script or style sheet of ``pages/``."""
    return (PAGES / name).read_text("utf-8")


def address_of(picture: Picture) -> str:
    """Return a picture as a data address, so that no file of it is kept."""
    from PIL import Image

    times = max(1, -(-SMALLEST // max(picture.size)))
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Shown:
    """A picture with its caption."""

    picture: str
    caption: str
    alt: str
    small: str = ""


def label_of(origin: Origin, upload: str = "") -> str:
    """Return what to call a person."""
    if upload:
        return upload
    match origin:
        case Sampled():
            return f"New person {origin.seed}"
        case Row():
            return origin.id
        case Mixed():
            return "Mix of " + ", ".join(label_of(each) for each, _ in origin.parts)
    return "Saved person"


def edits_in_words(state: State) -> str:
    """Return the edits of a state as a sentence's end."""
    words = values_in_words(state.wanted)
    parts = [f"{in_words(name)} {word}" for name, word in words.items()]
    parts += [f"{in_words(name)} {amount:+.3g} sd" for name, amount in state.pushes.items() if amount]
    return ", ".join(parts)


def stage(state: State, pictures: Sequence[Picture], upload: str = "") -> str:
    """Return the pictures before and after."""
    return part(
        "stage", before=address_of(pictures[0]), after=address_of(pictures[-1]), edited=state.is_edited,
        label=label_of(state.person, upload),
    )  # fmt: skip


def facts(state: State, changes: Sequence[Change], notes: Sequence[str], upload: str = "") -> str:
    """Return what was edited, what that changed, and what to be aware of."""
    return part(
        "facts", label=label_of(state.person, upload), edits=edits_in_words(state), notes=list(notes),
        changes=[_bar(change) for change in changes],
    )  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One bar of what changed."""

    label: str
    words: str
    left: float
    width: float
    more: bool
    wanted: bool


def _bar(change: Change) -> Bar:
    more = change.after > change.before
    if change.is_probability:
        words = f"{percent(round(change.before, 2))} to {percent(round(change.after, 2))}"
        left, width = 100 * min(change.before, change.after), 100 * abs(change.after - change.before)
    else:
        words = f"{change.before:.3g} to {change.after:.3g}"
        left, width = 50 - (0 if more else 50 * change.share), 50 * change.share
    return Bar(change.label, words, left, width, more, change.wanted)


def edit_panel(space: WeightSpace, controls: Sequence[Control], state: State, people: People) -> str:
    """Return the controls of the tab Edit, with the person's own values beside them."""
    model, wanted = space.population_model, values_in_words(state.wanted)
    own = values_in_words(own_values(space, people.before))
    touched = {*state.pushes, *state.preserve}
    return part(
        "edit", controls=controls, own=own,
        wanted={n: wanted[n] if isinstance(v, bool) else v for n, v in state.wanted.items()}, pushes=state.pushes,
        opened={control.name: any(slider.name in touched for slider in control.sliders) for control in controls},
        preserve=state.preserve, start=state.start, typical=None if model is None else model.strength,
        factor=(model.strength if model is not None else 1.0) if state.factor is None else state.factor,
    )  # fmt: skip


def code(text: str, note: str = "") -> str:
    """Return Python to copy, and a note about it."""
    from markupsafe import Markup

    return part("code", code=Markup(entities.escape(terminal(text, keep="\n"))), note=note)


def strip(rows: Sequence[tuple[str, Sequence[Shown]]], title: str = "", notes: Sequence[str] = ()) -> str:
    """Return rows of pictures beside each other."""
    return part(
        "strip", rows=[{"label": label or title, "pictures": pictures} for label, pictures in rows], title=title,
        notes=notes,
    )  # fmt: skip


def facts_of(space: WeightSpace, state: State) -> list[tuple[str, str]]:
    """Return what the footer states: space, version, commit, digest, license and seed."""
    revision = space.revision
    facts = [("Weight space", f"{space.name} {space.version}")]
    if revision is not None:
        facts.append(("Repository", str(revision)))
    seed = f"{state.person.seed}, picture {state.seed}" if isinstance(state.person, Sampled) else str(state.seed)
    return [*facts, ("Digest", space.digest[:12]), ("License", space.licence), ("Seed", seed)]

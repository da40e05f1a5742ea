"""Tab Person: somebody new, a row of the data, an uploaded file, or the person in a picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from .. import markup
from ..evidence import neighbors_of
from ..files import (
    ADAPTER_SUFFIXES,
    PICTURE_SUFFIXES,
    read_adapter_upload,
    read_picture_upload,
    uploaded,
)
from ..page import MODEL, Page, Session, Shown, chosen, one, refused
from ..people import People, people_of, saved
from ..state import Sampled, State
from .compare import example_row
from .panel import panel, upload_field

STEPS, MOST_STEPS = 200, 1000  # of an inversion
NEIGHBORS = 6


def build(page: Page) -> None:
    """Add the tab's parts to the page."""
    controls, near = panel("person"), panel("neighbors")
    with gr.Accordion("Somebody from a file: a LoRA of any kind, or a saved point", open=False):
        adapter = upload_field(
            "LoRA (.safetensors, with its adapter_config.json if there is one) or point (.json)", ADAPTER_SUFFIXES,
            "upload", several=True,
        )  # fmt: skip
    with gr.Accordion("Somebody in a picture", open=False):
        picture = upload_field(
            "Picture; its center is cut to the size that the model draws", PICTURE_SUFFIXES, "picture", several=False
        )
        steps = gr.Slider(20, MOST_STEPS, STEPS, step=20, label="Steps of the search", elem_id="w2w-steps")
        live = panel("inversion")

    def render(session: Session, people: People) -> str:
        person = session.state.person
        sampled = person if isinstance(person, Sampled) else Sampled()
        binary = {control.name: control.kind == "switch" for control in page.controls}
        return markup.part(
            "person", seed=sampled.seed, truncation=sampled.truncation,
            controls=[] if page.studio.space.population_model is None else page.controls,
            attributes={
                name: ("yes" if value is True else "no") if binary.get(name) else value
                for name, value in sampled.attributes.items()
            },
            example=example_row(page),
        )  # fmt: skip

    page.redraw.append((controls, render))
    page.redraw.append((near, lambda session, people: ""))

    def acted(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        if event["act"] == "neighbors":
            return {near: draw_neighbors(page, session, on_step)}
        if event["act"] == "row":
            return page.show(session.with_row(one(event, "row", "")), on_step)
        wanted = chosen(page.controls, event["values"].get("with", {}))
        given = {"sample": one(event, "seed", 0), "truncation": one(event, "truncation", 1.0), "attributes": wanted}
        return page.show(session.with_person(State.from_json({"person": given}).person), on_step)

    def upload(session: Session, event: dict[str, Any], paths: list[str], *, on_step: Any) -> Shown:
        with uploaded(paths) as found:
            identity, name, notes = read_adapter_upload(page.studio.space, found)
        state = session.state.of(saved(identity))
        own = identity if identity.exact else None
        return page.show(Session(state, own, name, notes), on_step)

    def invert(session: Session, stop: Any, paths: list[str], count: float) -> Iterator[Shown]:
        stop.asked = False
        try:
            with uploaded(paths) as files:
                given = read_picture_upload(files[0], page.studio.picture_size) if files else None
        except Exception as error:
            yield {page.message: refused(error)}
            return
        if given is None:
            return
        yield {page.message: "", live: show_inversion(given, None, (), 0, int(count))}
        began = time.monotonic()
        last = None
        limited = min(max(int(count), 1), MOST_STEPS)
        try:
            for found, preview in page.studio.invert(
                given, steps=limited, prompt=session.state.prompt, stop=lambda: stop.asked
            ):
                last = found
                spent = time.monotonic() - began
                yield {live: show_inversion(given, preview, found.losses, spent, limited)}
        except Exception as error:
            yield {page.message: refused(error)}
        if last is not None:
            person = saved(page.studio.pipe.resolve(last))
            yield page.show(replace(session.with_person(person), upload="Person in the picture"))

    page.listeners.append(lambda: page.on(controls.act, acted, more=[near]))

    # the fields are emptied by events of their own: an output that is left out makes Gradio replace its component
    def empty(field: Any, event: Any) -> Any:
        return event.then(lambda: None, None, field, api_visibility="private", show_progress="hidden")

    page.listeners.append(lambda: empty(adapter, page.on(adapter.upload, upload, [adapter])))
    page.listeners.append(lambda: empty(picture, picture.upload(
        invert, [page.session, page.stop, picture, steps], [*page.outputs, live], concurrency_id=MODEL,
        concurrency_limit=1, show_progress="hidden", api_visibility="private",
    )))  # fmt: skip


def show_inversion(given: Any, preview: Any, losses: tuple[float, ...], seconds: float, steps: int) -> str:
    """Return the picture, its preview, and the loss so far."""
    pictures = [markup.Shown(markup.address_of(given), "Your picture", "The picture that was uploaded")]
    if preview is not None:
        pictures.append(markup.Shown(markup.address_of(preview), "Found so far", "The person found so far"))
    top = max(losses, default=1.0)
    line = " ".join(f"{300 * i / max(1, steps - 1):.1f},{58 - 56 * loss / top:.1f}" for i, loss in enumerate(losses))
    status = "Starting ..." if not losses else f"Step {len(losses)} of {steps}, error {losses[-1]:.4f}, {seconds:.0f} s"
    return markup.part(
        "inversion", pictures=pictures, line=line if len(losses) > 1 else "", loss=losses[-1] if losses else 0.0,
        status=status,
    )  # fmt: skip


def draw_neighbors(page: Page, session: Session, on_step: Any) -> str:
    """Return the most similar rows with pictures, and the warning of a copy."""
    studio, state = page.studio, session.state
    person = people_of(studio.space, state, session.own).after
    found = neighbors_of(studio.space, person, page.usual, NEIGHBORS)
    if found is None:
        return markup.part("message", text="This weight space was published without its people.")
    rows = [studio.pipe.resolve(row) for row, _ in found.rows]
    pictures = studio.draw(rows, state.case, state.settings, on_step)
    shown = [
        markup.Shown(markup.address_of(picture), row, f"Picture of {row}", f"similarity {cosine:.2f}")
        for picture, (row, cosine) in zip(pictures, found.rows, strict=True)
    ]
    notes = [found.warning] if found.warning else []
    return markup.strip([("The most similar people", shown)], "", notes)

"""Page: the components that all tabs share, one visitor's session, and how a change is shown."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import gradio as gr

from ..common.constraints import number
from ..common.text import terminal
from ..errors import InvalidInputError, W2WError
from ..space.identity import Identity
from ..space.provenance import trigger_phrase
from . import markup
from .evidence import (
    Control,
    changes_of,
    controls_of,
    distance_note,
    neighbors_of,
    usual_similarity,
)
from .people import People, people_of
from .snippet import POINT_FILE, python_of
from .state import PROMPT, Origin, Sampled, Saved, State
from .studio import StoppedError, Studio

logger = logging.getLogger(__name__)
MODEL = "model"  # the queue of everything that runs the base model: one visitor at a time
PATIENCE = 2.0  # seconds of work after which its progress is shown
FIRST_SEEDS = 10  # that are tried for the first person
MOST_VALUES = 2_000  # that one event of a panel may hold
PROGRESS = gr.Progress()
Shown = dict[Any, Any]  # new values by component


@dataclass(frozen=True, eq=False)
class Session:
    """One visitor's state.

    Attributes
    ----------
    state : State
    own : Identity or None
        The exact weights of an upload; the state holds its point. In memory only, until the page is closed.
    upload : str
        The name of that upload.
    notes : tuple of str
        About that upload.
    """

    state: State = field(default_factory=State)
    own: Identity | None = None
    upload: str = ""
    notes: tuple[str, ...] = ()

    def with_person(self, person: Origin) -> Session:
        return Session(self.state.of(person))

    def with_row(self, name: Any) -> Session:
        """Return the session of a row whose name a browser sent."""
        return self.with_person(State.from_json({"person": {"row": name}}).person)

    def with_state(self, **changes: Any) -> Session:
        return replace(self, state=replace(self.state, **changes))


class Stop:
    """Whether a visitor asked for the end of the work that runs for them; shared by their events."""

    asked = False


@dataclass
class Page:
    """The parts of the page that every tab changes.

    Attributes
    ----------
    redraw : list
        Panels that show the person, each with the function that renders it.
    restored : list
        Panels that only a link renders again.
    listeners : list
        Functions that connect the tabs' events, called once all panels are there.
    """

    studio: Studio
    session: Any
    stop: Any
    stage: Any
    facts: Any
    message: Any
    link: Any
    code: Any
    footer: Any
    controls: list[Control] = field(init=False)
    usual: float | None = field(init=False)
    prompt: str = field(init=False)
    redraw: list[tuple[Any, Callable[[Session, People], str]]] = field(default_factory=list)
    restored: list[tuple[Any, Callable[[Session, Any], str]]] = field(default_factory=list)
    listeners: list[Callable[[], Any]] = field(default_factory=list)
    renderings: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.controls = controls_of(self.studio.space)
        self.prompt = trigger_phrase(self.studio.space) or PROMPT
        self.usual = usual_similarity(self.studio.space.population)

    # ------------------------------------------------------------ events
    @property
    def outputs(self) -> list[Any]:
        """Components that a change of the person may change."""
        panels = [panel for panel, _ in self.redraw]
        return [self.session, self.stage, self.facts, self.message, self.link, self.code, self.footer, *panels]

    def on(
        self,
        listen: Callable[..., Any],
        work: Callable[..., Shown],
        inputs: Sequence[Any] = (),
        more: Sequence[Any] = (),
        **options: Any,
    ) -> Any:
        """Run ``work(session, event, *inputs, on_step=...)`` for an event, in the queue of the base model.

        Parameters
        ----------
        listen : callable
            A component's event, such as ``panel.act``.
        more : sequence of components
            Outputs besides :attr:`outputs`.
        """

        def listener(event: gr.EventData, progress: Any = PROGRESS, *given: Any) -> Shown:
            session, stop, *others = given
            stop.asked = False
            return self.guarded(lambda: work(session, sent(event), *others, on_step=watch(stop, progress)))

        return listen(
            listener, [self.session, self.stop, *inputs], [*self.outputs, *more], concurrency_id=MODEL,
            concurrency_limit=1, show_progress="minimal", show_progress_on=[self.stage, *more],
            **{"api_visibility": "private", "trigger_mode": "always_last", **options},
        )  # fmt: skip

    def guarded(self, work: Callable[[], Shown]) -> Shown:
        """Return what `work` shows; an exception becomes a message, and everything else stays as it was."""
        try:
            return {self.message: "", **work()}
        except Exception as error:
            return {self.message: refused(error)}

    # ------------------------------------------------------------ showing
    def show(self, session: Session, on_step: Any = None, *, panels: bool = True) -> Shown:
        """Draw the person of a session, and return everything that changes with it.

        Parameters
        ----------
        panels : bool
            Also render the panels again; not while the visitor moves their controls.
        """
        studio, state = self.studio, session.state
        people = people_of(studio.space, state, session.own)
        both = [people.before, people.after] if state.is_edited else [people.before]
        pictures = studio.draw(both, state.case, state.settings, on_step)
        changes = changes_of(studio.space, people.before, people.after, [*state.wanted, *state.pushes])
        near = neighbors_of(studio.space, people.after, self.usual, 1)
        notes = [*session.notes, *people.notes, distance_note(studio.space, people.after), near.warning if near else ""]
        shown: Shown = {
            self.session: session,
            self.stage: markup.stage(state, pictures, session.upload),
            self.facts: markup.facts(state, changes, [note for note in notes if note], session.upload),
            self.footer: markup.part("footer", facts=markup.facts_of(studio.space, state)),
            self.code: self.python(session),
            self.link: self.link_of(session),
        }
        return shown | ({panel: self.again(render(session, people)) for panel, render in self.redraw} if panels else {})

    def again(self, html: str) -> str:
        """Return a panel as one that differs from the last, so that the browser sets its controls again."""
        return markup.numbered(html, next(self.renderings))

    def first(self) -> Session:
        """Return the session of a page that was opened without a link: a new person who is no copy of a row."""
        for seed in range(FIRST_SEEDS):
            session = Session(State(Sampled(seed), prompt=self.prompt))
            person = people_of(self.studio.space, session.state).after
            near = neighbors_of(self.studio.space, person, self.usual, 1)
            if near is None or not near.warning:
                return session
        return Session(State(prompt=self.prompt))

    def link_of(self, session: Session) -> str:
        try:
            return session.state.to_link(self.studio.space.digest)
        except InvalidInputError:  # more coefficients than a link holds
            return ""

    def python(self, session: Session) -> str:
        """Return the Python that draws the person of a session, and what to know about it."""
        upload, note = "", ""
        if session.own is not None:
            upload = session.upload
            note = "The link restores the person's point in this weight space; the file itself is not kept here."
        elif isinstance(session.state.person, Saved):
            note = f"Undo the changes and take the point along as {POINT_FILE} for this."
        return markup.code(python_of(session.state, self.studio.source, upload=upload), note)


# ---------------------------------------------------------------- what a browser sends
def sent(event: Any) -> dict[str, Any]:
    """Return what a panel sent, from a stranger's browser: ``act``, ``name`` and ``values`` by kind and name."""
    data = getattr(event, "_data", None)
    data = data if isinstance(data, Mapping) else {}
    values = data.get("values")
    kept: dict[str, dict[str, Any]] = {}
    total = 0
    for kind, named in (values if isinstance(values, Mapping) else {}).items():
        if not isinstance(named, Mapping):
            continue
        total += len(named)
        if total > MOST_VALUES:
            break
        kept[str(kind)] = {str(name): value for name, value in named.items()}
    act, name = data.get("act"), data.get("name")
    return {
        "act": act if isinstance(act, str) else "", "name": name if isinstance(name, str) else "", "values": kept,
    }  # fmt: skip


def one(event: Mapping[str, Any], kind: str, default: Any = None) -> Any:
    """Return the value of a panel's control that is alone of its kind."""
    found = event["values"].get(kind, {}).get("")
    return default if found is None or found == "" else found


def number_of(event: Mapping[str, Any], kind: str, default: float) -> float:
    """Return the finite number of a control that is alone of its kind.

    Raises
    ------
    InvalidInputError
        If the browser sent something else.
    """
    found: float = number(-1e12, 1e12).checked(one(event, kind, default), f"the page: {kind}")
    return found


def chosen(controls: Sequence[Control], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a panel's controls choose: bools, levels and numbers; those left as they are not."""
    kinds = {control.name: control.kind for control in controls}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in kinds and value not in ("", None):
            found[name] = value == "yes" if kinds[name] == "switch" else value
    return found


def said(text: str) -> str:
    """Return a message for the visitor."""
    return markup.part("message", text=terminal(text))


def refused(error: Exception) -> str:
    """Return the message of an exception; what is no refusal is for the server's log, not for a visitor."""
    if isinstance(error, StoppedError):
        return said("Stopped.")
    if isinstance(error, W2WError):
        return said(str(error))
    logger.error("an event of the explorer failed", exc_info=error)
    return said("That did not work; the log of the server says why.")


def watch(stop: Stop, progress: Any) -> Callable[[float], None]:
    """Return a callback that stops a drawing, and shows the progress of one that takes a while."""
    began = time.monotonic()

    def on_step(fraction: float) -> None:
        if stop.asked:
            raise StoppedError
        if time.monotonic() - began > PATIENCE:
            progress(fraction, desc="Drawing")

    return on_step

"""The page: pictures and what to take along on the left, tabs on the right, facts about the space below."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
import gradio as gr

from ..common.text import one_line, terminal
from ..errors import InvalidInputError
from . import markup
from .files import EXPORTS, export, export_slider
from .gate import AppMiddleware, Gate, is_this_machine
from .page import MODEL, Page, Session, Shown, Stop, refused
from .people import people_of
from .state import LONGEST_TEXT, MOST_STEPS, Sampled, State
from .studio import Studio
from .tabs import compare, components, dataset, edit, person
from .tabs.panel import panel
from .visitor_files import is_full, make_folder, remove_folder

LARGEST_UPLOAD = 256 * 2**20  # bytes
KEPT_SECONDS = 3600  # of a file that was made for a visitor, and of the session of a closed page
MOST_WAITING = 50  # events in the queue
MOST_SESSIONS = 500  # in memory; the oldest give way
SEEDS = 10_000  # of "Somebody new"
TABS = (("Edit", edit), ("Person", person), ("Components", components), ("Compare", compare), ("Dataset", dataset))
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine: nothing is loaded
CONTRAST = {"button_primary_background_fill": "#0b5cad", "button_primary_background_fill_hover": "#094d91"}
GO = "(link) => { if (link) history.replaceState(null, '', link); return link; }"
SAVE = (
    "(file) => { if (!file?.url) return; const link = document.createElement('a'); link.href = file.url; "
    "link.download = file.orig_name ?? ''; link.click(); }"
)


class Explorer(gr.Blocks):
    """A Gradio app whose ``launch`` has this page's style and limits by default."""

    files: Path

    def launch(self, *args: Any, **options: Any) -> Any:
        """Serve the page; keywords are those of `gradio.Blocks.launch`."""
        defaults: dict[str, Any] = {
            "theme": gr.themes.Base(font=FONTS, font_mono=["ui-monospace", "monospace"]).set(**CONTRAST),
            "css": markup.read_page("style.css"), "footer_links": [], "max_file_size": LARGEST_UPLOAD,
            "state_session_capacity": MOST_SESSIONS,
            "ssr_mode": False, "share": False, "enable_monitoring": False, "mcp_server": False,
            "run_history": False,  # which the browser would keep
        }  # fmt: skip
        host = options.get("server_name") or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        local = is_this_machine(_bracketed(host)) and not options.get("share")
        gate = AppMiddleware(Gate, (), {"files": self.files, "local": local})
        given = options.pop("app_kwargs", None) or {}
        options["app_kwargs"] = {**given, "middleware": [gate, *given.get("middleware", ())]}
        os.environ["GRADIO_TEMP_DIR"] = str(self.files)  # of the app that is launched last
        self.queue(max_size=MOST_WAITING, api_open=False)
        return super().launch(*args, **defaults | options)

    def serve(self, host: str, port: int, *, browser: bool = False, block: bool = True, ready: Any = None) -> str:
        """Serve the page at an address; return it, or with `block` only once the server has ended.

        Raises
        ------
        InvalidInputError
            If the address cannot be listened on.
        """
        host = host.removeprefix("[").removesuffix("]")
        try:
            _, address, _ = self.launch(
                server_name=_bracketed(host), server_port=free_port(host, port), inbrowser=browser, quiet=True,
                prevent_thread_lock=True,
            )  # fmt: skip
        except (OSError, ValueError, TypeError) as error:  # a taken port, a name of no address, a name that is none
            raise InvalidInputError(
                f"{one_line(host, 80)}:{port} cannot be listened on ({error}); choose others with --host and --port",
                name="port",
            ) from error
        if ready is not None:
            ready(str(address))
        if block:
            with suppress(KeyboardInterrupt):  # how a server is ended
                threading.Event().wait()
            self.close(verbose=False)
        return str(address)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def free_port(host: str, port: int) -> int:
    """Return a port that can be listened on: this one, or for 0 any.

    Raises
    ------
    OSError, ValueError, TypeError
        If there is none, or no such host.
    """
    import socket

    if not host.strip():
        raise ValueError("no host")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        return int(listener.getsockname()[1])


def build_app(studio: Studio) -> Explorer:
    """Return the explorer of an open pipeline."""
    space = studio.space
    title = f"{terminal(space.name)} {terminal(space.version)}"
    files, locked = make_folder()
    os.environ["GRADIO_TEMP_DIR"] = str(files)  # of uploads and exports
    app = Explorer(title=f"Explore {title}", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS))
    with app:
        app.files = files
        weakref.finalize(app, remove_folder, files, locked)
        gr.HTML(markup.part("title", title=title), elem_id="w2w-title", apply_default_css=False)
        session = gr.State(Session(), time_to_live=KEPT_SECONDS)
        stop = gr.State(Stop(), time_to_live=KEPT_SECONDS)
        with gr.Row(elem_id="w2w-columns"):
            with gr.Column(scale=4, min_width=320, elem_id="w2w-left"):
                stage, message, facts = panel("stage"), panel("message"), panel("facts")
                with gr.Row(elem_id="w2w-buttons"):
                    new = gr.Button("Somebody new", variant="primary", elem_id="w2w-new", min_width=100)
                    halt = gr.Button("Stop", elem_id="w2w-stop", min_width=60)
                with gr.Accordion("What is drawn", open=False, elem_id="w2w-drawn"):
                    prompt = gr.Textbox(label="Prompt", max_length=LONGEST_TEXT, elem_id="w2w-prompt")
                    with gr.Row():
                        seed = gr.Number(0, label="Picture number", precision=0, minimum=0, min_width=90)
                        steps = gr.Number(None, label="Steps", precision=0, minimum=0, maximum=MOST_STEPS, min_width=90)
                        guidance = gr.Number(None, label="Guidance", minimum=0, maximum=100, min_width=90)
                    draw = gr.Button("Draw", elem_id="w2w-draw")
                with gr.Accordion("Take it along", open=False, elem_id="w2w-along"):
                    kind = gr.Dropdown([(word, name) for name, word in EXPORTS.items()], value="peft", label="As")
                    make = gr.Button("Make the file", elem_id="w2w-make")
                    download = gr.DownloadButton("Download", visible=False, elem_id="w2w-download")
                    link = gr.Textbox(
                        label="Link that restores all of this", interactive=False, buttons=["copy"], max_lines=2,
                        elem_id="w2w-link",
                    )  # fmt: skip
                    gr.HTML(markup.part("heading", text="In Python"), apply_default_css=False)
                    code = panel("code")
            with gr.Column(scale=5, min_width=340, elem_id="w2w-right"):
                page = Page(studio, session, stop, stage, facts, message, link, code, panel("footer"))
                page.footer.unrender()
                with gr.Tabs(overflow_behavior="wrap"):
                    for name, tab in TABS:
                        with gr.Tab(name, id=name.lower(), render_children=True):
                            tab.build(page)
        page.footer.render()

        settings = [prompt, seed, steps, guidance]
        connect(app, page, new, halt, settings)
        connect_drawing(page, draw, settings)
        connect_export(page, files, kind, make, download)
        link.change(None, link, link, js=GO, api_visibility="private")
    return app


def connect(app: Explorer, page: Page, new: Any, halt: Any, settings: list[Any]) -> None:
    """Connect the page's first picture, the tabs, and the buttons below the pictures."""
    panels = [panel for panel, _ in page.restored]

    def start(session: Session, stop: Stop, request: gr.Request) -> Shown:
        stop.asked = False
        try:
            given = dict(request.query_params or {})
            state = State.from_link(given, page.studio.space.digest)
            return restore(Session(state) if "person" in given else page.first())
        except Exception as error:  # of a stranger's link
            return restore(page.first()) | {page.message: refused(error)}

    def restore(session: Session) -> Shown:
        state = session.state
        drawn = dict(zip(settings, (state.prompt, state.seed, state.steps, state.guidance), strict=True))
        return page.show(session) | {panel: render(session, None) for panel, render in page.restored} | drawn

    def somebody(session: Session, event: dict[str, Any], *, on_step: Any) -> Shown:
        person = session.state.person
        seed = random.randrange(SEEDS)
        given = (person.truncation, person.attributes) if isinstance(person, Sampled) else ()
        return page.show(session.with_person(Sampled(seed, *given)), on_step)

    def end(stop: Stop) -> None:
        stop.asked = True

    app.load(
        start, [page.session, page.stop], [*page.outputs, *panels, *settings], concurrency_id=MODEL,
        concurrency_limit=1, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    page.on(new.click, somebody)
    halt.click(end, page.stop, None, queue=False, api_visibility="private")
    for listen in page.listeners:
        listen()


def connect_drawing(page: Page, draw: Any, settings: list[Any]) -> None:
    """Connect what is drawn: prompt, seed, steps and guidance."""

    def again(
        session: Session,
        event: dict[str, Any],
        prompt: str,
        seed: float,
        steps: float,
        guidance: float,
        *,
        on_step: Any,
    ) -> Shown:
        given = {
            "prompt": prompt or page.prompt, "seed": int(seed or 0), "steps": int(steps) if steps else None,
            "guidance": guidance if guidance else None,
        }  # fmt: skip
        found = State.from_json(given)
        return page.show(session.with_state(**{name: getattr(found, name) for name in given}), on_step, panels=False)

    page.on(draw.click, again, settings)
    page.on(settings[0].submit, again, settings)


def connect_export(page: Page, files: Path, kind: Any, make: Any, download: Any) -> None:
    """Connect the export: a file is made, and its download starts."""

    def write(session: Session, event: dict[str, Any], kind: str, *, on_step: Any) -> Shown:
        studio, state = page.studio, session.state
        if is_full(files):
            raise InvalidInputError("there are too many files of visitors at the moment; try again in an hour")
        people = people_of(studio.space, state, session.own)
        person = people.after
        picture = studio.draw([person], state.case, state.settings, on_step)[0] if kind == "picture" else None
        folder = Path(tempfile.mkdtemp(prefix="export-", dir=files))
        try:
            if kind == "slider":
                made = export_slider(studio.space, people.before, state, folder)
            else:
                made = export(studio.space, person, str(kind), folder, picture)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return {download: gr.update(value=str(made), label=f"Download {made.name}", visible=True)}

    page.on(make.click, write, [kind], [download]).then(None, download, None, js=SAVE)

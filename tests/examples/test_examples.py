"""Every example of the documents, of all help texts and of docstrings runs as it is written."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import Client

from . import found
from .found import Example
from .room import NAMES, link
from .running import STEPS, in_this_process, on_the_hub, python_on_the_hub, run_python, substituted

NOT_RUN = {
    "pip install": "installs packages",
    "ruff": "checks this checkout, as .ci/run does",
    "mypy": "checks this checkout, as .ci/run does",
    "pytest": "runs these tests",
    "w2w explore": "serves until it is interrupted; tests/explore goes through it with a browser",
    "w2w demo": "takes minutes; tests/demo runs it on a tiny population",
}  # by how a line starts
SHOWN_ONLY = ("text", "toml", "json")  # languages of blocks that are no program
HUB = re.compile(r"\borg/|w2w\.lock|\bbundle\b")
MAINTENANCE = re.compile(r"w2w (review|merge|release|withdraw) ")
ABOUT_PROGRAMS = [e for e in found.of_documents() if e.language not in SHOWN_ONLY]
EXAMPLES = [*found.of_commands(), *ABOUT_PROGRAMS]
DOCSTRINGS = found.of_docstrings()


def code_of(example: Example) -> str:
    """The example without comments, in which a Hub may be only mentioned."""
    if example.language == "bash":
        return "\n".join(line for line in example.lines if not reason(line))
    return re.sub(r"#.*", "", example.text)


def reason(line: str) -> str:
    """Why a line is not run, or nothing."""
    return next((why for start, why in NOT_RUN.items() if f"{line} ".startswith(f"{start} ")), "")


def of(language: str, hub: bool, among: list[Example] = EXAMPLES) -> list[Any]:
    chosen = [e for e in among if e.language == language and bool(HUB.search(code_of(e))) is hub]
    return [pytest.param(e, id=str(e)) for e in chosen if code_of(e).strip()]


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Descents, training and encoders have few steps, and `datasets` caches elsewhere, where something is run."""
    if request.node.get_closest_marker("slow") is None:
        return
    import datasets

    from w2w_hub.models import inversion, sliders
    from w2w_hub.models.encoder import EncoderSettings, evidence, pairs
    from w2w_hub.training import TrainingRecipe

    first = inversion.InversionSettings.__init__

    def few(self: Any, *args: Any, **options: Any) -> None:
        first(self, *args, **options)
        object.__setattr__(self, "num_steps", STEPS)

    slide = sliders.SliderSettings.__post_init__

    def short(self: Any) -> None:
        slide(self)
        object.__setattr__(self, "num_steps", STEPS)

    check = TrainingRecipe.__post_init__

    def brief(self: Any) -> None:
        check(self)
        for name in ("steps", "class_pictures"):
            object.__setattr__(self, name, 2)

    check_encoder = EncoderSettings.__post_init__

    def small(self: Any) -> None:
        check_encoder(self)
        for name in ("pictures", "steps", "batch_size"):
            object.__setattr__(self, name, STEPS)

    monkeypatch.setattr(EncoderSettings, "__post_init__", small)
    monkeypatch.setattr(pairs, "CHUNK", STEPS)
    monkeypatch.setattr(evidence, "MOST", STEPS)
    monkeypatch.setattr(inversion.InversionSettings, "__init__", few)
    monkeypatch.setattr(TrainingRecipe, "__post_init__", brief)
    monkeypatch.setattr(sliders.SliderSettings, "__post_init__", short)
    for name in ("PEOPLE", "SCORED", "RANDOM"):
        monkeypatch.setattr(sliders, name, 4)
    monkeypatch.setenv("W2W_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("example", of("bash", hub=False))
def test_commands_do_what_they_are_shown_for(example: Example, room: Path) -> None:
    for line in code_of(example).splitlines():
        in_this_process(line, room)


@pytest.mark.slow
def test_commands_that_use_a_hub_do_what_they_are_shown_for(published: Client, kept_room: Path, tmp_path: Path) -> None:
    problems = []
    for number, example in enumerate(e for (e,) in (param.values for param in of("bash", hub=True))):
        if "w2w push" in example.text or MAINTENANCE.search(example.text):
            continue
        folder = link(kept_room, tmp_path / f"room-{number}")
        for made in ("w2w.lock", "bundle"):
            link(published.home / made, folder / made)
        try:
            for line in code_of(example).splitlines():
                on_the_hub(line, published, folder)
        except AssertionError as problem:
            problems.append(f"{example.where}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("example", [p for p in of("bash", hub=True) if MAINTENANCE.search(p.values[0].text)])
def test_commands_of_maintainers_run_where_a_contribution_waits(
    example: Example, room: Path, maintained: Client
) -> None:
    for line in code_of(example).splitlines():
        on_the_hub(line, maintained, room)


@pytest.mark.slow
@pytest.mark.parametrize("example", [p for p in of("bash", hub=True) if "w2w push" in p.values[0].text])
def test_commands_that_publish_do_so_where_nothing_is(example: Example, room: Path, empty_hub: Client) -> None:
    for line in code_of(example).splitlines():
        on_the_hub(line, empty_hub, room)


@pytest.mark.slow
@pytest.mark.parametrize("example", of("python", hub=False))
def test_programs_of_the_documents_run_alone(example: Example, room: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        run_python(example.text, example.where, {"__name__": "__main__"})


def surroundings(where: str, pipe: Any) -> dict[str, Any]:
    """What a reader of a docstring has at hand: the package, its module, and things with the names of the room."""
    import diffusers
    import numpy as np
    import pandas as pd
    from PIL import Image
    from torch.utils.data import DataLoader

    import w2w_hub
    from w2w_hub.space import TorchEngine

    people = w2w_hub.WeightDataset.open("people")
    if "Inpaint" in where:  # the shipped base model has another number of channels
        space = w2w_hub.WeightSpace.open("sd15-space")
        pipe = w2w_hub.W2WPipeline.from_base("stable-diffusion-v1-5/stable-diffusion-v1-5", space)
    else:
        pipe.space.encoder = w2w_hub.Encoder.load("encoder.safetensors")
    return {
        **{name: getattr(w2w_hub, name) for name in w2w_hub.__all__},
        "np": np, "pd": pd, "diffusers": diffusers, "DataLoader": DataLoader,
        "TorchEngine": TorchEngine, "StableDiffusionPAGPipeline": diffusers.StableDiffusionPAGPipeline,
        "people": people, "ds": people, "dataset": people, "space": pipe.space, "pipe": pipe,
        "layout": people.layout, "matrix": people[:20], "ids": list(people.ids[:20]), "table": people.labels[:20],
        "picture": Image.open("picture.png").convert("RGB"), "mask": Image.open("face.png"),
        **vars(importlib.import_module(found.module_of(where))),
    }  # fmt: skip


NOT_PUBLIC = {"w2w_hub.store.hub.transfer.Pace": "part of a download"}
DOCSTRINGS = [e for e in DOCSTRINGS if e.where not in NOT_PUBLIC]


@pytest.mark.slow
@pytest.mark.parametrize("example", of("python", hub=False, among=DOCSTRINGS))
def test_docstrings_show_what_happens(example: Example, room: Path, pipe: Any) -> None:
    names, checker = surroundings(example.where, pipe), doctest.OutputChecker()
    for one in doctest.DocTestParser().get_examples(example.shown):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            run_again(compile(substituted(one.source), example.where, "single"), names)
        assert not one.want or checker.check_output(one.want, said.getvalue(), doctest.ELLIPSIS), said.getvalue()


def run_again(code: Any, names: dict[str, Any]) -> None:
    """Run code that may write what is in the room already."""
    from w2w_hub.errors import AlreadyExistsError

    try:
        exec(code, names)
    except AlreadyExistsError as error:
        path = Path(str(error.path))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        exec(code, names)


@pytest.mark.slow
@pytest.mark.parametrize("example", of("python", hub=True, among=[*DOCSTRINGS, *ABOUT_PROGRAMS]), ids=str)
def test_programs_that_use_a_hub_run(example: Example, room: Path, request: pytest.FixtureRequest) -> None:
    waiting = "maintained" if ", 12" in example.text else "empty_hub" if "push" in example.text else "published"
    start = ""
    if example.shown:
        module = found.module_of(example.where)
        start = f"import importlib\nglobals().update(vars(importlib.import_module({module!r})))\n"
    if "pipe." in example.text and "pipe =" not in example.text:
        start += "from w2w_hub import W2WPipeline\npipe = W2WPipeline.from_pretrained('space')\n"
    python_on_the_hub(start + example.text, request.getfixturevalue(waiting), room)


@pytest.mark.slow
def test_the_table_of_names_is_complete(kept_room: Path, published: Client) -> None:
    named = {name for names in NAMES for name in names.split(", ")}
    there = [kept_room / name for name in named] + [published.home / name for name in ("w2w.lock", "bundle")]
    assert {path.name for path in there if not path.exists()} == {"w2w.lock", "bundle"}
    assert {path.name for path in kept_room.iterdir()} <= {name.partition("/")[0] for name in named}


def test_every_block_and_line_is_run_or_has_a_reason_not_to_be() -> None:
    lines = [line for e in EXAMPLES if e.language == "bash" for line in e.lines]
    assert set(NOT_RUN.values()) <= set(map(reason, lines))
    assert len({line for line in lines if reason(line)}) <= 12
    assert {e.language for e in ABOUT_PROGRAMS} <= {"bash", "python"}
    assert len(EXAMPLES) > 80
    assert len(DOCSTRINGS) > 25


def test_every_command_has_examples_and_each_is_of_the_command() -> None:
    from w2w_hub.cli import main

    shown = {name: [e.text for e in EXAMPLES if e.where == f"w2w {name} --help"] for name in main.commands}
    assert not [name for name, lines in shown.items() if not lines]
    assert not [line for name, lines in shown.items() for line in lines if not line.startswith(f"w2w {name} ")]

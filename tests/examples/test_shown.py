"""Examples that change a person show it: the demo's judge reads the pictures before and after."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2w_hub.demo.assets import Assets
from w2w_hub.demo.judge import Judge
from w2w_hub.demo.measure import attribute_shown, others_kept, tensor
from w2w_hub.models.pictures import open_picture

from . import found
from .found import Example
from .room import EDIT
from .running import in_this_process, run_python, words_of

pytestmark = pytest.mark.slow
CASE = [("sks person", 0)]  # what render and grid show by default
KEPT = 0.75  # all but one of the four other factors
COMMANDS = found.of_commands()


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load(Assets().judge)


def parameters(example: Example, folder: Path) -> dict[str, Any]:
    """What click understands of an example."""
    from w2w_hub.cli import main

    words, _ = words_of(example.text, folder)
    return main.commands[words[1]].make_context(words[1], words[2:]).params


def require_shown(judge: Judge, before: np.ndarray, after: np.ndarray, name: str, strength: float) -> None:
    """The attribute appears or disappears, as the strength says, and the judge reads nearly all others as before."""
    assert bool(attribute_shown(judge, before, name)) is (strength < 0), "before"
    assert bool(attribute_shown(judge, after, name)) is (strength > 0), "after"
    assert others_kept(judge, before[None], after[None], name)[0] >= KEPT, "others"


def require_set(judge: Judge, before: np.ndarray, after: np.ndarray, wanted: dict[str, Any]) -> None:
    """The judge reads what was set, and nearly all factors that are not a part of it as before."""
    first, second = (
        {f: judge.factors[f][int(p.argmax())] for f, p in judge.read(tensor(x)).items()} for x in (before, after)
    )
    own: set[str] = set()
    for name, value in wanted.items():
        if name in judge.attributes:
            truth = str(value).lower() == "true"
            assert bool(attribute_shown(judge, before, name)) is not truth, f"{name} before"
            assert bool(attribute_shown(judge, after, name)) is truth, f"{name} after"
            own |= {next(iter(judge.attributes[name]))}
        else:
            assert first[name] != value == second[name], name
            own |= {name}
    others = [f for f in judge.factors if f not in own]
    assert np.mean([first[f] == second[f] for f in others]) >= KEPT - 0.1, "others"  # 2 of 3


def of(name: str, word: str = "") -> list[Example]:
    return [e for e in COMMANDS if e.where == f"w2w {name} --help" and word in e.text]


@pytest.mark.parametrize("example", of("edit"), ids=str)
def test_edits_of_the_examples_show(example: Example, room: Path, pipe: Any, judge: Judge) -> None:
    asked = parameters(example, room)
    in_this_process(example.text, room)
    before, after = pipe.render([asked["identity"], asked["out"]], CASE)[:, 0]
    for name, strength in asked["strengths"]:
        if asked["unit"] == "sd" and not asked["layers"]:
            require_shown(judge, before, after, name, strength)
        else:
            assert bool(attribute_shown(judge, after, name))
    if asked["wanted"]:
        require_set(judge, before, after, dict(asked["wanted"]))


@pytest.mark.parametrize("example", of("grid", "--attribute"), ids=str)
def test_sweeps_of_the_examples_show_on_every_person(example: Example, room: Path, pipe: Any, judge: Judge) -> None:
    from w2w_hub.models.pipelines import strength_grid

    asked = parameters(example, room)
    name, listed = asked["attribute"], asked["strengths"]
    ends = [float(word) for word in listed.split(",")] if listed else [asked["low"], asked["high"]]
    pictures = strength_grid(pipe, [*asked["identities"]], name, [ends[0], ends[-1]], CASE[0])
    for first, last in pictures:
        require_shown(judge, first, last, name, ends[-1])


@pytest.mark.parametrize("example", of("grid", "--set"), ids=str)
def test_sets_of_the_examples_show_on_every_person(example: Example, room: Path, pipe: Any, judge: Judge) -> None:
    from w2w_hub.models.pipelines import strength_grid

    asked = parameters(example, room)
    wanted = dict(asked["wanted"])
    for first, last in strength_grid(
        pipe, [*asked["identities"]], wanted, [0, pipe.space.population_model.strength], CASE[0]
    ):
        require_set(judge, first, last, wanted)


@pytest.mark.parametrize("example", of("sample", "--attribute"), ids=str)
def test_samples_of_the_examples_have_their_attributes(example: Example, room: Path, pipe: Any, judge: Judge) -> None:
    asked = parameters(example, room)
    in_this_process(example.text, room)
    files = sorted(asked["out"].glob("*.json"))
    for picture in pipe.render(files, CASE)[:, 0]:
        for name, value in asked["wanted"]:
            shown = {f: judge.factors[f][int(p.argmax())] for f, p in judge.read(tensor(picture)).items()}
            assert bool(attribute_shown(judge, picture, name)) if name in judge.attributes else shown[name] == value


def test_the_rooms_edited_person_has_a_beard(room: Path, pipe: Any, judge: Judge) -> None:
    before, after = pipe.render(["person-0010", "bearded.json"], CASE)[:, 0]
    require_set(judge, before, after, EDIT)


def test_the_first_program_of_the_readme_shows_what_it_says(room: Path, judge: Judge) -> None:
    (example,) = (e for e in found.of_documents() if '"before.png"' in e.text)
    run_python(example.text, example.where, {"__name__": "__main__"})
    before, after = (np.asarray(open_picture(f"{name}.png"), np.float32) / 255 for name in ("before", "after"))
    require_set(judge, before, after, eval(re.search(r"pipe.edit\(set=(.*?)\)", example.text)[1]))  # type: ignore[index]


def test_the_edits_of_the_readme_on_the_command_line_show(room: Path, pipe: Any, judge: Judge) -> None:
    lines = [line for e in found.of_documents() for line in e.lines if line.startswith("w2w edit ")]
    assert lines
    for line in lines:
        test_edits_of_the_examples_show(Example("README.md", "bash", line), room, pipe, judge)

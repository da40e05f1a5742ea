"""Generation settings that travel with a weight space, and which of them a call uses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from w2w_hub import W2WPipeline, WeightDataset, WeightSpace
from w2w_hub.errors import AlreadyExistsError, CorruptFileError, InvalidInputError
from w2w_hub.models.pipelines import W2WStableDiffusionImg2ImgPipeline, strength_grid
from w2w_hub.release import diff
from w2w_hub.space.fit.build_and_save import build_and_save
from w2w_hub.store.hashing import entry_of

from ..cli.test_commands import w2w
from ..hub.conftest import reseal
from ..tiny_world import TinyWorld

SETTINGS = {"num_inference_steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def stored(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space that states its settings; read only."""
    out = tmp_path_factory.mktemp("generation") / "space"
    build_and_save(WeightDataset.open(tiny_world.rows), out, 3, base=tiny_world.base, generation=SETTINGS)
    return out


@pytest.fixture(scope="module")
def opened(stored: Path) -> W2WPipeline:
    return W2WPipeline.from_pretrained(stored)


@pytest.fixture
def pipe(opened: W2WPipeline) -> W2WPipeline:
    """A pipeline of its own for each test, with shared components."""
    pipe = W2WPipeline.from_pipe(opened)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def used(pipe: Any, call: Callable[..., Any], **options: Any) -> tuple[int, float]:
    """Denoising steps and guidance of a call."""
    steps: list[int] = []

    def count(_: Any, step: int, __: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return inputs

    call(callback_on_step_end=count, **options)
    return len(steps), pipe.guidance_scale


def test_a_call_uses_what_the_space_states_unless_it_is_given(pipe: W2WPipeline) -> None:
    assert pipe.generation == SETTINGS
    assert used(pipe, pipe, prompt="sks person") == (3, 2.0)
    assert used(pipe, pipe, prompt="sks person", num_inference_steps=2) == (2, 2.0)
    assert used(pipe, pipe, prompt="sks person", guidance_scale=1.0) == (3, 1.0)
    by_position = ("sks person", None, None, 1)
    assert used(pipe, lambda **options: pipe(*by_position, **options)) == (1, 2.0)
    pipe.identity = ["person-0001", "person-0002"]
    assert used(pipe, pipe, prompt="sks person") == (3, 2.0)
    assert used(pipe, pipe.render, identities=[None, "person-0003"], cases=[("x", 0)]) == (3, 2.0)
    assert used(pipe, lambda **options: strength_grid(pipe, ["person-0003"], "PC1", [1.0], ("x", 0), **options)) == (
        3,
        2.0,
    )


def test_settings_can_be_set_are_kept_by_from_pipe_and_saved(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.generation = {"num_inference_steps": 2}
    assert used(pipe, pipe, prompt="sks person") == (2, 7.5)  # the stock class's own guidance
    other = W2WStableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert other.generation == {"num_inference_steps": 2}
    picture = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    other.set_progress_bar_config(disable=True)
    assert used(other, other, prompt="sks person", image=picture, strength=1.0)[0] == 2
    pipe.save_pretrained(tmp_path / "saved")
    assert W2WPipeline.from_pretrained(tmp_path / "saved").generation == {"num_inference_steps": 2}
    assert "num_inference_steps=2" in (tmp_path / "saved" / "README.md").read_text("utf-8")
    pipe.generation = {}
    pipe.save_pretrained(tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "w2w_pipeline.json").read_text()) == {"base_model": "embedded"}


def test_a_space_in_memory_has_them_and_stores_them_with_a_base_model(
    stored: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    space = WeightSpace.open(stored)
    assert space.generation == SETTINGS
    assert W2WPipeline.from_base(tiny_world.base, space).generation == SETTINGS
    space.save(tmp_path / "again", base=tiny_world.base)
    assert WeightSpace.open(tmp_path / "again").generation == SETTINGS
    space.save(tmp_path / "other", base=tiny_world.base, generation={"guidance_scale": 3})
    assert WeightSpace.open(tmp_path / "other").generation == {"guidance_scale": 3.0}
    space.save(tmp_path / "bare")
    assert WeightSpace.open(tmp_path / "bare").generation == {}
    with pytest.raises(InvalidInputError, match="base"):
        space.save(tmp_path / "no-base", generation=SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [3, ["num_inference_steps"], {"steps": 3}, {"num_inference_steps": 0}, {"num_inference_steps": 2.5},
     {"guidance_scale": -1}, {"guidance_scale": float("nan")}, {"guidance_scale": "2"}],
)  # fmt: skip
def test_settings_that_are_none_are_refused_before_anything_is_computed(
    wrong: Any, tiny_world: TinyWorld, tmp_path: Path, pipe: W2WPipeline
) -> None:
    dataset = WeightDataset.open(tiny_world.rows)
    with pytest.raises(InvalidInputError, match="generation"):
        build_and_save(dataset, tmp_path / "space", 3, base=tiny_world.base, generation=wrong)
    with pytest.raises(InvalidInputError, match="generation"):
        pipe.generation = wrong
    assert pipe.generation == SETTINGS


def test_settings_that_are_not_known_are_ignored(stored: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stored, tmp_path / "space")

    def state(generation: Any) -> Path:
        path = folder / "w2w_pipeline.json"
        path.write_text(json.dumps({"base_model": "embedded", "generation": generation}))
        files = json.loads((folder / "manifest.json").read_text())["files"]
        reseal(folder, files=files | {path.name: entry_of(path)})
        return folder

    assert WeightSpace.open(state({"eta": 0.5, "guidance_scale": 2.0})).generation == {"guidance_scale": 2.0}
    with pytest.raises(CorruptFileError, match="generation"):
        WeightSpace.open(state({"guidance_scale": "x"}))


@pytest.mark.slow
def test_the_command_line_stores_settings_and_draws_with_them(
    stored: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    out = tmp_path / "space"
    settings = ("--num-inference-steps", 3, "--guidance-scale", 2)
    assert w2w("build", tiny_world.rows, "--k", 3, "--base", tiny_world.base, *settings, "--out", out).exit_code == 0
    assert WeightSpace.open(out).generation == SETTINGS

    def sheet(name: str, *words: object) -> bytes:
        result = w2w("render", out, "person-0001", *words, "--out", tmp_path / f"{name}.png")
        assert result.exit_code == 0, result.output
        return (tmp_path / f"{name}.png").read_bytes()

    assert sheet("stored") == sheet("given", "--steps", 3, "--guidance", 2) == sheet("long", *settings)
    assert sheet("two", "--num-inference-steps", 2) != sheet("stored-again")
    sheet("card", "--preview")
    again = w2w("render", out, "base", "--preview", "--out", tmp_path / "more" / "card.png")
    assert (again.exit_code, (tmp_path / "more").exists()) == (2, False)  # told before anything is drawn
    assert "previews/card.png" in (out / "README.md").read_text("utf-8")
    assert WeightSpace.open(out).verify() is None
    without = w2w("build", tiny_world.rows, "--k", 3, *settings, "--out", tmp_path / "none")
    assert (without.exit_code, "base" in without.output) == (2, True)


def test_other_settings_are_a_minor_change_and_another_base_model_a_major_one(
    stored: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    space = WeightSpace.open(stored)
    space.save(tmp_path / "other", base=tiny_world.base, generation={"guidance_scale": 3})
    found = diff(stored, tmp_path / "other")
    assert (found.level, [change.level for change in found.changes]) == ("minor", ["minor"])
    space.save(tmp_path / "bare")
    assert diff(stored, tmp_path / "bare").level == "major"
    folder = shutil.copytree(stored, tmp_path / "referred")
    stated = {"base_model": "org/base", "revision": "0" * 40, "generation": SETTINGS}
    (folder / "w2w_pipeline.json").write_text(json.dumps(stated))
    files = json.loads((folder / "manifest.json").read_text())["files"]
    reseal(folder, files=files | {"w2w_pipeline.json": entry_of(folder / "w2w_pipeline.json")})
    assert diff(stored, folder).level == "major"


def test_a_preview_is_listed_and_shown_and_never_replaced_unasked(stored: Path, tmp_path: Path) -> None:
    space = WeightSpace.open(shutil.copytree(stored, tmp_path / "space"))
    Image.new("RGB", (8, 8)).save(tmp_path / "faces.png")
    digest = space.digest
    assert space.add_preview(tmp_path / "faces.png") == "previews/faces.png"
    with pytest.raises(AlreadyExistsError, match=r"faces\.png"):
        space.add_preview(tmp_path / "faces.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "faces.png")
    space.add_preview(tmp_path / "faces.png", overwrite=True)
    again = WeightSpace.open(tmp_path / "space")
    again.verify()
    assert again.digest == digest
    assert Image.open(tmp_path / "space" / "previews" / "faces.png").size == (9, 9)
    assert "![faces](previews/faces.png)" in (tmp_path / "space" / "README.md").read_text("utf-8")
    (tmp_path / "space" / "README.md").write_text("Mine\n", "utf-8")
    shutil.copy(tmp_path / "faces.png", tmp_path / "more.png")
    again.add_preview(tmp_path / "more.png")
    assert (tmp_path / "space" / "README.md").read_text("utf-8") == "Mine\n"
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "faces.jpg")
    for wrong in ("text.png", "faces.jpg"):
        with pytest.raises(InvalidInputError, match=wrong):
            again.add_preview(tmp_path / wrong)
    in_memory = again.without_population()
    with pytest.raises(InvalidInputError, match="save"):
        in_memory.add_preview(tmp_path / "faces.png")

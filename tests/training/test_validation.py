"""Pictures while one identity trains: which there are, and that they change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from w2w_hub.cli import main
from w2w_hub.errors import AlreadyExistsError, InvalidInputError
from w2w_hub.training import TrainingRecipe, Validation, train_identity
from w2w_hub.training.runs import unfinished

from ..tiny_world import TinyWorld
from .test_refusals import stop_at, vector
from .test_runs import portrait

RECIPE = TrainingRecipe(class_prompt=None, steps=5, learning_rate=1e-2, average_last=0.5)
PICTURES = Validation(2, ("sks person", "sks person smiling"), num_inference_steps=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return portrait(tmp_path / "photos" / "0.png", seed=1).parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_pictures_are_drawn_at_the_stated_steps_and_change_no_bit_of_the_result(
    tiny_world: TinyWorld, photos: Path, tmp_path: Path
) -> None:
    train_identity(photos, tiny_world.base, tmp_path / "plain", recipe=RECIPE)
    assert not (tmp_path / "plain-validation").exists()
    train_identity(photos, tiny_world.base, tmp_path / "out", recipe=RECIPE, validate=PICTURES)
    assert np.array_equal(vector(tmp_path / "out"), vector(tmp_path / "plain"))
    folder = tmp_path / "out-validation"
    steps = [f"step-{step:06d}-{prompt}.png" for step in (0, 2, 4, 5) for prompt in (0, 1)]
    assert names(folder) == ["settings.json", "sheet.png", *steps]
    assert pixels(folder / steps[0]).shape == (64, 64, 3)
    assert not np.array_equal(pixels(folder / steps[0]), pixels(folder / steps[-2]))
    height, width = pixels(folder / "sheet.png").shape[:2]
    assert height > 2 * 128
    assert width > 4 * 128


def test_the_first_picture_is_the_starts_and_the_last_the_results(
    tiny_world: TinyWorld, photos: Path, tmp_path: Path
) -> None:
    one = replace(PICTURES, every=100)
    train_identity(photos, tiny_world.base, tmp_path / "a", recipe=RECIPE, validate=one)
    again = replace(RECIPE, steps=1)  # from where the first one ended
    train_identity(photos, tiny_world.base, tmp_path / "b", recipe=again, start=tmp_path / "a", validate=one)
    last = pixels(tmp_path / "a-validation" / "step-000005-0.png").astype(int)
    first = pixels(tmp_path / "b-validation" / "step-000000-0.png").astype(int)
    assert np.abs(first - last).max() <= 1


def test_an_interrupted_run_goes_on_to_the_same_pictures_and_weights(
    tiny_world: TinyWorld, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    train_identity(photos, tiny_world.base, whole, recipe=RECIPE, validate=PICTURES)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_identity(photos, tiny_world.base, out, recipe=RECIPE, validate=PICTURES)
    with pytest.raises(InvalidInputError, match="out-validation"):
        train_identity(photos, tiny_world.base, out, recipe=RECIPE, validate=replace(PICTURES, seed=1), resume=True)
    train_identity(photos, tiny_world.base, out, recipe=RECIPE, validate=PICTURES, resume=True)
    assert np.array_equal(vector(out), vector(whole))
    for name in names(tmp_path / "whole-validation"):
        made, expected = (tmp_path / f"{run}-validation" / name for run in ("out", "whole"))
        assert made.read_bytes() == expected.read_bytes(), name
    assert not unfinished(out).exists()


def test_a_folder_of_earlier_pictures_is_replaced_only_on_request_and_never_with_other_files(
    tiny_world: TinyWorld, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out-validation"
    portrait(folder / "step-000900-0.png", seed=2)

    def train(**options: bool) -> None:
        train_identity(photos, tiny_world.base, tmp_path / "out", recipe=RECIPE, validate=PICTURES, **options)

    with pytest.raises(AlreadyExistsError) as caught:
        train()
    assert caught.value.path == folder
    train(overwrite=True)
    assert "step-000900-0.png" not in names(folder)
    (folder / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(AlreadyExistsError):
        train(overwrite=True)
    assert (folder / "notes.txt").read_text("utf-8") == "mine"
    with pytest.raises(InvalidInputError, match="out"):
        train_identity(photos, tiny_world.base, recipe=RECIPE, validate=PICTURES)


def test_the_command_draws_with_its_weight_spaces_settings(
    tiny_world: TinyWorld, tiny_space: Path, photos: Path, tmp_path: Path
) -> None:
    words = ["train", photos, "--base", tiny_space, "--no-class-pictures", "--steps", 2, "--out", tmp_path / "out"]
    result = CliRunner().invoke(main, [str(word) for word in (*words, "--validate", 2)])
    assert result.exit_code == 0, result.stderr
    assert "sheet.png" in result.stderr
    assert names(tmp_path / "out-validation")[2:] == ["step-000000-0.png", "step-000002-0.png"]
    result = CliRunner().invoke(main, [str(word) for word in (*words, "--force", "--validate-prompt", "sks")])
    assert (result.exit_code, "--validate" in result.stderr) == (2, True)

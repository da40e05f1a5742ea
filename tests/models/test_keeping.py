"""Identities that a pipeline takes, saves and exports."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from w2w_hub import W2WPipeline, WeightDataset
from w2w_hub.errors import AlreadyExistsError, InvalidInputError

from ..tiny_world import TinyWorld

ROW = "person-0041"  # held out
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0}


def draw(pipe: W2WPipeline) -> np.ndarray:
    return pipe("sks person", generator=torch.Generator().manual_seed(0), output_type="np", **FAST).images


def test_a_row_of_the_dataset_is_the_persons_own_lora(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    people = WeightDataset.open(tiny_world.rows)
    drawn = []
    for own in (people[ROW], people.adapter(ROW), pipe.resolve(ROW, people)):
        pipe.identity = own
        np.testing.assert_allclose(pipe.identity.vector, people[ROW], atol=1e-7)
        drawn.append(draw(pipe))
    for other in drawn[1:]:
        np.testing.assert_array_equal(other, drawn[0])
    pipe.identity = ROW
    assert ROW in repr(pipe.identity)
    assert np.abs(pipe.identity.vector - people[ROW]).max() > 1e-4
    pipe.identity = people[[ROW, "person-0042"]]  # a matrix is several people
    assert [identity.exact for identity in pipe.identity] == [True, True]


def test_an_inversion_is_an_identity(pipe: W2WPipeline) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    found = pipe.invert(picture, num_steps=1, batch_size=1)
    pipe.identity = found
    assert pipe.identity.point == found.point
    assert "\n" not in repr(found)
    pipe.identity = [found, None, ROW]
    assert [identity is None for identity in pipe.identity] == [False, True, False]


def test_an_identity_is_saved_and_set_again_by_its_path(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.sample_identity(seed=1)
    edited = pipe.edit({"Full_Beard": 1.0})
    for name in ("a.json", "b.safetensors", "c"):
        path = pipe.save_identity(tmp_path / name)
        pipe.identity = None
        pipe.identity = path
        np.testing.assert_allclose(pipe.identity.vector, edited.vector, atol=1e-6)
        with pytest.raises(AlreadyExistsError, match=name):
            pipe.save_identity(path)
        assert pipe.save_identity(path, overwrite=True) == path
    for wrong in (None, ["person-0001", "person-0002"]):
        pipe.identity = wrong
        with pytest.raises(InvalidInputError):
            pipe.save_identity(tmp_path / "d.json")


def test_an_export_returns_its_folder_and_of_several_one_each(
    pipe: W2WPipeline, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    people = WeightDataset.open(tiny_world.rows)
    pipe.identity = people[ROW]
    one = pipe.export(tmp_path / "one")
    assert one == tmp_path / "one"
    np.testing.assert_allclose(pipe.resolve(one).vector, people[ROW], atol=1e-6)
    with pytest.raises(AlreadyExistsError, match="one"):
        pipe.export(one)
    assert pipe.export(one, "person-0001", overwrite=True) == one
    pipe.identity = ["person-0001", "person-0002"]
    made = pipe.export(tmp_path / "several", dialects=("diffusers",))
    assert [path.name for path in made] == ["person-0001", "person-0002"]
    for path, identity in zip(made, pipe.identity, strict=True):
        np.testing.assert_allclose(pipe.resolve(path).vector, identity.vector, atol=1e-6)
    assert len(pipe.export(tmp_path / "given", [people[ROW], "person-0001"])) == 2
    for wrong in ([None, "person-0001"], []):
        with pytest.raises(InvalidInputError):
            pipe.export(tmp_path / "wrong", wrong)
    pipe.identity = None
    with pytest.raises(InvalidInputError):
        pipe.export(tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_loading_leaves_bars_and_logging_as_the_user_had_them(
    tiny_space: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers.utils.logging as ours
    import transformers.utils.logging as theirs

    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    before = (ours.is_progress_bar_enabled(), theirs.is_progress_bar_enabled())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        W2WPipeline.from_pretrained(tiny_space)
    assert capfd.readouterr() == ("", "")
    assert (ours.is_progress_bar_enabled(), theirs.is_progress_bar_enabled()) == before


@pytest.mark.slow
def test_the_import_of_a_pipeline_is_silent_and_leaves_no_filter() -> None:
    code = (
        "import logging; from w2w_hub import W2WPipeline, AutoW2WPipeline, W2WStableDiffusionImg2ImgPipeline\n"
        "assert not logging.getLogger('transformers.utils.import_utils').filters"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

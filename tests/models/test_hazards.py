"""What surrounds a call: autocast, interrupts, threads, inference mode, other storage."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from w2w_hub import W2WPipeline
from w2w_hub.cli import main
from w2w_hub.errors import BaseModelMismatchError, InvalidInputError, LayoutMismatchError
from w2w_hub.models.injection import inject, inject_differentiable, inject_hooks, injection
from w2w_hub.models.injection import stack as stack_module

FAST = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}


def draw(pipe: W2WPipeline) -> np.ndarray:
    return pipe("sks person", generator=torch.Generator().manual_seed(0), **FAST).images


def test_identities_differ_under_autocast_as_they_do_without(pipe: W2WPipeline) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = []
        for name in ("person-0001", "person-0002", None):
            pipe.identity = name
            found.append(draw(pipe))
    for together, name in zip(found, ("person-0001", "person-0002", None), strict=True):
        pipe.identity = name
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(together, draw(pipe))
    assert np.abs(found[0] - found[1]).max() > 1e-2
    assert np.abs(found[0] - found[2]).max() > 1e-2


@pytest.mark.parametrize("way", ["weights", "rows", "gradients"])
def test_an_interrupt_while_an_identity_is_taken_off_leaves_nothing_behind(
    way: str, pipe: W2WPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, layout = pipe.unet, pipe.space.layout
    plain, before = draw(pipe), {k: v.clone() for k, v in unet.state_dict().items()}
    row = torch.from_numpy(pipe.space.decode(pipe.space.sample(1, seed=0)[0]))
    shown = {
        "weights": lambda: inject(unet, layout, row), "rows": lambda: inject_hooks(unet, layout, row[None]),
        "gradients": lambda: inject_differentiable(unet, layout, row),
    }[way]  # fmt: skip
    real = stack_module.drain

    def interrupted(things: list, action: object) -> None:
        monkeypatch.setattr(stack_module, "drain", real)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), shown():
        monkeypatch.setattr(stack_module, "drain", interrupted)
    assert injection(unet).stack == []
    assert not any("weight" in vars(module) or module._forward_hooks for module in unet.modules())
    assert all(torch.equal(before[k], v) for k, v in unet.state_dict().items())
    np.testing.assert_array_equal(draw(pipe), plain)


def test_a_call_beside_a_render_in_another_thread_draws_its_own_identity(pipe: W2WPipeline) -> None:
    pipe.identity = "person-0001"
    expected, done = draw(pipe), threading.Event()

    def render() -> None:
        while not done.is_set():
            pipe.render(["person-0002", "person-0003"], [("sks person", 1)], **FAST)

    other = threading.Thread(target=render)
    other.start()
    try:
        found = [draw(pipe) for _ in range(5)]
    finally:
        done.set()
        other.join()
    for pictures in found:
        np.testing.assert_array_equal(pictures, expected)


def test_what_a_callback_sets_during_a_render_stays_set_and_its_own_calls_draw_it(pipe: W2WPipeline) -> None:
    pipe.identity = "person-0003"
    expected, inner = draw(pipe), []
    pipe.identity = None

    def callback(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
        if step == 0:
            pipe.identity = "person-0003"
            inner.append(draw(pipe))
        return kwargs

    pipe.render(["person-0001"], [("sks person", 1)], callback_on_step_end=callback, **FAST)
    np.testing.assert_array_equal(inner[0], expected)
    np.testing.assert_array_equal(draw(pipe), expected)


def test_a_pipeline_loaded_in_inference_mode_draws_and_says_why_it_does_not_invert(tiny_space: Path) -> None:
    with torch.inference_mode():
        pipe = W2WPipeline.from_pretrained(tiny_space)
        pipe.set_progress_bar_config(disable=True)
        plain = draw(pipe)
        pipe.identity = "person-0001"
        inside = draw(pipe)
    np.testing.assert_array_equal(draw(pipe), inside)
    assert np.abs(inside - plain).max() > 1e-3
    with pytest.raises(InvalidInputError, match="inference_mode"):
        pipe.invert(np.zeros((64, 64, 3), np.float32), num_steps=1)


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.bfloat16])
def test_layerwise_casting_is_refused_by_an_inversion(storage: torch.dtype, tiny_space: Path) -> None:
    pipe = W2WPipeline.from_pretrained(tiny_space)
    pipe.unet.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    with pytest.raises(InvalidInputError, match="layerwise"):
        pipe.invert(np.zeros((64, 64, 3), np.float32), num_steps=1)


def test_a_unet_given_in_place_of_the_bases_is_checked_in_half_precision_too(tiny_space: Path) -> None:
    other = W2WPipeline.from_pretrained(tiny_space).unet
    config = dict(other.config) | {"block_out_channels": [2 * c for c in other.config.block_out_channels]}
    with pytest.raises(BaseModelMismatchError):
        W2WPipeline.from_pretrained(tiny_space, torch.bfloat16, unet=type(other).from_config(config))


@pytest.mark.parametrize(
    "words",
    [
        ["render", "person-0001", "--steps", "2000"], ["render", "person-0001", "--seed", str(2**64)],
        ["render", "person-0001", "--guidance", "nan"], ["grid", "person-0001", "--seed", "-1"],
        ["sample", "--truncation", "inf"],
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_drawn_with_are_one_line_and_status_2(
    words: list[str], tiny_space: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, [words[0], str(tiny_space), *words[1:], "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


GREY = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    ("picture", "subject"),
    [
        (np.full((64, 64, 3), 200.0, np.float32), "200"),
        (np.full((64, 64, 3), 200, np.int32), "int32"),
        (Image.fromarray(GREY.astype(np.float32)), r"\bF\b"),
        (Image.new("RGB", (65, 64)), "65x64.*64x64"),
        (np.zeros((70, 64, 3), np.float32), "64x70"),
        (torch.zeros(3, 64, 70), "70x64"),
    ],
)
def test_a_picture_of_another_range_or_size_is_refused_not_guessed_at(
    picture: object, subject: str, pipe: W2WPipeline
) -> None:
    with pytest.raises(InvalidInputError, match=subject):
        pipe.invert(picture, num_steps=1)


def test_a_picture_is_the_same_in_every_way_of_giving_it(pipe: W2WPipeline) -> None:
    eight = (GREY * 255).round().astype(np.uint8)
    ways = [
        np.repeat(eight[..., None], 3, 2), Image.fromarray(eight), Image.fromarray(eight.astype(np.uint16) * 257),
        torch.from_numpy(np.repeat(eight[None], 3, 0)), np.repeat(eight[..., None], 3, 2).astype(np.float32) / 255,
    ]  # fmt: skip
    found = [pipe.invert(way, num_steps=1).losses[0] for way in ways]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_a_stack_of_pictures_is_several_pictures_with_a_mask_each(pipe: W2WPipeline) -> None:
    pictures, masks = np.random.default_rng(0).random((2, 64, 64, 3), np.float32), np.ones((2, 64, 64))
    masks[:, :32] = 0
    stacked = pipe.invert(pictures, mask=masks, num_steps=2)
    listed = pipe.invert(list(pictures), mask=list(masks), num_steps=2)
    assert stacked.losses == listed.losses
    with pytest.raises(InvalidInputError):
        pipe.invert(pictures, mask=masks[0], num_steps=2)
    with pytest.raises(InvalidInputError):
        pipe.invert([[pictures], [pictures[0]]], num_steps=2)


@pytest.mark.parametrize(
    "wrong",
    [{"num_steps": 2.5}, {"batch_size": 2.5}, {"seed": None}, {"k": 2.5}, {"k": True}, {"mask": 7}],
)
def test_settings_that_are_no_numbers_are_refused(wrong: dict, pipe: W2WPipeline) -> None:
    with pytest.raises(InvalidInputError):
        pipe.invert(np.zeros((64, 64, 3), np.float32), **{"num_steps": 1, **wrong})


def test_a_numpy_integer_is_a_seed(pipe: W2WPipeline) -> None:
    picture = np.zeros((64, 64, 3), np.float32)
    assert (
        pipe.invert(picture, num_steps=1, seed=np.int64(2)).losses == pipe.invert(picture, num_steps=1, seed=2).losses
    )


@pytest.mark.parametrize("strengths", [{"Sunglasses": "2"}, {"Sunglasses": None}, {1: 2.0}, ["Sunglasses"]])
def test_edits_that_are_no_names_and_numbers_are_refused(strengths: object, pipe: W2WPipeline) -> None:
    pipe.sample_identity(0)
    with pytest.raises(InvalidInputError):
        pipe.edit(strengths)
    with pytest.raises(InvalidInputError, match="preserve"):
        pipe.edit({"Sunglasses": 1.0}, preserve=None)
    with pytest.raises(InvalidInputError, match="seed"):
        pipe.sample_identity(-1)


def test_an_identity_of_another_space_is_refused_when_it_is_set(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0)
    identity = pipe.identity
    foreign = replace(identity, point=replace(identity.point, basis_digest="0" * 64))
    with pytest.raises(LayoutMismatchError):
        pipe.identity = foreign
    with pytest.raises(LayoutMismatchError):
        pipe.render([foreign], [("sks person", 0)], **FAST)


def test_exported_weights_are_as_readable_as_the_files_beside_them(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.sample_identity(0)
    pipe.export(tmp_path / "lora")
    assert len({file.stat().st_mode for file in (tmp_path / "lora").iterdir()}) == 1

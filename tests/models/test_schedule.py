"""Where in a schedule a call is, arguments by name, and pictures and masks as numbers; without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from w2w_hub.common.constraints import as_list
from w2w_hub.errors import InvalidInputError
from w2w_hub.models.pipelines.drawing import arguments_of, one_prompt_each
from w2w_hub.models.pipelines.inputs import latent_masks, nested, picture_size, pixels
from w2w_hub.models.pipelines.loading import is_repository, torch_dtype
from w2w_hub.models.pipelines.schedule import Progress, follow_schedule


class Scheduler:
    """As diffusers' schedulers look from outside."""

    def __init__(self, timesteps: list[float], order: int = 1):
        self.timesteps, self.order = torch.tensor(timesteps), order

    def scale_model_input(self, sample: Any, timestep: Any = None) -> Any:
        return ("scaled", sample)


@given(steps=st.integers(1, 30), order=st.integers(1, 3), late=st.integers(0, 29), kind=st.sampled_from("fib"))
@settings(max_examples=60, deadline=None)
def test_the_share_is_that_of_whole_steps_from_wherever_a_loop_begins(
    steps: int, order: int, late: int, kind: str
) -> None:
    """The first step of a second-order scheduler has one timestep fewer than the others."""
    times = [float(t) for step in range(steps) for t in [990 - 30 * step] * order]
    times = times[: len(times) - order + 1] if order > 1 else times
    progress = Progress(Scheduler(times, order))
    begin = min(late, steps - 1) * order
    for position in range(begin, len(times)):
        now = torch.tensor(times[position])
        given_time = {"f": times[position], "i": now, "b": now.repeat(3)}[kind]
        # where a timestep is there several times, a loop that begins late is at the first of them
        assert progress.fraction(given_time) == pytest.approx(position // order / steps)


def test_a_second_call_in_one_step_and_a_timestep_between_two_do_not_go_on_or_back() -> None:
    progress = Progress(Scheduler([900.0, 700.0, 500.0, 300.0]))
    asked = [950.0, 900.0, 900.0, 800.0, 700.0, 600.0, 700.0, 500.0, 500.0, 300.0, 300.0, 100.0]
    found = [progress.fraction(t) for t in asked]
    #  before the first nothing is over; between the first and second one step is
    assert found == [0, 0, 0, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 1]


def test_a_listener_hears_every_call_with_a_timestep_and_changes_nothing() -> None:
    scheduler, heard = Scheduler([9.0, 6.0, 3.0, 0.0]), []
    with follow_schedule(scheduler, heard.append):
        assert scheduler.scale_model_input("a", 9.0) == ("scaled", "a")
        assert scheduler.scale_model_input("b", timestep=torch.tensor(6.0)) == ("scaled", "b")
        assert scheduler.scale_model_input("c") == ("scaled", "c")
        assert scheduler.scale_model_input(sample="d", timestep=3.0) == ("scaled", "d")
    assert heard == [0, 0.25, 0.5]
    scheduler.scale_model_input("e", 0.0)
    assert len(heard) == 3
    assert set(vars(scheduler)) == {"timesteps", "order"}
    with pytest.raises(ZeroDivisionError), follow_schedule(scheduler, heard.append):
        raise ZeroDivisionError
    assert set(vars(scheduler)) == {"timesteps", "order"}


def test_a_scheduler_that_scales_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError), follow_schedule(SimpleNamespace(timesteps=[1.0]), print):
        pass


# ---------------------------------------------------------------- arguments
def stock(self: Any, prompt: Any = None, height: int = 1, *, steps: int = 2, **kwargs: Any) -> None:
    """A stock pipeline's call."""


def test_arguments_are_named_as_the_stock_call_names_them() -> None:
    assert arguments_of(stock, (), {}) == {}
    assert arguments_of(stock, ("a", 5), {"steps": 3}) == {"prompt": "a", "height": 5, "steps": 3}
    assert arguments_of(stock, ("a",), {"callback": 1, "steps": 3}) == {"prompt": "a", "callback": 1, "steps": 3}
    assert arguments_of(stock, (1, 2, 3), {"steps": 3}) == {"steps": 3}  # which the stock call refuses itself


PEOPLE = (None, None, None)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("value", ["a", ["a"], ["a", "a", "a"]])
def test_one_text_serves_all(name: str, value: Any) -> None:
    found = one_prompt_each(PEOPLE, {"prompt": "x", name: value, "steps": 3})
    assert found[name] == ["a"] * 3
    assert found["steps"] == 3


@pytest.mark.parametrize("name", ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds"])
def test_one_encoded_prompt_serves_all_and_as_many_stay_as_they_are(name: str) -> None:
    lead = {"prompt_embeds": torch.randn(1, 4, 5)}
    for shape in ((1, 4, 5), (1, 5)):
        value = torch.randn(shape)
        found = one_prompt_each(PEOPLE, lead | {name: value})[name]
        assert found.shape == (3, *shape[1:])
        assert torch.equal(found, value.expand(3, *shape[1:]))
    several = torch.randn(3, 4, 5)
    assert torch.equal(one_prompt_each(PEOPLE, lead | {name: several})[name], several)


@pytest.mark.parametrize(
    "given_arguments",
    [
        {}, {"prompt": None}, {"prompt": ["a", "b"]}, {"prompt": ["a"] * 4}, {"prompt": []},
        {"prompt_embeds": torch.zeros(2, 4, 5)}, {"prompt_embeds": torch.zeros(4, 4, 5)}, {"negative_prompt": "a"},
    ],
)  # fmt: skip
def test_neither_one_prompt_nor_as_many_is_refused(given_arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        one_prompt_each(PEOPLE, given_arguments)


@pytest.mark.parametrize("wrong", ["ab", b"ab", {"a": 1}, 3, None, np.array(2.0), torch.tensor(1.0)])
def test_one_thing_is_no_list(wrong: Any) -> None:
    with pytest.raises(InvalidInputError):
        as_list(wrong, "things")
    assert as_list((1, "a"), "things") == [1, "a"]
    assert as_list(np.arange(2), "things") == [0, 1]
    assert as_list((i for i in range(2)), "things") == [0, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b", True), ("0a/b.c-d", True), ("a", False), ("a/b/c", False), ("/b", False), ("a/", False), ("/", False),
        ("./b", False), ("a/.b", False), ("../b", False), ("", False),
    ],
)  # fmt: skip
def test_a_repositorys_name_has_an_owner_and_a_name(name: str, expected: bool) -> None:
    from pathlib import Path

    assert is_repository(name) is expected
    assert not is_repository(Path(name))


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        (("float32", "fp32", "float", torch.float32), torch.float32),
        (("float16", "fp16", "half", torch.float16), torch.float16),
        (("bfloat16", "bf16", torch.bfloat16), torch.bfloat16),
        (("float64", "fp64", "double", torch.float64), torch.float64),
    ],
)
def test_every_name_of_a_dtype_is_that_dtype_in_either_option(names: tuple[Any, ...], dtype: torch.dtype) -> None:
    for name in names:
        for given_dtype, options in ((name, {}), (None, {"torch_dtype": name}), (name, {"torch_dtype": dtype})):
            options = {**options, "variant": "x"}
            assert torch_dtype(given_dtype, options) == dtype
            assert options == {"variant": "x"}
        assert torch_dtype({"unet": name}, {}) == {"unet": dtype}
        with pytest.raises(InvalidInputError):
            torch_dtype(name, {"torch_dtype": torch.float16 if dtype != torch.float16 else "bf16"})
    assert torch_dtype(None, {}) == torch.float32


# ---------------------------------------------------------------- pictures and masks
def model(height: int = 2, width: int = 3) -> Any:
    config = SimpleNamespace(sample_size=(height, width) if height != width else height)
    return SimpleNamespace(unet=SimpleNamespace(config=config), vae_scale_factor=4)


def test_a_pictures_size_is_height_and_width_in_pixels() -> None:
    assert picture_size(model()) == (8, 12)
    assert picture_size(model(5, 5)) == (20, 20)


def test_a_picture_that_is_not_square_is_the_same_in_every_form() -> None:
    eight = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    expected = eight.astype(np.float32) / 255
    for way in (
        eight, Image.fromarray(eight), torch.from_numpy(eight).permute(2, 0, 1), expected, expected.astype(np.float64),
        torch.from_numpy(expected).permute(2, 0, 1),
    ):  # fmt: skip
        found = pixels(way, (8, 12))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        with pytest.raises(InvalidInputError):
            pixels(way, (12, 8))


@pytest.mark.parametrize("low", [0.0, -0.009, -0.011, -0.5])
@pytest.mark.parametrize("high", [1.0, 1.009, 1.011, 1.5])
def test_floats_out_of_range_on_either_side_are_refused_beyond_what_resampling_makes(low: float, high: float) -> None:
    values = np.full((8, 12, 3), 0.5, np.float32)
    values[0, 0, 0], values[-1, -1, -1] = low, high
    if low < -0.01 or high > 1.01:
        with pytest.raises(InvalidInputError):
            pixels(values, (8, 12))
    else:
        found = pixels(values, (8, 12))
        assert (found.min(), found.max()) == (0, 1)
        assert found[3, 3, 1] == 0.5


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_refused(wrong: float) -> None:
    values = np.full((8, 12, 3), 0.5, np.float32)
    values[-1, -1, -1] = wrong
    with pytest.raises(InvalidInputError):
        pixels(values, (8, 12))


@pytest.mark.parametrize("kind", ["floats", "bytes", "booleans", "picture", "tensor", "faint"])
def test_a_mask_is_each_latents_share_of_its_pixels(kind: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((8, 12)).astype(np.float32)
    values[0, 0] = 1
    if kind in ("bytes", "picture"):
        given_mask: Any = (values * 255).round().astype(np.uint8)
        values = given_mask / np.float32(255)
        given_mask = Image.fromarray(given_mask) if kind == "picture" else given_mask
    elif kind == "booleans":
        given_mask = values > 0.5
        values = given_mask.astype(np.float32)
    elif kind == "tensor":
        given_mask = torch.from_numpy(values)
    elif kind == "faint":  # floats beyond 1 are of 255
        given_mask = values * 1.5
        values = values * 1.5 / 255
    else:
        given_mask = values.astype(np.float64)
    other = np.ones((8, 12))
    found = latent_masks(model(), [given_mask, other]).numpy()
    assert found.shape == (2, 1, 2, 3)
    expected = values.reshape(2, 4, 3, 4).mean((1, 3))
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[1, 0], 1)


@pytest.mark.parametrize(
    ("change", "fits"),
    [(0.0, True), (-0.01, False), (255.0, True), (255.1, False), (np.nan, False), (np.inf, False)],
)
def test_a_masks_numbers_are_in_0_to_255_without_exception(change: float, fits: bool) -> None:
    mask = np.ones((8, 12))
    mask[-1, -1] = change
    if fits:
        assert latent_masks(model(), [mask]).shape == (1, 1, 2, 3)
    else:
        with pytest.raises(InvalidInputError):
            latent_masks(model(), [mask])
    for wrong in (np.zeros((8, 12)), np.ones((12, 8)), np.ones((8, 12, 1))):
        with pytest.raises(InvalidInputError):
            latent_masks(model(), [wrong])


def test_pictures_are_sorted_by_person_and_a_stack_is_several() -> None:
    one, stack = np.zeros((8, 8, 3)), np.zeros((2, 8, 8, 3))
    assert [len(p) for p in nested(one, False, 3)] == [1]
    assert [len(p) for p in nested(stack, False, 3)] == [2]
    assert [len(p) for p in nested([one, stack], False, 3)] == [3]
    assert [len(p) for p in nested([[one], [stack]], True, 3)] == [1, 2]
    assert nested(stack, False, 3)[0][1].shape == (8, 8, 3)
    assert [len(p) for p in nested(np.zeros((8, 8)), False, 2)] == [1]

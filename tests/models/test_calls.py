"""One call and what may happen inside it: interrupts, calls in callbacks, threads, prompts in every form."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2w_hub import W2WPipeline
from w2w_hub.errors import InvalidInputError
from w2w_hub.models.injection import inject, injection
from w2w_hub.models.inversion import Inversion

FAST = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}


def draw(pipe: W2WPipeline, prompt: object = "sks person", **options: Any) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **{**FAST, **options}).images


def weights(pipe: W2WPipeline) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in pipe.unet.state_dict().items()}


def unchanged(pipe: W2WPipeline, before: dict[str, torch.Tensor]) -> bool:
    hooks = [m for m in pipe.unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    return all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items()) and not hooks


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("several", [False, True])
def test_a_call_that_is_stopped_leaves_the_base_as_it_was(pipe: W2WPipeline, error: type, several: bool) -> None:
    before, pointers = weights(pipe), [p.data_ptr() for p in pipe.unet.parameters()]
    pipe.identity = ["person-0000", "person-0001"] if several else "person-0000"

    def fail(*args: object) -> dict:
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        draw(pipe, callback_on_step_end=fail)
    assert unchanged(pipe, before)
    assert [p.data_ptr() for p in pipe.unet.parameters()] == pointers
    expected = draw(pipe)
    np.testing.assert_array_equal(draw(pipe), expected)


def test_an_interrupt_while_an_identity_is_written_leaves_the_base_as_it_was(
    pipe: W2WPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls, addcmul = weights(pipe), [0], torch.addcmul

    def interrupted(*args: Any, **options: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return addcmul(*args, **options)

    monkeypatch.setattr(torch, "addcmul", interrupted)
    pipe.identity = "person-0000"
    with pytest.raises(KeyboardInterrupt):
        draw(pipe)
    assert unchanged(pipe, before)
    assert not injection(pipe.unet).stack


@pytest.mark.parametrize("inner", [None, "person-0003", ["person-0003", "person-0004"]])
@pytest.mark.parametrize("outer", [None, "person-0000", ["person-0000", "person-0001"]])
def test_a_call_inside_a_callback_draws_what_it_would_alone_and_so_does_the_outer(
    pipe: W2WPipeline, outer: Any, inner: Any
) -> None:
    before = weights(pipe)
    pipe.identity = inner
    inner_alone = draw(pipe, num_inference_steps=2, guidance_scale=1.0)
    pipe.identity = outer
    outer_alone = draw(pipe)
    seen = []

    def nested(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
        pipeline.identity = inner
        seen.append(draw(pipeline, num_inference_steps=2, guidance_scale=1.0))
        return kwargs

    np.testing.assert_array_equal(draw(pipe, callback_on_step_end=nested), outer_alone)
    assert len(seen) == FAST["num_inference_steps"]
    for pictures in seen:
        np.testing.assert_array_equal(pictures, inner_alone)
    assert unchanged(pipe, before)


@pytest.mark.slow
def test_a_callback_sees_the_inversion_so_far_and_ends_it_with_all_its_restarts(pipe: W2WPipeline) -> None:
    picture = np.full((64, 64, 3), 0.5, np.float32)
    seen: list[int] = []

    def watch(found: Inversion) -> bool:
        seen.append(len(found.losses))
        return len(seen) == 2

    found = pipe.invert(picture, num_steps=12, restarts=3, callback=watch)
    assert seen == [1, 10] == [1, len(found.losses)]
    whole = pipe.invert(picture, num_steps=12, restarts=3, callback=lambda found: seen.append(len(found.losses)))
    assert seen[2:] == [1, 10, 12] * 3
    assert len(whole.losses) == 12


def test_an_inversion_inside_a_callback_starts_from_the_base(pipe: W2WPipeline) -> None:
    picture = np.full((64, 64, 3), 0.5, np.float32)
    alone = pipe.invert(picture, num_steps=2)
    pipe.identity = "person-0000"
    expected, found = draw(pipe), []

    def invert(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
        found.append(pipeline.invert(picture, num_steps=2))
        return kwargs

    np.testing.assert_array_equal(draw(pipe, callback_on_step_end=invert), expected)
    for inversion in found:
        assert inversion.losses == alone.losses


def test_calls_of_several_threads_wait_for_each_other(pipe: W2WPipeline) -> None:
    others = {name: W2WPipeline.from_pipe(pipe) for name in ("person-0000", "person-0001", "person-0002")}
    expected = {}
    for name, other in others.items():
        other.set_progress_bar_config(disable=True)
        other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        other.identity = name
        expected[name] = draw(other)
    found: dict[str, np.ndarray] = {}

    def work(name: str) -> None:
        found[name] = draw(others[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, pictures in expected.items():
        np.testing.assert_array_equal(found[name], pictures)


def test_the_originals_are_never_written_to(pipe: W2WPipeline) -> None:
    module = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    original = module.weight.data
    version = original._version
    row = torch.from_numpy(pipe.space.decode(pipe.space.mean_point()))
    with inject(pipe.unet, pipe.space.layout, row):
        assert module.weight.data_ptr() != original.data_ptr()
    assert module.weight.data_ptr() == original.data_ptr()
    assert original._version == version


def test_a_callers_inference_mode_leaves_nothing_that_fails_outside_it(tiny_space: Path) -> None:
    fresh = W2WPipeline.from_pretrained(tiny_space)
    fresh.set_progress_bar_config(disable=True)
    before, picture = weights(fresh), np.full((64, 64, 3), 0.5, np.float32)
    fresh.identity = "person-0000"
    with torch.inference_mode():
        inside = draw(fresh)
        inverted = fresh.invert(picture, num_steps=2)
        several = fresh.render(["person-0000", "person-0001"], [("sks person", 0)], **FAST)
    np.testing.assert_array_equal(draw(fresh), inside)
    assert inverted.losses == fresh.invert(picture, num_steps=2).losses
    np.testing.assert_array_equal(fresh.render(["person-0000", "person-0001"], [("sks person", 0)], **FAST), several)
    assert unchanged(fresh, before)
    assert not any(p.is_inference() for p in fresh.unet.parameters())


# ---------------------------------------------------------------- prompts and seeds
def test_one_prompt_serves_all_identities_in_whatever_form_it_comes(pipe: W2WPipeline) -> None:
    pipe.identity = ["person-0000", "person-0001"]
    noises = lambda: [torch.Generator().manual_seed(3) for _ in range(2)]  # noqa: E731
    expected = pipe(["sks person"] * 2, generator=noises(), **FAST).images
    positive, negative = pipe.encode_prompt("sks person", "cpu", 1, True)
    encoded = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    for options in ({"prompt": "sks person"}, {"prompt": ["sks person"]}, encoded):
        np.testing.assert_allclose(pipe(generator=noises(), **options, **FAST).images, expected, atol=1e-5)
    np.testing.assert_array_equal(pipe("sks person", 64, 64, 3, generator=noises(), **{
        k: v for k, v in FAST.items() if k != "num_inference_steps"}).images, expected)  # fmt: skip
    blue = pipe("sks person", negative_prompt="blue", generator=noises(), **FAST).images
    np.testing.assert_allclose(blue, pipe(["sks person"] * 2, negative_prompt=["blue"] * 2, generator=noises(), **FAST)
                               .images, atol=1e-5)  # fmt: skip


def test_one_identity_takes_batches_of_prompts_and_seeds(pipe: W2WPipeline) -> None:
    pipe.identity = ["person-0000"]  # a list of one is one
    noises = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    pictures = pipe(["a", "sks person", "sks person"], generator=noises, **FAST).images
    pipe.identity = "person-0000"
    np.testing.assert_allclose(pictures[1], draw(pipe)[0], atol=1e-4)
    assert len(pipe("a", num_images_per_prompt=2, **FAST).images) == 2


def test_the_base_model_may_stand_among_several_identities(pipe: W2WPipeline) -> None:
    noises = [torch.Generator().manual_seed(0) for _ in range(2)]
    base = draw(pipe)
    pipe.identity = [None, "person-0001"]
    pictures = pipe("sks person", generator=noises, **FAST).images
    np.testing.assert_allclose(pictures[0], base[0], atol=1e-5)
    pipe.identity = "person-0001"
    np.testing.assert_allclose(pictures[1], draw(pipe)[0], atol=1e-4)


def test_a_matrix_of_coefficients_is_several_identities_and_a_tensor_one(pipe: W2WPipeline) -> None:
    pipe.identity = pipe.space.population.coefficients[:3]
    assert len(pipe.identity) == 3
    pipe.identity = torch.from_numpy(pipe.space.population.coefficients[0])
    np.testing.assert_array_equal(pipe.identity.point.coefficients, pipe.space.population.coefficients[0])
    pipe.identity = list(pipe.space.population.coefficients[0])  # NumPy numbers in a list
    np.testing.assert_array_equal(pipe.identity.point.coefficients, pipe.space.population.coefficients[0])


@pytest.mark.parametrize("wrong", [{}, {"a": 1}, 3.0, np.zeros((2, 2, 2)), [0.0] * 1000, [np.nan], [[]], object()])
def test_what_is_no_identity_is_an_error_and_changes_nothing(pipe: W2WPipeline, wrong: Any) -> None:
    pipe.identity = "person-0000"
    before = pipe.identity
    with pytest.raises(InvalidInputError):
        pipe.identity = wrong
    assert pipe.identity is before

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from w2w_hub import W2WPipeline
from w2w_hub.errors import InvalidInputError

FAST = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}


def draw(pipe: W2WPipeline, prompt: object = "sks person", **options: object) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **{**FAST, **options}).images


def test_a_delayed_edit_draws_as_before_until_its_share_of_the_schedule(pipe: W2WPipeline) -> None:
    steps = 10
    point = pipe.sample_identity(0)
    plain = draw(pipe, num_inference_steps=steps)
    pipe.edit({"Full_Beard": 3.0})
    whole = draw(pipe, num_inference_steps=steps)
    seen: dict[str, list[torch.Tensor]] = {}

    def latents(name: str):
        def record(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict[str, torch.Tensor]) -> dict:
            seen.setdefault(name, []).append(kwargs["latents"].clone())
            return kwargs

        return record

    pipe.identity = point
    draw(pipe, num_inference_steps=steps, callback_on_step_end=latents("plain"))
    pipe.edit({"Full_Beard": 3.0}, start=0.7)
    late = draw(pipe, num_inference_steps=steps, callback_on_step_end=latents("late"))
    equal = [torch.equal(a, b) for a, b in zip(seen["plain"], seen["late"], strict=True)]
    assert equal == [True] * 7 + [False] * 3
    assert 0 < np.abs(late - plain).max() < np.abs(whole - plain).max()
    alone = pipe.identity
    pipe.identity = [alone, pipe.space.mean_point()]
    np.testing.assert_allclose(draw(pipe, ["sks person"] * 2, num_inference_steps=steps)[0], late[0], atol=2e-5)


def test_delayed_edits_of_one_identity_share_their_start(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0)
    pipe.edit({"Full_Beard": 1.0}, start=0.5)
    with pytest.raises(InvalidInputError, match=r"start at 0\.5 of .* not 0\.7"):
        pipe.edit({"Sunglasses": 1.0}, start=0.7)
    with pytest.raises(InvalidInputError, match="below 1, not 1"):
        pipe.edit({"Sunglasses": 1.0}, start=1.0)
    before = pipe.identity.early.copy()
    pipe.edit({"Sunglasses": 1.0})  # undelayed: acts on both
    assert not np.array_equal(before, pipe.identity.early)


def test_an_edit_that_leaves_the_population_warns_with_its_distance(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0, truncation=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.edit({"Full_Beard": 1.0})
    with pytest.warns(UserWarning, match=r"leaves the population: \d+\.\d+ standard deviations"):
        pipe.edit({"Full_Beard": 100.0})


def test_each_of_several_identities_is_edited(pipe: W2WPipeline) -> None:
    points = pipe.space.sample(2, seed=3)
    pipe.identity = points
    edited = pipe.edit({"Dark_Skin": 2.0})
    for point, identity in zip(points, edited, strict=True):
        expected = pipe.space.edit(point, {"Dark_Skin": 2.0})
        np.testing.assert_array_equal(identity.point.coefficients, expected.coefficients)


def test_interpolation_is_the_weighted_mean_and_is_set(pipe: W2WPipeline) -> None:
    a, b = pipe.space.sample(2, seed=5)
    point = pipe.interpolate([a, b], [3, 1])
    np.testing.assert_allclose(point.coefficients, 0.75 * a.coefficients + 0.25 * b.coefficients, rtol=1e-5)
    assert pipe.identity.point is point

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import W2WPipeline
from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.space.edits import preserving
from w2w_hub.space.identity import edited, resolve

from ..tiny_world import ATTRIBUTES, TinyWorld

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
    with pytest.raises(InvalidInputError, match=r"0\.5.*0\.7"):
        pipe.edit({"Sunglasses": 1.0}, start=0.7)
    with pytest.raises(InvalidInputError, match="start"):
        pipe.edit({"Sunglasses": 1.0}, start=1.0)
    before = pipe.identity.early.copy()
    pipe.edit({"Sunglasses": 1.0})  # undelayed: acts on both
    assert not np.array_equal(before, pipe.identity.early)


def test_an_edit_that_leaves_the_population_warns_with_its_distance(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0, truncation=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.edit({"Full_Beard": 1.0})
    with pytest.warns(UserWarning, match=r"\d+\.\d+"):
        pipe.edit({"Full_Beard": 100.0})


def test_each_of_several_identities_is_edited(pipe: W2WPipeline) -> None:
    points = pipe.space.sample(2, seed=3)
    pipe.identity = points
    edited = pipe.edit({"Dark_Skin": 2.0})
    for point, identity in zip(points, edited, strict=True):
        expected = pipe.space.edit(point, {"Dark_Skin": 2.0})
        np.testing.assert_array_equal(identity.point.coefficients, expected.coefficients)


def test_a_set_of_several_people_is_each_ones_own_and_moves_their_pictures(pipe: W2WPipeline) -> None:
    points = pipe.space.sample(3, seed=3)
    pipe.identity = points
    before = draw(pipe, ["sks person"] * 3)
    wanted = {"Full_Beard": not points[0].history["attributes"]["Full_Beard"]}
    after = pipe.edit({"Dark_Skin": 1.0}, set=wanted, strength=1.5)
    for point, identity in zip(points, after, strict=True):
        expected = pipe.space.edit(point, {"Dark_Skin": 1.0}, set=wanted, strength=1.5)
        np.testing.assert_array_equal(identity.point.coefficients, expected.coefficients)
        assert identity.point.history["steps"] == [{"set": wanted, "strength": 1.5}]
    assert np.abs(draw(pipe, ["sks person"] * 3)[0] - before[0]).max() > 1e-3


def test_an_edit_that_is_refused_leaves_the_identity(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0)
    before = pipe.identity
    for wrong in (
        {"set": {"Halo": True}}, {"strengths": {"Full_Beard": True}}, {"strengths": {"Full_Beard": "yes"}},
        {"set": {"Full_Beard": True}, "strength": 11}, {"strengths": {"PC1": 1}, "layers": "dwn"},
    ):  # fmt: skip
        with pytest.raises((InvalidInputError, UnknownNameError)):
            pipe.edit(**wrong)
        assert pipe.identity is before


def test_an_edit_of_some_layers_leaves_the_other_modules_of_the_model_as_they_are(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0)
    before = pipe.identity.vector
    after = pipe.edit({"Sunglasses": 3.0}, layers=["up", "mid"]).vector
    for slot in pipe.space.layout.slots:
        same = np.array_equal(before[slot.offset : slot.end], after[slot.offset : slot.end])
        assert same == slot.target.module.startswith("down")


def test_a_sampled_identity_has_what_was_asked_for_and_is_set(pipe: W2WPipeline) -> None:
    point = pipe.sample_identity(seed=2, attributes={"Sunglasses": True, "Dark_Skin": False})
    assert pipe.identity.point is point
    assert (point.history["attributes"]["Sunglasses"], point.history["attributes"]["Dark_Skin"]) == (True, False)
    assert point.history["nearest"]["row"] in pipe.identity.note
    gaussian = pipe.sample_identity(seed=2, method="gaussian")
    np.testing.assert_array_equal(gaussian.coefficients, np.float32(pipe.space.spread.sample(1, 2)[0]))  # the paper's


def test_interpolation_is_the_weighted_mean_and_is_set(pipe: W2WPipeline) -> None:
    a, b = pipe.space.sample(2, seed=5)
    point = pipe.interpolate([a, b], [3, 1])
    np.testing.assert_allclose(point.coefficients, 0.75 * a.coefficients + 0.25 * b.coefficients, rtol=1e-5)
    assert pipe.identity.point is point


SCHEDULERS = {
    "Euler, Karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "DPM++ 2M, Karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "UniPC": (UniPCMultistepScheduler, {}),
    "PNDM": (PNDMScheduler, {"skip_prk_steps": True}),
    "LCM": (LCMScheduler, {}),
    "Heun": (HeunDiscreteScheduler, {}),
    "Heun, Karras": (HeunDiscreteScheduler, {"use_karras_sigmas": True}),
    "KDPM2": (KDPM2DiscreteScheduler, {}),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_delayed_edit_starts_with_a_whole_step_of_any_scheduler(name: str, pipe: W2WPipeline) -> None:
    before = pipe.scheduler
    kind, options = SCHEDULERS[name]
    plain = {k: v for k, v in before.config.items() if k not in ("rescale_betas_zero_snr", "timestep_spacing")}
    pipe.scheduler = kind.from_config(plain, **options)
    try:
        assert pipe.scheduler.scale_model_input.__func__ is kind.scale_model_input
        seen: dict[str, list[torch.Tensor]] = {"plain": [], "late": []}
        for which, latents in seen.items():

            def record(_: object, step: int, timestep: object, kwargs: dict, latents: list = latents) -> dict:
                latents.append(kwargs["latents"].clone())
                return kwargs

            pipe.sample_identity(0)
            if which == "late":
                pipe.edit({"Full_Beard": 3.0}, start=0.5)
            draw(pipe, num_inference_steps=4, callback_on_step_end=record)
        equal = [torch.equal(a, b) for a, b in zip(seen["plain"], seen["late"], strict=True)]
        order = pipe.scheduler.order
        unedited = -(-(len(equal) + order - 1) // order // 2) * order
        assert equal == [True] * unedited + [False] * (len(equal) - unedited)
        assert "scale_model_input" not in vars(pipe.scheduler)
    finally:
        pipe.scheduler = before


def test_an_unknown_attribute_suggests_the_nearest(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0)
    before = pipe.identity
    with pytest.raises(UnknownNameError, match=r"sunglases.*Sunglasses"):
        pipe.edit({"sunglases": 1.0})
    with pytest.raises(UnknownNameError, match=r"Dark_Skim.*Dark_Skin"):
        pipe.edit({"Full_Beard": 1.0}, preserve=["Dark_Skim"])
    with pytest.raises(InvalidInputError, match="Full_Beard"):
        pipe.edit({"Full_Beard": 1.0}, preserve="Full_Beard")
    assert pipe.identity is before


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(pipe: W2WPipeline, strength: float) -> None:
    pipe.sample_identity(0)
    with pytest.raises(InvalidInputError, match="Full_Beard"):
        pipe.edit({"Full_Beard": strength})


def test_preserved_attributes_keep_their_scores_and_the_edit_still_acts(pipe: W2WPipeline) -> None:
    space, kept = pipe.space, ["Sunglasses", "Dark_Skin"]
    point = pipe.sample_identity(1)
    free = edited(space, resolve(space, point), {"Full_Beard": 2.0}).point
    identity = pipe.edit({"Full_Beard": 2.0}, preserve=kept)

    def score(p: object, name: str) -> float:
        return float(p.coefficients.astype(np.float64) @ space.direction(name).reading)

    for name in kept:
        assert abs(score(identity.point, name) - score(point, name)) < 2e-5
    assert max(abs(score(free, name) - score(point, name)) for name in kept) > 2e-3  # entangled without it
    assert score(identity.point, "Full_Beard") > score(point, "Full_Beard")
    assert identity.point.history["preserved"] == sorted(kept)
    along = (identity.point.coefficients - point.coefficients) @ space.direction("Full_Beard").editing
    assert along > 0.5 * 2 * space.direction("Full_Beard").sd


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), names=st.sets(st.sampled_from(ATTRIBUTES), min_size=1))
def test_the_preserving_step_is_the_nearest_in_the_populations_metric(
    loaded: W2WPipeline, seed: int, names: set[str]
) -> None:
    space, rng = loaded.space, np.random.default_rng(seed)
    std = space.spread.std
    step = rng.normal(size=space.k) * std
    vectors = [space.direction(n).reading for n in sorted(names)]
    found = preserving(step, vectors, std)
    readings = np.stack(vectors).astype(np.float64)
    np.testing.assert_allclose(readings @ found, 0, atol=1e-8 * np.abs(readings @ step).max() + 1e-9)
    np.testing.assert_allclose(preserving(found, vectors, std), found, atol=1e-7 * np.abs(step).max())
    # any other step that keeps the scores is farther away
    other = preserving(step + rng.normal(size=space.k) * 0.1 * std, vectors, std)
    distance = [np.sum(((s - step) / std) ** 2) for s in (found, other)]
    assert distance[0] <= distance[1] + 1e-9


def test_a_point_of_fewer_components_is_edited_as_it_decodes(pipe: W2WPipeline) -> None:
    pipe.identity = [1.0, -0.5, 0.25]
    before = pipe.identity.vector
    pipe.edit({"Full_Beard": 0.0})
    np.testing.assert_allclose(pipe.identity.vector, before, atol=1e-7)
    assert len(pipe.identity.point.coefficients) == pipe.space.k


def test_an_edit_there_and_back_returns(pipe: W2WPipeline) -> None:
    point = pipe.sample_identity(4)
    pipe.edit({"Full_Beard": 2.0, "Dark_Skin": -1.0})
    pipe.edit({"Full_Beard": -2.0, "Dark_Skin": 1.0})
    np.testing.assert_allclose(pipe.identity.point.coefficients, point.coefficients, atol=1e-4)


@pytest.mark.parametrize("start", ["person-0000", "adapter", "short"])
def test_edits_one_after_the_other_are_one_edit_and_an_interpolation_with_oneself_is_oneself(
    start: str, pipe: W2WPipeline, tiny_world: TinyWorld
) -> None:
    begin = {"adapter": tiny_world.adapters[0], "short": [0.5, -1.0, 2.0]}.get(start, start)
    pipe.identity = begin
    pipe.edit({"Sunglasses": 1.5})
    pipe.edit({"Full_Beard": -0.5, "Sunglasses": 0.5})
    several, history = pipe.identity, dict(pipe.identity.point.history["edits"])
    pipe.identity = begin
    pipe.edit({"Full_Beard": -0.5, "Sunglasses": 2.0})
    np.testing.assert_allclose(several.vector, pipe.identity.vector, atol=1e-5)
    np.testing.assert_allclose(several.point.coefficients, pipe.identity.point.coefficients, atol=1e-4)
    assert history == pipe.identity.point.history["edits"]
    found = pipe.interpolate([pipe.identity, pipe.identity], [0.3, 5.0])
    np.testing.assert_allclose(found.coefficients, several.point.coefficients, atol=1e-4)
    back = pipe.space.project(pipe.space.decode(found))
    np.testing.assert_allclose(back, found.coefficients, atol=1e-3)


def test_an_edit_of_a_space_takes_points_and_coefficients_alike(pipe: W2WPipeline) -> None:
    point = pipe.space.row("person-0000")
    one, other = (pipe.space.edit(p, {"Sunglasses": 1.0}) for p in (point, point.coefficients))
    np.testing.assert_array_equal(one.coefficients, other.coefficients)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from w2w_hub import W2WPipeline
from w2w_hub.errors import InvalidInputError
from w2w_hub.models.denoising import draw_noise, identity_losses, pick
from w2w_hub.models.injection import inject_hooks
from w2w_hub.models.inversion import Inverter
from w2w_hub.models.pictures import to_picture
from w2w_hub.models.pipelines.inputs import encode_pictures, encode_text, nested

FAST = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}


@pytest.fixture(scope="module")
def picture(loaded: W2WPipeline) -> np.ndarray:
    return loaded.render(["person-0005"], [("sks person", 1)], **FAST)[0, 0]


def test_a_mask_weighs_the_error_of_each_latent(pipe: W2WPipeline, picture: np.ndarray) -> None:
    latents, text = encode_pictures(pipe, [picture])[None], encode_text(pipe, "sks person")[0]
    noise, t = draw_noise(torch.Generator().manual_seed(5), latents, 2, 1000)
    clean = latents[:, 0].repeat(2, 1, 1, 1)
    mask = torch.rand((2, 1, *latents.shape[-2:]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        predicted = pipe.unet(pipe.scheduler.add_noise(clean, noise, t), t, text[None].repeat(2, 1, 1)).sample
        [found] = identity_losses(pipe.unet, pipe.scheduler, clean, noise, t, text, 1, mask)
    target = pipe.scheduler.get_velocity(clean, noise, t)  # what this base model predicts
    errors = ((predicted - target) ** 2).mean(1).numpy()
    means = [np.average(error, weights=weight[0]) for error, weight in zip(errors, mask.numpy(), strict=True)]
    expected = np.mean(means)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_a_full_mask_changes_nothing_and_a_partial_one_does(pipe: W2WPipeline, picture: np.ndarray) -> None:
    half = np.zeros((64, 64))
    half[:, :32] = 255
    points = [
        pipe.invert(picture, mask=mask, num_steps=3, seed=1).point.coefficients
        for mask in (None, np.ones((64, 64)), half)
    ]
    np.testing.assert_allclose(points[0], points[1], atol=1e-3)
    assert not np.allclose(points[0], points[2], atol=1e-2)


@pytest.mark.parametrize(
    ("mask", "subject"),
    [
        (np.zeros((64, 64)), "mask"), (np.full((64, 64), -1.0), "mask"), (np.full((64, 64), np.nan), "mask"),
        (np.ones((32, 64)), r"mask.*\(32, 64\).*\(64, 64\)"), ([np.ones((64, 64))] * 2, "mask"),
    ],
)  # fmt: skip
def test_a_mask_that_says_nothing_is_refused(
    pipe: W2WPipeline, picture: np.ndarray, mask: object, subject: str
) -> None:
    with pytest.raises(InvalidInputError, match=subject):
        pipe.invert(picture, mask=mask, num_steps=1)


def test_inversion_stops_when_the_loss_no_longer_falls(pipe: W2WPipeline, picture: np.ndarray) -> None:
    found = pipe.invert(picture, num_steps=400, batch_size=1, tolerance=0.9)
    assert len(found.losses) == 100
    assert found.point.history["steps"] == 100


def test_the_best_of_several_descents_is_returned(pipe: W2WPipeline, picture: np.ndarray) -> None:
    one = pipe.invert(picture, num_steps=3, batch_size=8, seed=1)
    several = pipe.invert(picture, num_steps=3, batch_size=8, seed=1, restarts=2)
    assert several.point.history["restarts"] == 2
    same = bool(np.array_equal(several.point.coefficients, one.point.coefficients))
    assert same == (several.point.history["restart"] == 0)
    again = pipe.invert(picture, num_steps=3, batch_size=8, seed=1, restarts=2)
    np.testing.assert_array_equal(several.point.coefficients, again.point.coefficients)
    worse = pipe.invert([[picture], [picture]], num_steps=3, batch_size=8, seed=1, restarts=2)
    assert worse[0].point.history["restart"] == worse[1].point.history["restart"]


def test_of_several_descents_each_person_gets_the_one_of_least_error(
    pipe: W2WPipeline, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
    pictures = [picture, np.full((64, 64, 3), 0.2, np.float32), noise]
    tried: list[tuple[list[float], np.ndarray]] = []
    compare = Inverter.compare

    def seen(self: Inverter, use: Any, standardized: torch.Tensor) -> list[float]:
        errors = compare(self, use, standardized)
        tried.append((errors, (self.center + standardized * self.spread).numpy().copy()))
        return errors

    monkeypatch.setattr(Inverter, "compare", seen)
    found = pipe.invert([[p] for p in pictures], num_steps=2, batch_size=8, seed=1, restarts=4, learning_rate=0.5)
    assert len(tried) == 4
    for person, inversion in enumerate(found):
        errors = [one[person] for one, _ in tried]
        assert len(set(errors)) == 4  # so that the least is one of them
        best = int(np.argmin(errors))
        assert inversion.point.history["restart"] == best
        assert inversion.point.history["error"] == pytest.approx(min(errors), abs=1e-6)
        np.testing.assert_array_equal(inversion.point.coefficients, tried[best][1][person])


def test_a_larger_prior_ends_nearer_the_population(pipe: W2WPipeline, picture: np.ndarray) -> None:
    distances = []
    for prior in (0.0, 0.3, 30.0):
        found = pipe.invert(picture, num_steps=15, batch_size=2, seed=1, prior=prior)
        z = (found.point.coefficients - pipe.space.spread.mean) / pipe.space.spread.std
        distances.append(float(np.mean(z**2)))
    assert distances[0] > 1.2 * distances[1] > 1.2 * 1.2 * distances[2]


def test_an_inversion_that_diverges_stops_with_the_last_good_point(pipe: W2WPipeline, picture: np.ndarray) -> None:
    with pytest.warns(UserWarning, match=r"step \d+"):
        found = pipe.invert(picture, num_steps=20, learning_rate=1e30)
    assert np.isfinite(found.point.coefficients).all()
    assert 0 < len(found.losses) < 20
    with pytest.raises(InvalidInputError):
        pipe.invert(np.full((64, 64, 3), np.nan, np.float32), num_steps=2)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 64, 64), np.float32),  # a tensor's order
        torch.zeros(64, 64, 3),  # an array's
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 1), np.float32),
        np.zeros((64, 64, 3), bool),
        np.zeros((64, 64, 3), np.int64),
        np.zeros((64, 64, 3), np.complex64),
        np.full((64, 64, 3), "a"),
        np.full((64, 64, 3), None),
        np.full((64, 64, 3), np.inf, np.float32),
        torch.full((3, 64, 64), float("nan")),
        np.full((64, 64, 3), 1.5, np.float32),
        np.full((64, 64, 3), -0.5),
        np.zeros((0, 0, 3), np.float32),
        np.zeros((10, 10, 3), np.float32),
    ],
    ids=lambda wrong: f"{type(wrong).__name__}-{getattr(wrong, 'dtype', '')}-{getattr(wrong, 'shape', '')}",
)
def test_an_array_that_is_no_picture_in_a_stated_order_and_range_is_refused(pipe: W2WPipeline, wrong: Any) -> None:
    with pytest.raises(InvalidInputError):
        pipe.invert(wrong, num_steps=1)


def test_the_same_picture_in_every_form_is_one_point(pipe: W2WPipeline, picture: np.ndarray) -> None:
    whole = (picture * 255).round().astype(np.uint8)
    floats = whole.astype(np.float32) / np.float32(255)
    forms = [
        to_picture(floats), whole, floats, floats.astype(np.float64), torch.from_numpy(whole).permute(2, 0, 1),
        torch.from_numpy(floats).permute(2, 0, 1), whole[None], torch.from_numpy(floats).permute(2, 0, 1)[None],
    ]  # fmt: skip
    latents = [encode_pictures(pipe, nested(form, False, 3)[0]) for form in forms]
    for one in latents[1:]:
        torch.testing.assert_close(one, latents[0], atol=1e-5, rtol=1e-4)


def test_the_size_that_is_told_is_the_pictures_own(pipe: W2WPipeline) -> None:
    for size in ((10, 10), (64, 65), (1, 1)):
        with pytest.raises(InvalidInputError, match=f"{size[1]}x{size[0]} "):
            pipe.invert(np.zeros((*size, 3), np.float32), num_steps=1)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 10_000}, {"restarts": 0}, {"prior": -1.0}, {"learning_rate": 0.0}])
def test_inversion_settings_out_of_range_are_refused(
    pipe: W2WPipeline, picture: np.ndarray, wrong: dict[str, float]
) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        pipe.invert(picture, num_steps=1, **wrong)


def test_an_opaque_alpha_channel_changes_nothing(pipe: W2WPipeline, picture: np.ndarray) -> None:
    image = to_picture(picture)
    found = [pipe.invert(i, num_steps=1).point.coefficients for i in (image, image.convert("RGBA"))]
    np.testing.assert_array_equal(*found)


def test_inversion_is_reproducible_and_explains_the_picture_better_than_the_mean(pipe: W2WPipeline) -> None:
    [picture] = pipe.render(["person-0005"], [("sks person", 1)], **FAST)[0]
    first = pipe.invert(picture, num_steps=40, batch_size=4, seed=1)
    again = pipe.invert(picture, num_steps=40, batch_size=4, seed=1)
    np.testing.assert_array_equal(first.point.coefficients, again.point.coefficients)
    assert first.losses == again.losses
    latents, text = encode_pictures(pipe, [picture])[None], encode_text(pipe, "sks person")[0]
    noise, t = draw_noise(torch.Generator().manual_seed(5), latents, 32, 1000)
    clean = pick(latents, torch.zeros(32, dtype=torch.long))
    losses = []
    for point in (pipe.space.mean_point(), first.point):
        rows = torch.from_numpy(pipe.space.decode(point))[None]
        with torch.no_grad(), inject_hooks(pipe.unet, pipe.space.layout, rows):
            losses.append(identity_losses(pipe.unet, pipe.scheduler, clean, noise, t, text, 1).item())
    assert losses[1] < losses[0]


def test_people_inverted_in_one_batch_get_the_points_they_get_alone(pipe: W2WPipeline) -> None:
    pictures = pipe.render(["person-0005", "person-0006"], [("sks person", 1)], **FAST)[:, 0]
    together = pipe.invert([[pictures[0]], [pictures[1]]], num_steps=5, seed=1)
    alone = pipe.invert(pictures[1], num_steps=5, seed=1)
    np.testing.assert_allclose(together[1].point.coefficients, alone.point.coefficients, atol=1e-3)
    assert not np.allclose(together[0].point.coefficients, together[1].point.coefficients, atol=1e-2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_a_caller_that_takes_no_gradients_gets_the_same_point(
    mode: Any, pipe: W2WPipeline, picture: np.ndarray
) -> None:
    expected = pipe.invert(picture, num_steps=2, seed=1)
    with mode():
        found = pipe.invert(picture, num_steps=2, seed=1)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(found.point.coefficients, expected.point.coefficients)


def test_inversion_leaves_the_model_trainable_as_it_was(pipe: W2WPipeline) -> None:
    before = [p.requires_grad for p in pipe.unet.parameters()]
    pipe.invert(np.zeros((64, 64, 3), np.float32), num_steps=1)
    assert [p.requires_grad for p in pipe.unet.parameters()] == before
    assert all(p.grad is None for p in pipe.unet.parameters())


@pytest.mark.parametrize(
    "sampler", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UniPCMultistepScheduler]
)
def test_the_sampler_of_a_pipeline_does_not_change_its_inversions(
    sampler: Any, pipe: W2WPipeline, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipe.invert(picture, num_steps=6, seed=1)
    monkeypatch.setattr(pipe, "scheduler", sampler.from_config(pipe.scheduler.config))
    pipe.scheduler.set_timesteps(10)  # as a call before leaves it
    found = pipe.invert(picture, num_steps=6, seed=1)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(found.point.coefficients, expected.point.coefficients, rtol=1e-3, atol=1e-4)


def test_a_scheduler_without_betas_is_refused(
    pipe: W2WPipeline, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "scheduler", FlowMatchEulerDiscreteScheduler())
    with pytest.raises(InvalidInputError, match="FlowMatchEulerDiscreteScheduler"):
        pipe.invert(picture, num_steps=1)


def test_a_picture_of_another_size_is_refused(pipe: W2WPipeline) -> None:
    with pytest.raises(InvalidInputError, match=r"32x32.*64x64"):
        pipe.invert(np.zeros((32, 32, 3), np.float32), num_steps=1)

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_denoiser import (
    Denoiser,
    K,
    denoising_error,
    drawn,
    pictures,
    prompt,
    scheduler,
    small_space,
)
from w2w_hub import WeightSpace
from w2w_hub.errors import InvalidInputError
from w2w_hub.models.denoising import diffusion_target, draw_noise, identity_losses, pick
from w2w_hub.models.inversion import Inversion, InversionSettings, Inverter, _NotCapturedError


def invert(
    latents: torch.Tensor, *, space: WeightSpace | None = None, kind: str = "v_prediction", unet: Any = None,
    masks: Any = None, conditions: Any = None, **options: Any,
) -> list[Inversion]:  # fmt: skip
    return Inverter(
        unet or Denoiser(), scheduler(kind), space or small_space(), latents, prompt(), InversionSettings(**options),
        masks, conditions,
    ).run()  # fmt: skip


def vector_of(space: WeightSpace, z: torch.Tensor) -> torch.Tensor:
    k = len(z)
    c = torch.tensor(space.spread.mean[:k]).float() + z * torch.tensor(space.spread.std[:k]).float()
    found = space.coordinates
    return (c @ torch.tensor(found.basis[:k])) * torch.tensor(found.std) + torch.tensor(found.mean)


def descend(
    person: torch.Tensor, *, num_steps: int, learning_rate: float = 0.1, k: int = K, batch_size: int = 4,
    prior: float = 0.0, seed: int = 0, restart: int = 0, kind: str = "v_prediction", mask: torch.Tensor | None = None,
    condition: float = 0.0, stop: int | None = None,
) -> tuple[np.ndarray, list[float], torch.Tensor]:  # fmt: skip
    """Adam on one person's standardized coefficients, by hand."""
    space = small_space()
    z = torch.zeros(k)
    if restart:
        z = 0.5 * torch.randn((1, k), generator=torch.Generator().manual_seed(seed + restart))[0]
    z.requires_grad_(True)
    first, second = torch.zeros(k), torch.zeros(k)
    generator = torch.Generator().manual_seed(seed + restart)
    losses = []
    for step in range(num_steps if stop is None else stop):
        picked = torch.randint(len(person), (batch_size,), generator=generator)
        noise, t = drawn(generator, batch_size)
        weights = None if mask is None else mask[picked]
        loss = denoising_error(
            vector_of(space, z), person[picked], noise, t, kind=kind, mask=weights, condition=condition
        )
        (gradient,) = torch.autograd.grad(loss + prior * (z**2).mean(), z)
        losses.append(float(loss))
        remaining = (num_steps - step) / num_steps
        rate = learning_rate * (3 * remaining if remaining < 1 / 3 else 1.0)
        with torch.no_grad():
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            z -= rate * (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    z = z.detach()
    coefficients = space.spread.mean[:k] + z.numpy() * space.spread.std[:k]
    return coefficients, losses, z


CASES: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.03},
    {"k": 2},
    {"batch_size": 1},
    {"prior": 0.7},
    {"seed": 3},
    {"kind": "epsilon"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_inversion_is_adam_on_standardized_coefficients_whatever_the_options(case: dict[str, Any]) -> None:
    people = pictures(1)
    [found] = invert(people, num_steps=14, **case)
    coefficients, losses, _ = descend(people[0], num_steps=14, **case)
    np.testing.assert_allclose(found.losses, losses, rtol=2e-4)
    np.testing.assert_allclose(found.point.coefficients, coefficients, rtol=2e-3, atol=2e-3)
    assert found.point.basis_digest == small_space().digest
    history = found.point.history
    assert (history["made"], history["steps"], history["k"]) == ("inversion", 14, case.get("k", K))
    assert history["seed"] == case.get("seed", 0)
    assert history["loss"] == pytest.approx([losses[0], losses[-1]], rel=1e-3)
    assert "restart" not in history


def test_the_defaults_are_those_of_the_paper() -> None:
    people = pictures(1)
    [found] = invert(people)
    assert len(found.losses) == 400
    _, losses, _ = descend(people[0], num_steps=400, stop=30)
    np.testing.assert_allclose(found.losses[:30], losses, rtol=2e-3)


def test_masks_and_conditions_reach_the_loss_of_each_person() -> None:
    people = pictures(2)
    masks = torch.rand((2, 3, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    conditions = {"time_ids": torch.tensor([0.1, 0.2, 0.6])}
    together = invert(people, num_steps=8, masks=masks, conditions=conditions)
    for i, found in enumerate(together):
        coefficients, losses, _ = descend(people[i], num_steps=8, mask=masks[i], condition=0.3)
        np.testing.assert_allclose(found.losses, losses, rtol=2e-4)
        np.testing.assert_allclose(found.point.coefficients, coefficients, rtol=2e-3, atol=2e-3)


def test_each_of_several_people_descends_as_alone_with_a_prior() -> None:
    people = pictures(3)
    for i, found in enumerate(invert(people, num_steps=9, prior=0.5)):
        coefficients, losses, _ = descend(people[i], num_steps=9, prior=0.5)
        np.testing.assert_allclose(found.losses, losses, rtol=2e-4)
        np.testing.assert_allclose(found.point.coefficients, coefficients, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("batch_size", [8, 24, 100])
def test_restarts_are_descents_of_their_own_compared_under_the_same_draws(batch_size: int) -> None:
    people, seed, restarts, prior = pictures(2, seed=11), 4, 4, 0.4
    found = invert(
        people, num_steps=3, batch_size=batch_size, seed=seed, restarts=restarts, prior=prior, learning_rate=0.3
    )
    for person, best in zip(people, found, strict=True):
        errors, points = [], []
        for restart in range(restarts):
            coefficients, losses, z = descend(
                person, num_steps=3, batch_size=batch_size, seed=seed, restart=restart, prior=prior, learning_rate=0.3
            )
            generator = torch.Generator().manual_seed(seed)
            compared = []
            for _ in range(max(1, 64 // batch_size)):
                picked = torch.randint(len(person), (batch_size,), generator=generator)
                noise, t = drawn(generator, batch_size)
                compared.append(float(denoising_error(vector_of(small_space(), z), person[picked], noise, t)))
            errors.append(np.mean(compared) + prior * float((z**2).mean()))
            points.append((coefficients, losses))
        least = int(np.argmin(errors))
        assert best.point.history["restarts"] == restarts
        assert best.point.history["restart"] == least
        assert best.point.history["error"] == pytest.approx(errors[least], rel=1e-3)
        np.testing.assert_allclose(best.point.coefficients, points[least][0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(best.losses, points[least][1], rtol=1e-3)


def test_a_comparison_that_is_not_finite_loses_against_one_that_is() -> None:
    class Failing(Denoiser):
        def forward(self, noisy: Any, timesteps: Any, prompt: Any, added_cond_kwargs: Any = None) -> Any:
            found = super().forward(noisy, timesteps, prompt, added_cond_kwargs)
            if not torch.is_grad_enabled():
                comparisons.append(1)
                if len(comparisons) == 1:  # that of the first restart
                    found.sample = found.sample * float("nan")
            return found

    comparisons: list[int] = []
    [found] = invert(pictures(1), num_steps=2, batch_size=64, restarts=2, unet=Failing())
    assert len(comparisons) == 2
    assert found.point.history["restart"] == 1
    assert np.isfinite(found.point.history["error"])


@functools.cache
def whole_descent() -> Inversion:
    [found] = invert(6 * pictures(1), num_steps=320, batch_size=8, learning_rate=0.02)
    return found


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.08, 0.12, 0.3])
def test_a_descent_stops_after_a_pair_of_windows_whose_means_fall_too_little(tolerance: float) -> None:
    people, whole = 6 * pictures(1), whole_descent()  # losses far from 1
    [found] = invert(people, num_steps=320, batch_size=8, learning_rate=0.02, tolerance=tolerance)
    means = [np.mean(whole.losses[i : i + 50]) for i in range(0, 300, 50)]
    falls = [100 + 50 * i for i, (a, b) in enumerate(itertools.pairwise(means)) if a - b < tolerance * a]
    expected = falls[0] if falls and tolerance else 320
    assert expected == {0.0: 320, 0.02: 200, 0.08: 150, 0.12: 100, 0.3: 100}[tolerance]
    assert len(found.losses) == found.point.history["steps"] == expected
    np.testing.assert_allclose(found.losses, whole.losses[:expected], rtol=1e-4)


@pytest.mark.parametrize("bad", [1, 2, 9, 10, 11, 12, 15, 21, 24])
def test_the_last_point_before_a_loss_that_is_not_finite_is_returned(bad: int) -> None:
    class Failing(Denoiser):
        def forward(self, noisy: Any, timesteps: Any, prompt: Any, added_cond_kwargs: Any = None) -> Any:
            found = super().forward(noisy, timesteps, prompt, added_cond_kwargs)
            if len(self.seen) == bad + 1:  # once only: later steps look healthy again
                found.sample = found.sample * float("inf")
            return found

    people = pictures(1)
    with pytest.warns(UserWarning, match=f"step {bad} of 25"):
        [found] = invert(people, num_steps=25, unet=Failing())
    _, losses, _ = descend(people[0], num_steps=25, stop=bad)
    before, _, _ = descend(people[0], num_steps=25, stop=bad - 1)
    assert len(found.losses) == bad
    np.testing.assert_allclose(found.losses, losses, rtol=5e-4)
    # the point at which the last finite loss was measured
    np.testing.assert_allclose(found.point.coefficients, before, rtol=2e-3, atol=2e-3)


def test_a_gradient_that_is_not_finite_stops_a_descent_too() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return gradient * float("nan")

    class Failing(Denoiser):
        def forward(self, noisy: Any, timesteps: Any, prompt: Any, added_cond_kwargs: Any = None) -> Any:
            found = super().forward(noisy, timesteps, prompt, added_cond_kwargs)
            if len(self.seen) == 4:
                found.sample = Steep.apply(found.sample)
            return found

    with pytest.warns(UserWarning, match="step 3 of 7"):
        [found] = invert(pictures(1), num_steps=7, unet=Failing())
    assert len(found.losses) == 3
    assert np.isfinite(found.point.coefficients).all()


def test_a_first_loss_that_is_not_finite_is_an_error() -> None:
    people = pictures(1)
    people[0, :] = float("nan")
    with pytest.raises(InvalidInputError):
        invert(people, num_steps=5)


def test_only_parameters_that_took_gradients_before_take_them_after_also_after_an_error() -> None:
    for failing in (False, True):
        unet = Denoiser()
        unet.to_q.bias.requires_grad_(False)
        people = pictures(1)
        if failing:
            people *= float("nan")
            with pytest.raises(InvalidInputError):
                invert(people, num_steps=2, unet=unet)
        else:
            invert(people, num_steps=2, unet=unet)
        assert unet.to_q.weight.requires_grad
        assert not unet.to_q.bias.requires_grad
        assert unet.to_q.weight.grad is None
        torch.testing.assert_close(unet.to_q.weight, Denoiser().to_q.weight)


def test_the_models_parameters_take_no_gradients_during_a_descent() -> None:
    class Watched(Denoiser):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            taking.append(any(p.requires_grad for p in self.parameters()))
            return super().forward(*arguments, **options)

    taking: list[bool] = []
    invert(pictures(2), num_steps=2, unet=Watched())
    assert taking == [False, False]


def test_a_step_that_cannot_be_captured_is_told_and_taken_without() -> None:
    class Uncapturable(Inverter):
        def best_of_restarts(self) -> list[Inversion]:
            if self.capture:
                raise _NotCapturedError("it reads a number back")
            return super().best_of_restarts()

    given = scheduler(), small_space(), pictures(1), prompt()
    inverter = Uncapturable(Denoiser(), *given, InversionSettings(num_steps=2, capture=True))
    with pytest.warns(UserWarning, match="it reads a number back"):
        [found] = inverter.run()
    [expected] = invert(pictures(1), num_steps=2)
    np.testing.assert_array_equal(found.point.coefficients, expected.point.coefficients)


def test_a_step_is_captured_by_default_on_gpus_only_and_where_it_is_asked_for() -> None:
    inverter = Inverter(Denoiser(), scheduler(), small_space(), pictures(1), prompt(), InversionSettings())
    assert inverter.capture is False
    asked = Inverter(Denoiser(), scheduler(), small_space(), pictures(1), prompt(), InversionSettings(capture=True))
    assert asked.capture is True


def test_beside_a_model_of_half_precision_the_basis_is_as_small_and_the_point_nearly_the_same() -> None:
    people, few = pictures(1), InversionSettings(num_steps=10)
    whole = Inverter(Denoiser(), scheduler(), small_space(), people, prompt(), few)
    half = Inverter(
        Denoiser().bfloat16(), scheduler(), small_space(), people.bfloat16(), prompt().bfloat16(), few
    )  # fmt: skip
    other = Inverter(Denoiser().half(), scheduler(), small_space(), people.half(), prompt().half(), few)
    # float16 has too small a range for a basis times coefficients
    assert (whole.basis.dtype, half.basis.dtype, other.basis.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    [expected], [found] = whole.run(), half.run()
    assert found.point.coefficients.dtype == np.float32
    spread = small_space().spread.std
    np.testing.assert_allclose(found.point.coefficients / spread, expected.point.coefficients / spread, atol=0.4)


LIMITS: dict[str, tuple[list[Any], list[Any]]] = {
    "num_steps": ([1, 1_000_000], [0, 1_000_001, 1.5, True]),
    "learning_rate": ([1e-9, 3], [0, -0.1, float("inf"), float("nan")]),
    "k": ([1, None], [0, 1.5, True]),
    "batch_size": ([1, 1_000_000], [0, 1_000_001]),
    "prior": ([0, 2.5], [-1e-9, float("nan")]),
    "tolerance": ([0, 0.999], [1, -1e-9]),
    "restarts": ([1, 1_000_000], [0, 1_000_001]),
    "seed": ([0, 2**63 - 1], [-1, 2**63]),
    "capture": ([None, True, False], [1, "yes"]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_settings_take_what_is_in_their_range_and_nothing_beyond(name: str) -> None:
    good, bad = LIMITS[name]
    for value in good:
        assert getattr(InversionSettings(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(InvalidInputError, match=name):
            InversionSettings(**{name: value})


# ---------------------------------------------------------------- the objective
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_error_of_each_identity_is_that_of_its_own_samples(kind: str) -> None:
    people = pictures(3, each=4)
    picked = torch.tensor([2, 0, 3, 2, 1])
    noise, t = draw_noise(torch.Generator().manual_seed(7), people, 5, 1000)
    masks = torch.rand((3, 4, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    for mask in (None, pick(masks, picked)):
        found = identity_losses(
            Denoiser(), scheduler(kind), pick(people, picked), noise, t, prompt(), 3, mask,
            {"time_ids": torch.tensor([0.5, 0.5])},
        )  # fmt: skip
        for i in range(3):
            expected = denoising_error(
                torch.zeros(12), people[i][picked], noise[i::3], t[i::3], kind=kind, condition=0.5,
                mask=None if mask is None else masks[i][picked],
            )  # fmt: skip
            assert float(found[i]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("identities", "samples", "steps"), [(1, 1, 10), (3, 5, 1000), (2, 8, 8), (2, 7, 3)])
def test_timesteps_are_stratified_over_the_schedule_and_noise_is_common_to_all(
    identities: int, samples: int, steps: int
) -> None:
    latents = torch.zeros((identities, 2, 3, 4, 5), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    every: list[int] = []
    firsts = set()
    for _ in range(200):
        noise, t = draw_noise(generator, latents, samples, steps)
        assert noise.shape == (identities * samples, 3, 4, 5)
        assert noise.dtype == torch.float64
        for i in range(1, identities):
            assert torch.equal(noise[i::identities], noise[::identities])
            assert torch.equal(t[i::identities], t[::identities])
        own = t[::identities]
        for i, value in enumerate(sorted(own.tolist())):  # one of each stratum
            assert int(i * steps / samples) <= value <= (i + 1) * steps / samples
        assert int(own.min()) >= 0
        assert int(own.max()) <= steps - 1
        assert len({tuple(n.flatten().tolist()) for n in noise[::identities]}) == samples
        every += own.tolist()
        firsts.add(int(own[0] * samples / steps))
    assert min(every) <= 0.02 * steps
    assert max(every) >= 0.97 * steps - 1
    assert len(firsts) == min(samples, steps)  # in no order
    draws = [draw_noise(torch.Generator().manual_seed(s), latents, samples, steps) for s in (1, 1, 2)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[2][0])
    whole = torch.cat([draw_noise(generator, latents, 50, steps)[0][::identities] for _ in range(4)])
    assert abs(float(whole.mean())) < 0.1
    assert float(whole.std()) == pytest.approx(1, abs=0.06)


def test_no_timestep_is_beyond_the_schedule_though_the_last_stratum_rounds_up() -> None:
    # of the values from 999,999 to 1,000,000, float32 has sixteen: with this seed the last stratum's is 1,000,000
    _, t = draw_noise(torch.Generator().manual_seed(11), torch.zeros((1, 1, 1, 1, 1)), 1_000_000, 10)
    assert (int(t.min()), int(t.max())) == (0, 9)


def test_pictures_are_picked_sample_by_sample_and_identity_by_identity() -> None:
    latents = torch.arange(3 * 4 * 2.0).view(3, 4, 2)
    found = pick(latents, torch.tensor([3, 0, 3]))
    expected = [latents[i, j] for j in (3, 0, 3) for i in range(3)]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("kind", ["sample", "flow_prediction", "velocity", ""])
def test_other_kinds_of_prediction_are_refused(kind: str) -> None:
    one = torch.ones((1, 3, 2, 2))
    with pytest.raises(InvalidInputError, match=repr(kind)):
        diffusion_target(scheduler(kind), one, one, torch.tensor([1]))


def test_half_precision_errors_are_summed_in_single() -> None:
    class Half(Denoiser):
        def forward(self, noisy: Any, timesteps: Any, prompt: Any, added_cond_kwargs: Any = None) -> Any:
            found = super().forward(noisy.float(), timesteps, prompt.float(), added_cond_kwargs)
            found.sample = torch.full_like(found.sample, 300.0).half()
            return found

    people = pictures(1).half()
    noise, t = draw_noise(torch.Generator().manual_seed(0), people, 2, 1000)
    clean = pick(people, torch.tensor([0, 1]))
    found = identity_losses(Half(), scheduler("epsilon"), clean, noise, t, prompt().half(), 1)
    assert found.dtype == torch.float32
    assert float(found[0]) == pytest.approx(9e4, rel=0.02)  # more than float16 holds

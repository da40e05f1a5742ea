from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverSinglestepScheduler, EulerDiscreteScheduler

from tests.small_denoiser import LAYOUT, Denoiser, denoising_error, drawn, pictures, prompt, scheduler
from w2w_hub import ParameterLayout
from w2w_hub.errors import InvalidInputError
from w2w_hub.lora.adapter import Target
from w2w_hub.training import kaiming_start, train_identities


def start() -> torch.Tensor:
    return kaiming_start(LAYOUT, 0)


def by_hand(
    person: torch.Tensor, *, steps: int, batch_size: int = 1, learning_rate: float = 3e-3, average_last: float = 0.25,
    seed: int = 0, kind: str = "v_prediction",
) -> tuple[torch.Tensor, list[float]]:  # fmt: skip
    """One person by torch's own Adam under a cosine, with the mean of the last steps."""
    weights = start().clone().requires_grad_(True)
    adam = torch.optim.Adam([weights], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng([seed, len(person)])
    shown: list[int] = []
    for _ in range(steps * batch_size // len(person) + 1):  # whole rounds of all pictures
        shown += rng.permutation(len(person)).tolist()
    kept, losses = [], []
    for step in range(steps):
        noise, t = drawn(generator, batch_size)
        picked = shown[step * batch_size : (step + 1) * batch_size]
        loss = denoising_error(weights, person[picked], noise, t, kind=kind)
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        adam.step()
        losses.append(float(loss))
        kept.append(weights.detach().clone())
    last = max(1, round(steps * average_last))
    return torch.stack(kept[-last:]).mean(0), losses


CASES: list[dict[str, Any]] = [
    {},
    {"batch_size": 2},
    {"batch_size": 5},
    {"learning_rate": 0.05},
    {"average_last": 0.0},
    {"average_last": 1.0},
    {"average_last": 0.6},
    {"seed": 4},
    {"kind": "epsilon"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_is_adam_under_a_cosine_and_the_mean_of_the_last_steps(case: dict[str, Any]) -> None:
    people = pictures(2)
    steps = 10
    options = {name: value for name, value in case.items() if name != "kind"}
    reported: list[tuple[int, float]] = []
    found = train_identities(
        Denoiser().requires_grad_(False), LAYOUT, scheduler(case.get("kind", "v_prediction")), people, prompt(),
        start(), steps=steps, on_step=lambda *told: reported.append(told), **options,
    )  # fmt: skip
    assert found.shape == (2, LAYOUT.size)
    assert found.dtype == torch.float32
    golden = [by_hand(person, steps=steps, **case) for person in people]
    for row, (expected, _) in zip(found, golden, strict=True):
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=3e-5)
    assert [step for step, _ in reported] == list(range(1, steps + 1))
    means = [sum(losses) / 2 for losses in zip(*(losses for _, losses in golden), strict=True)]
    assert [loss for _, loss in reported] == pytest.approx(means, rel=1e-3)


@pytest.mark.slow
def test_the_defaults_are_eight_hundred_steps_of_one_sample() -> None:
    people = pictures(1)
    reported: list[float] = []
    found = train_identities(
        Denoiser().requires_grad_(False), LAYOUT, scheduler(), people, prompt(), start(),
        on_step=lambda step, loss: reported.append(loss),
    )  # fmt: skip
    expected, losses = by_hand(people[0], steps=800)
    assert reported[:50] == pytest.approx(losses[:50], rel=1e-2)
    assert len(reported) == 800
    torch.testing.assert_close(found[0], expected, rtol=0.05, atol=5e-3)


def test_autocast_reaches_the_layers_only_if_it_is_asked_for() -> None:
    for dtype, seen in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        unet = Denoiser().requires_grad_(False)
        found = train_identities(
            unet, LAYOUT, scheduler(), pictures(1), prompt(), start(), steps=2, autocast_dtype=dtype
        )
        assert {step["dtype"] for step in unet.seen} == {seen}
        assert found.dtype == torch.float32


def test_the_sampler_does_not_change_a_training_and_one_without_betas_is_refused() -> None:
    euler = EulerDiscreteScheduler.from_config(scheduler().config)
    euler.set_timesteps(7)
    rows = [
        train_identities(Denoiser(), LAYOUT, sampler, pictures(1), prompt(), start(), steps=5)
        for sampler in (scheduler(), euler)
    ]
    torch.testing.assert_close(rows[0], rows[1])
    sampler = DPMSolverSinglestepScheduler()
    del sampler.alphas_cumprod
    with pytest.raises(InvalidInputError, match="DPMSolver"):
        train_identities(Denoiser(), LAYOUT, sampler, pictures(1), prompt(), start(), steps=1)


LIMITS: dict[str, tuple[list[Any], list[Any]]] = {
    "steps": ([1], [0, -1, 1.5]),
    "batch_size": ([1, 7], [0, 1.5]),
    "learning_rate": ([1e-6], [0, -1.0, float("inf")]),
    "average_last": ([0, 1], [-0.01, 1.01]),
    "seed": ([0, 2**64 - 1], [-1, 2**64]),
    "on_step": ([None], ["print"]),
    "autocast_dtype": ([None], ["bfloat16"]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_options_are_taken_within_their_range_only(name: str) -> None:
    good, bad = LIMITS[name]
    plain: dict[str, Any] = {"steps": 1}

    def call(value: Any) -> torch.Tensor:
        options = {**plain, name: value}
        return train_identities(Denoiser(), LAYOUT, scheduler(), pictures(1), prompt(), start(), **options)

    for value in good:
        assert torch.isfinite(call(value)).all()
    for value in bad:
        with pytest.raises(InvalidInputError, match=name):
            call(value)


def test_training_changes_neither_the_model_nor_the_start() -> None:
    unet, first = Denoiser().requires_grad_(False), start()
    before = copy.deepcopy(unet.state_dict())
    train_identities(unet, LAYOUT, scheduler(), pictures(2), prompt(), first, steps=3)
    assert torch.equal(first, start())
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


BAD: dict[str, Any] = {
    "latents": [
        torch.zeros((1, 3, 2, 2)), torch.zeros((0, 1, 3, 2, 2)), torch.full((1, 1, 3, 2, 2), float("nan")),
        torch.zeros((1, 1, 3, 2, 2), dtype=torch.long),
    ],
    "text": [
        torch.zeros(5), torch.zeros((1, 4, 5)), torch.full((4, 5), float("inf")), torch.zeros((4, 5), device="meta"),
    ],
    "start": [torch.zeros(LAYOUT.size + 1), torch.zeros((1, LAYOUT.size)), torch.full((LAYOUT.size,), float("nan"))],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_tensors_of_another_shape_or_with_nan_are_refused_each_by_name(name: str) -> None:
    for value in BAD[name]:
        given = {"latents": pictures(1), "text": prompt(), "start": start()} | {name: value}
        with pytest.raises(InvalidInputError, match=name):
            train_identities(Denoiser(), LAYOUT, scheduler(), **given, steps=1)


def test_the_start_is_uniform_within_each_layers_own_bound_and_comes_from_the_seed() -> None:
    layout = ParameterLayout({Target("unet", "wide"): (8, 400, 30), Target("unet", "small"): (16, 25, 200)}, 1.0)
    found = kaiming_start(layout, 3)
    assert torch.equal(found, kaiming_start(layout, 3))
    assert found.dtype == torch.float32
    assert not torch.equal(found, kaiming_start(layout, 4))
    parts = list(layout.unflatten_batch(found[None]).values())
    assert len(parts) == 2
    for a, b in parts:
        bound = a.shape[-1] ** -0.5
        assert not b.any()
        assert float(a.min()) < -0.97 * bound
        assert 0.97 * bound < float(a.max()) <= bound
        assert float(a.min()) >= -bound
        assert abs(float(a.mean())) < 0.1 * bound
        assert float(a.std()) == pytest.approx(bound / 3**0.5, rel=0.07)
    assert (
        abs(float(torch.corrcoef(torch.stack([parts[0][0].flatten()[:400], parts[1][0].flatten()[:400]]))[0, 1])) < 0.3
    )

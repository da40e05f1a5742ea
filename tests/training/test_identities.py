from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from w2w_hub import ParameterLayout
from w2w_hub.errors import BaseModelMismatchError, InvalidInputError, LayoutMismatchError
from w2w_hub.lora.adapter import Target
from w2w_hub.models.denoising import draw_noise, identity_losses, pick
from w2w_hub.models.injection import inject_hooks, inject_weights
from w2w_hub.training import kaiming_start, train_identities

from ..tiny_world import TinyWorld


@pytest.fixture(scope="module")
def unet(tiny_world: TinyWorld) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(tiny_world.base / "unet").float().requires_grad_(False)


@pytest.fixture(scope="module")
def layout(unet: UNet2DConditionModel) -> ParameterLayout:
    return ParameterLayout.from_model(unet, rank=1, scale=27.0)


def train(unet, layout, latents, **options):
    scheduler = DDIMScheduler(prediction_type=options.pop("prediction_type", "v_prediction"))
    text = torch.randn((16, 32), generator=torch.Generator().manual_seed(0))
    options = {"steps": 6, "batch_size": 2, **options}
    return train_identities(unet, layout, scheduler, latents, text, kaiming_start(layout, 0), **options)


def latents(people: int) -> torch.Tensor:
    return torch.randn((people, 3, 4, 8, 8), generator=torch.Generator().manual_seed(5))


def test_an_identity_trained_in_a_batch_is_the_one_trained_alone(unet, layout) -> None:
    people = latents(3)
    together = train(unet, layout, people)
    alone = train(unet, layout, people[1:2])
    start = kaiming_start(layout, 0)
    moved = (alone[0] - start).abs().max()
    assert moved > 1e-3
    assert (together[1] - alone[0]).abs().max() < 0.02 * moved
    assert (together[0] - together[1]).abs().max() > 0.1 * moved


def explained(unet, layout, rows: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
    """Denoising loss of each identity under the same sixteen draws."""
    generator = torch.Generator().manual_seed(9)
    text = torch.randn((16, 32), generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    picked = torch.arange(16) % people.shape[1]
    noise, t = draw_noise(generator, people, 16, 1000)
    with torch.no_grad(), inject_hooks(unet, layout, rows):
        return identity_losses(unet, scheduler, pick(people, picked), noise, t, text, len(people))


def test_training_explains_a_persons_pictures_better_than_the_start_does(unet, layout) -> None:
    people = latents(2)
    trained = train(unet, layout, people, steps=60)
    start = kaiming_start(layout, 0)[None].repeat(2, 1)
    assert (explained(unet, layout, trained, people) < explained(unet, layout, start, people)).all()


def test_every_step_is_reported(unet, layout) -> None:
    seen: list[int] = []
    train(unet, layout, latents(1), on_step=lambda step, loss: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_the_same_seed_trains_the_same_rows_and_another_does_not(unet, layout) -> None:
    first, again = (train(unet, layout, latents(2), seed=1) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, train(unet, layout, latents(2), seed=2))


def test_models_that_predict_noise_are_trained_too_and_others_are_refused(unet, layout) -> None:
    assert torch.isfinite(train(unet, layout, latents(1), prediction_type="epsilon")).all()
    with pytest.raises(InvalidInputError, match="sample"):
        train(unet, layout, latents(1), prediction_type="sample")


def test_rows_and_rewritten_weights_give_the_same_output(unet, layout) -> None:
    generator = torch.Generator().manual_seed(3)
    row = kaiming_start(layout, 0) + 0.02 * torch.randn(layout.size, generator=generator)
    inputs = (
        torch.randn((2, 4, 8, 8), generator=generator),
        torch.tensor([10, 900]),
        torch.randn((2, 16, 32), generator=generator),
    )
    with torch.no_grad():
        plain = unet(*inputs).sample
        with inject_hooks(unet, layout, row[None]):
            attached = unet(*inputs).sample
        with inject_weights(unet, layout, row):
            rewritten = unet(*inputs).sample
        after = unet(*inputs).sample
    torch.testing.assert_close(attached, rewritten, atol=1e-4, rtol=1e-4)
    assert (attached - plain).abs().max() > 1e-2
    assert torch.equal(after, plain)


def test_a_batch_that_the_identities_do_not_divide_is_refused(unet, layout) -> None:
    rows = kaiming_start(layout, 0)[None].repeat(2, 1)
    with inject_hooks(unet, layout, rows), pytest.raises(LayoutMismatchError, match=r"3.*2"):
        unet(torch.zeros(3, 4, 8, 8), torch.tensor(1), torch.zeros(3, 16, 32))


def test_kaiming_start_is_pefts_own_initialisation(unet, layout) -> None:
    start = kaiming_start(layout, 0)
    for a, b in layout.unflatten_batch(start[None]).values():
        assert not b.any()
        bound = a.shape[-1] ** -0.5  # kaiming_uniform_ with a = sqrt(5)
        assert 0.5 * bound < a.abs().max() <= bound


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolutions_are_drawn_with_the_change_that_their_factors_multiply_to(memory_format) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, stride=2, padding=1),
        torch.nn.Conv2d(5, 4, (1, 3), padding="same", padding_mode="circular", dilation=(1, 2)),
        torch.nn.Conv2d(4, 6, 1),
    ).to(memory_format=memory_format)
    layout = ParameterLayout.from_model(model, ["0", "1", "2"], rank=2, scale=3.0)
    rows, inputs = torch.randn(2, layout.size), torch.randn(4, 3, 8, 9)
    with torch.no_grad():
        plain, expected = model(inputs), []
        for row in rows:
            dense = copy.deepcopy(model)
            for target, pair in layout.unflatten(row.numpy()).factors.items():
                dense.get_submodule(target.module).weight += torch.tensor(pair.delta(), dtype=torch.float32)
            expected.append(dense(inputs))
            with inject_weights(model, layout, row):
                torch.testing.assert_close(model(inputs), expected[-1], atol=1e-3, rtol=1e-4)
        with inject_hooks(model, layout, rows):
            attached = model(inputs)
        assert torch.equal(model(inputs), plain)
    for i in range(4):
        torch.testing.assert_close(attached[i], expected[i % 2][i], atol=1e-3, rtol=1e-4)


def test_a_convolution_with_another_kernel_is_refused_with_both() -> None:
    layout = ParameterLayout({Target("unet", "0"): (1, 3, 5, (3, 3))}, 1.0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1))
    with (
        pytest.raises(BaseModelMismatchError, match=r"1x1.*3x3"),
        inject_weights(model, layout, torch.zeros(layout.size)),
    ):
        pass

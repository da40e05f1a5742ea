"""Identities that train together are those that train alone, and PEFT's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import ParameterLayout
from w2w_hub.errors import CorruptFileError, InvalidInputError
from w2w_hub.training import TrainingRecipe, kaiming_start
from w2w_hub.training.data import Prompts, TrainingData
from w2w_hub.training.objective import FlowObjective, objective_of
from w2w_hub.training.trainer import Trainer

TOKENS, WIDTH = 5, 12


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval().requires_grad_(False)  # fmt: skip


@pytest.fixture(scope="module")
def layout(unet: UNet2DConditionModel) -> ParameterLayout:
    return ParameterLayout.from_model(unet, rank=1, scale=27.0)


def data(counts: list[int], *, classes: int = 0, variants: int = 1) -> TrainingData:
    """People with some numbers of pictures; a caption per picture and variant."""
    latents = tuple(random(count, 4, 4, 4, seed=10 + i) for i, count in enumerate(counts))
    prompts = max(counts) * variants + 1
    captions = tuple(torch.arange(count * variants).view(count, variants) for count in counts)
    return TrainingData(
        latents, captions, Prompts(random(prompts, TOKENS, WIDTH, seed=3)),
        random(classes, 4, 4, 4, seed=5) if classes else None, prompts - 1,
    )  # fmt: skip


def scheduler(kind: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(prediction_type=kind, beta_schedule="scaled_linear")


def trainer(unet: Any, layout: ParameterLayout, people: TrainingData, sampler: Any = None, **options: Any) -> Trainer:
    recipe = TrainingRecipe(**{"steps": 5, "learning_rate": 1e-3, **options})
    return Trainer(unet, layout, objective_of(sampler or scheduler()), people, kaiming_start(layout, 0), recipe)


def run(found: Trainer) -> torch.Tensor:
    while not found.done:
        found.advance()
    return found.rows()


@settings(max_examples=8, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=4), classes=st.sampled_from([0, 3]),
    variants=st.sampled_from([1, 2]), batch=st.integers(1, 2), schedule=st.sampled_from(["constant", "cosine"]),
    average=st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_each_of_several_people_is_the_one_trained_alone(
    unet: Any, layout: ParameterLayout, counts: list[int], classes: int, variants: int, batch: int, schedule: str,
    average: float,
) -> None:  # fmt: skip
    people = data(counts, classes=classes, variants=variants)
    options = {"batch_size": batch, "schedule": schedule, "average_last": average, "steps": 3}
    together = run(trainer(unet, layout, people, **options))
    start = kaiming_start(layout, 0)
    for i in range(len(counts)):
        alone = run(trainer(unet, layout, people.part([i]), **options))
        moved = (alone[0] - start).abs().max()
        assert moved > 1e-4
        assert (together[i] - alone[0]).abs().max() < 0.03 * moved


def test_one_persons_run_is_pefts_on_the_same_batches(unet: Any, layout: ParameterLayout) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    people, options = data([3], classes=2), {"steps": 6, "batch_size": 2, "learning_rate": 1e-3}
    ours = trainer(unet, layout, people, **options)
    draws = trainer(unet, layout, people, **options).draws
    model = inject_adapter_in_model(
        LoraConfig(r=1, lora_alpha=27, target_modules=["to_q", "to_v"]), copy.deepcopy(unet)
    )  # fmt: skip
    factors = layout.unflatten(kaiming_start(layout, 0).numpy()).factors
    parameters = []
    for target, pair in factors.items():
        module = model.get_submodule(target.module)
        for name, values in (("lora_A", pair.A), ("lora_B", pair.B)):
            weight = getattr(module, name)["default"].weight
            weight.data.copy_(torch.from_numpy(np.array(values)))
            weight.requires_grad_(True)
            parameters.append(weight)
    optimizer, noise = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2), scheduler()
    for step in range(6):
        batch = draws.batch(step)
        text, _ = people.prompts.of(batch.prompts)
        predicted = model(noise.add_noise(batch.clean, batch.noise, batch.t), batch.t, text).sample
        error = (predicted - batch.noise).square().mean((1, 2, 3))
        loss = error[:2].mean() + error[2:].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        assert float(ours.advance()[0]) == pytest.approx(loss.item(), rel=1e-4)
    theirs = torch.cat([weight.detach().flatten() for weight in parameters])
    moved = (theirs - kaiming_start(layout, 0)).abs().max()
    assert (ours.rows()[0] - theirs).abs().max() < 0.02 * moved


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_that_goes_on_from_a_saved_state_ends_in_the_same_bits(
    unet: Any, layout: ParameterLayout, stop: int
) -> None:
    options = {"average_last": 0.5, "schedule": "cosine", "batch_size": 2}
    people = data([3, 2], classes=2, variants=2)
    whole = run(trainer(unet, layout, people, **options))
    first = trainer(unet, layout, people, **options)
    for _ in range(stop):
        first.advance()
    state = {name: values.clone() for name, values in first.state().items()}
    second = trainer(unet, layout, people, **options)
    second.restore(state)
    assert second.step == stop
    assert torch.equal(run(second), whole)


def test_a_state_of_other_people_is_refused(unet: Any, layout: ParameterLayout) -> None:
    with pytest.raises(CorruptFileError, match="weights"):
        trainer(unet, layout, data([2, 2])).restore(trainer(unet, layout, data([2])).state())


def test_a_person_whose_loss_is_not_finite_is_lost_and_the_others_are_not(unet: Any, layout: ParameterLayout) -> None:
    people = data([2, 2, 2])
    expected = run(trainer(unet, layout, people))
    people.latents[1][:] = 1e30  # finite, but its square is not
    found = trainer(unet, layout, people)
    rows = run(found)
    assert found.lost.tolist() == [False, True, False]
    assert torch.equal(rows[0], expected[0])
    assert torch.equal(rows[2], expected[2])


@pytest.mark.parametrize("setting", [
    {"weight_decay": 0.5}, {"max_grad_norm": 1e-3}, {"seed": 1}, {"schedule": "cosine"},
    {"average_last": 1.0}, {"prior_weight": 0.0}, {"batch_size": 2}, {"learning_rate": 2e-3}, {"steps": 6},
], ids=str)  # fmt: skip
def test_every_setting_changes_the_result(unet: Any, layout: ParameterLayout, setting: dict[str, Any]) -> None:
    people = data([3], classes=3)
    assert not torch.equal(run(trainer(unet, layout, people)), run(trainer(unet, layout, people, **setting)))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_training_lowers_the_loss_for_every_kind_of_target(unet: Any, layout: ParameterLayout, kind: str) -> None:
    sampler = FlowMatchEulerDiscreteScheduler(shift=3.0) if kind == "flow" else scheduler(kind)
    found = trainer(unet, layout, data([1]), sampler, steps=40, batch_size=4, learning_rate=5e-3, weight_decay=0.0)
    fixed = trainer(unet, layout, data([1]), sampler, steps=1, batch_size=32, seed=9)
    batch = fixed.draws.batch(0)
    start = kaiming_start(layout, 0)[None]
    with torch.no_grad():
        before = fixed.identity_losses(start, batch)
        after = fixed.identity_losses(run(found), batch)
    assert float(after) < float(before)


def test_a_flows_path_is_straight_and_its_levels_are_the_schedulers() -> None:
    sampler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    objective = FlowObjective(sampler)
    clean, noise = random(3, 4, 2, 2, seed=0), random(3, 4, 2, 2, seed=1)
    t = torch.tensor([0, 499, 999])
    levels = sampler.sigmas.flip(0)[t]  # diffusers lists them from noise to data
    expected = (1 - levels.view(-1, 1, 1, 1)) * clean + levels.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(objective.noisy(clean, noise, t), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(objective.time(t), levels * 1000, atol=1e-2, rtol=1e-5)
    assert torch.equal(objective.target(clean, noise, t), noise - clean)
    with pytest.raises(InvalidInputError, match="use_dynamic_shifting"):
        objective_of(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


def flow_transformer() -> Any:
    """A tiny transformer of Stable Diffusion 3's kind, with random weights."""
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=4, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4,
    ).eval().requires_grad_(False)  # fmt: skip


def test_a_transformer_with_a_flow_is_trained() -> None:
    model = flow_transformer()
    layout = ParameterLayout.from_model(model, rank=2, scale=1.0, component="transformer")
    plain = data([2, 2])
    pooled = random(len(plain.prompts.text), 8, seed=8)
    people = TrainingData(plain.latents, plain.captions, Prompts(plain.prompts.text, {"pooled_projections": pooled}))
    rows = run(trainer(model, layout, people, FlowMatchEulerDiscreteScheduler(), class_prompt=None))
    assert torch.isfinite(rows).all()
    assert (rows - kaiming_start(layout, 0)).abs().amax(1).min() > 1e-4


def test_data_without_pictures_with_nan_or_of_two_sizes_is_refused() -> None:
    one, numbers = random(1, 4, 4, 4, seed=0), torch.zeros(1, 1, dtype=torch.long)
    prompts = Prompts(random(1, TOKENS, WIDTH, seed=0))
    for latents in ((), (one[:0],), (one * float("nan"),), (one, one[..., :2])):
        with pytest.raises(InvalidInputError):
            TrainingData(latents, tuple(numbers[: len(x)] for x in latents), prompts)

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel

from w2w_hub import W2WPipeline, WeightDataset, read_adapter
from w2w_hub.denoising import draw_noise, identity_losses, pick
from w2w_hub.errors import BaseModelMismatchError, InvalidInputError, MissingPathError, UnknownNameError
from w2w_hub.injection import rows_attached
from w2w_hub.pictures import to_picture

from ..tiny_world import TinyWorld, make_base

FAST = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}


@pytest.fixture(scope="module")
def loaded(tiny_space: Path) -> W2WPipeline:
    pipe = W2WPipeline.from_pretrained(tiny_space)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: W2WPipeline) -> Iterator[W2WPipeline]:
    yield loaded
    loaded.identity = None


def draw(pipe: StableDiffusionPipeline, prompt: object = "sks person", **options: object) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **{**FAST, **options}).images


def weights(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in pipe.unet.state_dict().items()}


def test_without_an_identity_the_base_model_draws_exactly(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    stock = StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(draw(pipe), draw(stock))


def test_after_many_swaps_the_base_weights_and_pictures_are_bit_equal(pipe: W2WPipeline) -> None:
    before, picture = weights(pipe), draw(pipe)
    text, _ = pipe.encode_prompt("sks person", "cpu", 1, False)
    for seed in range(1000):
        pipe.sample_identity(seed)
        pipe(prompt_embeds=text, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    pipe.identity = None
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())
    np.testing.assert_array_equal(draw(pipe), picture)


def test_identities_change_the_picture_and_differ_from_each_other(pipe: W2WPipeline) -> None:
    pictures = [draw(pipe)]
    for name in ("person-0000", "person-0001"):
        pipe.identity = name
        pictures.append(draw(pipe))
    for i in range(3):
        assert np.abs(pictures[i] - pictures[i - 1]).max() > 1e-3


def test_an_error_while_drawing_leaves_the_base_weights_as_they_were(pipe: W2WPipeline) -> None:
    before = weights(pipe)
    pipe.identity = "person-0000"

    def fail(*args: object) -> dict:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        draw(pipe, callback_on_step_end=fail)
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())


def test_several_identities_in_one_call_draw_what_each_draws_alone(pipe: W2WPipeline) -> None:
    names = ["person-0000", "person-0007", "person-0041"]
    alone = pipe.render(names, [("sks person", 1)], batch_size=1, **FAST)
    together = pipe.render(names, [("sks person", 1)], **FAST)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 1e-2


def test_each_prompt_of_a_call_gets_its_own_identity_also_with_several_pictures_a_prompt(pipe: W2WPipeline) -> None:
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(4)).repeat(4, 1, 1, 1)
    pipe.identity = ["person-0000", "person-0001"]
    both = draw(pipe, ["sks person", "sks person"], num_images_per_prompt=2, latents=noise)
    pipe.identity = "person-0001"
    second = draw(pipe, "sks person", latents=noise[:1])
    np.testing.assert_allclose(both[2], second[0], atol=1e-4)
    np.testing.assert_allclose(both[3], second[0], atol=1e-4)


def test_as_many_prompts_as_identities_are_needed(pipe: W2WPipeline) -> None:
    pipe.identity = ["person-0000", "person-0001"]
    with pytest.raises(InvalidInputError, match="2 identities need one prompt, or as many; got 3"):
        draw(pipe, ["a", "b", "c"])


def test_render_draws_the_base_model_for_none_and_keeps_the_identity(pipe: W2WPipeline) -> None:
    pipe.identity = "person-0002"
    before = pipe.identity
    drawn = pipe.render([None], [("sks person", 0)], **FAST)
    assert pipe.identity is before
    pipe.identity = None
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn[0, 0], draw(pipe, latents=noise)[0], atol=1e-5)


def test_an_adapter_is_drawn_exactly_as_peft_draws_it(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    pipe.identity = tiny_world.adapters[0]
    ours = draw(pipe)
    stock = StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    base = draw(stock)
    stock.unet = PeftModel.from_pretrained(stock.unet, str(tiny_world.adapters[0]))
    np.testing.assert_allclose(ours, draw(stock), atol=1e-4)
    assert np.abs(ours - base).max() > 1e-3


def test_an_edit_of_an_adapter_keeps_what_lies_outside_the_space(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    vector = pipe.space.layout.flatten(read_adapter(tiny_world.adapters[0]))
    pipe.identity = tiny_world.adapters[0]
    outside = vector - pipe.space.decode(pipe.identity.point)
    assert np.abs(outside).max() > 1e-5
    pipe.edit({"Sunglasses": 2.0})
    np.testing.assert_allclose(pipe.identity.vector - pipe.space.decode(pipe.identity.point), outside, atol=1e-6)


def test_the_exported_point_draws_the_same_picture_in_diffusers_and_peft(
    pipe: W2WPipeline, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    pipe.sample_identity(seed=3)
    pipe.edit({"Dark_Skin": 2.0})
    ours = draw(pipe)
    pipe.export(tmp_path / "lora")
    pipe.identity = None
    base = draw(pipe)
    for library in ("diffusers", "peft"):
        stock = StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32)
        stock.set_progress_bar_config(disable=True)
        if library == "diffusers":
            stock.load_lora_weights(str(tmp_path / "lora"))
        else:
            stock.unet = PeftModel.from_pretrained(stock.unet, str(tmp_path / "lora"))
        np.testing.assert_allclose(ours, draw(stock), atol=1e-4, err_msg=library)
    assert np.abs(ours - base).max() > 1e-3


def test_an_exported_identity_comes_back_as_the_same_vector(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.sample_identity(seed=1)
    pipe.export(tmp_path / "lora")
    again = pipe.space.layout.flatten(read_adapter(tmp_path / "lora"))
    np.testing.assert_array_equal(again, pipe.identity.vector)


def test_a_saved_pipeline_opens_offline_here_and_as_a_stock_pipeline(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    again = W2WPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert again.space.digest == pipe.space.digest
    for opened in (again, StableDiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)):
        opened.set_progress_bar_config(disable=True)
        np.testing.assert_array_equal(draw(opened), draw(pipe))


def test_a_foreign_base_model_is_refused(pipe: W2WPipeline, tmp_path: Path) -> None:
    make_base(tmp_path / "foreign", seed=9)
    with pytest.raises(BaseModelMismatchError, match="digest"):
        W2WPipeline.from_base(tmp_path / "foreign", pipe.space)


def test_a_base_of_another_pipeline_class_is_refused(pipe: W2WPipeline, tiny_world: TinyWorld, tmp_path: Path) -> None:
    shutil.copytree(tiny_world.base, tmp_path / "xl")
    index = json.loads((tmp_path / "xl" / "model_index.json").read_text())
    (tmp_path / "xl" / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(BaseModelMismatchError, match="is a StableDiffusionXLPipeline"):
        W2WPipeline.from_base(tmp_path / "xl", pipe.space)


def test_a_space_without_a_base_model_says_how_to_give_it_one(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.space.save(tmp_path / "bare")
    with pytest.raises(MissingPathError, match="w2w build DATASET --base BASE"):
        W2WPipeline.from_pretrained(tmp_path / "bare")


def test_what_names_no_identity_is_refused_with_what_would(pipe: W2WPipeline) -> None:
    with pytest.raises(UnknownNameError, match="neither a row of this weight space"):
        pipe.identity = "nobody"
    with pytest.raises(InvalidInputError, match="edit needs an identity"):
        pipe.edit({"Sunglasses": 1.0})


def test_coefficients_in_a_plain_list_are_one_identity(pipe: W2WPipeline) -> None:
    coefficients = [0.5, -1.0, 2.0]
    pipe.identity = coefficients
    np.testing.assert_array_equal(pipe.identity.vector, pipe.space.decode(np.float32(coefficients)))
    with pytest.raises(InvalidInputError, match="empty list"):
        pipe.identity = []


def test_a_base_folder_that_is_not_there_is_no_repository_name(pipe: W2WPipeline, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match="neither a diffusers folder nor"):
        W2WPipeline.from_base(tmp_path / "nothing", pipe.space)


def test_inversion_is_reproducible_and_explains_the_picture_better_than_the_mean(pipe: W2WPipeline) -> None:
    [picture] = pipe.render(["person-0005"], [("sks person", 1)], **FAST)[0]
    first = pipe.invert(picture, num_steps=40, batch_size=4, seed=1)
    again = pipe.invert(picture, num_steps=40, batch_size=4, seed=1)
    np.testing.assert_array_equal(first.point.coefficients, again.point.coefficients)
    assert first.losses == again.losses
    latents, text = pipe._encode([picture])[None], pipe._encode_text("sks person")
    noise, t = draw_noise(torch.Generator().manual_seed(5), latents, 32, 1000)
    clean = pick(latents, torch.zeros(32, dtype=torch.long))
    losses = []
    for point in (pipe.space.mean_point(), first.point):
        rows = torch.from_numpy(pipe.space.decode(point))[None]
        with torch.no_grad(), rows_attached(pipe.unet, pipe.space.layout, rows):
            losses.append(identity_losses(pipe.unet, pipe.scheduler, clean, noise, t, text, 1).item())
    assert losses[1] < losses[0]


def test_people_inverted_in_one_batch_get_the_points_they_get_alone(pipe: W2WPipeline) -> None:
    pictures = pipe.render(["person-0005", "person-0006"], [("sks person", 1)], **FAST)[:, 0]
    together = pipe.invert([[pictures[0]], [pictures[1]]], num_steps=5, seed=1)
    alone = pipe.invert(pictures[1], num_steps=5, seed=1)
    np.testing.assert_allclose(together[1].point.coefficients, alone.point.coefficients, atol=1e-3)
    assert not np.allclose(together[0].point.coefficients, together[1].point.coefficients, atol=1e-2)


def test_inversion_leaves_the_model_trainable_as_it_was(pipe: W2WPipeline) -> None:
    before = [p.requires_grad for p in pipe.unet.parameters()]
    pipe.invert(np.zeros((64, 64, 3), np.float32), num_steps=1)
    assert [p.requires_grad for p in pipe.unet.parameters()] == before
    assert all(p.grad is None for p in pipe.unet.parameters())


def test_a_picture_of_another_size_is_refused(pipe: W2WPipeline) -> None:
    with pytest.raises(InvalidInputError, match="32x32 pixels of 3 channels, this base model needs 64x64"):
        pipe.invert(np.zeros((32, 32, 3), np.float32), num_steps=1)


def test_rows_of_the_dataset_and_their_adapters_are_the_same_identity(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    dataset = WeightDataset.open(tiny_world.rows)
    pipe.identity = dataset.adapter("person-0004")
    np.testing.assert_array_equal(pipe.identity.vector, dataset["person-0004"].astype(np.float32))


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


@pytest.fixture(scope="module")
def picture(loaded: W2WPipeline) -> np.ndarray:
    return loaded.render(["person-0005"], [("sks person", 1)], **FAST)[0, 0]


def test_a_mask_weighs_the_error_of_each_latent(pipe: W2WPipeline, picture: np.ndarray) -> None:
    latents, text = pipe._encode([picture])[None], pipe._encode_text("sks person")
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
    ("mask", "message"),
    [
        (np.zeros((64, 64)), "a mask is empty"),
        (np.full((64, 64), -1.0), "a mask is empty or not in 0 to 1"),
        (np.full((64, 64), np.nan), "a mask is empty or not in 0 to 1"),
        (np.ones((32, 64)), r"a mask is \(32, 64\), this base model needs \(64, 64\)"),
        ([np.ones((64, 64))] * 2, "one mask for each picture"),
    ],
)
def test_a_mask_that_says_nothing_is_refused(
    pipe: W2WPipeline, picture: np.ndarray, mask: object, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        pipe.invert(picture, mask=mask, num_steps=1)


def test_inversion_stops_when_the_loss_no_longer_falls(pipe: W2WPipeline, picture: np.ndarray) -> None:
    found = pipe.invert(picture, num_steps=400, batch_size=1, tolerance=0.9)
    assert len(found.losses) == 100
    assert found.point.history["steps"] == 100


def test_the_best_of_several_descents_is_returned(pipe: W2WPipeline, picture: np.ndarray) -> None:
    one = pipe.invert(picture, num_steps=10, seed=1)
    several = pipe.invert(picture, num_steps=10, seed=1, restarts=3)
    assert several.point.history["restarts"] == 3
    if several.point.history["restart"] == 0:
        np.testing.assert_array_equal(several.point.coefficients, one.point.coefficients)
    again = pipe.invert(picture, num_steps=10, seed=1, restarts=3)
    np.testing.assert_array_equal(several.point.coefficients, again.point.coefficients)
    worse = pipe.invert([[picture], [picture]], num_steps=10, seed=1, restarts=3)
    assert worse[0].point.history["restart"] == worse[1].point.history["restart"]


def test_an_inversion_that_diverges_stops_with_the_last_good_point(pipe: W2WPipeline, picture: np.ndarray) -> None:
    with pytest.warns(UserWarning, match="not finite at step .* last good point"):
        found = pipe.invert(picture, num_steps=20, learning_rate=1e30)
    assert np.isfinite(found.point.coefficients).all()
    assert 0 < len(found.losses) < 20
    with pytest.raises(InvalidInputError, match="not finite at the first step"):
        pipe.invert(np.full((64, 64, 3), np.nan, np.float32), num_steps=2)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 10_000}, {"restarts": 0}, {"prior": -1.0}, {"learning_rate": 0.0}])
def test_inversion_settings_out_of_range_are_refused(
    pipe: W2WPipeline, picture: np.ndarray, wrong: dict[str, float]
) -> None:
    with pytest.raises(InvalidInputError, match="must"):
        pipe.invert(picture, num_steps=1, **wrong)


def test_a_picture_with_an_alpha_channel_is_read_as_its_colours(pipe: W2WPipeline, picture: np.ndarray) -> None:
    image = to_picture(picture)
    found = [pipe.invert(i, num_steps=1).point.coefficients for i in (image, image.convert("RGBA"))]
    np.testing.assert_array_equal(*found)

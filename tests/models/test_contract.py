"""Every option of the pipeline's own calls reaches what it is for, beside calls that are put together by hand."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from w2w_hub import ParameterLayout, W2WPipeline, WeightSpace, read_adapter
from w2w_hub.errors import BaseModelMismatchError, InvalidInputError, MissingPathError, UnknownNameError
from w2w_hub.lora.adapter import Target
from w2w_hub.models.pictures import contact_sheet, to_picture
from w2w_hub.models.pipelines import W2WMixin, strength_grid
from w2w_hub.models.pipelines.grids import preview_sheets
from w2w_hub.models.pipelines.identities import warn_if_far
from w2w_hub.models.pipelines.inputs import encode_pictures, encode_text
from w2w_hub.space import Coordinates, Direction, Population
from w2w_hub.space.thumbnails import thumbnail_of

from ..tiny_world import ATTRIBUTES, TinyWorld

FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "np"}
PROMPT = "sks person"


def draw(pipe: Any, prompt: Any = PROMPT, seed: int = 0, **options: Any) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **{**FAST, **options}).images


def alone(pipe: W2WPipeline, identity: Any, seed: int = 0, prompt: str = PROMPT, **options: Any) -> np.ndarray:
    before, pipe.identity = pipe.identity, identity
    try:
        return draw(pipe, prompt, seed, **options)[0]
    finally:
        pipe.identity = before


def test_a_render_of_any_batches_is_what_each_identity_draws_alone_in_each_case(pipe: W2WPipeline) -> None:
    people, cases = ["person-0000", None, "person-0003"], [(PROMPT, 1), ("a", 2)]
    expected = np.stack([[alone(pipe, p, seed, prompt) for prompt, seed in cases] for p in people])
    for batch_size in (1, 2, 3, 4):
        found = pipe.render(people, cases, batch_size=batch_size, **FAST)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
    two = pipe.render(people[:1], cases[:1], num_inference_steps=2, guidance_scale=2.0)
    np.testing.assert_allclose(
        two[0, 0], alone(pipe, people[0], 1, num_inference_steps=2, guidance_scale=2.0), atol=1e-4
    )
    assert np.abs(two[0, 0] - found[0, 0]).max() > 1e-3
    for nobody in (([], cases), (people, [])):
        with pytest.raises(InvalidInputError):
            pipe.render(*nobody)


def test_identities_of_one_call_start_their_edits_each_at_its_own_share(pipe: W2WPipeline) -> None:
    people = []
    for name, start in (("person-0000", 0.25), ("person-0001", 0.75), ("person-0002", 0.0)):
        pipe.identity = name
        people.append(pipe.edit({"Full_Beard": 3.0}, start=start))
    steps = {"num_inference_steps": 4}
    expected = [alone(pipe, person, **steps) for person in people]
    found = pipe.render(people, [(PROMPT, 0)], **{**FAST, **steps})[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_grid_is_each_identity_edited_by_each_strength(pipe: W2WPipeline) -> None:
    people, strengths = ["person-0000", "person-0001"], [-2.0, 0.0, 3.0]
    steps = {"num_inference_steps": 2}
    for preserve, start in (((), 0.0), (["Sunglasses"], 0.0), ((), 0.5), ("Dark_Skin", 0.5)):
        expected = []
        for person in people:
            for strength in strengths:
                pipe.identity = person
                pipe.edit({"Full_Beard": strength}, preserve=preserve, start=start)
                expected.append(draw(pipe, seed=4, **steps)[0])
        found = strength_grid(
            pipe, people, "Full_Beard", strengths, (PROMPT, 4), preserve=preserve, start=start, **{**FAST, **steps}
        )
        assert found.shape == (2, 3, 64, 64, 3)
        np.testing.assert_allclose(found, np.reshape(expected, found.shape), atol=1e-4)
    for wrong in (([], strengths), (people, []), ("person-0000", strengths), ({"person-0000": 1}, strengths)):
        with pytest.raises(InvalidInputError):
            strength_grid(pipe, wrong[0], "Full_Beard", wrong[1], (PROMPT, 4))
    with pytest.raises(UnknownNameError):
        strength_grid(pipe, people, "Beard", strengths, (PROMPT, 4))


def test_previews_are_six_people_and_a_slider_of_the_first_for_each_direction(pipe: W2WPipeline) -> None:
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    sheets = preview_sheets(pipe, "a", options)
    people, strengths = pipe.space.sample(6, seed=0), (-3.0, 0.0, 3.0, 4.5)
    drawn = pipe.render(people, [("a", 0)], **options)[:, 0][None]
    rows = [strength_grid(pipe, people[:1], n, strengths, ("a", 0), **options)[0] for n in ATTRIBUTES]
    expected = {
        "people": contact_sheet(drawn, [""], [f"sample {i}" for i in range(6)]),
        "sliders": contact_sheet(np.stack(rows), ATTRIBUTES, ["-3 sd", "as it is", "+3 sd", "+4.5 sd"]),
    }
    assert sheets.keys() == expected.keys()
    for name, sheet in expected.items():
        np.testing.assert_allclose(np.asarray(sheets[name]).astype(int), np.asarray(sheet).astype(int), atol=1)


# ---------------------------------------------------------------- identities
def test_a_sample_is_that_of_the_space_and_is_set(pipe: W2WPipeline) -> None:
    for given_arguments, expected in (((), (0, 1.0)), ((3,), (3, 1.0)), ((3, 0.4), (3, 0.4))):
        point = pipe.sample_identity(*given_arguments)
        np.testing.assert_array_equal(point.coefficients, pipe.space.sample(1, *expected)[0].coefficients)
        assert pipe.identity.point is point


def test_several_identities_are_edited_with_every_option_and_a_list_of_one_stays_a_list(pipe: W2WPipeline) -> None:
    for people in (["person-0000"], ["person-0000", "person-0001"]):
        pipe.identity = people
        found = pipe.edit({"Full_Beard": 2.0}, preserve=["Sunglasses"], start=0.5)
        assert isinstance(found, tuple)
        assert found is pipe.identity
        for name, identity in zip(people, found, strict=True):
            expected = pipe.space.edit(pipe.space.row(name), {"Full_Beard": 2.0}, preserve=["Sunglasses"])
            np.testing.assert_allclose(identity.point.coefficients, expected.coefficients, atol=1e-5)
            assert identity.start == 0.5
            np.testing.assert_array_equal(identity.at(0.49), pipe.space.decode(pipe.space.row(name)))
            np.testing.assert_array_equal(identity.at(0.5), identity.vector)


def test_a_warning_begins_where_the_farthest_fitted_row_is_whoever_is_far(pipe: W2WPipeline) -> None:
    space = pipe.space
    point = space.sample(1, seed=2)[0]
    unit = space.largest_distance / space.distance(point)
    near, far = (space.point(point.coefficients * unit * f) for f in (0.999, 1.001))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_far(space, [near, near])
    for points in ([far], [near, far], [far, near]):
        with pytest.warns(UserWarning, match="population"):
            warn_if_far(space, points)


def test_warnings_of_edits_and_of_what_is_kept_point_to_the_callers_line(
    pipe: W2WPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Direction, "unreliable", "for this test")
    pipe.identity = "person-0000"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pipe.edit({"Full_Beard": 60.0}, start=0.5)  # unreliable, and far
        pipe.save_identity(tmp_path / "p.json")  # without the start of the edit
        pipe.save_identity(tmp_path / "lora")
        pipe.space.edit(pipe.space.mean_point(), {"Full_Beard": 1.0}, layers="down")
    assert len(told) == 5
    assert {warning.filename for warning in told} == {__file__}


@pytest.mark.parametrize("what", [[1, 2], [1, 0.5], (np.float32(1), 2), [np.int64(1)]])
def test_a_list_of_any_numbers_is_one_identity(what: Any, pipe: W2WPipeline) -> None:
    pipe.identity = what
    np.testing.assert_array_equal(pipe.identity.point.coefficients[: len(what)], np.float32(what))


def test_an_export_is_of_the_named_identity_in_the_named_dialects_with_the_bases_name(
    pipe: W2WPipeline, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError):
        pipe.export(tmp_path / "none")
    pipe.export(tmp_path / "unset", "person-0002")
    pipe.identity = ["person-0000", None]
    with pytest.raises(InvalidInputError):
        pipe.export(tmp_path / "several")
    pipe.identity = "person-0000"
    pipe.export(tmp_path / "set")
    pipe.export(tmp_path / "named", "person-0002", dialects=("kohya",))
    assert [f.name for f in (tmp_path / "named").iterdir()] == ["kohya_lora.safetensors"]
    layout = pipe.space.layout
    for folder, name in (("unset", "person-0002"), ("set", "person-0000"), ("named", "person-0002")):
        adapter = read_adapter(tmp_path / folder)
        np.testing.assert_allclose(
            layout.flatten(adapter), pipe.space.decode(pipe.space.row(name)), rtol=1e-6, err_msg=folder
        )
        assert adapter.base_model == "tiny/base"
    assert not (tmp_path / "none").exists()


def test_attaching_verifies_the_base_and_not_the_identity_that_is_drawn(pipe: W2WPipeline, tiny_space: Path) -> None:
    space, pipe.identity, attached = pipe.space, "person-0000", []

    def attach(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
        pipeline.attach(space)
        attached.append(pipeline.identity)
        return kwargs

    draw(pipe, callback_on_step_end=attach)
    assert attached == [None]
    other = WeightSpace.from_pretrained(tiny_space)
    weight = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    before = weight.data.clone()
    weight.data[0, 0] += 1
    try:
        for cast in (torch.float32, torch.float16):
            pipe.unet.to(cast)
            with pytest.raises(BaseModelMismatchError):
                pipe.attach(other)
            pipe.unet.float()
        pipe.attach(other, verify=False)
    finally:
        weight.data.copy_(before)
    pipe.attach(space)


def test_a_space_of_another_component_cannot_be_drawn(pipe: W2WPipeline) -> None:
    layout = ParameterLayout({Target("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj"): (1, 32, 32)}, 1.0)
    rows = np.random.default_rng(0).normal(size=(4, layout.size)).astype(np.float32)
    basis = np.linalg.qr(rows[:2].T)[0].T.astype(np.float32)
    coordinates = Coordinates(layout, rows[0] * 0, np.ones(layout.size, np.float32), basis, np.ones(2))
    population = Population(("a", "b"), np.full(2, "train"), np.ones((2, 2), np.float32), "train")
    space = WeightSpace(coordinates, population, recipe={})
    before = pipe.space
    with pytest.raises(BaseModelMismatchError, match="text_encoder"):
        pipe.attach(space)
    assert pipe.space is before


# ---------------------------------------------------------------- calls
def test_each_call_sets_the_schedule_of_the_pipelines_own_scheduler_also_after_an_error(pipe: W2WPipeline) -> None:
    def fail(*_: Any) -> dict:
        raise ZeroDivisionError

    for name in (None, "person-0000"):
        pipe.identity = name
        for steps in (3, 2):
            draw(pipe, num_inference_steps=steps)
            assert len(pipe.scheduler.timesteps) == steps
        with pytest.raises(ZeroDivisionError):
            draw(pipe, num_inference_steps=5, callback_on_step_end=fail)
        draw(pipe, num_inference_steps=4)
        assert len(pipe.scheduler.timesteps) == 4


def test_a_call_inside_a_callback_leaves_a_scheduler_with_a_memory_and_a_delayed_edit_alone(pipe: W2WPipeline) -> None:
    before, steps = pipe.scheduler, {"num_inference_steps": 4}
    plain = {k: v for k, v in before.config.items() if k not in ("rescale_betas_zero_snr", "timestep_spacing")}
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(plain)
    try:
        inner_alone = alone(pipe, "person-0003", num_inference_steps=3)
        pipe.identity = "person-0000"
        late = pipe.edit({"Full_Beard": 3.0}, start=0.5)
        outer_alone, seen = draw(pipe, **steps), []

        def nested(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
            seen.append(alone(pipeline, "person-0003", num_inference_steps=3))
            return kwargs

        np.testing.assert_array_equal(draw(pipe, callback_on_step_end=nested, **steps), outer_alone)
        assert pipe.identity is late
        for pictures in seen:
            np.testing.assert_array_equal(pictures, inner_alone)
    finally:
        pipe.scheduler = before


def test_another_pipeline_inside_a_render_draws_its_own_identity(pipe: W2WPipeline) -> None:
    other = W2WPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other.identity, seen = "person-0002", []
    expected = draw(other)

    def nested(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
        seen.append(draw(other))
        return kwargs

    pipe.render(["person-0000"], [(PROMPT, 0)], callback_on_step_end=nested, **FAST)
    np.testing.assert_array_equal(seen[0], expected)


def test_parts_that_were_read_before_there_was_a_space_or_by_other_code_say_nothing(
    pipe: W2WPipeline, tiny_world: TinyWorld
) -> None:
    made = W2WPipeline.from_pipe(StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32))
    assert "unet" in made.components
    made.attach(pipe.space)

    def from_pipe(cls: type, pipeline: Any) -> Any:  # somebody's own
        return pipeline.config

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.identity = "person-0000"
        from_pipe(StableDiffusionPipeline, made)
    made.identity = None
    from_pipe(StableDiffusionPipeline, made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.identity = "person-0000"


# ---------------------------------------------------------------- inversion
def test_pictures_are_encoded_by_the_mean_at_the_models_scale(pipe: W2WPipeline) -> None:
    pictures = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    found = encode_pictures(pipe, list(pictures))
    with torch.no_grad():
        mean = pipe.vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
    torch.testing.assert_close(found, mean * pipe.vae.config.scaling_factor, rtol=1e-4, atol=1e-5)
    text, conditions = encode_text(pipe, PROMPT)
    expected, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
    torch.testing.assert_close(text, expected[0])
    assert conditions == {}


OPTIONS: dict[str, Any] = {
    "seed": 1, "learning_rate": 0.2, "batch_size": 2, "k": 5, "prompt": "a", "prior": 0.5, "num_steps": 2,
    "restarts": 2,
}  # fmt: skip


def test_every_option_of_an_inversion_acts_and_its_defaults_are_those_that_are_documented(pipe: W2WPipeline) -> None:
    picture = np.random.default_rng(0).random((64, 64, 3), np.float32)
    start = {"num_steps": 3}
    plain = pipe.invert(picture, **start)
    stated = pipe.invert(
        picture, prompt=PROMPT, learning_rate=0.1, batch_size=4, prior=0.0, tolerance=0.0, restarts=1, seed=0,
        k=pipe.space.k, mask=np.ones((64, 64)), **start,
    )  # fmt: skip
    np.testing.assert_allclose(stated.losses, plain.losses, rtol=1e-4)
    np.testing.assert_allclose(stated.point.coefficients, plain.point.coefficients, rtol=1e-2, atol=1e-3)
    for name, value in OPTIONS.items():
        found = pipe.invert(picture, **{**start, name: value})
        if name == "k":
            assert len(found.point.coefficients) == 5
        elif name == "restarts":
            assert np.isfinite(found.losses).all()
        elif name == "learning_rate":
            assert not np.allclose(found.losses[1:], plain.losses[1:], rtol=1e-6)
        else:
            assert len(found.losses) != len(plain.losses) or not np.allclose(found.losses, plain.losses, rtol=1e-6), (
                name
            )
    with pytest.raises(InvalidInputError):
        pipe.invert(picture, k=pipe.space.k + 1, **start)


def test_people_are_a_list_also_if_it_is_one_and_need_as_many_pictures_each(pipe: W2WPipeline) -> None:
    picture = np.random.default_rng(0).random((64, 64, 3), np.float32)
    with torch.no_grad():  # of the caller's
        alone_found = pipe.invert(picture, num_steps=1)
    [found] = pipe.invert([[picture]], num_steps=1)
    assert found.losses == alone_found.losses
    for wrong in ([[picture], [picture, picture]], [[picture], []], [], [[]]):
        with pytest.raises(InvalidInputError):
            pipe.invert(wrong, num_steps=1)


class Counting(W2WMixin, StableDiffusionPipeline):
    """Counts how often its hooks may free memory."""

    stock_class = StableDiffusionPipeline
    freed = 0

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1
        super().maybe_free_model_hooks()


def test_an_inversion_frees_what_offloading_brought_also_after_an_error(pipe: W2WPipeline) -> None:
    counting = Counting.from_pipe(pipe)
    picture = np.zeros((64, 64, 3), np.float32)
    counting.invert(picture, num_steps=1)
    before = counting.freed
    assert before >= 1
    with pytest.raises(InvalidInputError):
        counting.invert(picture[:32], num_steps=1)
    assert counting.freed > before


# ---------------------------------------------------------------- saving
def test_a_variant_and_its_weights_are_saved_opened_and_verified_as_asked(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "space", variant="fp16")
    assert (tmp_path / "space" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert not (tmp_path / "space" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    for dtype in (torch.float32, torch.bfloat16):
        opened = W2WPipeline.from_pretrained(tmp_path / "space", dtype, variant="fp16")
        assert opened.unet.dtype == dtype
    space = WeightSpace.from_pretrained(tmp_path / "space")
    found = W2WPipeline.from_base(tmp_path / "space", space, variant="fp16")
    assert (
        hashlib.sha256(found.unet.conv_in.weight.detach().numpy()).digest()
        == hashlib.sha256(pipe.unet.conv_in.weight.detach().numpy()).digest()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"revision": "a"}, {"base_model": "a/b"}, {"base_model": "a/b", "revision": ""}, {"safe_serialization": False},
        {"base_model": "a", "revision": "b"},
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_before_previews_are_drawn_and_writes_nothing(
    wrong: dict[str, Any], pipe: W2WPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "render", lambda *_, **__: pytest.fail("drawn"))
    with pytest.raises(InvalidInputError):
        pipe.save_pretrained(tmp_path / "space", previews={"num_inference_steps": 1}, **wrong)
    assert not list(tmp_path.iterdir())


OPENED: dict[str, Callable[[TinyWorld, WeightSpace, dict[str, Any]], Any]] = {
    "a folder": lambda world, space, options: W2WPipeline.from_base(world.base, space, **options),
    "a repository": lambda world, space, options: W2WPipeline.from_base("nobody/nothing", space, **options),
}


@pytest.mark.parametrize("way", OPENED)
@pytest.mark.parametrize(
    "option",
    [
        {"use_safetensors": False}, {"trust_remote_code": True}, {"custom_pipeline": "x"}, {"custom_revision": "x"},
        {"load_connected_pipeline": True}, {"use_flashpack": True}, {"use_onnx": True},
    ],
)  # fmt: skip
def test_options_that_open_something_else_are_refused_wherever_the_base_is(
    option: dict[str, Any], way: str, tiny_world: TinyWorld, pipe: W2WPipeline
) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(option))):
        OPENED[way](tiny_world, pipe.space, option)


def test_an_export_draws_each_identity_for_its_header_with_the_trigger_phrase(
    pipe: W2WPipeline, tmp_path: Path
) -> None:
    pipe.generation = {"num_inference_steps": 1, "guidance_scale": 1.0}
    names = ["person-0000", "person-0002"]
    folders = pipe.export(tmp_path / "drawn", names, trigger="a person of words", thumbnail=True, dialects=("kohya",))
    drawn = pipe.render(names, [("a person of words", 0)])
    for folder, pictures in zip(folders, drawn, strict=True):
        told = read_adapter(folder).metadata
        assert told["modelspec.trigger_phrase"] == "a person of words"
        assert told["modelspec.thumbnail"] == thumbnail_of(to_picture(pictures[0]))
    picture = to_picture(drawn[0, 0])
    pipe.export(tmp_path / "given", "person-0000", thumbnail=picture)
    assert read_adapter(tmp_path / "given").metadata["modelspec.thumbnail"] == thumbnail_of(picture)
    for wrong, error in ((picture, InvalidInputError), (3, InvalidInputError)):
        with pytest.raises(error):
            pipe.export(tmp_path / "wrong", names, thumbnail=wrong)
    with pytest.raises(MissingPathError):
        pipe.export(tmp_path / "wrong", "person-0000", thumbnail=tmp_path / "none.png")
    assert not (tmp_path / "wrong").exists()

"""Tests that need a CUDA device, skipped without one: pytest -n 0 tests/models/test_gpu.py"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.space.population import dataset_of, decaying
from w2w_hub import ParameterLayout, W2WPipeline, WeightDataset, build_space
from w2w_hub.models.injection import inject, inject_weights
from w2w_hub.models.injection.sums import write_sum
from w2w_hub.models.inversion import InversionSettings, Inverter
from w2w_hub.models.pipelines.inputs import encode_pictures, encode_text
from w2w_hub.space import TorchEngine
from w2w_hub.training import TrainingRecipe, kaiming_start, train_identity, train_many

from ..tiny_world import TinyWorld
from ..training.test_runs import portrait

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FAST = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}


@pytest.fixture
def pipe(tiny_space: Path) -> W2WPipeline:
    pipe = W2WPipeline.from_pretrained(tiny_space)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: W2WPipeline, prompt: object = "sks person") -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **FAST).images


def grouped(pipe: W2WPipeline) -> None:
    pipe.to("cuda")
    pipe.unet.enable_group_offload(torch.device("cuda"), torch.device("cpu"), offload_type="leaf_level")


WAYS: dict[str, Callable[[W2WPipeline], object]] = {
    "moved": lambda p: p.to("cuda"),
    "moved and back": lambda p: (p.to("cuda"), draw(p), p.to("cpu")),
    "moved with an identity drawn before": lambda p: (p.sample_identity(3), draw(p), p.to("cuda")),
    "moved as bfloat16": lambda p: p.to("cuda", torch.bfloat16),
    "model offloading": lambda p: p.enable_model_cpu_offload(),
    "sequential offloading": lambda p: p.enable_sequential_cpu_offload(),
    "group offloading": grouped,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_identity_takes_effect_however_the_weights_get_to_the_device(way: str, pipe: W2WPipeline) -> None:
    half = way == "moved as bfloat16"
    point = pipe.space.sample(1, seed=0)[0]
    pipe.identity = point
    expected = draw(pipe)[0]  # on the processor
    pipe.identity = None
    WAYS[way](pipe)
    pipe.identity = None
    plain = draw(pipe)
    weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    pipe.identity = point
    alone = draw(pipe)
    assert np.abs(alone - plain).max() > 1e-3
    if not half:  # whose noise is other numbers
        np.testing.assert_allclose(alone[0], expected, atol=5e-3)
    pipe.identity = [point, pipe.space.sample(2, seed=7)[1]]
    together = draw(pipe, ["sks person"] * 2)
    np.testing.assert_allclose(together[0], alone[0], atol=0.05 if half else 2e-3)
    assert np.abs(together[1] - alone[0]).max() > 1e-3
    pipe.identity = None
    for key, value in pipe.unet.state_dict().items():
        assert value.is_meta or torch.equal(weights[key].to(value.device), value), key
    np.testing.assert_allclose(draw(pipe), plain, atol=1e-5)


def test_a_thousand_identities_later_the_base_model_is_the_same_bits(pipe: W2WPipeline) -> None:
    pipe.to("cuda")
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    layout = pipe.space.layout
    rows = torch.from_numpy(np.stack([pipe.space.decode(p) for p in pipe.space.sample(10, seed=1)])).to("cuda")
    with inject(pipe.unet, layout, rows[0]) as use:
        for i in range(1000):
            use(rows[i % 10])
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_modules_written_at_once_get_the_bits_that_each_would_get(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    names = ("to_q", "to_v", "to_k")
    model = torch.nn.ModuleDict({name: torch.nn.Linear(24 + i, 40, bias=False) for i, name in enumerate(names)})
    model.to("cuda", dtype)
    layout = ParameterLayout.from_model(model, targets=names, scale=1.5)
    row = torch.randn(layout.size)
    with inject_weights(model, layout, row):
        found = {name: model[name].weight.detach().clone() for name in names}
    for target, (a, b) in layout.unflatten_batch(row[None]).items():
        original = model[target.module].weight.detach()
        expected = torch.empty_like(original)
        write_sum(expected, original, a[0], b[0], layout.scale)
        assert torch.equal(found[target.module], expected)
        assert not torch.equal(expected, original)


def test_a_captured_inversion_descends_as_an_eager_one(pipe: W2WPipeline) -> None:
    pipe.to("cuda")
    picture = pipe.render(["person-0005"], [("sks person", 1)], **{**FAST, "num_inference_steps": 3})[0, 0]
    latents, text = encode_pictures(pipe, [picture])[None], encode_text(pipe, "sks person")[0]
    results = []
    for capture in (False, True):
        settings = InversionSettings(num_steps=40, batch_size=2, seed=3, capture=capture)
        inverter = Inverter(pipe.unet, pipe.scheduler, pipe.space, latents, text, settings)
        results.append(inverter.run()[0])
        assert inverter.capture is capture  # it did not fall back
    eager, captured = results
    np.testing.assert_allclose(captured.losses, eager.losses, rtol=1e-3)
    np.testing.assert_allclose(captured.point.coefficients, eager.point.coefficients, rtol=0.02, atol=0.02)
    assert np.mean(captured.losses[-10:]) < np.mean(captured.losses[:10])


def test_a_step_that_cannot_be_captured_is_taken_eagerly(pipe: W2WPipeline) -> None:
    pipe.to("cuda")
    picture = np.full((64, 64, 3), 0.5, np.float32)
    expected = pipe.invert(picture, num_steps=12, seed=1)
    pipe.unet.conv_in.register_forward_hook(lambda module, args, output: output * float(output.isfinite().all()))
    with pytest.warns(UserWarning, match="captured"):
        found = pipe.invert(picture, num_steps=12, seed=1)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-3)
    np.testing.assert_allclose(found.point.coefficients, expected.point.coefficients, rtol=0.02, atol=0.02)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return dataset_of(tmp_path_factory.mktemp("d") / "people", decaying(200, 300), held_out=20)


@pytest.mark.parametrize("memory", [None, 0, 4 * 300 * 64])
@pytest.mark.parametrize("solver", ["gram", "covariance", "krylov"])
def test_the_device_finds_the_components_that_the_processor_finds(
    dataset: WeightDataset, solver: str, memory: int | None
) -> None:
    ours = build_space(dataset, 12, solver=solver, directions=False)
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    theirs = build_space(dataset, 12, solver=solver, engine=TorchEngine(devices, memory), directions=False)
    again = build_space(dataset, 12, solver=solver, engine=TorchEngine(devices, memory), directions=False)
    np.testing.assert_allclose(theirs.singular_values, ours.singular_values, rtol=1e-5)
    cosines = np.abs((theirs.basis.astype(np.float64) * ours.basis).sum(1))
    values = np.append(ours.singular_values**2, 0.0)
    apart = np.minimum(-np.diff(values), np.append(np.inf, -np.diff(values)[:-1])) > 0.01 * values[:-1]
    assert apart.sum() > 4
    assert (cosines[:-1][apart[:-1]] > 1 - 1e-6).all()
    assert np.array_equal(again.basis, theirs.basis)  # the same bits, on the same device


@pytest.mark.parametrize("engine", ["captured", "compiled", "compiled+captured"])
def test_every_engine_trains_the_eager_rows_and_goes_on_from_a_saved_state(
    tiny_world: TinyWorld, tmp_path: Path, engine: str
) -> None:
    for i in range(3):
        portrait(tmp_path / "people" / f"p{i}" / "0.png", seed=i)
    recipe = TrainingRecipe(class_prompt=None, steps=20, learning_rate=1e-3, precision="float32")
    given = {"recipe": recipe, "devices": ["cuda"], "at_once": 2}
    eager = train_many(tmp_path / "people", tiny_world.base, tmp_path / "eager", engine="eager", **given).dataset
    found = train_many(tmp_path / "people", tiny_world.base, tmp_path / "found", engine=engine, **given).dataset
    change = np.abs(eager.to_numpy() - kaiming_start(eager.layout, 0).numpy()).max()
    assert np.abs(found.to_numpy() - eager.to_numpy()).max() < 0.02 * change

    def stop(step: int, _: float) -> None:
        if step == 7:
            raise KeyboardInterrupt

    one = {"recipe": recipe, "device": "cuda", "engine": engine}
    whole = train_identity(tmp_path / "people" / "p0", tiny_world.base, **one)
    with pytest.raises(KeyboardInterrupt):
        train_identity(tmp_path / "people" / "p0", tiny_world.base, tmp_path / "out", on_step=stop, **one)
    again = train_identity(tmp_path / "people" / "p0", tiny_world.base, tmp_path / "out", resume=True, **one)
    layout = eager.layout
    assert np.abs(layout.flatten(again) - layout.flatten(whole)).max() < 0.02 * change


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_several_devices_train_and_invert_what_one_does(
    tiny_world: TinyWorld, tmp_path: Path, pipe: W2WPipeline
) -> None:
    people = tmp_path / "people"
    for i in range(4):
        portrait(people / f"p{i}" / "0.png", seed=i)
    recipe = TrainingRecipe(class_prompt=None, steps=20, learning_rate=1e-3, precision="float32")
    given = {"recipe": recipe, "at_once": 2}
    eager = train_many(people, tiny_world.base, tmp_path / "one", devices=["cuda"], engine="eager", **given)
    expected = eager.dataset.to_numpy()
    change = np.abs(expected - kaiming_start(eager.dataset.layout, 0).numpy()).max()
    for name, devices in (("second", ["cuda:1"]), ("both", ["cuda:0", "cuda:1"])):
        found = train_many(
            people, tiny_world.base, tmp_path / name, devices=devices, engine="captured", **given
        ).dataset
        assert np.abs(found.to_numpy() - expected).max() < 0.02 * change
    losses = []
    for device in ("cuda:0", "cuda:1"):
        pipe.to(device)
        picture = np.full((64, 64, 3), 0.5, np.float32)
        losses.append(pipe.invert(picture, num_steps=12, seed=1).losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)

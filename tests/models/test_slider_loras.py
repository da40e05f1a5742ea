"""Slider LoRAs: base + person + weight * slider, in stock libraries, is the person after the edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from tests.cli.test_outputs import w2w
from tests.tiny_world import TinyWorld
from w2w_hub import Adapter, W2WPipeline, WeightDataset, WeightSpace, read_adapter
from w2w_hub.dialects.loading import provenance_in
from w2w_hub.errors import AlreadyExistsError, InvalidInputError, UnknownNameError
from w2w_hub.lora.adapter import Target
from w2w_hub.space import make_slider
from w2w_hub.space.identity import edited, resolve

CALL: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
FILES = {"kohya": "slider.safetensors", "diffusers": "slider.safetensors", "peft": "slider"}
PERSON = "person-0003"


def draw(pipe: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    picture: np.ndarray = pipe("sks person", generator=torch.Generator().manual_seed(0), **CALL).images[0]
    return picture


def with_diffusers(stock: Any, folder: Path) -> Callable[[float], Any]:
    files = {"person": folder / "person" / "pytorch_lora_weights.safetensors", "slider": folder / "slider.safetensors"}
    for name, file in files.items():
        stock.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    return lambda weight: stock.set_adapters(list(files), [1.0, weight])


def with_peft(stock: Any, folder: Path) -> Callable[[float], Any]:
    model = PeftModel.from_pretrained(stock.unet, folder / "person", adapter_name="person")
    model.load_adapter(folder / "slider", adapter_name="slider")
    model.base_model.set_adapter(["person", "slider"])

    def weigh(weight: float) -> None:
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale("slider", weight)

    return weigh


def change(space: WeightSpace, person: Any, strength: float, **options: Any) -> dict[Target, np.ndarray]:
    """dW of a person after an edit, less that before it."""
    before = resolve(space, person)
    after = edited(space, before, {options.pop("name", "Full_Beard"): strength}, **options)
    whole = [space.layout.unflatten(identity.vector).factors for identity in (before, after)]
    return {target: whole[1][target].delta() - whole[0][target].delta() for target in whole[0]}


def norm(deltas: Any) -> float:
    return float(np.sqrt(sum((delta**2).sum() for delta in deltas)))


def off(adapter: Adapter, weight: float, wanted: dict[Target, np.ndarray]) -> float:
    """Relative error of weight * dW."""
    none = np.zeros(1)
    found = {t: weight * adapter.factors[t].delta() if t in adapter.factors else none for t in wanted}
    return norm(found[t] - wanted[t] for t in wanted) / norm(wanted.values())


@pytest.fixture(scope="module")
def space(tiny_space: Path) -> WeightSpace:
    return WeightSpace.from_pretrained(tiny_space)


@pytest.mark.parametrize("at", [PERSON, None])
@pytest.mark.parametrize("exact_at", [0.0, 2.0, None])
def test_a_slider_is_exact_where_it_says_and_off_elsewhere_by_what_it_says(
    space: WeightSpace, at: str | None, exact_at: float | None
) -> None:
    slider = make_slider(space, "Full_Beard", at=at, exact_at=exact_at)
    assert slider.exact_at == (slider.recommended if exact_at is None else exact_at)
    assert {pair.rank for pair in slider.adapter.factors.values()} == {2 * space.layout.slots[0].rank}
    for weight in (0.01, 1.0, 3.0, slider.recommended, slider.high, -1.0):
        wanted = change(space, space.mean_point() if at is None else at, weight)
        assert off(slider.adapter, weight, wanted) == pytest.approx(slider.error(weight), rel=1e-2, abs=2e-5)
    assert slider.error(slider.exact_at) == 0
    assert 0.5 < slider.error(1e6) < 2
    with pytest.raises(InvalidInputError):
        slider.error(1e300)


@pytest.mark.parametrize("dialect", FILES)
def test_person_and_slider_in_stock_diffusers_are_the_picture_of_the_edit(
    dialect: str, pipe: W2WPipeline, tiny_space: Path, tmp_path: Path
) -> None:
    pipe.identity = PERSON
    pipe.export(tmp_path / "person")
    slider = pipe.export_slider(tmp_path / FILES[dialect], "Full_Beard", dialect)  # at the identity
    stock = StableDiffusionPipeline.from_pretrained(tiny_space, local_files_only=True)
    weigh = with_peft(stock, tmp_path) if dialect == "peft" else with_diffusers(stock, tmp_path)
    before = draw(pipe)
    for weight in (1.0, 3.0, slider.recommended):
        pipe.identity = PERSON
        pipe.edit({"Full_Beard": weight})
        weigh(weight)
        wanted = draw(pipe)
        error, moved = np.abs(draw(stock) - wanted).mean(), np.abs(wanted - before).mean()
        assert error <= max(2 * slider.error(weight) * moved, 1e-5)
    assert error <= 1e-5 < moved


def test_the_unit_is_a_standard_deviation_or_a_typical_push(space: WeightSpace) -> None:
    direction = space.direction("Full_Beard")
    assert direction.typical is not None
    one, typical = (make_slider(space, "Full_Beard", unit=unit) for unit in ("sd", "typical"))
    assert one.recommended == pytest.approx(direction.typical)
    assert typical.recommended == 1
    assert typical.high == pytest.approx(one.high / direction.typical)
    for target, pair in one.adapter.factors.items():
        np.testing.assert_allclose(
            direction.typical * pair.delta(), typical.adapter.factors[target].delta(), rtol=1e-3, atol=1e-6
        )
    component = make_slider(space, "PC1")
    assert not component.measured
    assert component.low == -component.high < 0


def test_layers_and_preserved_attributes_are_those_of_the_edit(space: WeightSpace) -> None:
    options: dict[str, Any] = {"layers": "mid", "preserve": ["Sunglasses"]}
    slider = make_slider(space, "Full_Beard", at=PERSON, exact_at=2.0, **options)
    assert {target.module.partition(".")[0] for target in slider.adapter.factors} == {"mid_block"}
    assert off(slider.adapter, 2.0, change(space, PERSON, 2.0, **options)) < 1e-4


def test_a_set_is_a_slider_from_the_person_to_the_typical_set(space: WeightSpace) -> None:
    wanted = not space.population_model.read(space.row(PERSON).coefficients.astype(float))["Full_Beard"]  # type: ignore[union-attr]
    slider = make_slider(space, {"Full_Beard": wanted}, at=PERSON)
    before, after = resolve(space, PERSON), edited(space, resolve(space, PERSON), set={"Full_Beard": wanted})
    first, second = (space.layout.unflatten(identity.vector).factors for identity in (before, after))
    assert off(slider.adapter, 1.0, {t: second[t].delta() - first[t].delta() for t in first}) < 1e-4
    with pytest.raises(InvalidInputError):  # it is so already
        make_slider(space, {"Full_Beard": not wanted}, at=PERSON)


@pytest.mark.parametrize("dialect", FILES)
def test_the_header_says_unit_range_and_where_it_comes_from(dialect: str, space: WeightSpace, tmp_path: Path) -> None:
    slider = make_slider(space, "Full_Beard", at=PERSON)
    path = slider.save(tmp_path / FILES[dialect], dialect)
    told = provenance_in(path)
    assert told["w2w.slider"] == "Full_Beard"
    assert "standard deviation" in told["w2w.slider.unit"]
    assert "standard deviation" in told["modelspec.usage_hint"]
    for name, value in (
        ("recommended", slider.recommended), ("low", slider.low), ("high", slider.high), ("exact_at", slider.exact_at),
        ("error_at_1", slider.error(1)),
    ):  # fmt: skip
        assert json.loads(told[f"w2w.slider.{name}"]) == pytest.approx(value, rel=1e-4)
    assert told["w2w.space_digest"] == space.digest
    assert told["w2w.row"] == PERSON
    back = read_adapter(path)
    for target, pair in slider.adapter.factors.items():
        np.testing.assert_allclose(back.factors[target].delta(), pair.delta(), atol=1e-6)
    with pytest.raises(AlreadyExistsError):
        slider.save(path, dialect)
    slider.save(path, dialect, overwrite=True)


def test_the_command_writes_the_slider_of_the_call_and_says_how_to_use_it(
    tiny_space: Path, tiny_world: TinyWorld, space: WeightSpace, tmp_path: Path
) -> None:
    out, words = tmp_path / "a.safetensors", ["export-slider", tiny_space, "--attribute", "Full_Beard"]
    made = w2w(*words, "--at", PERSON, "--to", "kohya", "--out", out)
    assert f"{make_slider(space, 'Full_Beard').recommended:.3g}" in made.stderr
    wanted = make_slider(space, "Full_Beard", at=PERSON)
    assert read_adapter(out).factors.keys() == wanted.adapter.factors.keys()
    assert off(read_adapter(out), 1.0, {t: p.delta() for t, p in wanted.adapter.factors.items()}) < 1e-6
    printed = w2w(
        *words, "--at", PERSON, "--dataset", tiny_world.rows, "--to", "peft", "--out", tmp_path / "b", "--json"
    )
    told = json.loads(printed.stdout)
    own = make_slider(space, "Full_Beard", at=PERSON, dataset=WeightDataset.open(tiny_world.rows))
    assert told["error"]["1"] == pytest.approx(own.error(1.0))
    for bad in (
        ["--to", "peft", "--out", tmp_path / "c.safetensors"],
        ["--to", "kohya", "--out", tmp_path / "c", "--set", "Full_Beard=true"],
        ["--to", "kohya", "--out", tmp_path / "c", "--at", "nobody"],
        ["--to", "kohya", "--out", out],
        ["--to", "lokr", "--out", tmp_path / "c"],
        ["--to", "kohya", "--out", tmp_path / "c", "--layers", "nowhere"],
    ):
        w2w(*words, *bad, status=2)
    w2w("export-slider", tiny_space, "--to", "kohya", "--out", tmp_path / "c", status=2)
    assert not (tmp_path / "c").exists()


def test_bad_arguments_are_refused(space: WeightSpace, pipe: W2WPipeline, tmp_path: Path) -> None:
    for words in ({"attribute": "Halo"}, {"attribute": "Full_Beard", "at": "nobody"}):
        with pytest.raises(UnknownNameError):
            make_slider(space, **words)
    for options in ({"unit": "m"}, {"exact_at": float("nan")}, {"exact_at": 1e9}, {"layers": []}):
        with pytest.raises(InvalidInputError):
            make_slider(space, "Full_Beard", **options)
    pipe.identity = ["person-0001", "person-0002"]
    with pytest.raises(InvalidInputError):
        pipe.export_slider(tmp_path / "slider", "Full_Beard")
    assert not (tmp_path / "slider").exists()

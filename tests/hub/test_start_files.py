"""`w2w init`: start files and settings, followed as they are written with PEFT and by the rules of kohya's trainer."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from w2w_hub import ParameterLayout, WeightDataset, read_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.errors import AlreadyExistsError, InitializationError, InvalidInputError
from w2w_hub.lora.adapter import Target
from w2w_hub.release import contribute, write_start
from w2w_hub.release.contribution.trainers import TRAINERS
from w2w_hub.training.tensors import kaiming_start


@pytest.fixture
def people(tmp_path: Path, tiny_unet: Callable[[], Any]) -> WeightDataset:
    """A dataset of a tiny UNet's adapters, rank 2, alpha 6, that publishes its initialization."""
    layout = ParameterLayout.from_model(tiny_unet(), ("to_q", "to_v"), 2, 3.0)
    start = kaiming_start(layout, 3).numpy()
    rows = start + np.random.default_rng(0).normal(0, 0.05, (12, layout.size)).astype(np.float32)
    return write_dataset(rows, tmp_path / "people", layout=layout, start_adapter=layout.unflatten(start))


def step(model: torch.nn.Module) -> None:
    """Train what is trainable for three steps to draw something else."""
    torch.manual_seed(0)
    given = torch.randn(2, 4, 4, 4), torch.tensor([3, 5]), torch.randn(2, 5, 12)
    wanted = torch.randn(2, 4, 4, 4)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        loss = ((model(*given).sample - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def assert_fits(people: WeightDataset, trained: Path) -> None:
    """The trained adapter passes the checks that concern training."""
    options: dict[str, Any] = {"source": "made up", "license": "mit", "consent": "not needed", "dry_run": True}
    (verdict,) = contribute(people.path, trained, **options).verdicts
    assert {p.check for p in verdict.problems} <= {"norm", "spectrum"}  # three steps are few
    assert verdict.facts["initialisation_cosine"] > 0.9
    assert np.abs(people.layout.flatten(read_adapter(trained)) - start_of(people)).max() > 1e-4


def start_of(people: WeightDataset) -> np.ndarray:
    return kaiming_start(people.layout, 3).numpy()


def test_peft_starts_from_the_folder_with_all_tensors_and_trains_what_fits(
    people: WeightDataset, tiny_unet: Callable[[], Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    write_start(people.path, tmp_path / "start", "peft")
    stored = load_file(tmp_path / "start" / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(tiny_unet(), str(tmp_path / "start"), is_trainable=True)
    loaded = {k.replace(".default.", "."): v for k, v in model.state_dict().items() if "lora_" in k}
    assert loaded.keys() == stored.keys()  # zeros included
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        name.replace(".weight", ".default.weight") for name in stored
    }
    assert {scale for m in model.modules() for scale in getattr(m, "scaling", {}).values()} == {3.0}
    step(model)
    model.save_pretrained(tmp_path / "trained")
    assert_fits(people, tmp_path / "trained")


class _LoRA(torch.nn.Module):
    """A module of kohya's network: up(down(x)) * alpha / rank is added to the layer's output."""

    def __init__(self, layer: torch.nn.Linear, down: torch.Tensor, up: torch.Tensor, alpha: torch.Tensor):
        super().__init__()
        self.layer, self.alpha = layer, alpha
        self.down, self.up = torch.nn.Parameter(down), torch.nn.Parameter(up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x @ self.down.T @ self.up.T * (self.alpha / len(self.down))


def test_a_network_made_of_the_file_by_kohyas_rules_trains_what_fits(
    people: WeightDataset, tiny_unet: Callable[[], Any], tmp_path: Path
) -> None:
    write_start(people.path, tmp_path / "start", "kohya")
    settings = tomllib.loads((tmp_path / "start" / "kohya.toml").read_text())
    assert settings["dim_from_weights"] is True
    stored = load_file(settings["network_weights"])
    unet, made = tiny_unet().requires_grad_(False), {}
    for name, layer in list(unet.named_modules()):  # as `dim_from_weights`: modules that the file lacks are not made
        key = f"lora_unet_{name.replace('.', '_')}"
        if f"{key}.lora_down.weight" not in stored:
            continue
        parts = [stored.pop(f"{key}.{part}") for part in ("lora_down.weight", "lora_up.weight", "alpha")]
        parent, _, last = name.rpartition(".")
        made[key] = _LoRA(layer, *parts)
        setattr(unet.get_submodule(parent), last, made[key])
    assert not stored
    assert len(made) == len(people.layout.slots)
    step(unet)
    tensors = {}
    for key, module in made.items():
        tensors |= {f"{key}.lora_down.weight": module.down.detach(), f"{key}.lora_up.weight": module.up.detach()}
        tensors[f"{key}.alpha"] = module.alpha
    save_file(tensors, tmp_path / "trained.safetensors")
    assert_fits(people, tmp_path / "trained.safetensors")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_settings_of_each_trainer_state_modules_and_rank_and_its_file_is_the_start(
    people: WeightDataset, tmp_path: Path, trainer: str
) -> None:
    if trainer == "diffusion-pipe":  # but for SDXL
        with pytest.raises(InvalidInputError):
            write_start(people.path, tmp_path / "start", trainer)
        assert not (tmp_path / "start").exists()
        return
    made = write_start(people.path, tmp_path / "start", trainer)
    (weights,) = (name for name in made.files if name.endswith(".safetensors"))
    found = people.layout.flatten(read_adapter(tmp_path / "start" / weights))
    assert np.array_equal(found, start_of(people))
    assert any("w2w contribute" in one for one in made.steps)
    modules = [slot.target.module for slot in people.layout.slots]
    read: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".yaml": yaml.safe_load, ".json": json.loads}
    others = [name for name in made.files if name.endswith(tuple(read)) and name != "adapter_config.json"]
    for name in others:
        settings = read[Path(name).suffix]((tmp_path / "start" / name).read_text())
        told = settings.get("network", settings)
        if trainer == "ai-toolkit":
            assert (told["linear"], told["linear_alpha"]) == (2, 6)
            assert told["network_kwargs"]["only_if_contains"] == [f"unet.{module}" for module in modules]
        elif trainer == "onetrainer":
            assert (told["lora_rank"], told["lora_alpha"], told["layer_filter"].split(",")) == (2, 6, modules)
        elif trainer == "simpletuner":
            assert (told["lora_rank"], json.loads(told["peft_lora_target_modules"])) == (2, modules)
        place = next(value for key, value in told.items() if isinstance(value, str) and value.endswith(".safetensors"))
        assert Path(place).is_file()
    assert len(others) == (trainer not in ("peft", "w2w"))


def dataset_of(folder: Path, shapes: dict[Target, tuple[int, int, int]]) -> WeightDataset:
    """A dataset with a published initialization and the scale 3."""
    layout = ParameterLayout(shapes, 3.0)
    start = np.random.default_rng(0).normal(size=layout.size).astype(np.float32)
    for slot in layout.slots:
        start[slot.b_offset : slot.end] = 0
    rows = start + np.random.default_rng(1).normal(0, 0.1, (12, layout.size)).astype(np.float32)
    return write_dataset(rows, folder, layout=layout, start_adapter=layout.unflatten(start))


def test_ai_toolkit_trains_fluxs_double_blocks_without_single_ones_of_the_same_number(tmp_path: Path) -> None:
    double = [f"transformer_blocks.{i}.attn.to_q" for i in (1, 11)]
    flux = dataset_of(tmp_path / "flux", {Target("transformer", name): (2, 8, 8) for name in double})
    write_start(flux.path, tmp_path / "start", "ai-toolkit")
    told = yaml.safe_load((tmp_path / "start" / "ai-toolkit.yaml").read_text())
    wanted = told["network"]["network_kwargs"]["only_if_contains"]
    others = [f"single_{name}" for name in double] + [f"transformer_blocks.{i}.attn.to_q" for i in (0, 2, 10)]
    # its rule: a word of the list is in the name of the module behind its component
    trained = [name for name in (*double, *others) if any(word in f"transformer.{name}" for word in wanted)]
    assert trained == double
    for trainer in ("kohya", "onetrainer", "diffusion-pipe"):
        with pytest.raises(InvalidInputError):
            write_start(flux.path, tmp_path / trainer, trainer)


def test_diffusion_pipe_starts_with_the_alpha_that_it_saves(tmp_path: Path) -> None:
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    sdxl = dataset_of(tmp_path / "sdxl", {Target("unet", name): (2, 2048, 640)})
    write_start(sdxl.path, tmp_path / "start", "diffusion-pipe")
    told = tomllib.loads((tmp_path / "start" / "diffusion-pipe.toml").read_text())["adapter"]
    [file] = Path(told["init_from_existing"]).iterdir()
    stored = load_file(file)
    assert {float(value) for key, value in stored.items() if key.endswith(".alpha")} == {float(told["rank"])} == {2.0}
    assert "alpha" not in told


def test_a_dataset_that_does_not_know_its_initialization_names_the_choices(
    make_dataset: Callable[..., WeightDataset], tmp_path: Path
) -> None:
    with pytest.raises(InitializationError):
        write_start(make_dataset(initialization="seed-0").path, tmp_path / "start")
    archived = Path(__file__).parents[1] / "data" / "archives" / "dataset-1-float32"
    done = CliRunner().invoke(main, ["init", str(archived), "--trainer", "kohya", "--out", str(tmp_path / "start")])
    assert done.exit_code == 2
    assert "--canonical svd" in done.stderr
    assert not (tmp_path / "start").exists()


def test_only_a_folder_of_start_files_is_replaced(people: WeightDataset, tmp_path: Path) -> None:
    write_start(people.path, tmp_path / "start", "kohya")
    with pytest.raises(AlreadyExistsError):
        write_start(people.path, tmp_path / "start", "peft")
    write_start(people.path, tmp_path / "start", "peft", overwrite=True)
    assert not (tmp_path / "start" / "kohya.toml").exists()
    (tmp_path / "start" / "mine.txt").write_text("x")
    with pytest.raises(AlreadyExistsError):
        write_start(people.path, tmp_path / "start", "peft", overwrite=True)

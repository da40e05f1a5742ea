"""Small factories that many tests share: a layout, adapters, rows, a UNet and folders made with the real PEFT."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.extras import (  # noqa: F401, hooks: without an extra the tests that need it are skipped
    pytest_pycollect_makemodule,
    pytest_runtest_call,
    pytest_runtest_setup,
)
from tests.tiny_world import tiny_space, tiny_world  # noqa: F401, fixtures for all
from w2w_hub import Adapter, ParameterLayout, WeightDataset, write_dataset
from w2w_hub.lora.adapter import LoraFactors, Target
from w2w_hub.store import atomic

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)

for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):  # xdist's processes have a width, but no terminal
    os.environ.pop(name, None)

REAL_LORAS = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "loras"


@pytest.fixture(scope="session", autouse=True)
def _unflushed() -> None:
    """Datasets are not flushed to the disk before each commit: tests survive no power cut, and are quick."""
    atomic.DURABLE = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three processes for two cores: many tests wait for processes, servers and pauses of their own."""
    cores = os.cpu_count() or 1
    return cores + -(-cores // 2)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder that one of the processes of this run makes for all of them; read only.

    With `wait=False` it may be that another process is still making it.
    """
    from filelock import FileLock, Timeout

    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, write: Callable[[Path], object], *, wait: bool = True) -> Path:
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        try:
            with FileLock(root / f"once-{name}.lock", timeout=-1 if wait else 0):
                if not done.exists():
                    shutil.rmtree(folder, ignore_errors=True)  # each process meets the failure itself
                    folder.mkdir()
                    write(folder)
                    done.touch()
        except Timeout:
            pass
        return folder

    return make


@pytest.fixture
def real_lora() -> Callable[[str], Path]:
    """Folder of a real, permissively licensed checkpoint; skips where they are not beside the repository."""

    def find(name: str) -> Path:
        if not (REAL_LORAS / name).is_dir():
            pytest.skip(f"real checkpoint {name} is not there: no folder ../shared/fixtures beside the repository")
        return REAL_LORAS / name

    return find


@pytest.fixture(scope="session")
def layout() -> ParameterLayout:
    """Five modules of a UNet, rank 2, 122 numbers, scale 3."""
    block = "attentions.0.transformer_blocks.0"
    names = [f"{part}.{block}.attn1.{name}" for part in ("down_blocks.0", "mid_block") for name in ("to_q", "to_v")]
    sizes = {Target("unet", name): (2, 6, 7) for name in names}
    return ParameterLayout(sizes | {Target("unet", f"up_blocks.1.{block}.attn2.to_q"): (2, 5, 4)}, 3.0)


@pytest.fixture(scope="session")
def adapter(layout: ParameterLayout) -> Adapter:
    """An adapter of that layout with random factors."""
    return layout.unflatten(np.random.default_rng(0).normal(size=layout.size))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, Callable[[Path], Any]], Path]:
    """The folder that a call writes, written once for each key; copy it, never change it."""
    folders: dict[str, Path] = {}

    def once(key: Any, write: Callable[[Path], Any]) -> Path:
        if repr(key) not in folders:
            folder = tmp_path_factory.mktemp("saved") / "folder"
            write(folder)  # a failure here is told to each test that asks, not only to the first
            folders[repr(key)] = folder
        return folders[repr(key)]

    return once


@pytest.fixture
def make_dataset(tmp_path: Path, layout: ParameterLayout, saved: Callable[..., Path]) -> Callable[..., WeightDataset]:
    """Write a dataset of six random labelled rows; options go to `write_dataset`."""

    def make(folder: str = "people", /, *, seed: int = 0, prefix: str = "p", **options: Any) -> WeightDataset:
        rows = np.random.default_rng(seed).normal(size=(6, layout.size)).astype(np.float32)
        ids = [f"{prefix}{i}" for i in range(6)]
        table = pd.DataFrame(
            {
                "id": ids,
                "split": ["train", "train", "test", "train", "test", "train"],
                "Beard": [True, False, True, None, False, True],
                "Age": [20.0, 31.5, None, 44.0, 50.0, 61.0],
                "Hair": ["grey", "red", "red", None, "grey", "red"],
                "source": "made up",
            }
        )
        options = {"layout": layout, "ids": ids, "labels": table, "name": folder} | options
        if len(options) > 4 or options["layout"] is not layout or options["labels"] is not table:
            return write_dataset(rows, tmp_path / folder, **options)
        written = saved((options["name"], seed, prefix), lambda path: write_dataset(rows, path, **options))
        return WeightDataset.open(shutil.copytree(written, tmp_path / folder))

    return make


@pytest.fixture
def tiny_unet() -> Callable[[], Any]:
    """Make a UNet with SD's names, 8 and 16 channels, the same random weights every time."""

    def make() -> Any:
        import torch
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=4, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=12, attention_head_dim=2,
            norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip

    return make


@pytest.fixture
def peft_folder(tmp_path: Path, tiny_unet: Callable[[], Any], saved: Callable[..., Path]) -> Callable[..., Path]:
    """Save an adapter of the tiny UNet with the real PEFT, all factors random; options go to `LoraConfig`."""

    def save(folder: Path, seed: int, options: dict[str, Any]) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(**({"r": 2, "lora_alpha": 6, "target_modules": ["to_q", "to_v"]} | options))
        model = get_peft_model(tiny_unet(), config)
        torch.manual_seed(seed)
        for key, value in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(value)
        model.save_pretrained(folder)

    def make(name: str = "lora", seed: int = 0, **options: Any) -> Path:
        written = saved((seed, sorted(options.items())), lambda path: save(path, seed, options))
        return shutil.copytree(written, tmp_path / name)

    return make


def factors(rank: int = 2, inputs: int = 6, outputs: int = 7, scale: float = 3.0, seed: int = 0) -> LoraFactors:
    """Random factors of one module."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, inputs)), rng.normal(size=(outputs, rank))
    return LoraFactors(a.astype(np.float32), b.astype(np.float32), scale)

"""Stock libraries as oracles: a tiny Stable Diffusion pipeline, and the change that diffusers makes of a file."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from w2w_hub import Adapter
from w2w_hub.lora.adapter import LoraFactors, Target
from w2w_hub.lora.module_paths import canonical_path


def load_pipeline(base: Path) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def add_to_text_encoder(pipe: Any, config: Any) -> None:
    """Add a PEFT adapter; skips where this release of transformers asks for a PEFT that is newer than the installed."""
    from transformers.integrations import peft as integration

    asked = getattr(integration, "MIN_PEFT_VERSION", None)
    if asked and Version(version("peft")) < Version(asked):
        pytest.skip(f"transformers {version('transformers')} asks for PEFT {asked}, {version('peft')} is installed")
    pipe.text_encoder.add_adapter(config)


def deltas_in(pipe: Any) -> dict[Target, np.ndarray]:
    """The change of every weight in a pipeline that has loaded a LoRA."""
    found = {}
    for component in ("unet", "text_encoder"):
        for name, module in getattr(pipe, component).named_modules():
            if hasattr(module, "get_delta_weight") and module.active_adapters:
                delta = module.get_delta_weight(module.active_adapters[0]).detach().numpy()
                found[Target(component, canonical_path(component, name))] = delta
    return found


def deltas_by_diffusers(pipe: Any, file: Path) -> dict[Target, np.ndarray]:
    """The change that `load_lora_weights` makes; the pipeline is as before afterwards."""
    pipe.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
    try:
        return deltas_in(pipe)
    finally:
        pipe.unload_lora_weights()


def assert_same_change(adapter: Adapter, expected: dict[Target, np.ndarray], *, rtol: float = 1e-4) -> None:
    """Every module of one is in the other with the same dW, and none of them is zero."""
    assert {str(t) for t in adapter.factors} == {str(t) for t in expected}
    for target, pair in adapter.factors.items():
        size = np.abs(expected[target]).max()
        assert size > 1e-3, target
        np.testing.assert_allclose(pair.delta(), expected[target], rtol=rtol, atol=1e-5 * size, err_msg=str(target))


def picture(pipe: Any) -> np.ndarray:
    import torch

    seed = torch.manual_seed(0)
    return pipe("a person", height=16, width=16, num_inference_steps=1, output_type="np", generator=seed).images[0]


def linear_modules(model: Any, component: str, names: tuple[str, ...]) -> dict[Target, tuple[int, ...]]:
    """Weight shapes of a model's modules that end so, by target."""
    return {
        Target(component, canonical_path(component, name)): tuple(module.weight.shape)
        for name, module in model.named_modules()
        if name.endswith(names) and hasattr(module, "weight")
    }


def random_adapter(
    shapes: dict[Target, tuple[int, ...]], *, ranks: tuple[int, ...] = (2,), scales: tuple[float, ...] = (4.0,)
) -> Adapter:
    """Random factors for weights of these shapes; ranks and scales take turns."""
    rng, factors = np.random.default_rng(0), {}
    for i, (target, (outputs, *rest)) in enumerate(shapes.items()):
        rank, kernel = ranks[i % len(ranks)], tuple(rest[1:])
        a = rng.normal(size=(rank, int(np.prod(rest)))).astype(np.float32) * 0.3
        b = rng.normal(size=(outputs, rank)).astype(np.float32) * 0.3
        factors[target] = LoraFactors(a, b, scales[i % len(scales)], kernel)
    return Adapter(factors)

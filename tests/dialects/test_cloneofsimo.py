from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2w_hub import read_adapter
from w2w_hub.errors import CorruptFileError, UnsupportedFormatError


@cache
def injected(feed_forward: bool, text: int = 768) -> list[tuple[str, tuple[int, int]]]:
    """What cloneofsimo's injection would find in today's UNet, in the order of its `modules()`."""
    import torch
    from diffusers import UNet2DConditionModel
    from diffusers.models.activations import GEGLU
    from diffusers.models.attention_processor import Attention

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=text, block_out_channels=(320, 640, 1280, 1280))
    found = []
    for name, module in unet.named_modules():
        if isinstance(module, Attention) or (feed_forward and isinstance(module, GEGLU)):
            found += [
                (f"{name}.{inner}", tuple(linear.weight.shape))
                for inner, linear in module.named_modules()
                if isinstance(linear, torch.nn.Linear)
            ]
    return found


def numbered(sizes: list[tuple[int, int]], component: str = "unet", rank: int = 1) -> dict[str, np.ndarray]:
    """Factors by number, whose first value is the number."""
    tensors = {}
    for i, (outputs, inputs) in enumerate(sizes):
        tensors[f"{component}:{i}:up"] = np.full((outputs, rank), i + 1, np.float16)
        tensors[f"{component}:{i}:down"] = np.full((rank, inputs), i + 1, np.float16)
    return tensors


@pytest.mark.parametrize(("feed_forward", "text"), product([False, True], [768, 1024]))
def test_numbers_are_placed_in_the_order_of_a_unets_modules(tmp_path, feed_forward, text):
    expected = injected(feed_forward, text)
    assert len(expected) == (144 if feed_forward else 128)
    assert expected[-1][0].startswith("mid_block")
    save_file(numbered([size for _, size in expected]), tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    placed = {t.module: int(p.A[0, 0]) - 1 for t, p in adapter.factors.items()}
    assert placed == {name: i for i, (name, _) in enumerate(expected)}
    assert {p.scale for p in adapter.factors.values()} == {1.0}


def test_the_older_order_has_the_feed_forward_layer_in_the_middle(tmp_path):
    blocks = [injected(True)[i : i + 9] for i in range(0, 144, 9)]
    expected = [module for block in blocks for module in (*block[:4], block[8], *block[4:8])]
    save_file(numbered([size for _, size in expected]), tmp_path / "a.safetensors")
    placed = {t.module: int(p.A[0, 0]) - 1 for t, p in read_adapter(tmp_path / "a.safetensors").factors.items()}
    assert placed == {name: i for i, (name, _) in enumerate(expected)}


def test_a_text_encoders_numbers_are_placed_in_the_order_of_clips_modules(tmp_path):
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(num_hidden_layers=3))
    expected = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "self_attn" in n]
    save_file(numbered([(768, 768)] * 12, "text_encoder"), tmp_path / "a.safetensors")
    placed = {t: int(p.A[0, 0]) - 1 for t, p in read_adapter(tmp_path / "a.safetensors").factors.items()}
    assert {t.component for t in placed} == {"text_encoder"}
    assert [t.module for t in placed] == [f"text_model.{name}" for name in expected]


def test_embeddings_that_were_trained_along_are_passengers(tmp_path):
    tensors = numbered([(768, 768)] * 4, "text_encoder") | {"<s1>": np.ones(768, np.float32)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"<s1>": "<embed>", "text_encoder": '["CLIPAttention"]'})
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert (adapter.ignored_keys, len(adapter.factors)) == (("<s1>",), 4)


@pytest.mark.parametrize("kind", ["unet", "text_encoder"])
def test_a_list_of_tensors_is_placed_by_its_shapes_and_only_opened_when_asked(tmp_path, kind):
    import torch

    sizes = [size for _, size in injected(False)] if kind == "unet" else [(768, 768)] * 8
    named = numbered(sizes)
    pairs = [torch.from_numpy(named[f"unet:{i}:{half}"]) for i in range(len(sizes)) for half in ("up", "down")]
    torch.save(pairs, tmp_path / "lora.pt")
    with pytest.raises(UnsupportedFormatError, match=r"lora\.pt.*--allow-torch"):
        read_adapter(tmp_path / "lora.pt")
    adapter = read_adapter(tmp_path / "lora.pt", allow_torch=True)
    assert adapter.dialect == "cloneofsimo"
    assert {t.component for t in adapter.factors} == {kind}
    assert [int(p.A[0, 0]) for p in adapter.factors.values()] == list(range(1, len(sizes) + 1))


def bad(sizes=((768, 768),) * 4, component="text_encoder", drop=(), metadata=None):
    tensors = numbered(list(sizes), component)
    return {k: v for k, v in tensors.items() if k not in drop}, metadata


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (bad(drop=["text_encoder:2:up"]), CorruptFileError, "text_encoder:2"),
        (bad(drop=["text_encoder:1:up", "text_encoder:1:down"]), CorruptFileError, "text_encoder"),
        (bad(((768, 768),) * 3), UnsupportedFormatError, "3 .*text_encoder"),
        (bad(((320, 320),) * 128, "unet"), UnsupportedFormatError, "128 .*unet"),
        (bad(metadata={"text_encoder": '["CLIPMLP"]'}), UnsupportedFormatError, "CLIPMLP"),
        (bad(metadata={"text_encoder": "CLIP"}), CorruptFileError, "text_encoder "),
        (bad(metadata={"text_encoder:1:rank": "4"}), CorruptFileError, "text_encoder:1 .*1.*4"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_cannot_be_placed_is_refused_with_the_reason(tmp_path, made, error, message):
    tensors, metadata = made
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(error, match=message):
        read_adapter(tmp_path / "a.safetensors")


def test_a_stray_key_is_an_error_that_names_it(tmp_path):
    save_file(numbered([(768, 768)] * 4, "text_encoder") | {"stray": np.ones(3)}, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match="stray"):
        read_adapter(tmp_path / "a.safetensors")

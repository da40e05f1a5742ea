"""Checkpoints that are damaged or lie: each is refused in one line that names it, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from w2w_hub import pack_adapters, read_adapter
from w2w_hub.errors import (
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnsupportedFormatError,
    W2WError,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def refused(folder: Path, error: type[W2WError], message: str) -> None:
    """Reading and packing must both refuse it, in one line, and leave no dataset behind."""
    for attempt in (lambda: read_adapter(folder), lambda: pack_adapters([folder], folder.parent / "packed")):
        with pytest.raises(error, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert folder.name in str(caught.value)
    assert not (folder.parent / "packed").exists()


def config(folder: Path, **changes) -> Path:
    data = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    return folder


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_weights_file(peft_folder, kept):
    folder = peft_folder()
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:kept])
    refused(folder, CorruptFileError, WEIGHTS)


def test_a_weights_file_that_is_a_web_page(peft_folder):
    folder = peft_folder()
    (folder / WEIGHTS).write_text("<!doctype html><title>404</title>" * 20)
    refused(folder, CorruptFileError, WEIGHTS)


def test_weights_that_are_not_there(peft_folder):
    folder = peft_folder()
    (folder / WEIGHTS).unlink()
    refused(folder, MissingPathError, f"{CONFIG}.*{WEIGHTS}")


def test_weights_without_a_config(peft_folder):
    folder = peft_folder()
    (folder / CONFIG).unlink()
    refused(folder, MissingPathError, CONFIG)
    with pytest.raises(MissingPathError, match=CONFIG):
        read_adapter(folder / WEIGHTS)


@pytest.mark.parametrize("text", ["", "{", "[]", "nonsense"])
def test_a_config_that_is_no_json_object(peft_folder, text):
    folder = peft_folder()
    (folder / CONFIG).write_text(text)
    refused(folder, CorruptFileError, CONFIG)


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
@pytest.mark.parametrize("value", [None, ..., "8", True, [8]], ids=repr)
def test_a_config_that_does_not_state_rank_or_alpha(peft_folder, key, value):
    refused(config(peft_folder(), **{key: value}), CorruptFileError, f"{CONFIG}.*{key}")


@pytest.mark.parametrize("rank", [1, 4, 0, -2, 2.5])
def test_a_config_with_another_rank_than_the_tensors(peft_folder, rank):
    refused(config(peft_folder(), r=rank), CorruptFileError, f" 2.*{CONFIG}.*{rank}")


@pytest.mark.parametrize("pattern", [["to_q"], {"to_q": "2"}, {"to_q": None}, "to_q", {"to_(q": 2}], ids=repr)
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_cannot_be_used(peft_folder, key, pattern):
    refused(config(peft_folder(), **{key: pattern}), CorruptFileError, "pattern")


def test_an_alpha_that_is_no_number(peft_folder):
    folder = config(peft_folder(), lora_alpha=float("inf"))
    with pytest.raises(InvalidInputError, match="inf"):
        read_adapter(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(peft_folder, value):
    folder = peft_folder()
    tensors = load_file(folder / WEIGHTS)
    name = next(n for n in tensors if "attn2.to_v.lora_B" in n)
    tensors[name][2, 1] = value
    save_file(tensors, folder / WEIGHTS)
    refused(folder, InvalidInputError, "1 .*unet.*attn2.to_v B")


@pytest.mark.parametrize("lost", ["A", "B"])
def test_half_a_pair(peft_folder, lost):
    folder = peft_folder()
    tensors = load_file(folder / WEIGHTS)
    del tensors[next(n for n in tensors if f"to_q.lora_{lost}" in n)]
    save_file(tensors, folder / WEIGHTS)
    refused(folder, CorruptFileError, f"to_q.*lora_{lost}")


@pytest.mark.parametrize("keys", [{}, {"conv_in.weight": np.ones(3, np.float32)}], ids=["empty", "no LoRA"])
def test_a_file_without_factors(peft_folder, keys):
    folder = peft_folder()
    save_file(keys, folder / WEIGHTS)
    refused(folder, UnsupportedFormatError, "lora_A or lora_B")


def test_a_lora_key_that_belongs_to_nothing(peft_folder):
    folder = peft_folder()
    save_file(load_file(folder / WEIGHTS) | {"x.lora_embedding_A": np.ones(3, np.float32)}, folder / WEIGHTS)
    refused(folder, UnsupportedFormatError, "x.lora_embedding_A")


def test_factors_of_rank_zero(peft_folder):
    folder = config(peft_folder(), r=0)
    tensors = {k: v[:0] if "lora_A" in k else v[:, :0].copy() for k, v in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    refused(folder, CorruptFileError, r"to_q.*rank 0.*\(0, 16\)")


def test_factors_that_do_not_multiply(peft_folder):
    folder = peft_folder()
    tensors = {k: v[:, :1].copy() if "lora_B" in k else v for k, v in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(InvalidInputError, match=r"to_.*\(\d+, 1\)"):
        read_adapter(folder)


def test_one_bad_checkpoint_among_good_ones_stops_the_pack_and_is_named(peft_folder, tmp_path):
    good, bad = peft_folder("good"), peft_folder("bad")
    (bad / WEIGHTS).write_bytes(b"")
    with pytest.raises(CorruptFileError, match="bad"):
        pack_adapters([good, bad], tmp_path / "packed")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "good"]

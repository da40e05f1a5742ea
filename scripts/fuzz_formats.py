"""Feed the readers of LoRA checkpoints with mutated ones: `python scripts/fuzz_formats.py 1000000`.

Every case is a checkpoint of some dialect in memory to whose keys, shapes, values, dtypes, header, configuration or
bytes a few things are done. It must be read, or refused by one of our own errors in one line; anything else ends the
run with the seed, which `python scripts/fuzz_formats.py --seed N` repeats.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import replace
from functools import cache
from multiprocessing import Pool
from typing import Any

import numpy as np

from w2w_hub.dialects.checkpoint import Checkpoint, ReadOptions
from w2w_hub.dialects.dialect import DenseDialect
from w2w_hub.dialects.inspection import facts_of
from w2w_hub.dialects.loading import open_checkpoint
from w2w_hub.dialects.reading import parse_checkpoint
from w2w_hub.dialects.registry import dialect_of
from w2w_hub.errors import W2WError

Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CLIP = "text_model.encoder.layers.0.self_attn.q_proj"
U = Q.replace(".", "_")
SHAPES = ((2, 6), (7, 2), (2, 6, 3, 3), (7, 2, 1, 1), (), (1,), (0, 6), (2, 2), (21, 2), (6, 2), (768,), (2, 2, 3, 3))
DTYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "I32", "")
WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "I32": 4}
A, B, WIDE = (2, 6), (7, 2), (1, 3072)
DIALECTS: tuple[dict[str, tuple[int, ...]], ...] = (
    {f"base_model.model.{Q}.lora_A.weight": A, f"base_model.model.{Q}.lora_B.weight": B},
    {f"base_model.model.{Q}.lora_A.me.weight": A, f"base_model.model.{Q}.lora_B.me.weight": B},
    {f"base_model.model.{CLIP[11:]}.lora_A.weight": A, f"base_model.model.{CLIP[11:]}.lora_B.weight": B},
    {f"unet.{Q}.lora_A.weight": A, f"unet.{Q}.lora_B.weight": B},
    {f"unet.{Q}.lora.down.weight": A, f"unet.{Q}.lora.up.weight": B},
    {f"text_encoder.{CLIP}.lora_linear_layer.down.weight": A, f"text_encoder.{CLIP}.lora_linear_layer.up.weight": B},
    {f"unet.{Q[:-5]}.processor.to_out_lora.down.weight": A, f"unet.{Q[:-5]}.processor.to_out_lora.up.weight": B},
    {f"lora_unet_{U}.lora_down.weight": A, f"lora_unet_{U}.lora_up.weight": B, f"lora_unet_{U}.alpha": ()},
    {"lora_unet_middle_block_1_proj_in.lora_down.weight": A, "lora_unet_middle_block_1_proj_in.lora_up.weight": B},
    {
        "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": (2, 6, 1, 1),
        "lora_unet_mid_block_resnets_0_conv1.lora_mid.weight": (2, 2, 3, 3),
        "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": (7, 2, 1, 1),
    },
    {f"lora_unet_{U}.lokr_w1": (2, 3), f"lora_unet_{U}.lokr_w2_a": (3, 2), f"lora_unet_{U}.lokr_w2_b": (2, 2)},
    {f"lora_unet_{U}.hada_{n}": s for n, s in (("w1_a", B), ("w1_b", A), ("w2_a", B), ("w2_b", A))},
    {f"lora_unet_{U}.hada_{n}": A for n in ("w1_a", "w1_b", "w2_a", "w2_b")}
    | {f"lora_unet_{U}.hada_{n}": (2, 2, 3, 3) for n in ("t1", "t2")},
    {f"text_encoder:{i}:{half}": (2, 2) for i in range(4) for half in ("up", "down")},
    {f"double_blocks.0.processor.proj_lora1.{n}.weight": s for n, s in (("down", WIDE), ("up", WIDE[::-1]))},
    {f"diffusion_model.double_blocks.0.img_attn.proj.lora_{n}.weight": s for n, s in (("A", WIDE), ("B", WIDE[::-1]))},
    {f"lora_unet_single_blocks_0_linear2.lora_{n}.weight": s for n, s in (("down", (1, 15360)), ("up", (3072, 1)))},
    {f"transformer.single_transformer_blocks.0.attn.to_q.lora_{n}.weight": s for n, s in (("A", A), ("B", (6, 2)))},
    {f"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_{n}.weight": s for n, s in (("down", A), ("up", B))},
    {"lora_transformer_proj_out.lora_down.weight": A, "lora_transformer_proj_out.lora_up.weight": B},
    {"model.layers.0.self_attn.q_proj.lora_a": (6, 2), "model.layers.0.self_attn.q_proj.lora_b": (2, 7)},
)  # fmt: skip
STRAYS = (
    "stray",
    "<s1>",
    "conv_in.weight",
    f"{Q}.dora_scale",
    f"{Q}.diff",
    f"lora_unet_{U}.set_weight",
    "unet.down_blocks.9.attentions.0.proj_in.lora_A.weight",
    "lora_unet_double_blocks_0_img_mlp_0.lora_down.weight",
    f"{Q}.alpha",
    f"lora_unet_{U}.alpha",
    "x.lora_A.weight",
    "",
    "é\n",
)
HEADERS: tuple[dict[str, str], ...] = (
    {}, {"ss_network_alpha": "8", "ss_network_dim": "2"}, {"ss_network_alpha": "nan", "ss_network_dim": "inf"},
    {"lora_adapter_metadata": '{"r": 2, "lora_alpha": 4}'},
    {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 1e400}'},
    {"modelspec.architecture": "flux-1-dev/lora"}, {"ss_base_model_version": "hunyuan"},
    {"lora_adapter_metadata": "{}"},
    {"lora_adapter_metadata": '{"r": 2, "lora_alpha": 4, "rank_pattern": {"(a+)+": 2}, "use_bdlora": null}'},
    {"lora_adapter_metadata": "["}, {"<s1>": "<embed>"}, {"text_encoder": '["CLIPAttention"]'}, {"unet": "3"},
    {"text_encoder:1:rank": "x"},
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    2,
    4,
    0,
    -1,
    2.5,
    None,
    "2",
    True,
    [],
    {},
    1e400,
    10**400,
    {"to_q": 3},
    {"(": 2},
    {"(a+)+Z|(?:.*q){9}": 2, "to_.": 2},
    {"(?=a)": 2},
    {"x.*": 2, "y" * 2000: 2},
    {".*" * 400: 2},
    {f"{i}.?": 2 for i in range(300)},
    "LORA",
    "LOKR",
    "x",
)
CONFIG_KEYS = (
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "peft_type", "auto_mapping",
    "init_lora_weights", "base_model_name_or_path", "modules_to_save", "use_bdlora", "target_modules", "brand_new",
)  # fmt: skip


def made(rng: random.Random) -> tuple[bytes, dict[str, Any] | None]:
    """Return a mutated safetensors file and a configuration or None."""
    shapes: dict[str, tuple[int, ...]] = dict(rng.choice(DIALECTS))
    if rng.random() < 0.2:
        shapes |= rng.choice(DIALECTS)
    kinds = dict.fromkeys(shapes, "F32" if rng.random() < 0.8 else "F16")
    values: dict[str, float] = {}
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        key = rng.choice(list(shapes) or ["x"])
        what = rng.randrange(7)
        if what == 0:
            shapes[key] = rng.choice(SHAPES)
        elif what == 1:
            kinds[key] = rng.choice(DTYPES)
        elif what == 2:
            shapes.pop(key, None)
        elif what == 3:
            shapes[rng.choice(STRAYS)] = rng.choice(SHAPES)
        elif what == 4 and key in shapes:
            cut = rng.randrange(len(key) + 1)
            other = rng.choice(("", ".", "_", "0", "weight", "lora_", key[cut:], ":", "99999999999999999999"))
            shapes[key[:cut] + other + (key[cut + 1 :] if rng.random() < 0.5 else "")] = shapes.pop(key)
        elif what == 5:
            values[key] = rng.choice((float("nan"), float("inf"), 0.0, 3e38, -1.0))
        else:
            shapes[key] = tuple(rng.randrange(8) for _ in range(rng.randrange(6)))
    header: dict[str, Any] = {}
    if metadata := rng.choice(HEADERS) if rng.random() < 0.4 else {}:
        header["__metadata__"] = metadata
    data = bytearray()
    for key, shape in shapes.items():
        kind = kinds.get(key, "F32")
        size = math.prod(shape) * WIDTH.get(kind, 1)
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data), len(data) + size]}
        if key in values and kind == "F32":
            data += np.full(size // 4, values[key], "<f4").tobytes()
        else:
            data += rng.randbytes(size) if rng.random() < 0.05 else b"\0\0\x80\x3f" * (size // 4) + b"\0" * (size % 4)
    raw = json.dumps(header).encode()
    file = bytearray(len(raw).to_bytes(8, "little") + raw + data)
    if rng.random() < 0.1:
        file = bytearray(damaged(bytes(file), rng))
    config = None
    if rng.random() < 0.35:
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
        for _ in range(rng.choice((0, 0, 1, 2))):
            config[rng.choice(CONFIG_KEYS)] = rng.choice(VALUES)
    return bytes(file), config


@cache
def archives() -> tuple[tuple[str, bytes], ...]:
    """Return valid NumPy and torch archives with their suffixes."""
    import torch

    made = io.BytesIO()
    np.savez(made, **{"m.lora_a": np.ones(A, np.float32), "m.lora_b": np.ones(B, np.float32)})
    found = [(".npz", made.getvalue())]
    tensors = {key: torch.ones(shape) for key, shape in DIALECTS[3].items()}
    halves = {key: torch.ones(shape).bfloat16().T.contiguous().T for key, shape in DIALECTS[7].items() if shape}
    for content in (tensors, {"state_dict": halves, "epoch": 1}, [torch.ones(2, 2) for _ in range(8)]):
        made = io.BytesIO()
        torch.save(content, made)
        found.append((".pt", made.getvalue()))
    return tuple(found)


def one_archive(rng: random.Random) -> str:
    """Read one mutated archive from a file, like `one_case` for safetensors."""
    suffix, raw = rng.choice(archives())
    if rng.random() < 0.7:  # its members are changed, and the archive itself is whole
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(made, "w") as new:
            chosen = rng.choice(old.namelist())
            for name in old.namelist():
                data = old.read(name)
                pack = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
                new.writestr(name, damaged(data, rng) if name == chosen or name.endswith(".pkl") else data, pack)
        raw = made.getvalue()
    else:
        raw = damaged(raw, rng)
    with tempfile.NamedTemporaryFile(suffix=suffix, dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(raw)
        file.flush()
        try:
            checkpoint = open_checkpoint(file.name, allow_torch=True)
            dialect_of(checkpoint)
            facts_of(parse_checkpoint(checkpoint))
        except W2WError as error:
            return fault_or_name(error)
    return f"read {suffix}"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Change, remove or insert a few bytes."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        place, what = rng.randrange(len(found) + 1), rng.randrange(4)
        if what == 0 and place < len(found):
            found[place] = rng.randrange(256)
        elif what == 1:
            del found[place : place + rng.randrange(1, 9)]
        elif what == 2:
            found[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            found[place : place + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"))
    return bytes(found)


def fault_or_name(error: W2WError) -> str:
    """Return the type of an error of ours; raise unless its message is one line of limited length."""
    text = str(error)
    if not text or not text.isprintable() or len(text) > 2100:
        raise AssertionError(f"an error of more than one line: {text!r}") from error
    return type(error).__name__


def mutated(seed: int) -> bytes:
    """Return only the bytes of a mutated file."""
    return made(random.Random(seed))[0]


def one_case(seed: int) -> str:
    """Read one mutated checkpoint in every way; return the outcome.

    Raises
    ------
    Exception
        Whatever a reader raises that is not our own error of one line: a fault.
    """
    rng = random.Random(seed)
    if seed % 16 == 15:
        return one_archive(rng)
    data, config = made(rng)
    options = ReadOptions(
        trust=rng.choice((None, None, "tensors", "config")),
        alpha=rng.choice((None, None, 4.0)),
        component=rng.choice((None, None, "text_encoder_2")),
        svd_rank=rng.choice((None, None, 2)),
    )
    try:
        checkpoint = Checkpoint.from_bytes(data, "case", config)
        form = dialect_of(checkpoint)
        wide = any(n >= 1000 for shape in checkpoint.shapes.values() for n in shape)
        if wide:  # whose dense changes take seconds
            options = replace(options, svd_rank=None)
        elif isinstance(form, DenseDialect):
            for delta in form.deltas(checkpoint).values():
                assert delta.ndim >= 2
        adapter = parse_checkpoint(checkpoint, options)
        facts_of(adapter)
    except W2WError as error:
        return fault_or_name(error)
    return f"read as {adapter.dialect}"


def _batch(seeds: range) -> tuple[Counter[str], tuple[int, str] | None]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        try:
            with np.errstate(all="ignore"):
                counts[one_case(seed)] += 1
        except Exception as error:
            return counts, (seed, f"{type(error).__name__}: {error}")
    return counts, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=int, nargs="?", default=10_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, help="repeat one case")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.seed is not None:
        print(one_case(options.seed))
        return 0
    began, counts, faults = time.perf_counter(), Counter[str](), []
    batches = [
        range(i, min(i + 2000, options.start + options.cases))
        for i in range(options.start, options.start + options.cases, 2000)
    ]
    with Pool(options.processes) as pool:
        for found, fault in pool.imap_unordered(_batch, batches):
            counts.update(found)
            if fault is not None:
                faults.append(fault)
                print(f"FAULT at --seed {fault[0]}: {fault[1]}", flush=True)
    seconds = time.perf_counter() - began
    print(f"{sum(counts.values()):,} cases in {seconds:.0f} s, {len(faults)} faults")
    for name, count in counts.most_common():
        print(f"{count:>10,}  {name}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

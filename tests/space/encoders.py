"""Small random encoders, and files of them that are forged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from w2w_hub import Encoder
from w2w_hub.space import Spread
from w2w_hub.space.contents import SpaceContents
from w2w_hub.space.encoder.network import shapes

SIZE, FACTOR, WIDTH, HIDDEN = (12, 8), 2, 2, 3


def random_encoder(space: SpaceContents, *, seed: int = 0, k: int | None = None, **fields: Any) -> Encoder:
    """An encoder of a space that was fitted on nothing, for pictures of 8 x 12 pixels unless `size` says else."""
    rng, k = np.random.default_rng(seed), space.k if k is None else k
    fields = {"size": SIZE, "factor": FACTOR, "recipe": {"pictures": 3}, "evidence": {"cosine": 0.5}} | fields
    small = tuple(side // fields["factor"] for side in fields["size"])
    tensors = {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float16).astype(np.float32)
        for name, shape in shapes(small, WIDTH, HIDDEN, k).items()
    }
    spread = Spread(space.spread.mean[:k], space.spread.std[:k], space.spread.rows)
    fields = {"basis_digest": space.digest, "base_digest": space.compatibility.base_digest} | fields
    return Encoder(tensors, spread, **fields)


def forged(
    path: Path,
    facts: Callable[[dict[str, Any]], object] = lambda facts: None,
    tensors: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
    **metadata: str,
) -> Path:
    """Change what the file of an encoder states, its tensors, or its metadata; return its path."""
    found = load_file(path)
    with safe_open(path, "np") as file:
        stated = dict(file.metadata())
    about = json.loads(stated["encoder"])
    facts(about)
    tensors(found)
    stated |= {"encoder": json.dumps(about)} | metadata
    save_file({name: np.ascontiguousarray(value) for name, value in found.items()}, path, metadata=stated)
    return path

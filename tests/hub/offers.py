"""Pull requests that offer adapters, made without any client: what contributors may send, and what they may not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from w2w_hub import Compatibility, ParameterLayout, Target, write_dataset
from w2w_hub.release.contribution.batch import batch_name, pack_batch

from .loopback import LoopbackHub
from .store import Repo

PLAIN = {"source": "drawn for this test", "licence": "cc0-1.0", "consent": "a drawing"}
STATED: dict[str, Any] = {**PLAIN, "Beard": True}


LAYOUT = ParameterLayout(
    {Target("unet", f"mid_block.attentions.{i}.transformer_blocks.0.attn1.to_q"): (2, 24, 24) for i in range(4)}, 1.0
)


def new_rows(count: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Adapters that were trained from one start: its A, a little changed, and a B of their own."""
    rng = np.random.default_rng([seed, 5])
    rows = rng.normal(size=(count, LAYOUT.size)).astype(np.float32) * np.float32(scale)
    start = np.random.default_rng(99).normal(size=LAYOUT.size).astype(np.float32)
    for slot in LAYOUT.slots:
        rows[:, slot.offset : slot.b_offset] *= 0.05
        rows[:, slot.offset : slot.b_offset] += start[slot.offset : slot.b_offset]
    return rows


def write_crowd(folder: Path, count: int = 24, **options: Any) -> Path:
    """A dataset whose rows share a start, as a maintainer has it before its first version is published."""
    ids = [f"person-{i:02d}" for i in range(count)]
    table = pd.DataFrame({"id": ids, "Beard": [i % 2 == 0 for i in range(count)]}).assign(**PLAIN)
    given: dict[str, Any] = {"name": "people", "version": "1.0.0", "license": "cc0-1.0"} | options
    write_dataset(
        new_rows(count, 0), folder, layout=LAYOUT, ids=ids, labels=table,
        compatibility=Compatibility("org/base", None, "seed-0"), **given,
    )  # fmt: skip
    return folder


def batch(
    ids: Sequence[str], seed: int = 1, *, rows: np.ndarray | None = None, **labels: Any
) -> tuple[str, dict[str, bytes]]:
    """The name and the files of a batch."""
    made = new_rows(len(ids), seed) if rows is None else rows
    given = [{k: v for k, v in (STATED | labels).items() if v is not ...} for _ in ids]
    return pack_batch(list(ids), made, given, {}, LAYOUT)


def named(rows: bytes, labels: bytes) -> dict[str, bytes]:
    """Two files as a batch, whose name is the right one."""
    name = batch_name(hashlib.sha256(rows).hexdigest(), hashlib.sha256(labels).hexdigest())
    return {f"contributions/{name}/rows.safetensors": rows, f"contributions/{name}/labels.jsonl": labels}


def lines(hub: LoopbackHub, title: str, files: Mapping[str, bytes | None]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"key": "header", "value": {"summary": title}}]
    for name, data in files.items():
        if data is None:
            made.append({"key": "deletedFile", "value": {"path": name}})
        elif hub.mode(name, len(data), data[:512]) == "lfs":
            sha256 = hashlib.sha256(data).hexdigest()
            hub.put(sha256, data)
            made.append({"key": "lfsFile", "value": {"path": name, "oid": sha256}})
        else:
            made.append({"key": "file", "value": {"path": name, "content": base64.b64encode(data).decode()}})
    return made


def offer(
    hub: LoopbackHub, repo: Repo, files: Mapping[str, bytes | None], user: str = "bob", title: str = "Contribute"
) -> int:
    """Open a pull request with these files; its number."""
    hub.user(user)
    _, pull = hub.apply(repo, "main", lines(hub, title, files), user, create_pr=True)
    assert pull is not None
    return pull.number


def push_more(hub: LoopbackHub, repo: Repo, number: int, files: Mapping[str, bytes | None], user: str = "bob") -> str:
    """Push another commit to a pull request, as its author can after the review."""
    commit, _ = hub.apply(repo, f"refs/pr/{number}", lines(hub, "more", files), user, create_pr=False)
    return commit

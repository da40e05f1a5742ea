"""Pull requests that offer adapters, made without any client: what a contributor's side may send, and what it may not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2w_hub import WeightDataset
from w2w_hub.release.contribution.batch import batch_name, pack_batch

from .loopback import LoopbackHub
from .store import Repo

STATED = {"source": "drawn for this test", "licence": "cc0-1.0", "consent": "a drawing", "Beard": True}


def new_rows(folder: Path, count: int, seed: int) -> np.ndarray:
    """Adapters of the dataset's kind: trained from the start that its rows share, so with its A."""
    dataset = WeightDataset.open(folder)
    known = dataset.to_numpy()
    rng = np.random.default_rng(seed)
    # as far from every row as rows are from each other
    mixed: np.ndarray = known.mean(0) + rng.normal(size=(count, len(known))) @ (known - known.mean(0)) / len(known) ** 0.5
    return mixed.astype(np.float32)


def batch(
    folder: Path, ids: Sequence[str], seed: int = 1, *, rows: np.ndarray | None = None, **labels: Any
) -> tuple[str, dict[str, bytes]]:
    """The name and the files of a batch."""
    made = new_rows(folder, len(ids), seed) if rows is None else rows
    given = [{k: v for k, v in (STATED | labels).items() if v is not ...} for _ in ids]
    return pack_batch(list(ids), made, given, {}, WeightDataset.open(folder).layout)


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

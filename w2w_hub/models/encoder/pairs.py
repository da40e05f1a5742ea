"""Training pairs of an encoder: pictures that a pipeline draws, and the points that they show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...common.extras import optional_imports
from ...common.progress import progress
from ...errors import CorruptFileError, MissingPathError
from ...space import WeightSpace
from ...space.encoder.network import reduced, to_bytes
from ...store.atomic import write_bytes
from ...store.tensorfile import read_safetensors

with optional_imports("diffusers"):
    import torch

CHUNK = 64  # pictures per file of an unfinished run
SAMPLED = 0.25  # fraction of pictures that show samples of the population; the others show varied rows
STRETCH, MIXED, JITTER = (0.8, 1.3), (0.0, 0.5), (0.0, 0.4)  # ranges of a varied row's factors
_EXPRESSIONS = ("", "smiling", "serious")
_CLOTHES = ("", "white shirt", "red hoodie", "black hoodie", "blue shirt")
_PLACES = ("", "white background", "blue background", "green background")
CONTEXTS: tuple[str, ...] = tuple(
    " ".join(part for part in (expression, clothes, place) if part)
    for expression in _EXPRESSIONS
    for clothes in _CLOTHES
    for place in _PLACES
)
"""What a prompt says besides the person, so that the encoder learns to look past it."""


def default_prompts(prompt: str = "sks person") -> list[str]:
    """Return a prompt in each of the :data:`CONTEXTS`."""
    return [f"{prompt} {context}".rstrip() for context in CONTEXTS]


@dataclass(frozen=True)
class Plan:
    """Everything that decides which pairs are drawn, besides the pipeline and its weight space.

    Attributes
    ----------
    prompts : sequence of str
        One of them at random per picture.
    factor : int
        Pixels per side that are averaged to one.
    settings : mapping
        Keywords of the pipeline's call.
    batch_size : int
        Pictures that are drawn at once.
    """

    prompts: Sequence[str]
    factor: int
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32

    def rng(self, *part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *part])

    def digest(self, space: WeightSpace, rows: np.ndarray) -> str:
        """Return the digest of the plan for a weight space and the rows that are varied."""
        facts = {"prompts": list(self.prompts), "factor": self.factor, "seed": self.seed, "k": space.k}
        facts |= {"settings": dict(self.settings), "basis": space.digest, "base": space.compatibility.base_digest}
        found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        found.update(np.ascontiguousarray(rows, np.float64).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Pairs:
    """Pictures, uint8 ``(n, h, w, 3)``, and the coefficients that they show, float32 ``(n, k)``."""

    pictures: np.ndarray
    coefficients: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        return cls(np.concatenate([p.pictures for p in parts]), np.concatenate([p.coefficients for p in parts]))

    def first(self, count: int) -> Pairs:
        return Pairs(self.pictures[:count], self.coefficients[:count])


def varied_points(space: WeightSpace, rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return points to draw, float64 ``(count, k)``: most are varied rows, the others samples of the population.

    A varied row is stretched about the mean, at times mixed with another row, and jittered by a part of the spread:
    people beside the known ones, without end.

    Parameters
    ----------
    rows : ndarray
        ``(n, k)``: coefficients of the rows to vary; none in a space without a population.
    """
    mean, std = space.spread.mean, space.spread.std
    sampled = count if not len(rows) else int((rng.random(count) < SAMPLED).sum())
    varied, points = count - sampled, np.empty((count, space.k))
    if sampled:
        points[:sampled] = [point.coefficients for point in space.sample(sampled, int(rng.integers(2**31)))]
    if varied:
        first, second = (rows[rng.integers(len(rows), size=varied)] - mean for _ in range(2))
        stretch, mixed, jitter = (rng.uniform(*span, (varied, 1)) for span in (STRETCH, MIXED, JITTER))
        mixed *= rng.random((varied, 1)) < 0.5
        points[sampled:] = mean + stretch * first + mixed * second + jitter * rng.standard_normal(first.shape) * std
    return points[rng.permutation(count)]


def draw(pipe: Any, points: np.ndarray, prompts: Sequence[str], seeds: Sequence[int], plan: Plan) -> np.ndarray:
    """Return pictures of points, uint8 ``(n, h, w, 3)``, each with a prompt and a noise of its own.

    The pipeline's identity is as before afterwards.
    """
    before, found = pipe._identity, []
    try:
        for start in range(0, len(points), plan.batch_size):
            part = slice(start, start + plan.batch_size)
            pipe.identity = list(points[part])
            noises = [torch.Generator().manual_seed(int(seed)) for seed in seeds[part]]
            pictures = pipe(list(prompts[part]), generator=noises, output_type="np", **plan.settings).images
            found.append(to_bytes(reduced(np.asarray(pictures, np.float32), plan.factor)))
    finally:
        pipe._identity = before
    return np.concatenate(found)


def draw_chunk(pipe: Any, plan: Plan, rows: np.ndarray, chunk: int) -> Pairs:
    """Return the pairs of one chunk, which are the same whatever else is drawn."""
    rng = plan.rng(chunk)
    points = varied_points(pipe.space, rows, CHUNK, rng)
    prompts = [plan.prompts[i] for i in rng.integers(len(plan.prompts), size=CHUNK)]
    seeds = rng.integers(2**62, size=CHUNK)
    return Pairs(draw(pipe, points, prompts, seeds.tolist(), plan), points.astype(np.float32))


def draw_pairs(
    pipe: Any, plan: Plan, rows: np.ndarray, count: int, folder: Path | None, keep_on: Callable[[], bool]
) -> Pairs:
    """Return `count` pairs; fewer if `keep_on` says so, at least one chunk.

    Parameters
    ----------
    folder : path, optional
        Where finished chunks are kept, and found by a later call with the same plan.
    """
    name, found = plan.digest(pipe.space, rows)[:12], list[Pairs]()
    for chunk in progress(range(-(-count // CHUNK)), "drawing pictures", status=lambda: f"{CHUNK} in each"):
        if found and not keep_on():
            break
        file = None if folder is None else folder / f"pairs-{name}-{chunk:05d}.safetensors"
        pairs = None if file is None else _kept(file)
        if pairs is None:
            pairs = draw_chunk(pipe, plan, rows, chunk)
            if file is not None:
                write_bytes(file, _bytes_of(pairs), replace=True)
        found.append(pairs)
    return Pairs.joined(found).first(count)


def _bytes_of(pairs: Pairs) -> bytes:
    from safetensors.numpy import save

    arrays = {"pictures": pairs.pictures, "coefficients": pairs.coefficients}
    return bytes(save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))


def _kept(file: Path) -> Pairs | None:
    """Return the pairs in a file of an earlier run; None if it is not there or damaged, so that they are drawn."""
    try:
        tensors, _ = read_safetensors(file)
        pairs = Pairs(tensors["pictures"], tensors["coefficients"])
    except (MissingPathError, CorruptFileError, KeyError):
        return None
    whole = pairs.pictures.dtype == np.uint8 and len(pairs.pictures) == len(pairs.coefficients) == CHUNK
    return pairs if whole else None

"""A weight space's coordinates on disk: ``space.safetensors``, and the basis in files of 1,000 components."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..lora.layout import ParameterLayout
from ..store.commit import State
from ..store.tensorfile import read_safetensors, save_tensors
from .contents import SpaceContents
from .coordinates import Coordinates
from .manifest import corrupt
from .population import Spread

FILE = "space.safetensors"
COMPONENTS_A_FILE = 1000
_BASIS = re.compile(r"basis-(\d+)\.safetensors")


def save_coordinates(space: SpaceContents, folder: Path) -> None:
    """Write the coordinates of a weight space, and the spread of its population if it has none."""
    found = space.coordinates
    tensors = {"mean": found.mean, "std": found.std, "singular_values": found.singular_values}
    if found.residuals is not None:
        tensors["residuals"] = found.residuals
    if space.population is None:
        tensors |= {"coefficient_mean": space.spread.mean, "coefficient_std": space.spread.std}
    save_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / FILE)
    for start in range(0, space.k, COMPONENTS_A_FILE):
        part = np.ascontiguousarray(found.basis[start : start + COMPONENTS_A_FILE])
        save_tensors({"basis": part}, folder / f"basis-{start // COMPONENTS_A_FILE:05d}.safetensors")


def read_coordinates(state: State, k: int) -> tuple[Coordinates, Spread | None]:
    """Read the first `k` components, and the stored spread of a population that is not included."""
    path, data, where, whole = state.root, state.data, state.manifest_path, state.data["k"]
    tensors, _ = read_safetensors(state.find(FILE))
    layout = ParameterLayout.from_json(data["layout"])
    if (layout.digest, layout.size) != (data["layout"].get("digest"), data["layout"].get("size")):
        raise corrupt(where, "the layout does not have the digest or size that is stated beside it")
    if data["recipe"]["constant_numbers"] > layout.size:
        raise corrupt(where, "recipe.constant_numbers is larger than the layout")
    for name in ("mean", "std"):
        _require_tensor(tensors[name], name, (layout.size,), np.float32, path)
    for name in ("singular_values", *(["residuals"] if "residuals" in tensors else [])):
        _require_tensor(tensors[name], name, (whole,), np.float64, path)
    parts = [
        read_safetensors(state.find(f"basis-{i:05d}.safetensors"))[0]["basis"]
        for i in range(-(-k // COMPONENTS_A_FILE))
    ]
    for i, part in enumerate(parts):
        rows = min(COMPONENTS_A_FILE, whole - i * COMPONENTS_A_FILE)
        _require_tensor(part, f"basis-{i:05d}", (rows, layout.size), np.float32, path)
    coordinates = Coordinates(
        layout=layout,
        mean=tensors["mean"],
        std=tensors["std"],
        basis=np.concatenate(parts)[:k],
        singular_values=tensors["singular_values"][:k],
        residuals=None if "residuals" not in tensors else tensors["residuals"][:k],
        canonical=bool(data["recipe"].get("canonical")),
        full_digest=data["digest"] if k < whole else None,
    )
    return coordinates, None if data["population"] else _read_spread(tensors, k, data["recipe"]["rows"], path)


def _require_tensor(found: np.ndarray, name: str, shape: tuple[int, ...], dtype: type, path: Path) -> None:
    if found.shape != shape or found.dtype != dtype:
        raise corrupt(path, f"{name} is {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}")


def _read_spread(tensors: dict[str, np.ndarray], k: int, rows: int, path: Path) -> Spread | None:
    """Return the stored spread of a population that is not included; None if there is none."""
    stated = [name for name in ("coefficient_mean", "coefficient_std") if name in tensors]
    if not stated:
        return None
    whole = len(tensors["singular_values"])
    for name in ("coefficient_mean", "coefficient_std"):
        _require_tensor(tensors[name], name, (whole,), np.float64, path)
        if not np.isfinite(tensors[name]).all() or (name == "coefficient_std" and (tensors[name] < 0).any()):
            raise corrupt(path, f"{name} has values that are not finite, or negative")
    return Spread(tensors["coefficient_mean"][:k], tensors["coefficient_std"][:k], rows)


def coordinate_files(names: Iterable[str], k: int | None) -> list[str]:
    """Return the files among these that hold the first `k` components; all of them for None."""
    last = float("inf") if k is None else -(-k // COMPONENTS_A_FILE)
    return [n for n in names if n == FILE or ((match := _BASIS.fullmatch(n)) and int(match[1]) < last)]

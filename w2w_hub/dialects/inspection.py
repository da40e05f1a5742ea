"""What a checkpoint is, as data: its dialect, shapes, scale, norms, and what would keep it from being used."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NotACheckpointError, W2WError
from ..lora.adapter import Adapter, Target
from ..lora.layout import ParameterLayout
from .checkpoint import Checkpoint, ReadOptions, open_checkpoint
from .registry import DenseFormat, parse_checkpoint, recognise

_TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
# keys whose first axis is the rank
_RANKED = re.compile(
    r"\.lora_A|\.lora\.down|lora_down|_layer\.down|_lora[12]?\.down|:down$|lokr_w[12]_b$|hada_w[12]_b$"
)
_KEPT = 64  # layouts of which a scan remembers the first adapter's A


def inspect_adapter(
    path: Path | str,
    *,
    allow_torch: bool = False,
    options: ReadOptions | None = None,
    against: Against | None = None,
    start: SharedStart | None = None,
) -> dict[str, Any]:
    """The facts of one LoRA checkpoint.

    Parameters
    ----------
    against : Against, optional
        Adds ``fits`` and, if it does not, ``misfit``.
    start : SharedStart, optional
        Adds how alike its A is to the first adapter's of the same layout.

    Returns
    -------
    dict
        Always with ``dialect``, ``components``, ``rank`` and ``scale`` (lists of the distinct ones), ``modules``
        (their number), ``params`` (numbers in the factors), ``layout_digest`` and ``vector_sha256`` (of the float32
        vector in layout order with the scale multiplied into B). Of a checkpoint that is recognised and cannot be
        read, ``refused`` says why, and what only reading tells is None.

    Raises
    ------
    W2WError
        If it is not even recognised.
    """
    checkpoint = open_checkpoint(path, allow_torch=allow_torch)
    form = recognise(checkpoint)
    facts: dict[str, Any] = {"kind": "adapter", "path": str(path), "dialect": form.name}
    facts |= _of_header(checkpoint)
    try:
        if isinstance(form, DenseFormat) and (options is None or options.svd_rank is None):
            return facts | _of_dense(form.deltas(checkpoint))
        adapter = parse_checkpoint(checkpoint, options)
    except NotACheckpointError:
        raise
    except W2WError as error:
        return facts | {"refused": str(error).removeprefix(f"{checkpoint.where}: ")}
    facts |= facts_of(adapter)
    if start is not None:
        facts |= start.add(str(path), adapter, facts["layout_digest"])
    if against is not None:
        facts |= against.compare(adapter)
    return facts


def facts_of(adapter: Adapter) -> dict[str, Any]:
    """What reading tells of an adapter."""
    layout = ParameterLayout.from_adapter(adapter)
    pairs = adapter.factors.values()
    names = [t.module.removesuffix(".0").rsplit(".", 1)[-1] for t in adapter.factors]
    zero = [f"{t}.{n}" for t, p in adapter.factors.items() for n in "AB" if not getattr(p, n).any()]
    model, evidence = guess_base(adapter)
    return {
        "components": sorted({t.component for t in adapter.factors}),
        "rank": sorted({pair.rank for pair in pairs}),
        "scale": sorted({pair.scale for pair in pairs}),
        "scale_from": list(adapter.metadata.get("scale_from", [])),
        "modules": len(adapter.factors),
        "targets": sorted(set(names)),
        "convolutions": sum(bool(pair.kernel) for pair in pairs),
        "params": layout.size,
        "base_model": adapter.base_model,
        "base_guess": model,
        "base_evidence": evidence,
        "norms": {name: _norm([getattr(p, name) for p in pairs]) for name in "AB"} | {"dW": _delta_norm(adapter)},
        "zero_tensors": len(zero),
        "zero_names": zero[:3],
        "passengers": list(adapter.passengers),
        "error": adapter.metadata.get("error"),
        "initialisation_digest": initialisation_digest(adapter),
        "layout_digest": layout.digest,
        "vector_sha256": vector_digest(adapter),
        "refused": None,
    }


def vector_digest(adapter: Adapter) -> str:
    """sha256 of the little-endian float32 vector in layout order, every B multiplied by its module's scale."""
    digest = hashlib.sha256()
    for target in sorted(adapter.factors, key=lambda t: t.sort_key):
        pair = adapter.factors[target]
        b = pair.B if pair.scale == 1 else pair.B.astype(np.float64) * pair.scale
        for factor in (pair.A, b):
            with np.errstate(over="ignore"):
                digest.update(np.ascontiguousarray(factor, "<f4").data)
    return digest.hexdigest()


def initialisation_digest(adapter: Adapter) -> str:
    """sha256 of all A factors: equal for adapters that start from one A and do not train it."""
    digest = hashlib.sha256()
    for target in sorted(adapter.factors, key=lambda t: t.sort_key):
        digest.update(np.ascontiguousarray(adapter.factors[target].A, "<f4").data)
    return digest.hexdigest()


def guess_base(adapter: Adapter) -> tuple[str | None, list[str]]:
    """The base model that an adapter's own shapes speak for, and how; never taken for more than a guess."""
    votes: dict[str, str] = {}
    for target, pair in adapter.factors.items():
        model, why = _vote(target, pair.inputs)
        if model is not None and model not in votes:
            votes[model] = f"{target} {why}"
    strong = [m for m in votes if not m.startswith("CLIP")]
    evidence = [f"{model}: {why}" for model, why in votes.items()]
    if len(strong) == 1:
        return strong[0], evidence
    return (None, evidence) if strong or not votes else (next(iter(votes)), evidence)


def _vote(target: Target, inputs: int) -> tuple[str | None, str]:
    path = target.module
    if target.component == "unet":
        if path.endswith(("attn2.to_k", "attn2.to_v")) and inputs in _TEXT_WIDTHS:
            return _TEXT_WIDTHS[inputs], f"takes text of {inputs} numbers"
    elif target.component == "transformer":
        if path.startswith("single_transformer_blocks.") and path.endswith("to_q") and inputs == 3072:
            return "Flux.1", "is in a single block of width 3072"
        if ".img_mlp." in path or ".txt_mlp." in path:
            return "Qwen-Image", "is an MLP of one stream"
    elif path.endswith("self_attn.q_proj") or path.endswith("self_attn.v_proj"):
        if inputs == 1280:
            return "SDXL", "is OpenCLIP's text encoder of width 1280"
        if inputs == 1024:
            return "Stable Diffusion 2.x", "is OpenCLIP's text encoder of width 1024"
        if inputs == 768:
            return "CLIP-L (Stable Diffusion 1.x, SDXL, Flux.1)", "is a text encoder of width 768"
    return None, ""


class Against:
    """A layout, or what has one, to hold adapters against."""

    def __init__(self, path: Path | str):
        from ..store.manifest import FILENAME, read_json, read_json_in
        from ..store.paths import has_file

        self.path, self._rows = Path(path), None
        described = self.path.is_dir() and has_file(self.path, FILENAME)
        if described or self.path.suffix == ".json":
            data = read_json_in(self.path, FILENAME) if described else read_json(self.path)
            self.layout = ParameterLayout.from_json(data.get("layout", data))
            if data.get("format") == "w2w-dataset":
                from ..dataset import WeightDataset

                self._rows = WeightDataset.open(self.path if described else self.path.parent)
        else:
            from .registry import read_adapter

            self.layout = ParameterLayout.from_adapter(read_adapter(self.path))

    def compare(self, adapter: Adapter) -> dict[str, Any]:
        """Whether an adapter fits, why not, what folding its scale would do, and how near its A is to a row's."""
        misfit = self.layout.misfit(adapter)
        facts: dict[str, Any] = {"against": str(self.path), "fits": not misfit, "misfit": misfit or None}
        if not misfit:
            ratios = self.layout.ratios(adapter)
            facts["folded_into_B"] = {f"{r:g}": n for r, n in _counted(ratios.values()).items()}
            if self._rows is not None and len(self._rows):
                row = self.layout.unflatten(np.asarray(self._rows[0]))
                facts["initialisation_cosine"] = _cosine(a_vector(adapter), a_vector(row))
        return facts


class SharedStart:
    """Whether the adapters of a scan began from one initialisation: the cosine of each one's A with the first's.

    Training moves A by little, so those of one start keep a cosine near 1 and those of different ones have one
    near 0. One A is remembered for each layout, of at most 64 layouts.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, np.ndarray]] = {}

    def add(self, path: str, adapter: Adapter, digest: str) -> dict[str, Any]:
        """The comparison of one adapter, whose layout has this digest."""
        mine = a_vector(adapter)
        if digest not in self._first:
            if len(self._first) < _KEPT:
                self._first[digest] = (path, mine)
            return {"initialisation_of": None, "initialisation_cosine": None}
        first, theirs = self._first[digest]
        return {"initialisation_of": first, "initialisation_cosine": _cosine(mine, theirs)}


def a_vector(adapter: Adapter) -> np.ndarray:
    """All A factors in layout order, float32."""
    ordered = sorted(adapter.factors, key=lambda t: t.sort_key)
    return np.concatenate([adapter.factors[t].A.ravel() for t in ordered]).astype(np.float32, copy=False)


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    size = float(np.linalg.norm(a.astype(np.float64))) * float(np.linalg.norm(b.astype(np.float64)))
    return round(float(a.astype(np.float64) @ b.astype(np.float64)) / size, 6) + 0.0 if size else None


def _norm(factors: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.vdot(f, f)) for f in (f.astype(np.float64) for f in factors))))


def _delta_norm(adapter: Adapter) -> float:
    """The Frobenius norm of all of dW, from r x r products."""
    total = 0.0
    for pair in adapter.factors.values():
        a, b = pair.A.astype(np.float64), pair.B.astype(np.float64)
        total += pair.scale**2 * max(0.0, float(np.vdot(b.T @ b, a @ a.T)))
    return float(np.sqrt(total))


def _counted(values: Any) -> dict[float, int]:
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _of_header(checkpoint: Checkpoint) -> dict[str, Any]:
    """What keys and shapes tell without reading; the rest is None."""
    from .assemble import dtypes_of

    ranks = set()
    for key, shape in checkpoint.shapes.items():
        if len(shape) >= 2 and _RANKED.search(key):
            ranks.add(shape[0])
        elif len(shape) == 2 and key.endswith(".lora_a"):  # MLX keeps it transposed
            ranks.add(shape[1])
    return {
        "components": None,
        "rank": sorted(ranks),
        "scale": None,
        "modules": None,
        "params": sum(math.prod(shape) for shape in checkpoint.shapes.values()),
        "layout_digest": None,
        "vector_sha256": None,
        "refused": None,
        "tensors": len(checkpoint.keys),
        "dtypes": dtypes_of(checkpoint),
    }


def _of_dense(deltas: Mapping[Target, np.ndarray]) -> dict[str, Any]:
    return {
        "components": sorted({t.component for t in deltas}),
        "scale": sorted(getattr(deltas, "scales", [])),
        "modules": len(deltas),
        "targets": sorted({t.module.removesuffix(".0").rsplit(".", 1)[-1] for t in deltas}),
        "note": "its changes are no rank-r products: w2w_hub.dialects.read_deltas gives them exactly, "
        "w2w convert --rank R approximates",
    }

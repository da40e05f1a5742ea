"""Describe a checkpoint as data: dialect, shapes, scale, norms, and the reason if it cannot be used."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import NotACheckpointError, W2WError
from ..lora.adapter import Adapter, Target
from ..lora.layout import ParameterLayout
from .assemble import dtypes_of
from .checkpoint import Checkpoint, ReadOptions, provenance
from .dialect import DenseDialect, Dialect, LazyDeltas
from .initialization import InitializationTracker
from .loading import open_checkpoint
from .reading import parse_checkpoint
from .registry import dialect_of
from .thumbnails import shown_header

_TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}


class Reference(Protocol):
    """A layout, or an object that has one, to compare adapters with."""

    def compare(self, adapter: Adapter) -> dict[str, Any]:
        """Return ``fits`` and further facts of the comparison."""
        ...


def inspect_adapter(
    path: Path | str,
    *,
    allow_torch: bool = False,
    options: ReadOptions | None = None,
    against: Reference | None = None,
    tracker: InitializationTracker | None = None,
) -> dict[str, Any]:
    """Return the facts of one LoRA checkpoint.

    Parameters
    ----------
    against : w2w_hub.dataset.reference.ReferenceLayout, optional
        Adds ``fits`` and, if False, ``incompatibility``.
    tracker : InitializationTracker, optional
        Adds the cosine similarity of its A to that of the first adapter with the same layout.

    Returns
    -------
    dict
        Always with ``dialect``, ``components``, ``rank`` and ``scale`` (lists of the distinct ones), ``modules``
        (their number), ``params`` (numbers in the factors), ``layout_digest`` and ``vector_sha256`` (of the float32
        vector in layout order with the scale multiplied into B). If a recognized checkpoint cannot be read,
        ``refused`` holds the reason, and facts that require reading are None.

    Raises
    ------
    W2WError
        If no dialect recognizes it.
    """
    checkpoint = open_checkpoint(path, allow_torch=allow_torch)
    dialect = dialect_of(checkpoint)
    facts: dict[str, Any] = {"kind": "adapter", "path": str(path), "dialect": dialect.name}
    facts |= _header_facts(checkpoint, dialect)
    try:
        if isinstance(dialect, DenseDialect) and (options is None or options.svd_rank is None):
            return facts | _dense_facts(dialect.deltas(checkpoint))
        adapter = parse_checkpoint(checkpoint, options)
    except NotACheckpointError:
        raise
    except W2WError as error:
        return facts | {"refused": str(error).removeprefix(f"{checkpoint.where}: ")}
    facts |= facts_of(adapter)
    if tracker is not None:
        facts |= tracker.add(str(path), adapter, facts["layout_digest"])
    if against is not None:
        facts |= against.compare(adapter)
    return facts


def facts_of(adapter: Adapter) -> dict[str, Any]:
    """Return the facts of an adapter that has been read."""
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
        "ignored_keys": list(adapter.ignored_keys),
        "passengers": list(adapter.ignored_keys),  # old name, until 0.3
        "error": adapter.metadata.get("error"),
        "provenance": shown_header(provenance(adapter.metadata)) or None,
        "initialisation_digest": initialization_digest(adapter),
        "layout_digest": layout.digest,
        "vector_sha256": vector_digest(adapter),
        "refused": None,
    }


def vector_digest(adapter: Adapter) -> str:
    """Return the sha256 of the little-endian float32 vector in layout order, each B multiplied by its scale."""
    digest = hashlib.sha256()
    for target in sorted(adapter.factors, key=lambda t: t.sort_key):
        pair = adapter.factors[target]
        b = pair.B if pair.scale == 1 else pair.B.astype(np.float64) * pair.scale
        for factor in (pair.A, b):
            with np.errstate(over="ignore"):
                digest.update(np.ascontiguousarray(factor, "<f4").data)
    return digest.hexdigest()


def initialization_digest(adapter: Adapter) -> str:
    """Return the sha256 of all A factors: equal for adapters with one initialization and an untrained A."""
    digest = hashlib.sha256()
    for target in sorted(adapter.factors, key=lambda t: t.sort_key):
        digest.update(np.ascontiguousarray(adapter.factors[target].A, "<f4").data)
    return digest.hexdigest()


def guess_base(adapter: Adapter) -> tuple[str | None, list[str]]:
    """Guess the base model from an adapter's shapes; return it with the evidence. For display only."""
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
            return _TEXT_WIDTHS[inputs], f"takes text embeddings of width {inputs}"
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


def _norm(factors: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.vdot(f, f)) for f in (f.astype(np.float64) for f in factors))))


def _delta_norm(adapter: Adapter) -> float:
    """Return the Frobenius norm of all of dW, computed from r x r products."""
    total = 0.0
    for pair in adapter.factors.values():
        a, b = pair.A.astype(np.float64), pair.B.astype(np.float64)
        total += pair.scale**2 * max(0.0, float(np.vdot(b.T @ b, a @ a.T)))
    return float(np.sqrt(total))


def _header_facts(checkpoint: Checkpoint, dialect: Dialect) -> dict[str, Any]:
    """Return the facts that keys and shapes give without reading tensors; the rest is None."""
    ranks = {rank for key, shape in checkpoint.shapes.items() if (rank := dialect.rank_of(key, shape)) is not None}
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


def _dense_facts(deltas: LazyDeltas) -> dict[str, Any]:
    return {
        "components": sorted({t.component for t in deltas}),
        "scale": sorted(deltas.scales),
        "modules": len(deltas),
        "targets": sorted({t.module.removesuffix(".0").rsplit(".", 1)[-1] for t in deltas}),
        "note": "its changes are not rank-r products: w2w_hub.dialects.read_deltas returns them exactly, "
        "w2w convert --rank R approximates them",
    }

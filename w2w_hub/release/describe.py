"""Describe a path or repository: an adapter, dataset, weight space, saved point, encoder or lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.arguments import RULES, checked
from ..common.constraints import either, instance, optional
from ..dataset.initialization import FILE as START_FILE
from ..dataset.reference import ReferenceLayout
from ..dataset.weight_dataset import WeightDataset
from ..dialects.checkpoint import ReadOptions
from ..dialects.initialization import InitializationTracker
from ..dialects.inspection import inspect_adapter
from ..space.encoder.encoder import Encoder, is_encoder
from ..space.points import is_point, load_point
from ..space.weight_space import WeightSpace
from ..space.withdrawn import file_notice, withdrawn_row_of
from ..store.hub.locate import NO_REPOSITORY, REPOSITORY, locate_either, split_kind
from ..store.hub.pins import is_lock, read_lock
from ..store.manifest import DATASET, FILENAME, read_json_in
from ..store.paths import has_file, missing


@checked(
    against=optional(either(RULES["path"], instance(ReferenceLayout, "a ReferenceLayout"))),
    tracker=optional(instance(InitializationTracker, "an InitializationTracker")),
)
def describe(
    path: Path | str,
    *,
    allow_torch: bool = False,
    trust: str | None = None,
    alpha: float | None = None,
    component: str | None = None,
    against: Path | str | ReferenceLayout | None = None,
    tracker: InitializationTracker | None = None,
) -> dict[str, Any]:
    """Return the facts of an adapter, dataset, weight space, point, encoder or lock, as ``w2w inspect`` shows them.

    Parameters
    ----------
    path : path
        A file or folder, or the name of a dataset or weight space on the Hub.
    allow_torch, trust, alpha, component
        As for :func:`w2w_hub.read_adapter`.
    against : path or ReferenceLayout, optional
        A dataset, weight space, layout or adapter; the result says whether the adapter at `path` fits it.
    tracker : InitializationTracker, optional
        Shared by several calls, adds the cosine similarity of each adapter's A to that of the first with its layout.

    Returns
    -------
    dict
        Always with ``kind`` and ``path``; see :func:`w2w_hub.dialects.inspection.inspect_adapter` for adapters.

    Examples
    --------
    >>> describe("my-lora")["dialect"]                                          # doctest: +SKIP
    'peft'
    """
    path = Path(path)
    options = ReadOptions(trust, alpha, component)
    folder, commit, opened = path, {}, path
    if not _is_there(path):
        if not REPOSITORY.match(split_kind(path.as_posix())[1]):
            raise missing(path, NO_REPOSITORY)
        found = locate_either(path)
        folder = found.folder
        if found.revision is not None:  # its commit is cached now, so opening it makes no request
            commit, opened = {"commit": found.revision.commit}, Path(str(found.revision))
    elif is_lock(path):
        return {"kind": "lock", "path": str(path), "pins": [f"{p.name} ({p.kind})" for p in read_lock(path).pins]}
    if is_point(path):
        return _point_facts(path)
    if is_encoder(path):
        return _encoder_facts(path)
    if folder.is_dir() and has_file(folder, FILENAME):
        if read_json_in(folder, FILENAME).get("format") == DATASET:
            return _dataset_facts(opened) | {"path": str(path)} | commit
        return _space_facts(opened) | {"path": str(path)} | commit
    if against is not None and not isinstance(against, ReferenceLayout):
        against = ReferenceLayout(against)
    facts = inspect_adapter(path, allow_torch=allow_torch, options=options, against=against, tracker=tracker)
    gone = withdrawn_row_of(facts.get("provenance") or {})
    return facts if gone is None else facts | {"withdrawn": file_notice(gone)}


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # not a valid file name
        return False


def _point_facts(path: Path) -> dict[str, Any]:
    point = load_point(path)
    return {
        "kind": "point",
        "path": str(path),
        "coefficients": len(point.coefficients),
        "basis digest": point.basis_digest,
        "history": dict(point.history),
    }


def _encoder_facts(path: Path) -> dict[str, Any]:
    encoder = Encoder.load(path)
    return {
        "kind": "encoder",
        "path": str(path),
        "pictures": f"{encoder.size[1]}x{encoder.size[0]} pixels",
        "coefficients": encoder.k,
        "basis digest": encoder.basis_digest,
        "base digest": encoder.base_digest or "not stated",
        "evidence": {name: value for name, value in encoder.evidence.items() if name != "loss"},
        "digest": encoder.digest,
    }


def _dataset_facts(path: Path) -> dict[str, Any]:
    dataset = WeightDataset.open(path)
    manifest = dataset.manifest
    return {
        "kind": "dataset",
        "path": str(path),
        "name": manifest.name,
        "version": manifest.version,
        "rows": manifest.rows,
        "numbers": manifest.layout.size,
        "dtype": manifest.dtype,
        "splits": manifest.splits,
        "modules": len(manifest.layout.slots),
        "scale": manifest.layout.scale,
        "attributes": list(manifest.columns),
        "initialisation": manifest.compatibility.initialisation,
        "start file": START_FILE if START_FILE in manifest.files else "not published",
        "base model": manifest.compatibility.base_model or "not stated",
        "license": dataset.license,
        "digest": manifest.digest,
    }


CURVES, REMOVAL = "strength curves", "removal curves"  # shown as JSON only


def _space_facts(path: Path) -> dict[str, Any]:
    space = WeightSpace.from_pretrained(path)
    return {
        "kind": "weight space",
        "path": str(path),
        "name": space.name,
        "version": space.version,
        "components": space.k,
        "numbers": space.layout.size,
        "dataset": space.recipe["dataset"],
        "rows fitted": space.recipe["rows"],
        "held-out AUC": {n: "-" if d.auc is None else round(d.auc, 3) for n, d in space.directions.items()},
        "typical push, sd": {n: "-" if d.typical is None else round(d.typical, 2) for n, d in space.directions.items()},
        CURVES: {n: c.to_json() for n, d in space.directions.items() if (c := d.picture_curve or d.curve) is not None},
        REMOVAL: {n: d.removal_curve.to_json() for n, d in space.directions.items() if d.removal_curve is not None},
        "base model": space.compatibility.base_model or "not stated",
        "generation": space.generation or "not stated",
        "license": space.licence,
        "digest": space.digest,
        **({"encoder": "stored"} if space.stored_encoder is not None else {}),
    }

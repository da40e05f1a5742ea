"""Types of the fields of a weight space's manifest, and of its `recipe` and `diagnostics`, see FORMAT.md.

They are checked once, when a space is opened. Fields that are not in these tables are accepted unchecked.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..dataset.manifest import is_split_name
from ..errors import CorruptFileError
from ..store.paths import short

Check = Callable[[Any], bool]
LARGEST = 2**63
BASIS_KEY = "basis_digest"  # metadata key of files that belong to one basis
_KINDS = {
    "name": str, "version": str, "licence": str, "digest": str, "k": int, "population": bool, "fitted_split": str,
    "splits": list, "recipe": dict, "diagnostics": dict, "layout": dict, "compatibility": dict, "directions": list,
}  # fmt: skip
FIELDS = {"format", "format_version", "files", *_KINDS}


def _is(kind: type) -> Check:
    return lambda value: isinstance(value, kind)


_text, _flag, _object = _is(str), _is(bool), _is(dict)


def _count(value: Any) -> bool:
    return _integer(value) and value >= 0


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _number(value: Any) -> bool:
    return _integer(value) or (isinstance(value, float) and math.isfinite(value))


def _canonical(value: Any) -> bool:
    return value is None or value == "svd"


def _curve(value: Any) -> bool:
    """Return whether a value maps numbers of components, as text, to fractions."""
    return isinstance(value, dict) and all(key.isdecimal() and _number(share) for key, share in value.items())


def _reasons(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _errors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(spread, dict) and all(map(_number, spread.values())) for spread in value.values()
    )


def _held_out(value: Any) -> bool:
    return isinstance(value, dict) and _count(value.get("rows")) and _fits(value, _HELD_OUT)


def _nulls(value: Any) -> bool:
    return isinstance(value, dict) and _fits(value, _NULLS)


def _fits(value: Mapping[str, Any], table: Mapping[str, Check]) -> bool:
    return all(check(value[name]) for name, check in table.items() if name in value)


_HELD_OUT: dict[str, Check] = {"rows": _count, "explained_variance": _curve, "mean_only": _number}
_NULLS: dict[str, Check] = {"mean_only": _number, "gaussian_spectrum": _curve, "held_out_chance": _curve}
REQUIRED: dict[str, Check] = {
    "dataset": _text, "dataset_version": _text, "dataset_digest": _text, "rows": _count, "k": _count, "split": _text,
    "standardised": _flag, "algorithm": _text, "constant_numbers": _count,
}  # fmt: skip
RECIPE: dict[str, Check] = REQUIRED | {
    "row_ids_sha256": _text, "canonical": _canonical, "solver": _text, "block": _count, "tolerance": _number,
    "max_passes": _count, "seed": _integer, "engine": _text, "threads": _count, "tile_rows": _count,
    "software": _object, "dataset_revision": _object, "saved_from": _object, "imported": _object,
    "as_published": _object, "trigger_phrase": _text,
}  # fmt: skip
DIAGNOSTICS: dict[str, Check] = {
    "orthogonality_error": _number, "explained_variance": _curve, "held_out": _held_out, "largest_residual": _number,
    "passes": _count, "missed": _number, "reconstruction_error": _errors, "nulls": _nulls, "no_direction": _reasons,
}  # fmt: skip


def ids_digest(ids: Iterable[str]) -> str:
    """Return the sha256 of the ids in code-point order, one per line: which rows were fitted."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(ids)).encode()).hexdigest()


def require_facts(data: Mapping[str, Any], where: object) -> None:
    """Raise an error unless the known fields of a manifest's `recipe` and `diagnostics` have the right types.

    Raises
    ------
    CorruptFileError
        Names the field.
    """
    for part, table in (("recipe", RECIPE), ("diagnostics", DIAGNOSTICS)):
        fields = data[part]
        for name, check in table.items():
            if name not in fields:
                if table is RECIPE and name in REQUIRED:
                    raise CorruptFileError(f"{where} lacks {part}.{name}; fetch the weight space again")
            elif not check(fields[name]):
                raise CorruptFileError(
                    f"{where} states {part}.{name} as {short(fields[name])}; fetch the weight space again"
                )


def require_fields(data: dict[str, Any], where: Path) -> None:
    """Raise an error unless a manifest's fields have the right types and values."""
    for name, kind in _KINDS.items():
        value = data.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise corrupt(where, f"{name!r} is missing or invalid")
    for split in (*data["splits"], data["fitted_split"]):
        if not is_split_name(split):
            raise corrupt(where, f"{short(split)} is not a split's name")
    if data["population"] and data["fitted_split"] not in data["splits"]:
        raise corrupt(where, f"fitted_split {short(data['fitted_split'])} is not one of its splits")
    if not data["population"] and data["splits"]:
        raise corrupt(where, "it lists splits although it states that it has no population")
    require_facts(data, where)


def corrupt(path: Path | str, reason: str) -> CorruptFileError:
    """Return the error for a damaged file of a weight space."""
    return CorruptFileError(f"{path}: {reason}; fetch the weight space again", path=path)

"""A population model as JSON and tensors, and the checks of what is read."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...common.constraints import Rule, names, number, one_of, text, whole
from ...dataset.labels.kinds import BINARY, CONTINUOUS, KINDS
from ...errors import CorruptFileError
from .discovery import QUANTILES
from .factors import MOST_FACTORS, MOST_LEVELS, Attribute, Exclusion, Factor
from .model import PopulationModel
from .readers import outputs_of
from .regression import MOST_ROWS

FILES = ("population_model.json", "population_model.safetensors")
MOST_COUNT = 2**53
LARGEST = 1e30
# tensor -> dtype
TENSORS: dict[str, type] = {
    "mean": np.float64, "codes": np.float64, "counts": np.int64, "weights": np.float32, "reading": np.float32,
    "intercepts": np.float64, "residual": np.float32, "rest": np.float32,
}  # fmt: skip
NUMBERS: dict[str, Rule] = {
    "noise": number(above=0, high=LARGEST), "strength": number(0, 100), "gain": number(0, 100),
}  # fmt: skip


def to_json(model: PopulationModel) -> dict[str, Any]:
    """Return everything but the tensors as JSON."""
    return {
        "factors": [
            {"name": f.name, "columns": list(f.columns), "levels": list(f.levels), "shares": f.shares.tolist(),
             "center": f.center, "scale": f.scale}
            for f in model.factors
        ],
        "attributes": {name: _attribute_json(a) for name, a in model.attributes.items()},
        "excluded": [
            {"factors": [e.first, e.second], "pairs": np.argwhere(e.table).tolist()} for e in model.excluded
        ],
        "rhos": model.rhos.tolist(),
        **{name: getattr(model, name) for name in NUMBERS},
        "evidence": model.evidence,
    }  # fmt: skip


def tensors_of(model: PopulationModel) -> dict[str, np.ndarray]:
    """Return the tensors by name."""
    return {name: np.ascontiguousarray(getattr(model, name), dtype) for name, dtype in TENSORS.items()}


def _attribute_json(attribute: Attribute) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": attribute.kind, "factors": list(attribute.factors)}
    if attribute.truth is not None:
        found["truth"] = attribute.truth.tolist()
    elif attribute.is_number:
        found |= {"low": attribute.low, "high": attribute.high}
    return found


def from_json(
    data: Mapping[str, Any], tensors: Mapping[str, np.ndarray], k: int, used: int | None = None, where: str = ""
) -> PopulationModel:
    """Return a model from :func:`to_json` and its tensors; fields of later versions are ignored.

    Parameters
    ----------
    k : int
        Components of the weight space.
    used : int, optional
        Components to keep.
    where : str
        The file, for error messages.

    Raises
    ------
    CorruptFileError
        If a field or tensor is missing or invalid; names it.
    """
    reader = _Reader(where)
    factors = tuple(
        reader.factor(f"factors[{i}]", entry)
        for i, entry in enumerate(reader.take(data, "factors", _list(1, MOST_FACTORS)))
    )
    stated = reader.take(data, "attributes", _mapping())
    attributes = {name: reader.attribute(f"attributes.{name}", name, entry, factors) for name, entry in stated.items()}
    excluded = tuple(
        reader.exclusion(f"excluded[{i}]", entry, factors)
        for i, entry in enumerate(reader.take(data, "excluded", _list(0, MOST_FACTORS**2)))
    )
    numbers = {name: reader.take(data, name, rule) for name, rule in NUMBERS.items()}
    rhos = reader.take(data, "rhos", _list(len(factors), len(factors), number(0, 1)))
    found = reader.tensors(tensors, factors, k)
    for name in ("mean", "weights", "reading", "residual", "rest"):
        found[name] = found[name][..., :used]
    fields: dict[str, Any] = {**found, **numbers}
    return PopulationModel(
        factors=factors, attributes=attributes, excluded=excluded, **fields, rhos=np.array(rhos, float),
        evidence=reader.take(data, "evidence", _mapping()),
    )  # fmt: skip


class _Reader:
    """Takes fields by rule and raises errors that name the file and the field."""

    def __init__(self, where: str):
        self.where = where

    def wrong(self, field: str, why: str) -> CorruptFileError:
        return CorruptFileError(f"{self.where}: {field} {why}; fetch the weight space again")

    def take(self, data: Any, name: str, rule: Rule, field: str = "") -> Any:
        field = f"{field}.{name}" if field else name
        if not isinstance(data, Mapping) or name not in data:
            raise self.wrong(field, "is missing")
        try:
            return rule.take(data[name])
        except ValueError:
            raise self.wrong(field, f"must be {rule.expected}, not {reprlib.repr(data[name])}") from None

    def factor(self, field: str, entry: Any) -> Factor:
        levels = tuple(self.take(entry, "levels", names(), field))
        shares = self.take(entry, "shares", _numbers(), field)
        if len(set(levels)) < len(levels) or len(levels) == 1 or len(levels) > MOST_LEVELS:
            raise self.wrong(f"{field}.levels", "must be at least two different names, or none")
        if len(shares) != (len(levels) or QUANTILES):
            raise self.wrong(f"{field}.shares", f"must be {len(levels) or QUANTILES} numbers")
        if levels and not (min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6):
            raise self.wrong(f"{field}.shares", "must be fractions that sum to 1")
        return Factor(
            self.take(entry, "name", text(), field),
            tuple(self.take(entry, "columns", names(), field)),
            levels,
            np.array(shares, float),
            self.take(entry, "center", number(-LARGEST, LARGEST), field),
            self.take(entry, "scale", number(above=0, high=LARGEST), field),
        )

    def attribute(self, field: str, name: str, entry: Any, factors: tuple[Factor, ...]) -> Attribute:
        kind = self.take(entry, "kind", one_of(*(kind.name for kind in KINDS)), field)
        axes = tuple(self.take(entry, "factors", _list(1, 2, whole(0, len(factors) - 1)), field))
        sizes = tuple(len(factors[i].levels) for i in axes)
        if len(set(axes)) < len(axes) or (len(axes) == 2 and kind != BINARY.name):
            raise self.wrong(f"{field}.factors", "must be one factor, or two different ones of a binary attribute")
        if (0 in sizes) != (kind == CONTINUOUS.name):
            raise self.wrong(f"{field}.kind", f"is {kind}, which does not fit its factors")
        if kind == BINARY.name:
            truth = self.take(entry, "truth", _truth(sizes), field)
            return Attribute(name, kind, axes, truth)
        if kind == CONTINUOUS.name:
            low, high = (self.take(entry, end, number(-LARGEST, LARGEST), field) for end in ("low", "high"))
            if low > high:
                raise self.wrong(f"{field}.low", "is larger than its high")
            return Attribute(name, kind, axes, low=low, high=high)
        return Attribute(name, kind, axes, levels=factors[axes[0]].levels)

    def exclusion(self, field: str, entry: Any, factors: tuple[Factor, ...]) -> Exclusion:
        first, second = self.take(entry, "factors", _list(2, 2, whole(0, len(factors) - 1)), field)
        sizes = len(factors[first].levels), len(factors[second].levels)
        if not first < second or 0 in sizes:
            raise self.wrong(f"{field}.factors", "must be two factors with levels, the first before the second")
        table = np.zeros(sizes, bool)
        pair = _list(2, 2, whole(0))
        for a, b in self.take(entry, "pairs", _list(0, sizes[0] * sizes[1], pair), field):
            if a >= sizes[0] or b >= sizes[1]:
                raise self.wrong(f"{field}.pairs", "names a level that does not exist")
            table[a, b] = True
        return Exclusion(first, second, table)

    def tensors(self, tensors: Mapping[str, np.ndarray], factors: tuple[Factor, ...], k: int) -> dict[str, np.ndarray]:
        rows = len(tensors["codes"]) if getattr(tensors.get("codes"), "ndim", 0) == 2 else 0
        ranks = len(tensors["residual"]) if getattr(tensors.get("residual"), "ndim", 0) == 2 else 0
        outputs = outputs_of(factors)[-1].stop
        if not 1 <= rows <= MOST_ROWS:
            raise self.wrong("codes", f"must have 1 to {MOST_ROWS:,} rows")
        shapes = {
            "mean": (k,), "codes": (rows, len(factors)), "counts": (rows,), "weights": (rows, k),
            "reading": (outputs, k), "intercepts": (outputs,), "residual": (ranks, k), "rest": (k,),
        }  # fmt: skip
        found = {}
        for name, dtype in TENSORS.items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != shapes[name] or tensor.dtype != dtype:
                raise self.wrong(name, f"must be {np.dtype(dtype)} {shapes[name]}")
            if name != "codes" and not np.isfinite(tensor).all():
                raise self.wrong(name, "has values that are not finite")
            found[name] = tensor
        for i, factor in enumerate(factors):
            known = found["codes"][:, i][~np.isnan(found["codes"][:, i])]
            fits = np.abs(known) <= LARGEST
            if factor.levels:
                fits &= (known >= 0) & (known < len(factor.levels)) & (known == np.floor(known))
            if not fits.all():
                raise self.wrong("codes", f"has a value that {reprlib.repr(factor.name)} cannot have")
        if (found["counts"] < 1).any() or (found["counts"] > MOST_COUNT).any():
            raise self.wrong("counts", "must be positive")
        return found


def _list(low: int, high: int, rule: Rule | None = None) -> Rule:
    def take(value: Any) -> list[Any]:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise ValueError
        return value if rule is None else [rule.take(one) for one in value]

    return Rule(f"a list of {low} to {high:,}" + (f" of {rule.expected}" if rule else ""), take)


def _numbers() -> Rule:
    return _list(1, MOST_LEVELS, number(-LARGEST, LARGEST))


def _mapping() -> Rule:
    def take(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError
        return dict(value)

    return Rule("an object", take)


def _truth(sizes: tuple[int, ...]) -> Rule:
    def flags(value: Any, left: tuple[int, ...]) -> bool:
        if not left:
            return isinstance(value, bool)
        return isinstance(value, list) and len(value) == left[0] and all(flags(one, left[1:]) for one in value)

    def take(value: Any) -> np.ndarray:
        if not flags(value, sizes):
            raise ValueError
        return np.array(value, bool)

    return Rule(f"true and false for each of {' x '.join(map(str, sizes))} levels", take)

"""A stored population model: each rule of its JSON and tensors has a value that keeps it and one that breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from w2w_hub.errors import CorruptFileError
from w2w_hub.space.population_model.factors import MOST_LEVELS
from w2w_hub.space.population_model.regression import MOST_ROWS
from w2w_hub.space.population_model.storage import LARGEST, from_json, tensors_of, to_json

K, ROWS = 3, 4
Change = Callable[[dict[str, Any], dict[str, np.ndarray]], object]


def factor(name: str, levels: list[str], shares: list[float], **more: Any) -> dict[str, Any]:
    return {"name": name, "columns": [name], "levels": levels, "shares": shares, "center": 0.0, "scale": 1.0} | more


def model() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Hair of three levels, a hat, and an age; six outputs."""
    data = {
        "factors": [
            factor("hair", ["red", "grey", "dark"], [0.5, 0.25, 0.25]), factor("hat", ["no", "yes"], [0.5, 0.5]),
            factor("Age", [], [float(i) for i in range(15)], center=40.0, scale=9.0),
        ],
        "attributes": {
            "Hair": {"kind": "categorical", "factors": [0]},
            "Hat": {"kind": "binary", "factors": [1], "truth": [False, True]},
            "Red_hat": {"kind": "binary", "factors": [0, 1], "truth": [[False, True], [False, False], [False, False]]},
            "Age": {"kind": "float", "factors": [2], "low": 20.0, "high": 60.0},
        },
        "excluded": [{"factors": [0, 1], "pairs": [[2, 1]]}],
        "rhos": [0.0, 1.0, 0.5], "noise": 0.1, "strength": 1.2, "gain": 0.0, "evidence": {"any": 1},
    }  # fmt: skip
    draw = np.random.default_rng(0)
    tensors = {
        "mean": draw.normal(size=K), "codes": np.array([[0, 1, 20], [1, 0, np.nan], [2, 0, 60], [np.nan, 1, 31.5]]),
        "counts": np.array([1, 2, 1, 2**53]), "weights": draw.normal(size=(ROWS, K)).astype(np.float32),
        "reading": draw.normal(size=(6, K)).astype(np.float32), "intercepts": draw.normal(size=6),
        "residual": draw.normal(size=(2, K)).astype(np.float32), "rest": np.ones(K, np.float32),
    }  # fmt: skip
    return data, tensors


def read(change: Change | None = None, used: int | None = None) -> Any:
    data, tensors = model()
    if change is not None:
        change(data, tensors)
    return from_json(data, tensors, K, used, "model.json")


def put(path: str, value: Any) -> Change:
    """Set a field: ``factors.0.scale``."""
    *parents, last = path.split(".")

    def change(data: Any, _: object) -> None:
        for name in parents:
            data = data[int(name)] if isinstance(data, list) else data[name]
        data[int(last) if isinstance(data, list) else last] = value

    return change


def tensor(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    return lambda _, tensors: tensors.__setitem__(name, change(tensors[name]))


def code(row: int, column: int, value: float) -> Change:
    return lambda _, tensors: tensors["codes"].__setitem__((row, column), value)


def test_a_stored_model_is_the_same_after_reading_and_its_first_components_are_a_part() -> None:
    found = read()
    data, tensors = model()
    assert to_json(found) == data
    for name, values in tensors_of(found).items():
        np.testing.assert_array_equal(values, tensors[name])
    part = tensors_of(read(used=2))
    for name, values in part.items():
        whole = tensors[name]
        np.testing.assert_array_equal(values, whole[..., :2] if whole.shape[-1:] == (K,) and name != "codes" else whole)
    later = copy.deepcopy(data) | {"later": 1}
    assert to_json(from_json(later, tensors, K)) == data


KEPT: dict[str, Change] = {
    "a fraction of 0": put("factors.1.shares", [0.0, 1.0]),
    "fractions up to rounding": put("factors.1.shares", [0.5, 0.5 + 9e-7]),
    "one value of a number": put("attributes.Age.low", 60.0),
    "no exclusion": put("excluded", []),
    "an exclusion of nothing": put("excluded.0.pairs", []),
    "an exclusion of all": put("excluded.0.pairs", [[i, j] for i in range(3) for j in range(2)]),
    "the largest strength": put("strength", 100),
    "the smallest strength": put("strength", 0),
    "a number out of the fitted range": code(0, 2, -LARGEST),
    "the last level": code(0, 0, 2),
    "no leading residuals": tensor("residual", lambda t: t[:0]),
    "no attributes": put("attributes", {}),
}
FIELDS: dict[str, tuple[Change, str]] = {
    "no factor": (put("factors", []), "factors"),
    "one level": (put("factors.1", factor("hat", ["no"], [1.0])), "factors[1].levels"),
    "a level twice": (put("factors.1.levels", ["no", "no"]), "factors[1].levels"),
    "too many levels": (
        put("factors.1", factor("hat", [str(i) for i in range(MOST_LEVELS + 1)], [1.0])), "factors[1].levels",
    ),
    "too few shares": (put("factors.1.shares", [1.0]), "factors[1].shares"),
    "too few quantiles": (put("factors.2.shares", [1.0] * 14), "factors[2].shares"),
    "a negative share": (put("factors.1.shares", [-0.5, 1.5]), "factors[1].shares"),
    "shares of more than all": (put("factors.1.shares", [0.5, 0.6]), "factors[1].shares"),
    "shares of nearly all": (put("factors.1.shares", [0.5, 0.49999]), "factors[1].shares"),
    "shares of less than all": (put("factors.1.shares", [0.5, 0.4]), "factors[1].shares"),
    "no scale": (put("factors.2.scale", 0), "factors[2].scale"),
    "a center that is not finite": (put("factors.2.center", float("inf")), "factors[2].center"),
    "an unknown kind": (put("attributes.Hat.kind", "odd"), "attributes.Hat.kind"),
    "one factor twice": (put("attributes.Red_hat.factors", [1, 1]), "attributes.Red_hat.factors"),
    "three factors": (put("attributes.Red_hat.factors", [0, 1, 2]), "attributes.Red_hat.factors"),
    "two factors of levels": (put("attributes.Hair.factors", [0, 1]), "attributes.Hair.factors"),
    "no factor of an attribute": (put("attributes.Hat.factors", []), "attributes.Hat.factors"),
    "a factor before the first": (put("attributes.Hat.factors", [-1]), "attributes.Hat.factors"),
    "a factor after the last": (put("attributes.Hat.factors", [3]), "attributes.Hat.factors"),
    "a number of a factor with levels": (put("attributes.Age.factors", [0]), "attributes.Age.kind"),
    "levels of a number": (put("attributes.Hair.factors", [2]), "attributes.Hair.kind"),
    "yes and no of a number": (put("attributes.Hat.factors", [2]), "attributes.Hat.kind"),
    "a truth of another size": (put("attributes.Hat.truth", [True]), "attributes.Hat.truth"),
    "a truth of another shape": (put("attributes.Red_hat.truth", [False] * 3), "attributes.Red_hat.truth"),
    "a deeper truth": (put("attributes.Hat.truth", [[True], [False]]), "attributes.Hat.truth"),
    "a truth of numbers": (put("attributes.Hat.truth", [0, 1]), "attributes.Hat.truth"),
    "a low above the high": (put("attributes.Age.low", 60.5), "attributes.Age.low"),
    "an exclusion in reverse": (put("excluded.0.factors", [1, 0]), "excluded[0].factors"),
    "an exclusion of itself": (put("excluded.0.factors", [0, 0]), "excluded[0].factors"),
    "an exclusion of a number": (put("excluded.0.factors", [0, 2]), "excluded[0].factors"),
    "an excluded level that is not there": (put("excluded.0.pairs", [[3, 0]]), "excluded[0].pairs"),
    "another that is not there": (put("excluded.0.pairs", [[0, 2]]), "excluded[0].pairs"),
    "three of a pair": (put("excluded.0.pairs", [[0, 0, 0]]), "excluded[0].pairs"),
    "an exclusion of three": (put("excluded.0.factors", [0, 1, 2]), "excluded[0].factors"),
    "half a pair": (put("excluded.0.pairs", [[0]]), "excluded[0].pairs"),
    "more pairs than there are": (put("excluded.0.pairs", [[0, 0]] * 7), "excluded[0].pairs"),
    "too few rhos": (put("rhos", [0.5, 0.5]), "rhos"),
    "a rho above 1": (put("rhos", [0.5, 0.5, 1.01]), "rhos"),
    "no noise": (put("noise", 0), "noise"),
    "too strong": (put("strength", 100.5), "strength"),
    "a negative gain": (put("gain", -0.1), "gain"),
    "evidence that is a list": (put("evidence", []), "evidence"),
    "a level that is not there": (code(0, 0, 3), "codes"),
    "a level before the first": (code(0, 1, -1), "codes"),
    "half a level": (code(0, 0, 0.5), "codes"),
    "a number without end": (code(0, 2, np.inf), "codes"),
    "a count of nothing": (tensor("counts", lambda t: t * 0), "counts"),
    "a count above what a float holds": (tensor("counts", lambda t: t + 1), "counts"),
    "too many rows": (tensor("codes", lambda t: np.zeros((MOST_ROWS + 1, 3))), "codes"),
    "no rows": (tensor("codes", lambda t: t[:0]), "codes"),
    "rows without axes": (tensor("codes", lambda t: t.ravel()), "codes"),
    "fewer outputs": (tensor("reading", lambda t: t[:5]), "reading"),
    "fewer components": (tensor("rest", lambda t: t[:2]), "rest"),
    "another dtype": (tensor("mean", lambda t: t.astype(np.float32)), "mean"),
    "no number": (tensor("weights", lambda t: t * np.float32("nan")), "weights"),
    "without end": (tensor("residual", lambda t: t / np.float32(0)), "residual"),
}  # fmt: skip
for _name in ("factors", "attributes", "excluded", "rhos", "noise", "strength", "gain", "evidence"):
    FIELDS[f"without {_name}"] = (lambda data, _, name=_name: data.pop(name), _name)
for _name in model()[1]:
    FIELDS[f"without the tensor {_name}"] = (lambda _, tensors, name=_name: tensors.pop(name), _name)


@pytest.mark.parametrize("name", KEPT)
def test_what_a_model_may_hold_is_read(name: str) -> None:
    data, _ = model()
    KEPT[name](data, model()[1])
    assert to_json(read(KEPT[name])) == data


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FIELDS)
def test_what_it_may_not_hold_is_refused_by_the_name_of_its_field(name: str) -> None:
    change, field = FIELDS[name]
    with pytest.raises(CorruptFileError) as caught:
        read(change)
    assert str(caught.value).startswith(f"model.json: {field} ")

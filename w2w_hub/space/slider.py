"""Slider LoRAs: what an edit changes in the weights, as an adapter whose weight is the strength of the edit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import DATASET, SPACE
from ..common.constraints import either, flag, instance, number, optional, path, text, validated
from ..common.display import Displayed
from ..common.equality import ByValue
from ..dialects.writing import write_in_dialect
from ..errors import InvalidInputError
from ..lora.adapter import Adapter, LoraFactors, Target
from ..lora.canonical import canonical_factors
from .directions.direction import Direction
from .edits import STRONGEST, TYPICAL, Edit, require_model, warn_unreliable
from .identity import Identity, pad_to_k, resolve
from .layers import decode_step
from .notes import describe_history
from .provenance import provenance_of
from .weight_space import WeightSpace

if TYPE_CHECKING:
    from ..dataset import WeightDataset

__all__ = ["Slider", "make_slider"]
UNMEASURED = 3.0  # standard deviations: recommended for a direction whose strengths nobody measured
SET_RANGE = 1.5  # times the typical strength of a set
FACTS = "w2w.slider"


@dataclass(frozen=True, eq=False, repr=False)
class Slider(ByValue, Displayed):
    """An edit as a LoRA that any host loads: a weight of 1 is one unit of strength.

    An edit moves the factors A and B, and dW = B @ A is quadratic in them: dW(s) - dW(0) = s T + s^2 Q, with T of rank
    2r and Q of rank r. A LoRA is linear in its weight. This one is T + `exact_at` * Q, which has rank 2r and is not
    rounded: it equals the edit at the weights 0 and `exact_at`, and :meth:`error` says how far it is off at others.

    Attributes
    ----------
    name : str
        What is edited: ``"Beard"``, or of a set ``"Beard=True"``.
    adapter : Adapter
        Rank 2r or less, scale 1, float32.
    unit : str
        What a weight of 1 is, in words.
    recommended : float
        Weight at which the attribute shows and others stay, see :attr:`Direction.typical`.
    low, high : float
        Range of weights that was measured, or is usual where nothing was.
    exact_at : float
        Weight at which dW is exactly that of the edit.
    at : str
        The person at whom the change was taken, in words.
    measured : bool
        True if `recommended` and the range come from a strength curve.
    products : (float, float, float)
        Squared norm of T, inner product of T and Q, and squared norm of Q.
    """

    name: str
    adapter: Adapter
    unit: str
    recommended: float
    low: float
    high: float
    exact_at: float
    at: str
    measured: bool
    products: tuple[float, float, float]

    def _facts(self) -> Mapping[str, object]:
        return {
            "": self.name, "weight 1": self.unit, "recommended": self.recommended,
            "range": f"{self.low:g} to {self.high:g}", "exact at": self.exact_at, "made at": self.at,
            "rank": max(pair.rank for pair in self.adapter.factors.values()),
        }  # fmt: skip

    @validated(weight=number(-1e6, 1e6))
    def error(self, weight: float) -> float:
        """Return the norm of what is wrong in dW at a weight, relative to the norm of the edit's change of dW.

        Of the edit of the person at whom the slider was made; docs/reference.md has measurements of other people.
        """
        tangent, mixed, curved = self.products
        change = tangent + 2 * weight * mixed + weight**2 * curved
        return float(abs(self.exact_at - weight) * np.sqrt(curved / change)) if change > 0 else 0.0

    @validated(path=path(), dialect=text(), overwrite=flag())
    def save(self, path: Path | str, dialect: str = "diffusers", *, overwrite: bool = False) -> Path:
        """Write the LoRA and return its path; its header states the unit, the recommended weight and the range.

        Parameters
        ----------
        path : path
            A file with the suffix ``.safetensors``, or a folder; for ``"peft"`` a folder.
        dialect : str
            ``"diffusers"``, ``"kohya"`` or ``"peft"``.

        Raises
        ------
        AlreadyExistsError, InvalidInputError, DiskError
        """
        write_in_dialect(self.adapter, path, dialect, overwrite=overwrite)
        return Path(path)


@validated(
    space=SPACE, attribute=either(text(), instance(Mapping, "a mapping like {'Beard': True}")),
    exact_at=optional(number(-STRONGEST, STRONGEST)), dataset=optional(DATASET),
)  # fmt: skip
def make_slider(
    space: WeightSpace,
    attribute: str | Mapping[str, Any],
    *,
    at: Any = None,
    unit: str = "sd",
    exact_at: float | None = None,
    layers: str | Iterable[str] | None = None,
    preserve: Iterable[str] = (),
    dataset: WeightDataset | None = None,
) -> Slider:
    """Make a slider LoRA of an attribute: base model + person + weight * slider is the person after the edit.

    Parameters
    ----------
    attribute : str or mapping
        The direction to push along, or what to set: ``{"hair_color": "RED"}``. A set depends on the person: give `at`.
    at : optional
        The person at whom the change is taken: whatever :func:`w2w_hub.space.identity.resolve` accepts. By default the
        mean of the population, for a slider to use with anybody.
    unit : {"sd", "typical"}
        What a weight of 1 is, of a push: one standard deviation of the population along the direction, or the
        strength that the direction recommends. Of a set it is its typical strength.
    exact_at : float, optional
        The weight, in `unit`, at which dW is exactly that of the edit; 0 for the tangent. By default the recommended.
    layers, preserve
        See :meth:`WeightSpace.edit`.
    dataset : WeightDataset, optional
        Take a row's id in `at` as the row's own LoRA in this dataset, instead of its point.

    Raises
    ------
    UnknownNameError
        For an attribute, level, layer or person that does not exist.
    InvalidInputError
        If the edit changes nothing, and as :meth:`WeightSpace.edit` does.

    Examples
    --------
    >>> slider = make_slider(space, "Full_Beard")                  # doctest: +SKIP
    >>> slider.save("beard.safetensors", "kohya")                  # doctest: +SKIP
    """
    person = resolve(space, space.mean_point() if at is None else at, dataset)
    options: dict[str, Any] = {"layers": layers, "preserve": preserve}
    if isinstance(attribute, str):
        edit = Edit.checked({attribute: 1.0}, unit=unit, **options)
        name, facts = attribute, _push_facts(space.direction(attribute), attribute, unit)
        warn_unreliable({attribute: space.direction(attribute)})
    else:
        edit = Edit.checked(None, wanted=attribute, strength=TYPICAL, unit=unit, **options)
        name = ", ".join(f"{key}={value}" for key, value in attribute.items())
        facts = {
            "unit": f"the set at its typical strength, {require_model(space).strength:.3g}", "recommended": 1.0,
            "low": 0.0, "high": SET_RANGE, "measured": False,
        }  # fmt: skip
    start = pad_to_k(space, person.point).coefficients.astype(np.float64)
    moved = edit.moved(space, start)
    step = decode_step(space.coordinates, moved.step) if moved.change is None else moved.change
    exact = float(facts["recommended"] if exact_at is None else exact_at)
    factors, products = _changes(space, person, step, exact)
    if not factors:
        raise InvalidInputError(f"the edit {name} changes nothing at {_words(person)}, so there is no slider")
    adapter = Adapter(factors, base_model=space.compatibility.base_model)
    slider = Slider(name, adapter, exact_at=exact, at=_words(person), products=products, **facts)
    return replace(slider, adapter=replace(adapter, metadata=_header(space, person, slider)))


def _push_facts(direction: Direction, name: str, unit: str) -> dict[str, Any]:
    """Return unit, recommended weight and range of a push."""
    curve, typical = direction.picture_curve or direction.curve, direction.typical
    recommended = UNMEASURED if typical is None else typical
    if curve is None:
        low, high = (-recommended, recommended) if typical is None else (0.0, 2 * recommended)
    else:
        low, high = 0.0, max(recommended, curve.breaks or curve.strengths[-1])
    one = 1.0 if unit == "sd" or typical is None else typical
    words = f"one standard deviation of the population along {name}"
    if one != 1.0:
        words = f"the typical push along {name}, {typical:.3g} standard deviations of the population"
    return {
        "unit": words, "recommended": recommended / one, "low": low / one, "high": high / one,
        "measured": curve is not None,
    }  # fmt: skip


def _changes(
    space: WeightSpace, person: Identity, step: np.ndarray, exact: float
) -> tuple[dict[Target, LoraFactors], tuple[float, float, float]]:
    """Return the factors of T + exact * Q for each module that changes, and the products of T and Q over all."""
    factors, products = {}, np.zeros(3)
    for slot in space.layout.slots:

        def pair(vector: np.ndarray, slot: Any = slot) -> tuple[np.ndarray, np.ndarray]:
            a = vector[slot.offset : slot.b_offset].reshape(slot.rank, slot.columns)
            b = vector[slot.b_offset : slot.end].reshape(slot.outputs, slot.rank)
            return a.astype(np.float64), b.astype(np.float64)

        (a, b), (da, db) = pair(person.vector), pair(step)
        if not da.any() and not db.any():
            continue
        left, right, bent = np.hstack([db, b]), np.vstack([a, da]), (db, da)
        products += space.layout.scale**2 * np.array(
            [_inner((left, right), (left, right)), _inner((left, right), bent), _inner(bent, bent)]
        )
        right = np.vstack([a + exact * da, da])  # [db, b] @ this = db @ a + b @ da + exact * db @ da
        whole = LoraFactors(right, left, space.layout.scale, slot.kernel)
        found, _, norm = canonical_factors(whole, rank=min(2 * slot.rank, slot.outputs, slot.columns))
        if norm:
            factors[slot.target] = LoraFactors(
                found.A.astype(np.float32), found.B.astype(np.float32), found.scale, slot.kernel
            )
    tangent, mixed, curved = products.tolist()
    return factors, (tangent, mixed, curved)


def _inner(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the inner product of two products of factors (B, A)."""
    return float(((one[0].T @ other[0]) * (one[1] @ other[1].T)).sum())


def _words(person: Identity) -> str:
    history = person.point.history
    return "the mean of the population" if history.get("made") == "mean" else describe_history(history)


def _header(space: WeightSpace, person: Identity, slider: Slider) -> dict[str, str]:
    """Return the fields of the files' headers."""
    told = provenance_of(space, person.point, slider.adapter)
    told["modelspec.title"] = f"slider {slider.name} of {space.name} {space.version}"
    source = "measured" if slider.measured else "not measured"
    told["modelspec.usage_hint"] = (
        f"weight 1 = {slider.unit}; recommended {slider.recommended:.3g}, range {slider.low:.3g} to {slider.high:.3g} "
        f"({source})"
    )
    told["modelspec.description"] = (
        f"Adds to a person of the weight space what an edit of {slider.name} changes at {slider.at}; the same as that "
        f"edit at the weight {slider.exact_at:.3g}"
    )
    facts: dict[str, Any] = {
        "unit": slider.unit, "recommended": slider.recommended, "low": slider.low, "high": slider.high,
        "exact_at": slider.exact_at, "at": slider.at, "measured": slider.measured,
        "error_at_1": slider.error(1.0), "error_at_high": slider.error(slider.high),
    }  # fmt: skip
    told[FACTS] = slider.name
    return told | {
        f"{FACTS}.{name}": value if isinstance(value, str) else json.dumps(_short(value))
        for name, value in facts.items()
    }


def _short(value: float | bool) -> float | bool:
    return value if isinstance(value, bool) else float(f"{value:.5g}")

"""Edits: pushes along directions and sets of attributes in coefficient space, with checked arguments and a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.constraints import Rule, either, names, number, one_of, optional, text
from ..common.text import available
from ..common.warn import warn_caller
from ..errors import InvalidInputError, UnknownNameError
from .contents import SpaceContents
from .directions.direction import Direction, UnreliableDirectionWarning, component_direction
from .directions.missing import reason_of
from .directions.synonyms import synonyms
from .layers import in_space, select_layers
from .points import Point
from .population import Spread

if TYPE_CHECKING:
    from .population_model.model import PopulationModel

STRONGEST = 100.0  # standard deviations; the demo's people are noise from about 30
STRONGEST_SET = 10.0  # times the population's change; 1.75 is typical of the demo
MOST_STATED = 1e30  # the largest strength of an earlier edit that is added to
TYPICAL = "typical"
UNITS = ("sd", TYPICAL)
LAYERS = optional(either(text(), names()))


def _factor(value: Any) -> float | None:
    """Return the factor of a set; None for the typical one."""
    return None if isinstance(value, str) and value == TYPICAL else float(number(0, STRONGEST_SET).take(value))


FACTOR = Rule(f"'typical', or a number of 0 to {STRONGEST_SET:g}", _factor)


@dataclass(frozen=True)
class Edit:
    """What a caller asks for.

    Attributes
    ----------
    strengths : mapping of str to float
        Pushes: strength by direction.
    preserve : tuple of str
        Attributes whose scores the edit leaves as they are.
    wanted : mapping of str to value
        Sets: value by attribute.
    strength : float or None
        Factor of the sets; None for the typical one, which the population model states.
    unit : {"sd", "typical"}
        Of pushes: standard deviations of the population, or the strength that a direction recommends.
    layers : tuple of str
        Names of the modules that the edit is limited to; empty for all of them.
    """

    strengths: Mapping[str, float]
    preserve: tuple[str, ...] = ()
    wanted: Mapping[str, Any] = field(default_factory=dict)
    strength: float | None = None
    unit: str = "sd"
    layers: tuple[str, ...] = ()

    @classmethod
    def checked(
        cls,
        strengths: Mapping[str, float] | None,
        preserve: Iterable[str] = (),
        *,
        wanted: Mapping[str, Any] | None = None,
        strength: float | str = TYPICAL,
        unit: str = "sd",
        layers: str | Iterable[str] | None = None,
    ) -> Edit:
        """Return an edit from a caller's arguments.

        Raises
        ------
        InvalidInputError
        """
        if strengths is None and wanted is None:
            raise InvalidInputError("an edit needs strengths like {'Beard': 2.0}, or set={'Beard': True}")
        strengths = {} if strengths is None else strengths
        if not isinstance(strengths, Mapping):
            raise InvalidInputError(
                f"strengths must be a mapping like {{'Beard': 2.0}}, not {type(strengths).__name__}"
            )
        for name, amount in strengths.items():
            if isinstance(name, str) and isinstance(amount, (bool, np.bool_, str)):
                raise InvalidInputError(
                    f"a push takes a number, not {name!r}: {amount!r}; to set the attribute, use set={{{name!r}: "
                    f"{amount!r}}}",
                    name=name,
                )
            if not isinstance(name, str) or not isinstance(amount, Real):
                raise InvalidInputError(f"an edit needs an attribute's name and a number, not {name!r}: {amount!r}")
        kept = [preserve] if isinstance(preserve, str) else names().checked(preserve, "preserve")
        for name in kept:
            if name in strengths:
                raise InvalidInputError(f"{name} is both edited and preserved; leave it out of one")
        factor, limited = FACTOR.checked(strength, "the strength of a set"), LAYERS.checked(layers, "layers")
        if factor is not None and wanted is None:
            raise InvalidInputError("strength is the factor of a set; give set=, or the strengths of pushes")
        if limited is not None and not len(limited):
            raise InvalidInputError("layers is empty; leave it out for all layers", name="layers")
        return cls(
            strengths, tuple(dict.fromkeys(kept)), _checked_set(wanted), factor, one_of(*UNITS).checked(unit, "unit"),
            (limited,) if isinstance(limited, str) else tuple(limited or ()),
        )  # fmt: skip

    def moved(self, contents: SpaceContents, c: np.ndarray) -> Moved:
        """Return where coefficients ``(<= k,)`` of a space move to, padded where a direction needs more of them.

        Raises
        ------
        UnknownNameError
            For an attribute, level, or layers that do not exist.
        InvalidInputError
            For a strength that only noise is drawn at, attributes that contradict each other, or a space without
            what the edit needs.
        """
        find, layers = finder(contents), None
        if self.layers:
            layers = select_layers(contents.layout, self.layers)
        amounts = {name: self._amount(name, find(name)) for name in self.strengths}
        steps = [amount * find(name).sd * find(name).editing for name, amount in amounts.items()]
        done: dict[str, Any] = {}
        if self.wanted:
            model = require_model(contents)
            self._require_apart(find)
            steps.append(model.step(c, self.wanted, self.strength))
            done = {"set": {name: model.attributes[name].checked(value) for name, value in self.wanted.items()}}
            done["strength"] = float(model.strength if self.strength is None else self.strength)
        longest = contents.k if layers is not None else max([len(c), *map(len, steps)])
        before = np.pad(c, (0, longest - len(c)))  # missing coefficients are 0
        change = np.zeros_like(before)
        for step in steps:
            change[: len(step)] += step
        readings = [find(name).reading for name in self.preserve]
        if layers is None:
            return Moved(before, preserving(change, readings, contents.spread.std), amounts, done)
        change = preserving(
            change, readings, contents.spread.std, lambda step: layers.projected(contents.coordinates, step)
        )
        outside = layers.vector(contents.coordinates, change)
        (change,) = in_space(contents.coordinates, [outside])
        return Moved(before, change, amounts, {**done, "layers": list(layers.names)}, outside)

    def _amount(self, name: str, direction: Direction) -> float:
        """Return the strength of a push in standard deviations."""
        amount: float = number().checked(self.strengths[name], f"the strength of {name}")
        if self.unit == TYPICAL:
            if direction.typical is None:
                known = direction.curve is not None or direction.picture_curve is not None
                why = "shows it in most people at no strength" if known else "has no strength curve in this space"
                raise InvalidInputError(
                    f"{name} has no typical strength, since it {why}; give it in standard deviations (unit 'sd')",
                    name=name,
                )
            amount *= direction.typical
        if abs(amount) > STRONGEST:
            raise InvalidInputError(
                f"strength {amount:g} of {name} is more than {STRONGEST:g} standard deviations of the population, "
                "where only noise is drawn; attributes usually show at 1 to 6",
                name=name,
            )
        return amount

    def _require_apart(self, find: Callable[[str], Direction]) -> None:
        """Raise `InvalidInputError` if an attribute is set, and pushed or preserved, too."""
        for doing, given in (("pushed", self.strengths), ("preserved", self.preserve)):
            for name in given:
                attribute = find(name).attribute
                if name in self.wanted or attribute in self.wanted:
                    which = name if name in self.wanted else attribute
                    raise InvalidInputError(f"{which} is both set and {doing}; leave it out of one", name=which)

    def recorded(self, history: Mapping[str, Any], moved: Moved) -> dict[str, Any]:
        """Return the history of a point after the edit.

        Strengths of one direction add up in ``edits``. ``steps`` lists sets and layer-wise edits, in their order: each
        has what was ``set`` with which ``strength``, or what was pushed (``edits``), and its ``layers``.
        """
        found = dict(history)
        if moved.amounts and moved.layer_wise:
            step = {"edits": {name: float(amount) for name, amount in moved.amounts.items()}, **moved.done}
        else:
            step = moved.done
            if self.strengths or not self.wanted:
                found["edits"] = _added(history.get("edits"), moved.amounts)
        if step:
            earlier = history.get("steps")
            found["steps"] = [*(earlier if isinstance(earlier, list) else []), step]
        if self.preserve:
            others = history.get("preserved")
            others = others if isinstance(others, list) else []
            found["preserved"] = sorted({*(name for name in others if isinstance(name, str)), *self.preserve})
        return found


@dataclass(frozen=True)
class Moved:
    """An edit of coefficients.

    Attributes
    ----------
    before, step : ndarray
        float64 ``(<= k,)``: the coefficients, and what is added to them.
    amounts : dict of str to float
        Pushes, in standard deviations.
    done : dict
        The record of a set, or of a layer-wise edit, as it stands in a point's history.
    change : ndarray or None
        float32 ``(d,)``: the change of the weights by a layer-wise edit, of which only `step` lies in the space; None
        if the change is what `step` decodes to.
    """

    before: np.ndarray
    step: np.ndarray
    amounts: dict[str, float]
    done: dict[str, Any]
    change: np.ndarray | None = None

    @property
    def after(self) -> np.ndarray:
        return np.asarray(self.before + self.step)

    @property
    def layer_wise(self) -> bool:
        return self.change is not None

    def share_inside(self, std: np.ndarray) -> float:
        """Return the share of a layer-wise change that lies in the space, of its norm in standard deviations."""
        if self.change is None:
            return 1.0
        total = float(np.linalg.norm(self.change / std))
        return min(float(np.linalg.norm(self.step)) / total, 1.0) if total else 1.0


def _checked_set(wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise InvalidInputError(f"set must be a mapping like {{'Beard': True}}, not {wanted!r}", name="set")
    return dict(wanted)


def _added(earlier: Any, amounts: Mapping[str, float]) -> dict[str, Any]:
    """Return the strengths of earlier pushes, from a file and so of any type, with new ones added."""
    edits = dict(earlier) if isinstance(earlier, Mapping) else {}
    for name, amount in amounts.items():
        before = edits.get(name)
        known = isinstance(before, (int, float)) and abs(before) < MOST_STATED
        edits[name] = float(amount) + (float(before) if known else 0.0)  # type: ignore[arg-type]
    return edits


def require_model(
    contents: SpaceContents, need: str = "setting attributes", instead: str | None = None
) -> PopulationModel:
    """Return the population model of a space; without one, say what needs it and what can be done instead.

    Parameters
    ----------
    instead : str, optional
        By default a push along a direction, if there is one.

    Raises
    ------
    InvalidInputError
    """
    model = contents.population_model
    if model is None:
        first = next(iter(contents.directions), None)
        if instead is None and first is not None:
            instead = f"push along a direction, such as {first}"
        raise InvalidInputError(
            f"weight space {contents.name!r} has no population model, which {need} needs: build it again from a "
            f"labeled dataset{f'; or {instead}' if instead else ''}",
            name="population_model",
        )
    return model


def changed_attributes(contents: SpaceContents, point: Point, wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what a set of attributes changes: value before and after, of the wanted ones and those that follow."""
    model, c = require_model(contents), point.coefficients.astype(np.float64)
    before, after = model.read(c), model.implied(c, wanted)
    names = [*wanted, *(name for name in after if name not in wanted and after[name] != before.get(name))]
    return {name: (before.get(name), after[name]) for name in names}


def preserving(
    step: np.ndarray,
    readings: list[np.ndarray],
    std: np.ndarray,
    through: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Return a step ``(k,)``, changed so that the scores of these reading directions stay.

    The change is the smallest one relative to the population's standard deviations ``(k,)``.

    Parameters
    ----------
    through : callable, optional
        What becomes of a step, or of several as columns ``(k, n)``, before it is read: that of some layers alone.
    """
    if not readings:
        return step
    readers = np.stack([reading.astype(np.float64) for reading in readings], 1)[: len(step)]
    spread = std[: len(step), None] ** 2 * readers
    acting, moving = (spread, step) if through is None else (through(spread), through(step))
    amounts = np.linalg.lstsq(readers.T @ acting, readers.T @ moving, rcond=1e-10)[0]
    return np.asarray(step - spread @ amounts)


def finder(contents: SpaceContents) -> Callable[[str], Direction]:
    """Return the function from a name to its direction in a space, see :func:`find_direction`."""
    reasons = contents.diagnostics.get("no_direction", {})
    return lambda name: find_direction(name, contents.directions, contents.spread, reasons)


def find_direction(
    name: str, directions: Mapping[str, Direction], spread: Spread, reasons: Mapping[str, str]
) -> Direction:
    """Return an attribute's direction, or for ``PC1`` to ``PCk`` a principal component as a slider.

    Parameters
    ----------
    reasons : mapping of str to str
        Attributes without a direction, each with the reason.

    Raises
    ------
    UnknownNameError
        Suggests the nearest names.
    """
    text().checked(name, "the name of a direction")
    if name in directions:
        return directions[name]
    k = len(spread.std)
    index = int(name[2:]) if name.startswith("PC") and name[2:].isascii() and name[2:].isdigit() else 0
    if 1 <= index <= k:
        return component_direction(index, k, float(spread.std[index - 1]), spread.rows)
    reason = reason_of(name, reasons)
    if reason is not None:
        raise UnknownNameError(f"no direction for {name}: {reason}")
    if not directions:
        raise UnknownNameError(
            f"no attribute {name!r} in this weight space; available: PC1 to PC{k} only: build the space from a labeled "
            "dataset"
        )
    known = available(name, [f"PC1 to PC{k}", *synonyms(directions)], "w2w directions SPACE")
    raise UnknownNameError(f"no attribute {name!r} in this weight space; {known}")


def warn_unreliable(directions: Mapping[str, Direction]) -> None:
    """Warn about directions that read held-out rows no better than permuted labels do."""
    for name, direction in directions.items():
        if direction.unreliable:
            warn_caller(f"the direction of {name} is unreliable: {direction.unreliable}", UnreliableDirectionWarning)

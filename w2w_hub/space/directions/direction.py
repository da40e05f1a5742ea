"""Direction: a named vector in coefficient space with its evidence."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np

from ...common.constraints import Rule, as_array, either, names, number, one_of, optional, text, whole
from ...common.deprecated import renamed_keywords, warn_renamed
from ...common.display import Displayed, brief, listed
from ...common.equality import ByValue
from ...common.text import counted
from ...dataset.labels.kinds import KINDS, Binary, Continuous, LabelKind, read_out_kind
from ...errors import CorruptFileError, InvalidInputError
from .curve import MOST_ROWS, StrengthCurve, curve_rule

ARRAYS = ("editing", "reading")
MOST_FACTS = 100  # about the training of a slider
CURVES = ("curve", "picture_curve", "removal_curve")
STORED_NAMES = {"controlled_for": "held"}  # field -> its name in directions.json, where that differs
COMPONENT = "component"


class UnreliableDirectionWarning(UserWarning):
    """Warns that a direction in use scores no better on held-out rows than with permuted labels."""


@dataclass(frozen=True, eq=False, repr=False)
class Direction(ByValue, Displayed):
    """One attribute in coefficient space.

    Attributes
    ----------
    editing : ndarray
        float32 ``(k,)``, unit length: how the coefficients change on average with the attribute while the other
        attributes stay the same; a positive step adds more of it.
    sd : float
        Standard deviation of the fitted rows along `editing`: one unit of strength.
    reading : ndarray
        float32 ``(k,)``: weights of a linear model; ``c @ reading + intercept`` is the attribute's log-odds, or its
        value if it is continuous.
    auc : float or None
        Area under the ROC curve of the reading direction on held-out rows; None without both classes there, and for
        a continuous attribute.
    positives, rows : int
        Fitted rows with the attribute, and with a label at all.
    held_out_rows : int
        Rows that `auc` or `r2` is measured on.
    kind : {"binary", "categorical", "float", "component"}
        How the attribute is read out. Each level of a categorical one has a direction of its own, named
        ``attribute=level``; an ordinal one is predicted as a number, the rank of the grade from 0.
    attribute, level : str or None
        The column of the dataset, and the level of it.
    r2 : float or None
        Coefficient of determination on held-out rows, of a continuous attribute.
    interval : (float, float) or None
        95 % confidence interval of `auc` or `r2`, made by `interval_method`.
    null : (float, float) or None
        Mean and 95 % quantile of the same figure under permuted held-out labels.
    p_value : float or None
        Fraction of permutations that score at least as high.
    reading_method, editing_method : str
        How the vectors were fitted.
    controlled_for : tuple of str
        Directions whose attributes the editing direction leaves unchanged.
    components : int or None
        Leading components that the vectors use; None for all.
    label_kind : dict or None
        The attribute's entry in ``label_kinds`` of the dataset, for instance the order of its grades.
    curve, picture_curve : StrengthCurve or None
        What pushes of each strength do, judged by readers of coefficients at the build, and by a judge of pictures
        (:func:`w2w_hub.models.calibration.calibrate`).
    removal_curve : StrengthCurve or None
        What pushes against the direction do to people with the attribute, judged by readers of coefficients: `shown` is
        the fraction in whom it is gone, and strengths are those to subtract.
    slider : dict or None
        How a slider was trained (:func:`w2w_hub.models.sliders.fit_slider`): its prompts, or its number of pairs of
        pictures, and its `strength` in standard deviations.
    """

    editing: np.ndarray
    sd: float
    reading: np.ndarray
    intercept: float
    auc: float | None
    positives: int
    rows: int
    held_out_rows: int
    kind: str = Binary.read_out
    attribute: str | None = None
    level: str | None = None
    r2: float | None = None
    interval: tuple[float, float] | None = None
    interval_method: str | None = None
    null: tuple[float, float] | None = None
    p_value: float | None = None
    reading_method: str = "logistic"
    editing_method: str = "overlap"
    controlled_for: tuple[str, ...] = ()
    components: int | None = None
    label_kind: dict[str, Any] | None = None
    curve: StrengthCurve | None = None
    picture_curve: StrengthCurve | None = None
    slider: dict[str, Any] | None = None
    removal_curve: StrengthCurve | None = None

    def _facts(self) -> Mapping[str, object]:
        score = "no held-out score" if self.score is None else f"{self.score:.3f} on {self.held_out_rows:,} rows"
        named = self.attribute if self.level is None else f"{self.attribute}={self.level}"
        facts = {"": named or self.kind, self.read_out.score.name: score, "fitted rows": self.rows, "sd": self.sd}
        if self.typical is not None:
            facts["typical push"] = f"{self.typical:.1f} sd"
        if self.controlled_for:
            facts["controlled for"] = listed(map(brief, self.controlled_for))
        return facts | ({"unreliable": self.unreliable} if self.unreliable else {})

    @property
    def held(self) -> tuple[str, ...]:
        """Old name of `controlled_for`."""
        warn_renamed("Direction.held", "Direction.controlled_for")
        return self.controlled_for

    @property
    def read_out(self) -> LabelKind:
        """Kind of label that the reading direction predicts: its score, and how values are shown."""
        return read_out_of(self.kind, self.label_kind)

    @property
    def score(self) -> float | None:
        """Held-out score: `auc`, or `r2` of a continuous or ordinal attribute."""
        value: float | None = getattr(self, self.read_out.score.field)
        return value

    @property
    def typical(self) -> float | None:
        """Recommended strength of a push, in standard deviations: of the curve on pictures, or else of `curve`.

        Of a slider without a curve, the strength that it was trained at. None if there is neither, and if no strength
        shows the attribute in at least half of the people.
        """
        judged = self.picture_curve or self.curve
        if judged is not None:
            return judged.typical
        return None if self.slider is None else float(self.slider["strength"])

    @property
    def unreliable(self) -> str:
        """Reason not to trust the direction; empty if there is none."""
        if self.score is None or self.p_value is None or self.null is None:
            return ""
        score = self.read_out.score
        if self.p_value >= 0.05 or score.is_useless(self.score):
            null = "permuted labels" if self.slider is None else "random directions"
            return (
                f"{score.name} {self.score:.2f} on {counted(self.held_out_rows, 'held-out row')} is no better than "
                f"{null} (95 % of them reach {self.null[1]:.2f}, p = {self.p_value:.2f})"
            )
        return ""

    def read(self, coefficients: np.ndarray) -> float:
        """Return the prediction for a point: a probability, a continuous value, or an ordinal rank from 0.

        Parameters
        ----------
        coefficients : ndarray
            ``(<= k,)``; missing ones are 0.
        """
        given = as_array(coefficients, "coefficients")
        if given.ndim != 1:
            raise InvalidInputError(f"coefficients of one point must be a vector, got shape {given.shape}")
        count = min(len(given), len(self.reading))
        return self.read_out.value(float(given[:count] @ self.reading[:count] + self.intercept))

    def evidence(self) -> dict[str, Any]:
        """Return everything but the arrays as JSON, and `unreliable` for display."""
        data = {STORED_NAMES.get(f.name, f.name): getattr(self, f.name) for f in fields(self) if f.name not in ARRAYS}
        for name in ("label_kind", "slider", *CURVES):
            if data[name] is None:
                del data[name]
            elif name in CURVES:
                data[name] = data[name].to_json()
        return {**data, "unreliable": self.unreliable}

    @classmethod
    def from_evidence(
        cls, editing: np.ndarray, reading: np.ndarray, entry: Mapping[str, Any], name: str = ""
    ) -> Direction:
        """Return a direction from :meth:`evidence`; fields of later versions are ignored.

        Parameters
        ----------
        name : str
            Name of the direction, for error messages.

        Raises
        ------
        CorruptFileError
            If a field or an array is missing or invalid; names the direction and the field.
        """
        name = text().checked(name, "the direction's name")
        subject = f"direction {name!r}" if name else "a direction"
        editing, reading = (as_array(v, f"{subject}: {a}") for a, v in zip(ARRAYS, (editing, reading), strict=True))
        if not isinstance(entry, Mapping):
            raise CorruptFileError(f"{subject} is not an object of fields; fetch the weight space again")
        known: dict[str, Any] = {}
        for f in fields(cls):
            if f.name in ARRAYS:
                continue
            stored = STORED_NAMES.get(f.name, f.name)
            if stored in entry:
                try:
                    known[f.name] = EVIDENCE[stored].take(entry[stored])
                except ValueError:
                    raise CorruptFileError(
                        f"{subject}: {stored} must be {EVIDENCE[stored].expected}, not {reprlib.repr(entry[stored])}; "
                        "fetch the weight space again"
                    ) from None
            elif f.default is MISSING:
                raise CorruptFileError(f"{subject} lacks {stored}; fetch the weight space again")
        for array, values in zip(ARRAYS, (editing, reading), strict=True):
            if values.ndim != 1 or values.shape != editing.shape or values.dtype.kind != "f":
                raise CorruptFileError(
                    f"{subject}: {array} must be a vector as long as the other; fetch the weight space again"
                )
            if not np.isfinite(values).all():
                raise CorruptFileError(
                    f"{subject}: {array} contains NaN or infinite values; fetch the weight space again"
                )
        return cls(editing=editing, reading=reading, **known)


Direction.__init__ = renamed_keywords(held="controlled_for")(Direction.__init__)  # type: ignore[method-assign]


class _Component(Continuous):
    """Position along a principal component, which has no label."""

    name = read_out = COMPONENT


def read_out_of(kind: str, label_kind: Mapping[str, Any] | None = None) -> LabelKind:
    """Return the kind of label that a direction predicts, from the fields `kind` and `label_kind` of its evidence."""
    return _Component() if kind == COMPONENT else read_out_kind("of a direction", kind, label_kind)


def _label_kind(value: Any) -> dict[str, Any]:
    read_out_kind("of a direction", Binary.read_out, value)  # raises for an invalid entry of a known kind
    return dict(value)


def _slider(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or len(value) > MOST_FACTS:
        raise ValueError
    fact = either(text(), number())
    found = {text().take(name): fact.take(given) for name, given in value.items()}
    return {**found, "strength": number(0).take(value.get("strength"))}


def _pair(rule: Rule) -> Rule:
    def take(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError
        return tuple(map(rule.take, value))

    return Rule(f"two of {rule.expected}", take)


def _tuple(rule: Rule) -> Rule:
    return Rule(rule.expected, lambda value: tuple(rule.take(value)))


# valid values of each field of a direction's evidence
EVIDENCE: dict[str, Rule] = {
    "sd": number(0),
    "intercept": number(),
    "auc": optional(number(0, 1)),
    "positives": whole(0, MOST_ROWS),
    "rows": whole(0, MOST_ROWS),
    "held_out_rows": whole(0, MOST_ROWS),
    "kind": one_of(*dict.fromkeys(kind.read_out for kind in KINDS), COMPONENT),
    "attribute": optional(text()),
    "level": optional(text()),
    "r2": optional(number(high=1)),
    "interval": optional(_pair(number())),
    "interval_method": optional(text()),
    "null": optional(_pair(number())),
    "p_value": optional(number(0, 1)),
    "reading_method": text(),
    "editing_method": text(),
    "held": _tuple(names()),
    "components": optional(whole(1, MOST_ROWS)),
    "label_kind": optional(Rule("the kind of a label column", _label_kind)),
    **dict.fromkeys(CURVES, optional(curve_rule())),
    "slider": optional(Rule("texts and numbers by name, with a strength", _slider)),
}


def component_direction(number: int, k: int, sd: float, rows: int) -> Direction:
    """Return a principal component as a slider (GANSpace, arXiv 2004.02546).

    ``PC1`` has the largest variance; the sign of a component is arbitrary.
    """
    axis = np.zeros(k, np.float32)
    axis[number - 1] = 1
    return Direction(
        editing=axis, sd=sd, reading=axis, intercept=0.0, auc=None, positives=0, rows=rows, held_out_rows=0,
        kind=COMPONENT, reading_method=COMPONENT, editing_method=COMPONENT, components=number,
    )  # fmt: skip

"""State of a visitor's page as plain data: a person, edits of them, and how they are drawn; and as a link.

A link comes from a stranger: every field of it is checked and bounded before it is used.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode

import numpy as np

from ..common.constraints import Rule, number, text, whole
from ..errors import InvalidInputError
from ..space.edits import STRONGEST, STRONGEST_SET
from ..store.manifest import parse_json

LONGEST_LINK = 32_000  # characters; what web servers take in one line
LONGEST_TEXT = 500  # characters of a prompt or of a name
MOST_NAMES = 200  # entries of one field
MOST_COEFFICIENTS = 5_000  # of one person in a link: 27,000 characters
MOST_COMPARED = 4
MOST_STEPS = 100  # denoising steps that a stranger's link may ask for
PROMPT = "sks person"


# ---------------------------------------------------------------- people
@dataclass(frozen=True)
class Sampled:
    """A new person, drawn by :meth:`WeightSpace.sample`."""

    seed: int = 0
    truncation: float = 1.0
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """The point of a row of the dataset."""

    id: str


@dataclass(frozen=True)
class Saved:
    """Coefficients: an upload's projection, an inversion, or an edited person."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Mixed:
    """The weighted mean of people."""

    parts: tuple[tuple[Origin, float], ...]


Origin: TypeAlias = Sampled | Row | Saved | Mixed


@dataclass(frozen=True)
class State:
    """What a page shows.

    Attributes
    ----------
    person : Sampled, Row, Saved or Mixed
        The person before edits.
    wanted : mapping of str to value
        Attributes that are set, see :meth:`WeightSpace.edit`.
    pushes : mapping of str to float
        Pushes along directions and principal components, in standard deviations.
    preserve : tuple of str
    factor : float or None
        Factor of the sets; None for the typical one.
    start : float
        Fraction of the schedule before the edits start.
    prompt, seed : str, int
        Of the picture.
    steps, guidance : int, float or None
        Of the picture; None for what the space states.
    compared : tuple
        People of the tab Compare.
    """

    person: Origin = field(default_factory=Sampled)
    wanted: Mapping[str, Any] = field(default_factory=dict)
    pushes: Mapping[str, float] = field(default_factory=dict)
    preserve: tuple[str, ...] = ()
    factor: float | None = None
    start: float = 0.0
    prompt: str = PROMPT
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    compared: tuple[Origin, ...] = ()

    @property
    def is_edited(self) -> bool:
        return bool(self.wanted) or any(self.pushes.values())

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of a pipeline's call."""
        given = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def case(self) -> tuple[str, int]:
        return self.prompt, self.seed

    def of(self, person: Origin) -> State:
        """Return the state of another person without edits, drawn in the same way."""
        return replace(self, person=person, wanted={}, pushes={}, preserve=(), start=0.0, factor=None)

    # ------------------------------------------------------------ links
    def to_link(self, space: str = "") -> str:
        """Return the query part of a link, ``?person=...``; fields with their defaults are left out.

        Parameters
        ----------
        space : str
            Digest of the weight space, of which a link names the first digits.

        Raises
        ------
        InvalidInputError
            If the people have more coefficients than a link holds.
        """
        plain, default = self.to_json(), State().to_json()
        given = {name: value for name, value in plain.items() if name == "person" or value != default[name]}
        if space:
            given["space"] = space[:12]
        words = {n: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for n, v in given.items()}
        link = "?" + urlencode(words)
        if len(link) > LONGEST_LINK:
            raise InvalidInputError("these people do not fit into a link; save the point instead")
        return link

    @classmethod
    def from_link(cls, link: str | Mapping[str, str], space: str = "") -> State:
        """Return the state of a link, a stranger's: its query part, or the fields of it.

        Raises
        ------
        InvalidInputError
            For a field that is damaged, too long or out of range, and for a link of another weight space.
        """
        if isinstance(link, str):
            if len(link) > LONGEST_LINK:
                raise InvalidInputError(f"a link has at most {LONGEST_LINK:,} characters")
            try:
                pairs = parse_qsl(link.rpartition("?")[2], keep_blank_values=True, max_num_fields=100)
            except ValueError:
                raise InvalidInputError("this is not a link of the explorer") from None
            link = dict(pairs)
        if sum(map(len, link.values())) > LONGEST_LINK:
            raise InvalidInputError(f"a link has at most {LONGEST_LINK:,} characters")
        of = link.get("space")
        if space and of and not space.startswith(of):
            raise InvalidInputError(f"this link belongs to the weight space {of[:12]!r}, not to {space[:12]!r}")
        found: dict[str, Any] = {}
        for name, word in link.items():
            if name in ("prompt", "space") or name not in FIELDS:
                found[name] = word
                continue
            try:
                found[name] = parse_json(b'{"value":' + word.encode("utf-8", "replace") + b"}", "the link")["value"]
            except Exception:  # of a stranger: whatever is wrong with it, the field is not readable
                raise InvalidInputError(f"the link's {name} is damaged; copy the link again", name=name) from None
        return cls.from_json(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "person": _origin_json(self.person), "set": dict(self.wanted), "push": dict(self.pushes),
            "keep": list(self.preserve), "factor": self.factor, "start": self.start, "prompt": self.prompt,
            "seed": self.seed, "steps": self.steps, "guidance": self.guidance,
            "compare": [_origin_json(person) for person in self.compared],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """Return a state from plain values of any origin; unknown fields are ignored.

        Raises
        ------
        InvalidInputError
        """
        given = {name: FIELDS[name].checked(data[name], f"the link: {name}") for name in FIELDS if name in data}
        return cls(**{NAMES.get(name, name): value for name, value in given.items()})


# ---------------------------------------------------------------- checks of strangers' values
def _origin_json(origin: Origin) -> dict[str, Any]:
    match origin:
        case Sampled():
            found: dict[str, Any] = {"sample": origin.seed}
            if origin.truncation != 1:
                found["truncation"] = origin.truncation
            return found | ({"attributes": dict(origin.attributes)} if origin.attributes else {})
        case Row():
            return {"row": origin.id}
        case Saved():
            raw = np.asarray(origin.coefficients, "<f4").tobytes()
            return {"point": base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")}
        case Mixed():
            return {"mix": [[_origin_json(part), share] for part, share in origin.parts]}


def _origin(value: Any, depth: int = 0) -> Origin:
    if not isinstance(value, Mapping):
        raise ValueError
    if "row" in value:
        return Row(_short(value["row"]))
    if "point" in value:
        return Saved(_coefficients(value["point"]))
    if "mix" in value:
        parts = value["mix"]
        if depth or not isinstance(parts, list) or not 1 <= len(parts) <= MOST_COMPARED:
            raise ValueError
        return Mixed(tuple(_part(part) for part in parts))
    return Sampled(
        whole(0, 2**63 - 1).take(value.get("sample", 0)), number(0, 10).take(value.get("truncation", 1.0)),
        _values(value.get("attributes", {})),
    )  # fmt: skip


def _part(value: Any) -> tuple[Origin, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError
    return _origin(value[0], 1), number(0, 1000).take(value[1])


def _coefficients(value: Any) -> tuple[float, ...]:
    word = text().take(value)
    try:
        raw = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
    except (binascii.Error, ValueError):
        raise ValueError from None
    if not 4 <= len(raw) <= 4 * MOST_COEFFICIENTS or len(raw) % 4:
        raise ValueError
    found = np.frombuffer(raw, "<f4")
    if not np.isfinite(found).all():
        raise ValueError
    return tuple(found.tolist())


def _short(value: Any) -> str:
    found = text().take(value)
    if not 0 < len(found) <= LONGEST_TEXT:
        raise ValueError
    return str(found)


def _named(value: Any, rule: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or len(value) > MOST_NAMES:
        raise ValueError
    return {_short(name): rule(each) for name, each in value.items()}


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return _short(value) if isinstance(value, str) else number(-1e12, 1e12).take(value)


def _values(value: Any) -> dict[str, Any]:
    return _named(value, _value)


def _pushes(value: Any) -> dict[str, float]:
    return _named(value, number(-STRONGEST, STRONGEST).take)


def _list(value: Any, most: int, rule: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError
    return tuple(map(rule, value))


def _or_none(rule: Rule) -> Rule:
    return Rule(rule.expected, lambda value: None if value is None else rule.take(value))


FIELDS: dict[str, Rule] = {
    "person": Rule("a person: a sample, a row, a point or a mix", _origin),
    "set": Rule("values by attribute", _values),
    "push": Rule(f"strengths of -{STRONGEST:g} to {STRONGEST:g} by direction", _pushes),
    "keep": Rule("a list of attributes", lambda value: _list(value, MOST_NAMES, _short)),
    "factor": _or_none(number(0, STRONGEST_SET)),
    "start": number(0, below=1),
    "prompt": Rule(f"a text of at most {LONGEST_TEXT} characters", _short),
    "seed": whole(0, 2**63 - 1),
    "steps": _or_none(whole(1, MOST_STEPS)),
    "guidance": _or_none(number(0, 100)),
    "compare": Rule(f"at most {MOST_COMPARED} people", lambda value: _list(value, MOST_COMPARED, _origin)),
}  # fmt: skip
NAMES = {"set": "wanted", "push": "pushes", "keep": "preserve", "compare": "compared"}

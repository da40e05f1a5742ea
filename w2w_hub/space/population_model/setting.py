"""What a person is after some attributes are set: clamped, excluded and implied levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from ...errors import InvalidInputError
from .factors import Attribute, Exclusion, Factor, find_attribute
from .kernel import Belief, Part, unknown_part

MOST_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Constraint:
    """The levels of one or two factors that give an attribute its wanted value; the value itself of a number."""

    attribute: Attribute
    value: Any
    allowed: np.ndarray | None

    @property
    def text(self) -> str:
        return f"{self.attribute.name}={self.value}"

    def levels_of(self, factor: int) -> np.ndarray:
        """Return which levels of one of its factors occur among those that are allowed, boolean ``(levels,)``."""
        assert self.allowed is not None
        return np.asarray(self.allowed.any(tuple(a for a, f in enumerate(self.attribute.factors) if f != factor)))


@dataclass(frozen=True)
class Setter:
    """Plans which levels change as attributes are set.

    Attributes
    ----------
    codes, counts : ndarray
        Configurations ``(m, factors)`` of the population and how often each occurs.
    """

    factors: tuple[Factor, ...]
    attributes: Mapping[str, Attribute]
    excluded: tuple[Exclusion, ...]
    codes: np.ndarray
    counts: np.ndarray

    def constraints(self, wanted: Mapping[str, Any]) -> list[Constraint]:
        """Return checked constraints; raises for unknown names and levels."""
        if not isinstance(wanted, Mapping):
            raise InvalidInputError(f"attributes must be a mapping like {{'Beard': True}}, not {type(wanted).__name__}")
        found = []
        for name, value in wanted.items():
            attribute = find_attribute(self.attributes, name)
            value = attribute.checked(value)
            found.append(Constraint(attribute, value, None if attribute.is_number else attribute.allowed(value)))
        return found

    def plan(self, wanted: Mapping[str, Any], own: np.ndarray | None = None) -> Belief:
        """Return what a person is believed to be once the wanted attributes are set.

        Parameters
        ----------
        own : ndarray, optional
            The person's own codes ``(factors,)``; without them all else is as in the population.

        Raises
        ------
        InvalidInputError
            If the wanted attributes contradict each other; names two of them.
        UnknownNameError
        """
        constraints = self.constraints(wanted)
        parts = [self._clamped(members, own) for members in _components(constraints)]
        self._require_compatible(parts, constraints)
        clamped = {i for part in parts for i in part.factors}
        possible = self._possible(parts)
        others = []
        for i, factor in enumerate(self.factors):
            if i in clamped:
                continue
            left = possible.get(i)
            if own is not None and not np.isnan(own[i]) and (left is None or left[int(own[i])]):
                others.append(Part((i,), np.array([[own[i]]]), np.ones(1)))
            elif factor.is_number or left is None or left.all():
                others.append(unknown_part(self.factors, i))
            else:
                others.append(self._conditional(i, left, parts))
        parts += others
        return tuple(parts)

    def values(self, belief: Belief) -> dict[str, Any]:
        """Return each attribute's likeliest value."""
        where = {i: part for part in belief for i in part.factors}
        found: dict[str, Any] = {}
        for name, attribute in self.attributes.items():
            if attribute.truth is not None:
                found[name] = bool(self._probability(attribute, where) > 0.5)
                continue
            i = attribute.factors[0]
            part = where[i]
            values = part.values[:, part.factors.index(i)]
            if attribute.is_number:
                assert attribute.low is not None
                assert attribute.high is not None
                found[name] = float(np.clip(part.weights @ values, attribute.low, attribute.high))
            else:
                shares = np.bincount(values.astype(int), part.weights, len(attribute.levels))
                found[name] = attribute.levels[int(shares.argmax())]
        return found

    def _probability(self, attribute: Attribute, where: Mapping[int, Part]) -> float:
        assert attribute.truth is not None
        parts = list({id(where[i]): where[i] for i in attribute.factors}.values())
        total = 0.0
        for choice in product(*(range(len(part.weights)) for part in parts)):
            level = {
                i: int(v)
                for p, c in zip(parts, choice, strict=True)
                for i, v in zip(p.factors, p.values[c], strict=True)
            }
            if attribute.truth[tuple(level[i] for i in attribute.factors)]:
                total += float(np.prod([p.weights[c] for p, c in zip(parts, choice, strict=True)]))
        return total

    def _clamped(self, members: list[Constraint], own: np.ndarray | None) -> Part:
        """Return the combinations of levels that satisfy constraints, of those that change the fewest factors."""
        axes = tuple(dict.fromkeys(i for c in members for i in c.attribute.factors))
        if members[0].attribute.is_number:
            return Part(axes, np.array([[members[-1].value]]), np.ones(1))
        possible = [np.ones(len(self.factors[i].levels), bool) for i in axes]
        for c in members:
            if len(c.attribute.factors) == 1:
                j = axes.index(c.attribute.factors[0])
                assert c.allowed is not None
                possible[j] &= c.allowed
        if np.prod([float(p.sum()) for p in possible]) > MOST_COMBINATIONS:
            raise InvalidInputError(f"{_named(members)} leave too many possibilities; set fewer attributes at once")
        combos = np.array(list(product(*(np.flatnonzero(p) for p in possible))), int).reshape(-1, len(axes))
        for c in members:
            assert c.allowed is not None
            where = [axes.index(i) for i in c.attribute.factors]
            combos = combos[c.allowed[tuple(combos[:, where].T)]]
        if not len(combos):
            raise _contradiction(members)
        if own is not None:
            changes = (combos != own[list(axes)]).sum(1) + self._forced(axes, combos, own)
            combos = combos[changes == changes.min()]
        return Part(axes, combos.astype(float), self._frequencies(axes, combos))

    def _forced(self, axes: tuple[int, ...], combos: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return how many other factors each combination changes, since it excludes the person's own level."""
        hit: dict[int, np.ndarray] = {}
        for j, i in enumerate(axes):
            for g, table in self._excluding[i]:
                if g not in axes and not np.isnan(own[g]):
                    hit[g] = hit.get(g, False) | table[combos[:, j], int(own[g])]
        return np.asarray(sum(hit.values(), np.zeros(len(combos), int)))

    @cached_property
    def _excluding(self) -> list[list[tuple[int, np.ndarray]]]:
        """Of each factor, those that it excludes levels of, with the table ``(own levels, levels of the other)``."""
        found: list[list[tuple[int, np.ndarray]]] = [[] for _ in self.factors]
        for excluded in self.excluded:
            found[excluded.first].append((excluded.second, excluded.table))
            found[excluded.second].append((excluded.first, excluded.table.T))
        return found

    def _frequencies(self, axes: tuple[int, ...], combos: np.ndarray) -> np.ndarray:
        """Return how often each combination occurs, as weights; by the levels' own shares if none does."""
        table = self.codes[:, list(axes)]
        counts = np.array([self.counts[(table == combo).all(1)].sum() for combo in combos], float)
        if not counts.sum():
            counts = np.prod([self.factors[i].shares[combos[:, j]] for j, i in enumerate(axes)], 0)
        if not counts.sum():
            counts = np.ones(len(combos))
        return np.asarray(counts / counts.sum())

    def _possible(self, parts: Sequence[Part]) -> dict[int, np.ndarray]:
        """Return, of each factor that clamped ones exclude levels of, which levels stay possible."""
        found: dict[int, np.ndarray] = {}
        for part in parts:
            for j, i in enumerate(part.factors):
                for g, table in self._excluding[i]:
                    levels = np.unique(part.values[part.weights > 0, j]).astype(int)
                    found[g] = found.get(g, True) & ~table[levels].all(0)
        return found

    def _conditional(self, g: int, possible: np.ndarray, parts: Sequence[Part]) -> Part:
        """Return a factor's distribution in the rows that have the clamped levels, else in all, where possible."""
        if not possible.any():
            possible = np.ones(len(possible), bool)
        fits = ~np.isnan(self.codes[:, g])
        for part in parts:
            if g in part.factors:
                continue
            for j, i in enumerate(part.factors):
                if self.factors[i].levels:
                    fits &= np.isin(self.codes[:, i], part.values[part.weights > 0, j])
        weights = np.bincount(self.codes[fits, g].astype(int), self.counts[fits], len(possible)) * possible
        if not weights.sum():
            return unknown_part(self.factors, g, possible)
        return Part((g,), np.arange(len(weights), dtype=float)[:, None], weights / weights.sum())

    def _require_compatible(self, parts: Sequence[Part], constraints: Sequence[Constraint]) -> None:
        where = {i: (part, j) for part in parts for j, i in enumerate(part.factors)}
        for i, (part, j) in where.items():
            for g, table in self._excluding[i]:
                if g not in where or where[g][0] is part:
                    continue
                other, h = where[g]
                one, two = (np.unique(p.values[:, c]).astype(int) for p, c in ((part, j), (other, h)))
                if table[np.ix_(one, two)].all():
                    raise _contradiction([next(c for c in constraints if f in c.attribute.factors) for f in (i, g)])


def _components(constraints: Sequence[Constraint]) -> list[list[Constraint]]:
    """Return constraints that share factors together."""
    groups: list[tuple[set[int], list[Constraint]]] = []
    for c in constraints:
        axes, members = set(c.attribute.factors), [c]
        for group in [g for g in groups if g[0] & axes]:
            groups.remove(group)
            axes, members = axes | group[0], group[1] + members
        groups.append((axes, members))
    return [members for _, members in groups]


def _named(members: Sequence[Constraint]) -> str:
    return " and ".join(c.text for c in members)


def _contradiction(members: Sequence[Constraint]) -> InvalidInputError:
    """Name two constraints that nobody can satisfy both."""
    pair = list(members)[:2]
    for i, one in enumerate(members):
        for other in members[i + 1 :]:
            if _clash(one, other):
                pair = [one, other]
    return InvalidInputError(
        f"{_named(pair)} contradict each other: nobody in the population has both; leave one out",
        name=pair[-1].attribute.name,
    )


def _clash(one: Constraint, other: Constraint) -> bool:
    """Return whether no levels satisfy both."""
    shared = [i for i in one.attribute.factors if i in other.attribute.factors]
    return any(not (one.levels_of(i) & other.levels_of(i)).any() for i in shared)

"""Find the factors of a population in its label columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ...common.text import nearest
from ...dataset.labels.kinds import BINARY
from ...errors import InvalidInputError, UnknownNameError
from .columns import Column
from .factors import NONE, Attribute, Exclusion, Factor
from .relations import Relation, counted_together, excluded_levels, relations_of, truth_table

QUANTILES = 15


@dataclass(frozen=True)
class Structure:
    """Factors, the attributes as functions of them, and what excludes what.

    Attributes
    ----------
    codes : ndarray
        float64 ``(n, factors)``: position of each row's level, or its number; NaN where it is missing.
    excluded : tuple of Exclusion
        Levels of two factors that exclude each other.
    relations : list of Relation
        Among binary columns, for people to read.
    """

    factors: tuple[Factor, ...]
    attributes: dict[str, Attribute]
    codes: np.ndarray
    excluded: tuple[Exclusion, ...]
    relations: list[Relation]


def find_structure(
    columns: Sequence[Column], used: np.ndarray, groups: Mapping[str, Sequence[str]] | None = None
) -> Structure:
    """Return the factors of label columns.

    Each categorical or ordinal column is a factor, and each number. Binary columns that one or two of these determine
    are derived from them. Of the others, those that exclude each other form one factor, the rest one each.

    Parameters
    ----------
    used : ndarray
        Boolean ``(n,)``: the fitted rows, from which everything is found.
    groups : mapping, optional
        Names of factors, each with the binary columns that exclude each other in it, in place of those found.
    """
    fitted = [Column(c.name, c.kind, c.levels, c.values[used]) for c in columns]
    binary = [c for c in fitted if c.is_binary]
    levels = [c for c in fitted if c.levels and not c.is_binary]
    relations = relations_of(binary)
    stated = checked_groups(groups, [c.name for c in binary])
    grouped = {name for members in stated.values() for name in members}
    derived = _derived([c for c in binary if c.name not in grouped], levels)
    free = [c for c in binary if c.name not in derived and c.name not in grouped]
    found = dict(stated)
    for members in _cliques([c.name for c in free], relations):
        found[" | ".join(members)] = members
    grouped |= {name for members in found.values() for name in members}
    by_name = {c.name: c for c in columns}
    factors: list[Factor] = []
    codes: list[np.ndarray] = []
    attributes: dict[str, Attribute] = {}
    placed = {c.name: i for i, c in enumerate(levels)}
    for c in columns:
        if c.is_binary and c.name in grouped | set(derived):
            continue
        attributes[c.name] = _single(c, len(factors), used)
        placed[c.name] = len(factors)
        factors.append(_factor(c.name, (c.name,), c.levels, c.values, used))
        codes.append(c.values)
    for name, members in found.items():
        values = _group_codes([by_name[m].values for m in members])
        for j, member in enumerate(members):
            truth = np.arange(len(members) + 1) == j + 1
            attributes[member] = Attribute(member, BINARY.name, (len(factors),), truth)
        factors.append(_factor(name, members, (NONE, *members), values, used))
        codes.append(values)
    for name, (parents, truth) in derived.items():
        attributes[name] = Attribute(name, BINARY.name, tuple(placed[p] for p in parents), truth)
    table = np.stack(codes, 1) if codes else np.empty((len(used), 0))
    return Structure(
        tuple(factors),
        {c.name: attributes[c.name] for c in columns},
        table,
        _excluded(factors, table[used]),
        relations,
    )


def _single(column: Column, position: int, used: np.ndarray) -> Attribute:
    if column.is_binary:
        return Attribute(column.name, column.kind, (position,), np.array([False, True]))
    if column.levels:
        return Attribute(column.name, column.kind, (position,), levels=column.levels)
    known = column.values[used]
    return Attribute(column.name, column.kind, (position,), low=float(np.nanmin(known)), high=float(np.nanmax(known)))


def _factor(
    name: str, members: tuple[str, ...], levels: tuple[str, ...], values: np.ndarray, used: np.ndarray
) -> Factor:
    known = values[used & ~np.isnan(values)]
    if levels:
        shares = np.bincount(known.astype(int), minlength=len(levels)) / max(len(known), 1)
        return Factor(name, members, levels, shares)
    quantiles = np.quantile(known, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return Factor(name, members, (), quantiles, float(known.mean()), float(known.std()))


def _group_codes(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the level of each row in a group: its only member plus 1, 0 for none, NaN for several or unknown ones."""
    table = np.stack(members, 1)
    has = (table == 1).sum(1)
    codes = np.where(has == 1, np.argmax(table == 1, 1) + 1.0, 0.0)
    return np.where((has > 1) | ((has == 0) & np.isnan(table).any(1)), np.nan, codes)


def _derived(binary: Sequence[Column], levels: Sequence[Column]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return the binary columns that one or two others determine, with these and the truth table."""
    choices = [*((c,) for c in levels), *combinations(levels, 2)]
    found = {}
    for column in binary:
        for parents in choices:  # a single parent first
            truth = truth_table(column.values, parents, len(choices) * len(binary))
            if truth is not None:
                found[column.name] = (tuple(p.name for p in parents), truth)
                break
    return found


def _cliques(names: Sequence[str], relations: Sequence[Relation]) -> list[tuple[str, ...]]:
    """Return disjoint groups of names that all exclude each other, the largest that are found greedily first."""
    apart: dict[str, set[str]] = {name: set() for name in names}
    for relation in relations:
        if relation.kind == "excludes" and relation.first in apart and relation.second in apart:
            apart[relation.first].add(relation.second)
            apart[relation.second].add(relation.first)
    left: list[str] = list(names)
    found: list[tuple[str, ...]] = []
    while True:
        best: tuple[str, ...] = ()
        for start in left:
            group = [start]
            for other in sorted(left, key=lambda name: (-len(apart[name] & set(left)), names.index(name))):
                if other != start and all(other in apart[member] for member in group):
                    group.append(other)
            if len(group) > len(best):
                best = tuple(name for name in names if name in group)
        if len(best) < 2:
            return found
        found.append(best)
        left = [name for name in left if name not in best]


def checked_groups(groups: Mapping[str, Sequence[str]] | None, known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return groups of binary columns as tuples; `known` are the binary columns.

    Raises
    ------
    UnknownNameError, InvalidInputError
        If a group names another column, one twice, or fewer than two.
    """
    groups = {} if groups is None else groups
    taken: dict[str, str] = {}
    for group, members in groups.items():
        if len(members) < 2:
            raise InvalidInputError(f"group {group!r} has fewer than two columns; leave it out", name=group)
        for member in members:
            if member not in known:
                close = nearest(member, known)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                raise UnknownNameError(f"group {group!r}: no binary attribute {member!r}{hint}", name=member)
            if member in taken:
                raise InvalidInputError(f"{member!r} is in groups {taken[member]!r} and {group!r}", name=member)
            taken[member] = group
    return {name: tuple(members) for name, members in groups.items()}


def _excluded(factors: Sequence[Factor], codes: np.ndarray) -> tuple[Exclusion, ...]:
    pairs = [(i, j) for i, j in combinations(range(len(factors)), 2) if factors[i].levels and factors[j].levels]
    tests = sum(len(factors[i].levels) * len(factors[j].levels) for i, j in pairs)
    found = []
    for i, j in pairs:
        sizes = len(factors[i].levels), len(factors[j].levels)
        excluded = excluded_levels(counted_together(codes[:, i], codes[:, j], sizes), tests)
        if excluded.any():
            found.append(Exclusion(i, j, excluded))
    return tuple(found)

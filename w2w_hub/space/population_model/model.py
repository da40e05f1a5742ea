"""PopulationModel: the coefficients of a population as a function of its attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...common.constraints import number, optional, validated, whole
from ...common.display import Displayed, listed
from ...common.equality import ByValue
from ..population import as_coefficients
from .factors import Attribute, Exclusion, Factor
from .joint import Joint, holds
from .kernel import Belief, Kernel, Similarities, belief_of
from .readers import Readers, read_codes
from .setting import Setter

BLOCK = 256  # rows of weights that are widened at once
TRIES, MOST_TRIES = 64, 100_000  # draws of people per sample with wanted attributes


@dataclass(frozen=True, eq=False, repr=False)
class PopulationModel(ByValue, Displayed):
    """The mean coefficients of people with given attributes, f, and how people vary around it.

    Attributes
    ----------
    factors : tuple of Factor
        Independent variables, found from the label columns.
    attributes : dict of str to Attribute
        Columns that can be set, as functions of the factors.
    excluded : tuple of Exclusion
        Pairs of levels of two factors that do not occur together.
    strength : float
        Default multiple of ``f(new) - f(own)`` in a step that sets attributes. f varies less than people do; this is
        the ratio of the two standard deviations, measured on people who were left out of the fit.
    evidence : dict
        Variance of held-out rows that f explains, beside an additive model's and that under permuted labels; the
        relations between attributes that were found; columns that are no attributes, each with the reason.
    mean : ndarray
        float64 ``(k,)`` of the fitted rows.
    codes, counts : ndarray
        ``(m, factors)`` and ``(m,)``: configurations of factors, and how often each occurs.
    weights : ndarray
        float32 ``(m, k)``: f is `mean` plus the kernel with the configurations times these.
    rhos : ndarray
        float64 ``(factors,)``: similarity, 0 to 1, of two people who differ in that factor only, see :class:`.Kernel`.
    noise : float
        Penalty of the regression.
    reading, intercepts : ndarray
        Linear readers of the factors.
    residual : ndarray
        float32 ``(r, k)``: the residual's covariance is ``residual.T @ residual`` plus the diagonal ``rest ** 2``.
    rest : ndarray
        float32 ``(k,)``.
    gain : float
        Factor of f about the mean in samples.
    """

    factors: tuple[Factor, ...]
    attributes: dict[str, Attribute]
    excluded: tuple[Exclusion, ...]
    mean: np.ndarray
    codes: np.ndarray = field(compare=False)  # by __eq__: NaN marks what is not known
    counts: np.ndarray
    weights: np.ndarray
    rhos: np.ndarray
    noise: float
    reading: np.ndarray
    intercepts: np.ndarray
    residual: np.ndarray
    rest: np.ndarray
    strength: float
    gain: float
    evidence: dict[str, Any] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        if same is not True:
            return same
        assert isinstance(other, PopulationModel)
        return np.array_equal(self.codes, other.codes, equal_nan=True)

    __hash__ = ByValue.__hash__

    def _facts(self) -> Mapping[str, object]:
        return {
            "factors": listed(f.name for f in self.factors), "attributes": len(self.attributes), "k": self.k,
            "configurations": len(self.codes), "strength": self.strength,
        }  # fmt: skip

    @property
    def k(self) -> int:
        """Number of components."""
        return len(self.mean)

    @cached_property
    def _similarities(self) -> Similarities:
        return Similarities(Kernel(self.factors, self.rhos), self.codes)

    @cached_property
    def _setter(self) -> Setter:
        return Setter(self.factors, self.attributes, self.excluded, self.codes, self.counts)

    @cached_property
    def _joint(self) -> Joint:
        return Joint(self.factors, self.excluded, self.codes, self.counts)

    def _own(self, c: np.ndarray) -> np.ndarray:
        scores = Readers(self.reading, self.intercepts).scores(as_coefficients(c, self.k)[None])
        codes = read_codes(self.factors, scores)[0]
        for attribute in self.attributes.values():
            if attribute.is_number:
                place = list(attribute.factors)
                codes[place] = np.clip(codes[place], attribute.low, attribute.high)
        return np.asarray(codes)

    def read(self, c: np.ndarray) -> dict[str, Any]:
        """Return a person's own attributes, read from coefficients ``(<= k,)``: bools, levels and numbers."""
        return self._setter.values(belief_of(self._own(c)))

    def mean_of(self, attributes: Mapping[str, Any]) -> np.ndarray:
        """Return the mean coefficients of people with these attributes, float64 ``(k,)``.

        Attributes that are not given are as in the population.

        Raises
        ------
        UnknownNameError, InvalidInputError
        """
        return self._mean(self._setter.plan(attributes))

    def implied(self, c: np.ndarray, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return all attributes of a person once some are set: these, and what they exclude or imply.

        Raises
        ------
        UnknownNameError
            For an attribute or level that does not exist; suggests the nearest.
        InvalidInputError
            If the wanted attributes contradict each other.
        """
        return self._setter.values(self._setter.plan(wanted, self._own(c)))

    @validated(strength=optional(number()))
    def step(self, c: np.ndarray, wanted: Mapping[str, Any], strength: float | None = None) -> np.ndarray:
        """Return the step that sets attributes: strength times (f(new) - f(own)), float64 ``(k,)``.

        Parameters
        ----------
        strength : float, optional
            By default :attr:`strength`, by which the attributes typically show.
        """
        own = self._own(c)
        difference = self._similar(self._setter.plan(wanted, own)) - self._similar(belief_of(own))
        amount = self.strength if strength is None else strength
        return amount * self._combined(difference)

    @validated(count=whole(1, 2**31 - 1), seed=whole(0), truncation=number(0))
    def sample(
        self, count: int = 1, seed: int = 0, *, attributes: Mapping[str, Any] | None = None, truncation: float = 1.0
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Draw people: attributes as they occur together, then the mean of people with these, then a residual.

        Parameters
        ----------
        attributes : mapping, optional
            Attributes that all samples have.
        truncation : float
            Factor of the residual's standard deviations.

        Returns
        -------
        coefficients : ndarray
            float64 ``(count, k)``.
        attributes : list of dict
            Of each sample.
        """
        rng = np.random.default_rng(seed)
        beliefs = self._drawn(count, rng, {} if attributes is None else attributes)
        means = np.stack([self._mean(belief) for belief in beliefs])
        found = self.mean + self.gain * (means - self.mean)
        shared = rng.standard_normal((count, len(self.residual))) @ self.residual.astype(np.float64)
        own = rng.standard_normal((count, self.k)) * self.rest
        return found + truncation * (shared + own), [self._setter.values(belief) for belief in beliefs]

    def _combined(self, amounts: np.ndarray) -> np.ndarray:
        """Return amounts ``(m,)`` times the weights, in float64 without a copy of them all: large terms cancel."""
        blocks = range(0, len(amounts), BLOCK)
        parts = [amounts[start : start + BLOCK] @ self.weights[start : start + BLOCK].astype(float) for start in blocks]
        return np.asarray(sum(parts))

    def _drawn(self, count: int, rng: np.random.Generator, wanted: Mapping[str, Any]) -> list[Belief]:
        constraints = self._setter.constraints(wanted)
        if not constraints:
            return [belief_of(codes) for codes in self._joint.draw(count, rng)]
        self._setter.plan(wanted)  # raises for a contradiction
        # people who have the wanted attributes by chance have the others that go with them
        tables = [(c.attribute.factors, c.allowed) for c in constraints if c.allowed is not None]
        pool = self._joint.draw(min(TRIES * count, MOST_TRIES) + count, rng)
        fits = pool[holds(tables, pool)]
        chosen = fits[:count] if len(fits) >= count else pool[:count]
        if len(fits) >= count and len(tables) == len(constraints):
            return [belief_of(codes) for codes in chosen]
        plans = [self._setter.plan(wanted, codes) for codes in chosen]
        return [belief_of(_one_of(plan, len(self.factors), rng)) for plan in plans]

    def _similar(self, belief: Belief) -> np.ndarray:
        return self._similarities.of(belief)

    def _mean(self, belief: Belief) -> np.ndarray:
        return np.asarray(self.mean + self._combined(self._similar(belief)))


def _one_of(belief: Belief, count: int, rng: np.random.Generator) -> np.ndarray:
    codes = np.empty(count)
    for part in belief:
        codes[list(part.factors)] = part.values[rng.choice(len(part.weights), p=part.weights)]
    return codes


def means_of(model: PopulationModel, codes: np.ndarray) -> np.ndarray:
    """Return f of codes ``(n, factors)``, about the population's mean: float64 ``(n, k)``."""
    return np.asarray(Kernel(model.factors, model.rhos).matrix(codes, model.codes) @ model.weights)

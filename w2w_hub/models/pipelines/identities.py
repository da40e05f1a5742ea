"""IdentityMixin: the identity that a pipeline generates, and how it is sampled, edited and interpolated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from ...common.arguments import DATASET
from ...common.constraints import as_list, either, names, optional, text, validated
from ...common.deprecated import renamed_keywords
from ...common.warn import warn_caller
from ...errors import InvalidInputError
from ...space import Point, WeightSpace
from ...space.edits import TYPICAL
from ...space.identity import Identity, edited, resolve, resolve_several
from .attached import AttachedSpace
from .drawing import Identities
from .handover import notice_identity

if TYPE_CHECKING:
    from ...dataset import WeightDataset


class IdentityMixin(AttachedSpace):
    """The part of :class:`W2WMixin` that sets and changes identities."""

    @property
    def identity(self) -> Any:
        """The identity to generate: None (the unchanged base model), one, or a tuple with one per prompt.

        Set it to coefficients, a :class:`Point`, a row's id, an adapter, its path or its weights, the path of a saved
        point, an :class:`Inversion`, or a list of these for one batched call, in which None is the base model. If set
        during a call, it applies from the next one.

        A row's id is the row's point in the space: what the principal components do not explain of its weights is
        left out, and ``pipe.identity.explained_ratio`` says how much is kept. The row's own LoRA is
        ``people["person-0001"]``, read from its dataset.

        Examples
        --------
        >>> pipe.identity = "person-0001"                      # its point in the space      # doctest: +SKIP
        >>> pipe.identity = people["person-0001"]              # its own LoRA                # doctest: +SKIP
        >>> pipe.identity = pipe.invert(picture)               # the person in a picture     # doctest: +SKIP
        >>> pipe.identity = "bearded.json"                     # what save_identity wrote    # doctest: +SKIP
        """
        return self._identity

    @identity.setter
    def identity(self, what: Any) -> None:
        if what is not None:
            notice_identity(self)
        self._identity = None if what is None else self._resolved(what)

    def _resolved(self, what: Any) -> Identity | Identities:
        """Return one identity, or a tuple of several, in which None is the base model."""
        if not is_several_identities(what):
            return self.resolve(what)
        if not len(what):
            raise InvalidInputError("pipe.identity cannot be an empty list; use None for the base model")
        return resolve_several(self.space, what)

    @validated(dataset=optional(DATASET))
    def resolve(self, what: Any, dataset: WeightDataset | None = None) -> Identity:
        """Return the :class:`Identity` of anything that :attr:`identity` accepts as one.

        Parameters
        ----------
        dataset : WeightDataset, optional
            Read a row's id as the row's own LoRA in this dataset, instead of its point in the space.
        """
        return resolve(self.space, what, dataset)

    def sample_identity(
        self,
        seed: int = 0,
        truncation: float = 1.0,
        *,
        attributes: Mapping[str, Any] | None = None,
        method: str | None = None,
    ) -> Point:
        """Sample a new identity, set it and return its point; its `history` names the nearest fitted row.

        Parameters
        ----------
        truncation, attributes, method
            See :meth:`WeightSpace.sample`.

        Examples
        --------
        >>> pipe.sample_identity(seed=0, attributes={"Bald": True})   # doctest: +SKIP
        """
        point = self.space.sample(1, seed, truncation, attributes=attributes, method=method)[0]
        self.identity = point
        return point

    @validated(preserve=either(text(), names()))
    def edit(
        self,
        strengths: Mapping[str, float] | None = None,
        *,
        set: Mapping[str, Any] | None = None,
        strength: float | str = TYPICAL,
        unit: str = "sd",
        layers: str | Iterable[str] | None = None,
        preserve: Iterable[str] = (),
        start: float = 0.0,
    ) -> Identity | tuple[Identity, ...]:
        """Edit the current identity, or each of several: set attributes, push along directions, or both; return it.

        ``pipe.edit(set={"Beard": True, "hair_color": "RED"})`` sets attributes: the person's own are read from the
        weights, what the population changes with the wanted ones is added, and the rest of the person stays.
        ``pipe.edit({"Beard": 2.0, "Young": -1})`` pushes everybody by the same step, in standard deviations of the
        population.

        Parameters
        ----------
        strengths, set, strength, unit
            See :meth:`WeightSpace.edit`.
        layers : str or iterable of str, optional
            Limit the edit to these layers, ``"mid"`` or ``["down", "up.1"]``, or to the modules that a shell pattern
            such as ``"*.attn2.*"`` selects; the weights of all others stay as they are.
        preserve : iterable of str
            Attributes whose scores the edit does not change, see :meth:`WeightSpace.edit`.
        start : float
            Fraction of the denoising schedule that still uses the unedited identity: 0.3 to 0.7 keeps the
            composition and changes what the later steps add.

        Raises
        ------
        UnknownNameError, InvalidInputError
            See :meth:`WeightSpace.edit`; the identity stays what it was.

        Warns
        -----
        UserWarning
            If the edit is farther from the population's mean than every fitted row.
        """
        before = self._required_identity("edit")
        people = before if isinstance(before, tuple) else (before,)
        after = tuple(
            edited(
                self.space, person, strengths, set=set, strength=strength, unit=unit, layers=layers, start=start,
                preserve=preserve,
            )
            for person in people
        )  # fmt: skip
        warn_if_far(self.space, (identity.point for identity in after))
        self._identity = after if isinstance(before, tuple) else after[0]
        return self._identity

    @renamed_keywords(shares="weights")
    def interpolate(self, identities: Sequence[Any], weights: Sequence[float]) -> Point:
        """Set and return the weighted mean of several identities' points; the weights are normalized."""
        points = [self.resolve(i).point for i in as_list(identities, "identities")]
        point = self.space.interpolate(points, weights)
        self.identity = point
        return point

    def _required_identity(
        self, need: str, given: Identity | Identities | None = None
    ) -> Identity | tuple[Identity, ...]:
        """Return the given identities, or else the current ones, none of which may be the base model."""
        chosen = self._identity if given is None else given
        if chosen is None:
            raise InvalidInputError(f"{need} needs an identity; set pipe.identity or call sample_identity first")
        if isinstance(chosen, Identity):
            return chosen
        people = tuple(identity for identity in chosen if identity is not None)
        if len(people) < len(chosen):
            raise InvalidInputError(f"{need} takes no base model; remove None from the identities")
        return people


def warn_if_far(space: WeightSpace, points: Iterable[Point]) -> None:
    """Warn if a point is farther from the population's mean than every fitted row, with both distances."""
    farthest, known = max(space.distance(point) for point in points), space.largest_distance
    if known is not None and farthest > known:
        warn_caller(
            f"this edit leaves the population: {farthest:.2f} standard deviations from its mean (Mahalanobis, root "
            f"mean square), the farthest fitted row has {known:.2f}; use a smaller strength"
        )


def is_several_identities(what: Any) -> bool:
    """Return whether a value is several identities: a list of anything but numbers, or a matrix of coefficients."""
    if isinstance(what, (list, tuple)):
        return not all(isinstance(item, Real) for item in what) or not what
    return getattr(what, "ndim", 1) == 2

"""PointOperations: what a weight space does with points, and the directions that it does it with."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from ..common.arguments import checked
from ..common.constraints import as_array, flag, instance, number, one_of, optional, text, validated, whole
from ..common.deprecated import renamed_keywords
from ..common.display import percent
from ..common.text import counted
from ..common.warn import warn_caller
from ..errors import InvalidInputError, UnknownNameError
from ..lora.adapter import Adapter
from .contents import SpaceContents
from .directions.direction import Direction
from .directions.entanglement import Entanglement, entanglement
from .directions.targets import COMPONENT_NAME
from .edits import TYPICAL, Edit, finder
from .lookup import PointLike, find
from .points import Point
from .population import COVARIANCES
from .sampling import METHODS, Request, draw


class PointOperations(SpaceContents):
    """The part of :class:`WeightSpace` that projects, decodes, samples, reads and edits."""

    # ------------------------------------------------------------ coordinates
    def project(self, what: Adapter | np.ndarray, k: int | None = None) -> np.ndarray:
        """Return coefficients, float32: ``(k,)`` of an adapter or vector, ``(n, k)`` of a matrix ``(n, d)``."""
        return self.coordinates.project(what, k)

    def decode(self, coefficients: PointLike, k: int | None = None) -> np.ndarray:
        """Decode a point, or coefficients ``(k,)`` or ``(n, k)``, to adapter vectors, float32 ``(d,)`` or ``(n, d)``.

        Parameters
        ----------
        k : int, optional
            Use only the first k coefficients.
        """
        return self.coordinates.decode(self.coefficients_of(coefficients, several=True), k)

    def adapter(self, point: PointLike) -> Adapter:
        """Return a point as a LoRA."""
        vector = self.decode(self.coefficients_of(point))
        return self.layout.unflatten(vector, base_model=self.compatibility.base_model)

    @validated(several=flag())
    def coefficients_of(self, what: PointLike, *, several: bool = False) -> np.ndarray:
        """Return the coefficients of a point, float64 ``(<= k,)``; with `several` also a matrix ``(n, <= k)``.

        Raises
        ------
        LayoutMismatchError
            For a point or adapter of another space.
        UnknownNameError, InvalidInputError
        """
        found, _ = self._find(what, several)
        return found.coefficients.astype(np.float64) if isinstance(found, Point) else found

    def _find(self, what: Any, several: bool = False) -> tuple[Point | np.ndarray, np.ndarray | None]:
        try:
            return find(self, what, several=several)
        except UnknownNameError:
            if isinstance(what, str) and "/" not in what:
                self.require_population(f"row {what!r}")
            raise

    # ------------------------------------------------------------ population
    def mean_point(self) -> Point:
        """Return the mean of the fitted rows."""
        return self.point(self.spread.mean, made="mean")

    @validated(
        count=whole(1, 2**31 - 1), seed=whole(0), truncation=number(0), method=optional(one_of(*METHODS)),
        attributes=optional(instance(Mapping, "a mapping like {'Beard': True}")),
        covariance=optional(one_of(*COVARIANCES)),
    )  # fmt: skip
    def sample(
        self,
        count: int = 1,
        seed: int = 0,
        truncation: float = 1.0,
        *,
        method: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        covariance: str | None = None,
    ) -> list[Point]:
        """Draw new identities; the history of each names its nearest fitted row.

        Parameters
        ----------
        truncation : float
            Factor of the distance from the mean, or from the mean of people with `attributes`: below 1, samples are
            closer to it.
        method : {"population", "neighbors", "gaussian"}, optional
            ``"population"``, the default where there is a :attr:`population_model`, draws attributes as they occur
            together, then the mean of people who have them, then a residual: people who look the same under every
            prompt. ``"neighbors"``, the default without labels, draws a fitted row, takes the mean of its nearest
            others, and adds a residual: people hold together less well than with labels, better than Gaussian ones.
            ``"gaussian"`` draws coefficients around the mean of the fitted rows, as in the paper; the default where
            a space has neither.
        attributes : mapping, optional
            Attributes that all samples have: ``{"Bald": True, "hair_color": "RED"}``.
        covariance : {"independent", "full"}, optional
            Of Gaussian coefficients: each component independently, as in the paper (the default), or all with their
            covariance, which needs a population.

        Raises
        ------
        UnknownNameError, InvalidInputError
            For attributes that do not exist or contradict each other, or a space without a population model.

        Examples
        --------
        >>> space.sample(8, seed=0, attributes={"Bald": True})   # doctest: +SKIP
        """
        made = {"made": "sample", "seed": seed, "truncation": truncation}
        drawn, records = draw(self, Request(count, seed, truncation, attributes, covariance), method)
        return [
            self.point(c, index=i, **made, **record) for i, (c, record) in enumerate(zip(drawn, records, strict=True))
        ]

    def nearest(self, point: PointLike, count: int = 1) -> list[tuple[str, float]]:
        """Return (row id, cosine) of the fitted rows that are most similar to a point, by cosine of coefficients.

        A row that is named by its id is not among them; for its point, ``space.row(row_id)``, it is the first.
        """
        population = self.require_population("nearest row")
        itself = point if isinstance(point, str) and point in population else None
        found = population.nearest(self.coefficients_of(point), count if itself is None else count + 1)
        return [(name, cosine) for name, cosine in found if name != itself][:count]

    def distance(self, point: PointLike) -> float:
        """Return the root mean square of a point's standardized coefficients: 1 is typical of the population."""
        return self.spread.distance(self.coefficients_of(point))

    @property
    def largest_distance(self) -> float | None:
        """Distance of the fitted row that is farthest from the mean; None without a population."""
        return None if self.population is None else self.population.largest_distance

    def mahalanobis(self, point: PointLike) -> float:
        """Return the Mahalanobis distance of a point, see :meth:`Population.mahalanobis`."""
        return self.require_population("covariance").mahalanobis(self.coefficients_of(point))

    # ------------------------------------------------------------ directions
    def direction(self, name: str) -> Direction:
        """Return an attribute's direction, or for ``PC1`` to ``PCk`` a principal component as a slider."""
        return finder(self)(name)

    @validated(name=text(), direction=instance(Direction, "a Direction, as fit_directions and fit_slider return it"))
    def with_direction(self, name: str, direction: Direction) -> Self:
        """Return the same space with one more direction, for instance a slider.

        Raises
        ------
        InvalidInputError
            If there is a direction of that name, the name is empty or that of a principal component, or the direction
            is of another space.
        """
        self.require_new_direction(name)
        if len(direction.editing) != self.k:
            raise InvalidInputError(
                f"the direction has {len(direction.editing)} coefficients, this weight space {self.k}", name=name
            )
        return replace(self, directions={**self.directions, name: direction})

    @validated(name=text())
    def require_new_direction(self, name: str) -> None:
        """Raise `InvalidInputError` unless a direction may be added under this name."""
        if not name.strip() or not name.isprintable() or COMPONENT_NAME.fullmatch(name):
            raise InvalidInputError(f"{name!r} cannot be the name of a direction; choose another", name=name)
        if name in self.directions:
            raise InvalidInputError(f"there is a direction {name!r} already; choose another name", name=name)

    def edit(
        self,
        point: PointLike,
        strengths: Mapping[str, float] | None = None,
        *,
        set: Mapping[str, Any] | None = None,
        strength: float | str = TYPICAL,
        unit: str = "sd",
        layers: str | Iterable[str] | None = None,
        preserve: Iterable[str] = (),
    ) -> Point:
        """Move a point: push it along editing directions, set attributes, or both.

        A push adds the same step to everybody. A set reads the point's own attributes from its coefficients, and adds
        the difference between the population's mean with the wanted attributes and with its own; attributes that
        exclude a wanted one change with it. What attributes do not explain stays.

        Parameters
        ----------
        strengths : mapping of str to float, optional
            Pushes, in standard deviations of the population along each direction.
        set : mapping of str to value, optional
            Values by attribute: True or False, a level of a categorical one, or a number. See
            :attr:`population_model` for what can be set.
        strength : float or "typical"
            Factor of what is added by a set, 0 to 10; by default the one that the population model was calibrated to.
        unit : {"sd", "typical"}
            Unit of pushes; ``"typical"`` is the strength that each direction recommends, :attr:`Direction.typical`.
        layers : str or iterable of str, optional
            Limit the edit to these layers: ``"mid"``, ``"up.1"``, ``["down", "attn2"]``, or shell patterns of module
            paths. Such a step leaves the space; the point holds its projection, which changes the other layers, too.
            To keep all of it use :meth:`W2WPipeline.edit` or :func:`w2w_hub.space.identity.edited`.
        preserve : iterable of str
            Attributes whose score the whole edit leaves as it is, beyond what each direction already controls for.

        Raises
        ------
        UnknownNameError
            For an attribute, level or layer that does not exist; suggests the nearest.
        InvalidInputError
            For attributes that contradict each other, a strength at which only noise is drawn, or a set in a space
            without a population model.

        Warns
        -----
        UserWarning
            For a layer-wise edit, with the share of it that the point keeps.

        Examples
        --------
        >>> space.edit("person-0010", {"Full_Beard": 4.5})                                # doctest: +SKIP
        >>> space.edit("person-0010", set={"Full_Beard": True, "hair_color": "RED"})      # doctest: +SKIP
        """
        edit = Edit.checked(strengths, preserve, wanted=set, strength=strength, unit=unit, layers=layers)
        before, _ = self._find(point)
        kept = before.explained_ratio if isinstance(before, Point) else None
        history = before.history if isinstance(before, Point) else {}
        moved = edit.moved(self, self.coefficients_of(before))
        if moved.layer_wise:
            warn_caller(
                f"a point keeps {percent(moved.share_inside(self.coordinates.std))} of this edit of "
                f"{', '.join(moved.done['layers'])}, and changes other layers, too; pipe.edit keeps all of it"
            )
        return self.point_with(moved.after, edit.recorded(history, moved), kept)

    def read(self, point: PointLike, name: str) -> float:
        """Return what a reading direction predicts for a point: a probability, or the value of a numeric attribute."""
        return self.direction(name).read(self.coefficients_of(point))

    def read_all(self, what: PointLike) -> dict[str, float]:
        """Return what each direction reads from a point, an adapter, weights ``(d,)`` or coefficients ``(k,)``."""
        c = self.coefficients_of(what)
        return {name: direction.read(c) for name, direction in self.directions.items()}

    @renamed_keywords(shares="weights")
    @checked()
    def interpolate(self, points: Sequence[PointLike], weights: Sequence[float]) -> Point:
        """Return the weighted mean of points; those with fewer coefficients are padded with zeros.

        Raises
        ------
        InvalidInputError
            If there are not as many weights as points, or they are not finite numbers or sum to 0.
        """
        if isinstance(points, (str, Point)) or not isinstance(points, Iterable):
            raise InvalidInputError(f"interpolate takes a list of points, not {reprlib.repr(points)}")
        amounts = as_array(weights, "weights").astype(np.float64)
        values = [self.coefficients_of(p) for p in points]
        total = amounts.sum()
        if amounts.shape != (len(values),) or not len(values) or not np.isfinite(total) or total == 0:
            raise InvalidInputError(
                f"{counted(len(values), 'point needs', 'points need')} as many finite weights that do not "
                f"sum to 0, got {reprlib.repr(weights)}"
            )
        longest = max(map(len, values))
        padded = np.stack([np.pad(c, (0, longest - len(c))) for c in values])
        return self.point(amounts / total @ padded, made="interpolation")

    def entanglement(self) -> Entanglement:
        """Return the side effects of attributes on each other, see :class:`Entanglement`."""
        return entanglement(self.directions, self.require_population("entanglement"))

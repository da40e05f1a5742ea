"""WeightSpace: coordinates and the population in them, with directions, name, version and recipe."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import checked, place
from ..common.constraints import as_array, flag, number, one_of, validated, whole
from ..common.deprecated import renamed_keywords, warn_renamed
from ..errors import InvalidInputError, LayoutMismatchError, MissingPopulationError
from ..lora.adapter import Adapter
from ..store.hub.verify import verify_source
from .contents import SpaceContents
from .directions.direction import Direction
from .directions.entanglement import Entanglement, entanglement
from .edits import Edit, find_direction
from .integrity import check_space
from .old_fields import accepts_flat_fields
from .points import Point
from .population import COVARIANCES, Population, as_coefficients
from .storage import open_contents, save_space

if TYPE_CHECKING:
    from ..store.hub.source import ResolvedRevision

FARTHEST = 100.0  # see Spread.reach; an edit of 100 standard deviations reaches at most this


class WeightSpace(SpaceContents):
    """A linear space of adapters; two are equal if their coordinates, populations, directions and metadata are.

    Every `point` parameter accepts a :class:`Point`, coefficients ``(<= k,)`` or the id of a row. Less common
    operations, such as :meth:`Coordinates.explained` and :meth:`Population.reconstruction_error`, are methods of
    :attr:`coordinates` and :attr:`population`.

    Attributes
    ----------
    coordinates : Coordinates
        Mean, standard deviation and principal components.
    population : Population or None
        Ids and coefficients of the rows; None in a space that was published without them.
    directions : dict of str to Direction
    recipe : dict
        How it was built; includes the dataset's digest.
    path : Path or None
        The folder that it was opened from, or built into.
    """

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        rows = "no population" if self.population is None else f"{len(self.population):,} rows"
        return (
            f"WeightSpace({self.name} {self.version}: k {self.k:,} of {self.layout.size:,} parameters, "
            f"{rows}, {len(self.directions)} directions, {self.digest[:12]})"
        )

    # ------------------------------------------------------------ opening, saving, verifying
    @classmethod
    @checked(path=place())
    def from_pretrained(
        cls,
        path: Path | str,
        k: int | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
    ) -> WeightSpace:
        """Open a folder, a Hub repository (``org/name``) at a revision, or what a lock file pins.

        Parameters
        ----------
        k : int, optional
            Components to load: fewer files are fetched. The digest stays that of the whole space, so that points fit.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
        """
        found = open_contents(
            path, k, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(**{f.name: getattr(found, f.name) for f in fields(found)})

    @property
    def revision(self) -> ResolvedRevision | None:
        """The repository and commit that it was opened from; None for a folder or a space in memory."""
        return None if self.source is None else self.source.revision

    @checked()
    def save(self, path: Path | str, *, base: Path | str | None = None, overwrite: bool = False) -> Path:
        """Write a folder and return its path; the space itself does not change.

        Parameters
        ----------
        base : path, optional
            A diffusers folder to embed, so that the space opens offline.
        overwrite : bool
            Replace an existing weight space, if its folder holds nothing else.

        Raises
        ------
        BaseModelMismatchError
            If the target modules of `base` are not those that the adapters were trained on.
        AlreadyExistsError, MissingPathError, DiskError
        """
        return save_space(self, path, base, overwrite=overwrite)

    def without_population(self) -> WeightSpace:
        """Return the same space without ids and coefficients of rows, to publish a basis without people's data.

        Coordinates, directions and the mean and standard deviation of the coefficients stay, so that it still
        projects, decodes, samples and edits. It is saved as format version 2, which w2w_hub 0.1.0 does not read.
        """
        return replace(self, population=None, stored_spread=self.spread, path=None, source=None)

    @checked()
    def verify(self, *, deep: bool = True) -> None:
        """Raise one `CorruptFileError` that names every file that differs from what was published.

        See :func:`w2w_hub.space.integrity.check_space`. Changes in memory are not checked.

        Parameters
        ----------
        deep : bool
            Hash all files, including those of an embedded base model.

        Raises
        ------
        CorruptFileError
        InvalidInputError
            If the space is in memory only.
        """
        if self.source is not None:
            report = verify_source(self.source, check_space, deep=deep)
        elif self.path is not None:
            report = check_space(self.path, deep=deep)
        else:
            raise InvalidInputError(f"weight space {self.name!r} is in memory only; save it and verify the saved one")
        report.raise_if_any()
        for note in report.notes:
            warnings.warn(note, stacklevel=2)

    # ------------------------------------------------------------ coordinates
    def project(self, what: Adapter | np.ndarray, k: int | None = None) -> np.ndarray:
        """Return coefficients, float32: ``(k,)`` of an adapter or vector, ``(n, k)`` of a matrix ``(n, d)``."""
        return self.coordinates.project(what, k)

    def decode(self, coefficients: np.ndarray | Point | str, k: int | None = None) -> np.ndarray:
        """Decode a point, or coefficients ``(k,)`` or ``(n, k)``, to adapter vectors, float32 ``(d,)`` or ``(n, d)``.

        Parameters
        ----------
        k : int, optional
            Use only the first k coefficients.
        """
        given = self.coefficients_of(coefficients) if isinstance(coefficients, (Point, str)) else coefficients
        return self.coordinates.decode(given, k)

    def adapter(self, point: np.ndarray | Point | str) -> Adapter:
        """Return a point as a LoRA."""
        vector = self.decode(self.coefficients_of(point))
        return self.layout.unflatten(vector, base_model=self.compatibility.base_model)

    def point(self, coefficients: np.ndarray, **history: Any) -> Point:
        """Return coefficients ``(<= k,)`` as a point of this space, with a record of how they were made."""
        if self.revision is not None:
            history = {"space": str(self.revision), **history}
        point = Point(coefficients, self.digest, history)
        self.coordinates.require_k(len(point.coefficients))
        self._require_near(np.atleast_2d(point.coefficients).astype(np.float64))
        return point

    def _require_near(self, rows: np.ndarray) -> None:
        """Raise `InvalidInputError` for coefficients ``(n, <= k)`` of which only noise would be drawn."""
        reach = self.spread.reach(rows)
        if not reach <= FARTHEST:
            raise InvalidInputError(
                f"a point is {reach:.3g} times as far from the mean as the population is wide; beyond {FARTHEST:g} "
                "only noise is drawn; use smaller strengths, weights or coefficients"
            )

    @validated(several=flag())
    def coefficients_of(self, what: np.ndarray | Point | str, *, several: bool = False) -> np.ndarray:
        """Return the coefficients of a point, float64 ``(<= k,)``; with `several` also a matrix ``(n, <= k)``.

        Raises
        ------
        LayoutMismatchError
            For a point of another space.
        UnknownNameError, InvalidInputError
        """
        if isinstance(what, str):
            what = self.row(what)
        if isinstance(what, Point):
            if what.basis_digest != self.digest:
                raise LayoutMismatchError(
                    f"this point belongs to the weight space {what.basis_digest[:12]}, not to {self.digest[:12]}; "
                    "export it to an adapter and project that"
                )
            what = what.coefficients
        found = as_coefficients(what, self.k, several=several)
        self._require_near(np.atleast_2d(found))
        return found

    # ------------------------------------------------------------ population
    def require_population(self, need: str) -> Population:
        """Return the population; without one, raise an error that names the `need`.

        Raises
        ------
        MissingPopulationError
        """
        if self.population is None:
            raise MissingPopulationError(
                f"weight space {self.name!r} has no {need}: it comes without its population, the ids and coefficients "
                "of the dataset's rows"
            )
        return self.population

    @checked()
    def row(self, row_id: str) -> Point:
        """Return the point of a known row."""
        return self.point(self.require_population(f"row {row_id!r}").row(row_id), row=row_id)

    def mean_point(self) -> Point:
        """Return the mean of the fitted rows."""
        return self.point(self.spread.mean, made="mean")

    @validated(count=whole(1, 2**31 - 1), seed=whole(0), truncation=number(0), covariance=one_of(*COVARIANCES))
    def sample(
        self, count: int = 1, seed: int = 0, truncation: float = 1.0, *, covariance: str = "independent"
    ) -> list[Point]:
        """Draw new identities: Gaussian coefficients with the mean and spread of the fitted rows.

        Parameters
        ----------
        truncation : float
            Factor of the standard deviations: below 1, samples are closer to the mean.
        covariance : {"independent", "full"}
            Each component independently, as in the paper, or all with their covariance, which needs a population.
        """
        made: dict[str, Any] = {"made": "sample", "seed": seed, "truncation": truncation}
        if covariance == "independent":
            drawn = self.spread.sample(count, seed, truncation)
        else:
            made["covariance"] = covariance
            drawn = self.require_population("covariance").sample(count, seed, truncation, covariance=covariance)
        return [self.point(c, index=i, **made) for i, c in enumerate(drawn)]

    def nearest(self, point: np.ndarray | Point | str, count: int = 1) -> list[tuple[str, float]]:
        """Return (row id, cosine) of the fitted rows that are most similar to a point, by cosine of coefficients."""
        return self.require_population("nearest row").nearest(self.coefficients_of(point), count)

    def distance(self, point: np.ndarray | Point | str) -> float:
        """Return the root mean square of a point's standardized coefficients: 1 is typical of the population."""
        return self.spread.distance(self.coefficients_of(point))

    @property
    def largest_distance(self) -> float | None:
        """Distance of the fitted row that is farthest from the mean; None without a population."""
        return None if self.population is None else self.population.largest_distance

    def mahalanobis(self, point: np.ndarray | Point | str) -> float:
        """Return the Mahalanobis distance of a point, see :meth:`Population.mahalanobis`."""
        return self.require_population("covariance").mahalanobis(self.coefficients_of(point))

    # ------------------------------------------------------------ directions
    def direction(self, name: str) -> Direction:
        """Return an attribute's direction, or for ``PC1`` to ``PCk`` a principal component as a slider."""
        return find_direction(name, self.directions, self.spread, self.diagnostics.get("no_direction", {}))

    def edit(
        self, point: np.ndarray | Point | str, strengths: Mapping[str, float], *, preserve: Iterable[str] = ()
    ) -> Point:
        """Move a point along editing directions; strength is in standard deviations of the population along each.

        Parameters
        ----------
        preserve : iterable of str
            Attributes whose score the whole edit leaves as it is, beyond what each direction already controls for.

        Examples
        --------
        >>> space.edit(space.row("person-0001"), {"Beard": 2.0, "Eyeglasses": -1.0})   # doctest: +SKIP
        """
        edit = Edit.checked(strengths, preserve)
        moved = edit.apply(self.coefficients_of(point), self.direction, self.spread.std)
        history = point.history if isinstance(point, Point) else {"row": point} if isinstance(point, str) else {}
        return self.point(moved, **edit.recorded(history))

    def read(self, point: np.ndarray | Point | str, name: str) -> float:
        """Return what a reading direction predicts for a point: a probability, or the value of a numeric attribute."""
        return self.direction(name).read(self.coefficients_of(point))

    def read_all(self, what: Adapter | np.ndarray | Point) -> dict[str, float]:
        """Return what each direction reads from an adapter, a vector ``(d,)``, a point or coefficients ``(k,)``."""
        if not isinstance(what, (Adapter, Point, str)):
            what = as_array(what, "coefficients or weights")
        if isinstance(what, Adapter) or (isinstance(what, np.ndarray) and what.shape == (self.layout.size,)):
            what = self.project(what)
        c = self.coefficients_of(what)
        return {name: direction.read(c) for name, direction in self.directions.items()}

    @renamed_keywords(shares="weights")
    @checked()
    def interpolate(self, points: Sequence[Point], weights: Sequence[float]) -> Point:
        """Return the weighted mean of points; those with fewer coefficients are padded with zeros.

        Raises
        ------
        InvalidInputError
            If there are not as many weights as points, or they are not finite numbers or sum to 0.
        """
        amounts = as_array(weights, "weights").astype(np.float64)
        if isinstance(points, (str, Point)) or not isinstance(points, Iterable):
            raise InvalidInputError(f"interpolate takes several points, not {reprlib.repr(points)}")
        values = [self.coefficients_of(p) for p in points]
        total = amounts.sum()
        if amounts.shape != (len(values),) or not len(values) or not np.isfinite(total) or total == 0:
            raise InvalidInputError(
                f"{len(values)} points need as many finite weights that do not sum to 0, got {reprlib.repr(weights)}"
            )
        longest = max(map(len, values))
        padded = np.stack([np.pad(c, (0, longest - len(c))) for c in values])
        return self.point(amounts / total @ padded, made="interpolation")

    def entanglement(self) -> Entanglement:
        """Return the side effects of attributes on each other, see :class:`Entanglement`."""
        return entanglement(self.directions, self.require_population("entanglement"))

    # ------------------------------------------------------------ names before version 0.2
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in MOVED:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            warn_renamed(f"WeightSpace.{name}", f"WeightSpace.{MOVED[name]}")
            part, attribute = MOVED[name].split(".")
            owner = self.require_population(name) if part == "population" else getattr(self, part)
            return getattr(owner, attribute)


# attributes that a weight space had itself -> where they are
MOVED = {
    **{name: f"coordinates.{name}" for name in (
        "mean", "std", "basis", "singular_values", "residuals", "represent", "explained")},
    **{name: f"population.{name}" for name in (
        "ids", "splits", "coefficients", "fitted_split", "squared_norms", "left_out", "fitted",
        "reconstruction_error")},
    "coefficient_mean": "spread.mean",
    "coefficient_std": "spread.std",
    "coefficient_covariance": "population.covariance",
}  # fmt: skip

WeightSpace.__init__ = accepts_flat_fields(WeightSpace.__init__)  # type: ignore[method-assign]

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
from ..common.constraints import as_array, flag, number, one_of, path, validated, whole
from ..common.deprecated import renamed_keywords, warn_renamed
from ..common.display import LONGEST, Displayed, listed
from ..common.text import counted, one_line
from ..errors import InvalidInputError, UnknownNameError
from ..lora.adapter import Adapter
from ..store.hub.verify import verify_source
from .directions.direction import Direction
from .directions.entanglement import Entanglement, entanglement
from .edits import Edit, find_direction
from .encoder.on_space import EncoderMixin
from .integrity import check_space
from .lookup import PointLike, find
from .old_fields import accepts_flat_fields
from .points import Point
from .population import COVARIANCES
from .previews import add_preview
from .storage import open_contents, save_space


class WeightSpace(EncoderMixin, Displayed):
    """A linear space of adapters; two are equal if their coordinates, populations, directions and metadata are.

    Every `point` parameter accepts a :class:`Point`, the path of a saved one, coefficients ``(<= k,)``, an inversion,
    an adapter, its path or its weights ``(d,)``, or the id of a row. A row's id means its point in the space, without
    what the components do not explain; for its own weights give ``people["person-0001"]``. Less common operations,
    such as :meth:`Coordinates.explained` and :meth:`Population.reconstruction_error`, are methods of
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
        rows = "no population" if self.population is None else counted(len(self.population), "row")
        return one_line(
            f"WeightSpace({self.name} {self.version}: k {self.k:,} of {self.layout.size:,} parameters, "
            f"{rows}, {counted(len(self.directions), 'direction')}, {self.digest[:12]})",
            LONGEST,
        )

    def _facts(self) -> Mapping[str, object]:
        population, source = self.population, self.revision or self.path
        return {
            "name": self.name, "version": self.version, "digest": self.digest[:12],
            "components": f"{self.k:,} of {self.layout.size:,} parameters",
            "rows": "without population" if population is None else f"{len(population):,}, {self.spread.rows:,} fitted",
            "directions": listed(self.directions), "base model": self.compatibility.base_model or "not named",
            "license": self.licence, "opened from": "memory" if source is None else str(source),
        }  # fmt: skip

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

    open = from_pretrained  # the same call by the name that datasets have

    @checked()
    def save(
        self, path: Path | str, *, base: Path | str | None = None, generation: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Path:  # fmt: skip
        """Write a folder and return its path; the space itself does not change.

        Parameters
        ----------
        base : path, optional
            A diffusers folder to embed, so that the space opens offline.
        generation : mapping, optional
            Keywords that pipelines of this space use where a call gives none, stored with `base`:
            ``{"num_inference_steps": 15, "guidance_scale": 2.0}``. By default :attr:`generation`.
        overwrite : bool
            Replace an existing weight space, if its folder holds nothing else; its previews are not kept.

        Raises
        ------
        BaseModelMismatchError
            If the target modules of `base` are not those that the adapters were trained on.
        AlreadyExistsError, MissingPathError, DiskError
        """
        return save_space(self, path, base, generation=generation, overwrite=overwrite)

    @validated(picture=path(), overwrite=flag())
    def add_preview(self, picture: Path | str, *, overwrite: bool = False) -> str:
        """Add a picture to the folder of this space and to its card; return its path in the folder.

        Parameters
        ----------
        picture : path
            A ``.png`` file; its name is the picture's title.
        overwrite : bool
            Replace a preview of that name.

        Raises
        ------
        InvalidInputError
            If it is not a PNG file, or the space is not in a local folder.
        AlreadyExistsError, MissingPathError, DiskError
        """
        return add_preview(self, Path(picture), overwrite=overwrite)

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

    def nearest(self, point: PointLike, count: int = 1) -> list[tuple[str, float]]:
        """Return (row id, cosine) of the fitted rows that are most similar to a point, by cosine of coefficients."""
        return self.require_population("nearest row").nearest(self.coefficients_of(point), count)

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
        return find_direction(name, self.directions, self.spread, self.diagnostics.get("no_direction", {}))

    def edit(self, point: PointLike, strengths: Mapping[str, float], *, preserve: Iterable[str] = ()) -> Point:
        """Move a point along editing directions; strength is in standard deviations of the population along each.

        Parameters
        ----------
        preserve : iterable of str
            Attributes whose score the whole edit leaves as it is, beyond what each direction already controls for.

        Examples
        --------
        >>> space.edit("person-0010", {"Full_Beard": 4.5})   # doctest: +SKIP
        """
        edit = Edit.checked(strengths, preserve)
        before, _ = self._find(point)
        kept = before.explained_ratio if isinstance(before, Point) else None
        history = before.history if isinstance(before, Point) else {}
        moved = edit.apply(self.coefficients_of(before), self.direction, self.spread.std)
        return self.point_with(moved, edit.recorded(history), kept)

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

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
from ..common.constraints import as_array, flag, instance, number, one_of, optional, path, validated, whole
from ..common.deprecated import renamed_keywords
from ..common.display import LONGEST, Displayed, listed, percent
from ..common.text import counted, one_line
from ..errors import InvalidInputError, UnknownNameError
from ..lora.adapter import Adapter
from ..store.hub.verify import verify_source
from .directions.direction import Direction
from .directions.entanglement import Entanglement, entanglement
from .edits import TYPICAL, Edit, finder
from .encoder.on_space import EncoderMixin
from .integrity import check_space
from .lookup import PointLike, find
from .old_fields import accepts_flat_fields, old_attribute
from .points import Point
from .population import COVARIANCES
from .previews import add_preview
from .sampling import METHODS, Request, draw
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
        method : {"population", "gaussian"}, optional
            ``"population"``, the default where there is a :attr:`population_model`, draws attributes as they occur
            together, then the mean of people who have them, then a residual: people who look the same under every
            prompt. ``"gaussian"`` draws coefficients around the mean of the fitted rows, as in the paper.
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
        return finder(self)(name)

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
            warnings.warn(
                f"a point keeps {percent(moved.share_inside(self.coordinates.std))} of this edit of "
                f"{', '.join(moved.done['layers'])}, and changes other layers, too; pipe.edit keeps all of it",
                stacklevel=2,
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


WeightSpace.__init__ = accepts_flat_fields(WeightSpace.__init__)  # type: ignore[method-assign]
if not TYPE_CHECKING:  # names before version 0.2
    WeightSpace.__getattr__ = old_attribute

"""WeightSpace: mean, standard deviation and principal components, and points in their coordinates."""

from __future__ import annotations

import difflib
import hashlib
import reprlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import checked, place
from ..common.checks import is_whole
from ..common.constraints import as_array, names, number, one_of, text, validated, whole
from ..common.equality import ByValue
from ..dataset.manifest import Compatibility
from ..errors import InvalidInputError, LayoutMismatchError, UnknownNameError
from ..lora.adapter import Adapter
from ..lora.canonical import canonicalize_rows
from ..lora.layout import ParameterLayout
from .directions import UnreliableDirectionWarning, entanglement, preserving
from .directions.direction import component_direction
from .fit.engines.ops import NumpyOps
from .fit.resume import ResumeFolder

if TYPE_CHECKING:
    from ..store.hub.resolve import ResolvedRevision, Source
    from .directions import Direction, Entanglement

OPS = NumpyOps()
BASIS_TAG = b"w2w-basis-v1\n"


@dataclass(frozen=True, eq=False)
class Point(ByValue):
    """An identity inside a space; equal to another of the same coefficients in the same basis.

    Attributes
    ----------
    coefficients : ndarray
        float32 ``(k,)``, coordinates along the principal components; those that are left out are 0.
    basis_digest : str
        The basis that the coordinates belong to.
    history : dict
        How it was made (row, seed, edits, inversion loss), for the record: kept as plain JSON values, a number that is
        not finite as None.

    Raises
    ------
    InvalidInputError
        If the coefficients are not finite numbers in one list, or the history holds what JSON has no value for.
    """

    coefficients: np.ndarray
    basis_digest: str
    history: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        coefficients = as_array(self.coefficients, "coefficients")
        if coefficients.ndim != 1 or not len(coefficients):
            raise InvalidInputError(f"coefficients must be one list of numbers, got shape {coefficients.shape}")
        with np.errstate(over="ignore"):
            coefficients = coefficients.astype(np.float32, copy=False)
        if not np.isfinite(coefficients).all():
            raise InvalidInputError("coefficients hold NaN or infinite values")
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "basis_digest", text().checked(self.basis_digest, "the basis digest of a point"))
        if not isinstance(self.history, Mapping):
            raise InvalidInputError(f"a point's history must be a mapping, not {reprlib.repr(self.history)}")
        object.__setattr__(self, "history", _plain(self.history, "history"))


def _plain(value: Any, where: str) -> Any:
    """A value as JSON has it: NumPy's scalars and arrays as Python's."""
    if isinstance(value, Mapping):
        return {text().checked(k, f"a key of {where}"): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v, where) for v in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise InvalidInputError(f"a point's {where} must be plain JSON, not {reprlib.repr(value)}")


@dataclass(frozen=True, eq=False)
class Explained(ByValue):
    """An adapter as a space sees it.

    Attributes
    ----------
    coefficients : ndarray
        float32 ``(k,)``.
    share : float
        Of the adapter's squared norm, standardised, what the components carry: 1 is inside the space.
    norm : float
        Its norm, standardised.
    """

    coefficients: np.ndarray
    share: float
    norm: float


@dataclass(eq=False)
class WeightSpace(ByValue):
    """A linear space of adapters; equal to another of the same basis, rows and directions.

    An adapter's vector x has coefficients ``((x - mean) / std) @ basis.T``; a point c decodes to
    ``(c @ basis) * std + mean`` (weights2weights, section 4.1 and its notebook).

    Attributes
    ----------
    layout : ParameterLayout
    mean, std : ndarray
        float32 ``(d,)``; std has ddof 1, and is 1 where a number never varies.
    basis : ndarray
        float32 ``(k, d)``, orthonormal rows, largest variance first.
    singular_values : ndarray
        float64 ``(k,)`` of the standardised matrix.
    ids : tuple of str
        The rows whose coefficients are known.
    splits : ndarray
        Their splits.
    coefficients : ndarray
        float32 ``(n, k)`` of those rows; the mean and spread below are of the fitted rows only.
    squared_norms : ndarray or None
        float64 ``(n,)``: squared norms of the standardised rows; None in spaces written before there were any.
    residuals : ndarray or None
        float64 ``(k,)``: residual of each component, relative to its eigenvalue.
    left_out : tuple of str
        Rows of the fitted split that were not fitted.
    coefficient_mean, coefficient_std : ndarray
        float64 ``(k,)`` over the fitted rows.
    directions : dict of str to Direction
    recipe : dict
        How it was built; includes the dataset's digest.
    """

    layout: ParameterLayout
    mean: np.ndarray
    std: np.ndarray
    basis: np.ndarray
    singular_values: np.ndarray
    ids: tuple[str, ...]
    splits: np.ndarray
    coefficients: np.ndarray
    fitted_split: str
    recipe: dict[str, Any]
    diagnostics: dict[str, Any] = field(default_factory=dict)
    compatibility: Compatibility = field(default_factory=Compatibility)
    directions: dict[str, Direction] = field(default_factory=dict)
    name: str = "space"
    version: str = "0.1.0"
    licence: str = "unknown"
    path: Path | None = field(default=None, compare=False)
    squared_norms: np.ndarray | None = None
    residuals: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    source: Source | None = field(default=None, compare=False)  # where it was opened from
    whole_digest: str | None = None  # if only the first components were read
    # results of its passes, kept until it is saved
    resume_folder: ResumeFolder | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return (
            f"WeightSpace({self.name} {self.version}: k {self.k:,} of {self.layout.size:,} numbers, "
            f"{len(self.ids):,} rows, {len(self.directions)} directions, {self.digest[:12]})"
        )

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
        """Open a folder, a Hub repository or a lock's pin, see :func:`w2w_hub.space.storage.load_space`."""
        from .storage import load_space

        return load_space(
            path, k, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )

    @property
    def revision(self) -> ResolvedRevision | None:
        """The repository and commit that it was opened from; None for a folder or a space in memory."""
        return None if self.source is None else self.source.revision

    @checked()
    def save(self, path: Path | str) -> Path:
        """Write a new space folder, see :func:`w2w_hub.space.storage.save_space`."""
        from .storage import save_space

        return save_space(self, path)

    @checked()
    def verify(self, *, deep: bool = True) -> None:
        """Raise one `CorruptFileError` that names every file of the space's folder that is not as published.

        See :func:`w2w_hub.space.integrity.check_space`; `deep` hashes all there is, an embedded base model too. What
        was changed in memory is not looked at.

        Raises
        ------
        CorruptFileError
        InvalidInputError
            If the space was neither opened from a folder or repository nor saved.
        """
        from ..release.verify import verify_folder, verify_source

        if self.source is not None:
            report = verify_source(self.source, deep=deep)
        elif self.path is not None:
            report = verify_folder(self.path, deep=deep)
        else:
            raise InvalidInputError(f"weight space {self.name!r} is in memory only; save it, then verify it")
        report.settle()
        for note in report.notes:
            warnings.warn(note, stacklevel=2)

    def mark_saved(self, path: Path) -> None:
        """Record where the space was written, and remove what was kept to continue its build."""
        self.path = path
        if self.resume_folder is not None:
            self.resume_folder.clear()
            self.resume_folder = None

    @property
    def k(self) -> int:
        return len(self.basis)

    @cached_property
    def digest(self) -> str:
        """sha256 over layout, mean, std and basis: what coefficients are tied to."""
        if self.whole_digest is not None:
            return self.whole_digest
        digest = hashlib.sha256(BASIS_TAG + f"{self.layout.digest}\n".encode())
        for values in (self.mean, self.std, self.basis):
            digest.update(np.ascontiguousarray(values, "<f4").tobytes())
        return digest.hexdigest()

    @cached_property
    def fitted(self) -> np.ndarray:
        """Which of the known rows were fitted, boolean ``(n,)``."""
        inside = np.asarray(self.splits) == self.fitted_split
        return inside & ~np.isin(np.asarray(self.ids), self.left_out) if self.left_out else inside

    @cached_property
    def coefficient_mean(self) -> np.ndarray:
        return self.coefficients[self.fitted].astype(np.float64).mean(0)

    @cached_property
    def coefficient_std(self) -> np.ndarray:
        return self.coefficients[self.fitted].astype(np.float64).std(0, ddof=1)

    @cached_property
    def coefficient_covariance(self) -> np.ndarray:
        """float64 ``(k, k)`` over the fitted rows."""
        return np.atleast_2d(np.cov(self.coefficients[self.fitted].astype(np.float64), rowvar=False))

    # ------------------------------------------------------------ coordinates
    def project(self, what: Adapter | np.ndarray, k: int | None = None) -> np.ndarray:
        """Coefficients, float32: ``(k,)`` of an adapter or vector, ``(n, k)`` of a matrix ``(n, d)``."""
        rows = self._standardised(what).astype(np.float32)
        found = OPS.inner(np.atleast_2d(rows), self.basis[: self._k(k)]).astype(np.float32)
        if not np.isfinite(found).all():
            raise InvalidInputError("these weights hold NaN or infinite values; they have no place in the space")
        return found[0] if rows.ndim == 1 else found

    def represent(self, what: Adapter | np.ndarray) -> np.ndarray:
        """The vectors ``(d,)`` or ``(n, d)`` that stand for adapters here: themselves, or in a canonical space their
        canonical representatives (float64).
        """
        values = self.layout.flatten(what) if isinstance(what, Adapter) else as_array(what, "weights")
        if values.ndim not in (1, 2) or values.shape[-1] != self.layout.size:
            raise LayoutMismatchError(f"expected {self.layout.size} numbers, got shape {values.shape}")
        if self.recipe.get("canonical"):
            return canonicalize_rows(self.layout, values)
        return values

    def _standardised(self, what: Adapter | np.ndarray) -> np.ndarray:
        return (self.represent(what).astype(np.float64) - self.mean) / self.std

    def reconstruction_error(self, k: int | None = None) -> np.ndarray:
        """Share of each known row's squared norm (standardised, about the mean) outside of the first k components.

        Returns
        -------
        ndarray
            float64 ``(n,)`` from 0, all of it inside, to 1.
        """
        if self.squared_norms is None:
            raise InvalidInputError(
                "this weight space was written before rows' norms were kept; build it again with: w2w build"
            )
        inside = (self.coefficients[:, : self._k(k)].astype(np.float64) ** 2).sum(1)
        return np.clip(1 - inside / np.maximum(self.squared_norms, 1e-300), 0, 1)

    @checked()
    def explained(self, what: Adapter | np.ndarray, *, difference: bool = False) -> Explained:
        """Any adapter in the space's coordinates, with the share of its norm that the space explains.

        Parameters
        ----------
        difference : bool
            Take it for a change of an identity (a Concept Slider) instead of an identity: the mean is not
            subtracted. In a raw space this means something only for an adapter from the same initialisation.
        """
        standardised = self._standardised(what)
        if difference:
            standardised = standardised + self.mean.astype(np.float64) / self.std
        if standardised.ndim != 1:
            raise InvalidInputError("explained takes one adapter; use project for a matrix of them")
        if not np.isfinite(standardised).all():
            raise InvalidInputError("these weights hold NaN or infinite values; they have no place in the space")
        c = standardised @ self.basis.T.astype(np.float64)
        total = float(standardised @ standardised)
        return Explained(c.astype(np.float32), float(c @ c) / total if total else 0.0, np.sqrt(total))

    def decode(self, coefficients: np.ndarray | Point | str, k: int | None = None) -> np.ndarray:
        """Vectors, float32 ``(d,)`` or ``(n, d)``, of a point, a row's id, or coefficients ``(k,)`` or ``(n, k)``.

        Fewer coefficients than the space has leave the others 0.

        Parameters
        ----------
        k : int, optional
            Use only the first k coefficients of the points.
        """
        c = self._coordinates(coefficients, several=True)
        if k is not None:
            c = c[..., : self._k(k)]
        vectors = c.astype(np.float32) @ self.basis[: c.shape[-1]]  # float64 would copy the basis
        vectors *= self.std
        vectors += self.mean
        return vectors

    def adapter(self, point: np.ndarray | Point | str) -> Adapter:
        """A point, or a row by its id, as a LoRA."""
        adapter = self.layout.unflatten(self.decode(self._coordinates(point)))
        adapter.base_model = self.compatibility.base_model
        return adapter

    def point(self, coefficients: np.ndarray, **history: Any) -> Point:
        """Coefficients ``(<= k,)`` as a point of this space, with how they were made."""
        if self.revision is not None:
            history = {"space": str(self.revision), **history}
        point = Point(coefficients, self.digest, history)
        self._k(len(point.coefficients))
        return point

    @checked()
    def row(self, row_id: str) -> Point:
        """A known row's point."""
        try:
            position = self.ids.index(row_id)
        except ValueError:
            raise UnknownNameError(
                f"no row {row_id!r} in this weight space; its rows look like {', '.join(self.ids[:3])}"
            ) from None
        return self.point(self.coefficients[position], row=row_id)

    def mean_point(self) -> Point:
        return self.point(self.coefficient_mean, made="mean")

    def _k(self, k: int | None) -> int:
        if k is not None and not (is_whole(k) and 1 <= k <= self.k):
            raise InvalidInputError(f"k must be 1 to {self.k} in this weight space, a whole number, not {k}")
        return k or self.k

    def _coordinates(self, what: np.ndarray | Point | str, *, several: bool = False) -> np.ndarray:
        """Coefficients, float64, of a point or a row's id, ``(<= k,)``; with `several` also those of many."""
        if isinstance(what, str):
            what = self.row(what)
        if isinstance(what, Point):
            if what.basis_digest != self.digest:
                raise LayoutMismatchError(
                    f"this point belongs to the weight space {what.basis_digest[:12]}, not to {self.digest[:12]}; "
                    "export it to an adapter and project that"
                )
            what = what.coefficients
        c = as_array(what, "coefficients").astype(np.float64)
        if c.ndim not in ((1, 2) if several else (1,)) or not c.shape[-1]:
            expected = "one list of numbers, or a matrix" if several else "one list of numbers"
            raise InvalidInputError(f"coefficients must be {expected}, got shape {c.shape}")
        self._k(c.shape[-1])
        if not np.isfinite(c).all():
            raise InvalidInputError("coefficients hold NaN or infinite values")
        return c

    # ------------------------------------------------------------ points
    @validated(count=whole(1, 2**31 - 1), seed=whole(0), truncation=number(0), covariance=one_of("independent", "full"))
    def sample(
        self, count: int = 1, seed: int = 0, truncation: float = 1.0, *, covariance: str = "independent"
    ) -> list[Point]:
        """New identities: Gaussian coefficients with the fitted rows' mean and spread (paper, section 4.2).

        Parameters
        ----------
        truncation : float
            Factor of the standard deviations: smaller is more average.
        covariance : {"independent", "full"}
            Each coefficient by itself, as in the paper, or all with their covariance. Principal coefficients of the
            fitted rows are uncorrelated, so the two differ by sampling noise only where all of them were fitted.
        """
        drawn = np.random.default_rng(seed).standard_normal((count, self.k))
        if covariance == "full":
            values, vectors = np.linalg.eigh(self.coefficient_covariance)
            spread = (drawn * np.sqrt(np.maximum(values, 0))) @ vectors.T
        else:
            spread = self.coefficient_std * drawn
        made = {"made": "sample", "seed": seed, "truncation": truncation}
        if covariance != "independent":
            made["covariance"] = covariance
        found = self.coefficient_mean + truncation * spread
        return [self.point(c, index=i, **made) for i, c in enumerate(found)]

    def direction(self, name: str) -> Direction:
        """An attribute's direction, or ``PC1`` to ``PCk``: a principal component as a slider."""
        text().checked(name, "the name of a direction")
        if name in self.directions:
            return self.directions[name]
        number = int(name[2:]) if name.startswith("PC") and name[2:].isascii() and name[2:].isdigit() else 0
        if 1 <= number <= self.k:
            sd = float(self.coefficient_std[number - 1])
            return component_direction(number, self.k, sd, int(self.fitted.sum()))
        reasons = self.diagnostics.get("no_direction", {})
        if name in reasons:
            raise UnknownNameError(f"no direction for {name}: {reasons[name]}")
        known = ", ".join([*self.directions, f"PC1 to PC{self.k}"])
        if not self.directions:
            known += " only: build the space from a labelled dataset"
        lowered = {other.lower(): other for other in self.directions}
        close = [lowered[key] for key in difflib.get_close_matches(name.lower(), lowered, 3, 0.5)]
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UnknownNameError(f"no attribute {name!r} in this weight space; {hint}there are {known}")

    def warn_unreliable(self, names: Iterable[str], stacklevel: int = 3) -> None:
        """Warn of those directions that read held-out rows no better than permuted labels do."""
        for name in names:
            reason = self.direction(name).unreliable
            if reason:
                warnings.warn(
                    f"the direction of {name} is unreliable: {reason}",
                    UnreliableDirectionWarning,
                    stacklevel=stacklevel,
                )

    def edit(
        self, point: np.ndarray | Point | str, strengths: Mapping[str, float], *, preserve: Iterable[str] = ()
    ) -> Point:
        """Move along editing directions; strength in standard deviations of the population along each.

        Parameters
        ----------
        preserve : iterable of str
            Attributes whose read-out the whole edit must leave as it is, beyond what each direction holds already.

        Examples
        --------
        >>> space.edit(space.row("person-0001"), {"Beard": 2.0, "Eyeglasses": -1.0})   # doctest: +SKIP
        """
        if not isinstance(strengths, Mapping):
            raise InvalidInputError(f"strengths are a mapping such as {{'Beard': 2.0}}, not {type(strengths).__name__}")
        for name, strength in strengths.items():
            if not isinstance(name, str) or isinstance(strength, bool) or not isinstance(strength, Real):
                raise InvalidInputError(f"an edit is an attribute's name and a number, not {name!r}: {strength!r}")
        preserve = [preserve] if isinstance(preserve, str) else names().checked(preserve, "preserve")
        preserve = list(dict.fromkeys(preserve))
        both = [name for name in preserve if name in strengths]
        if both:
            raise InvalidInputError(f"{both[0]} is both edited and preserved; leave it out of one")
        steps = []
        for name, strength in strengths.items():
            direction = self.direction(name)
            amount = number().checked(strength, f"the strength of {name}")
            steps.append(amount * direction.sd * direction.editing)
        c = self._coordinates(point)
        c = np.pad(c, (0, max(0, *(len(step) - len(c) for step in steps), 0)))  # what a point leaves out is 0
        change = np.zeros_like(c)
        for step in steps:
            change[: len(step)] += step
        c += preserving(self, change, preserve)
        history: dict[str, Any] = {"row": point} if isinstance(point, str) else {}
        if isinstance(point, Point):
            history = dict(point.history)
        edits = dict(history.get("edits", {}))
        for name, strength in strengths.items():
            edits[name] = edits.get(name, 0.0) + float(strength)
        if preserve:
            history["preserved"] = sorted({*history.get("preserved", ()), *preserve})
        return self.point(c, **{**history, "edits": edits})

    def read(self, point: np.ndarray | Point | str, name: str) -> float:
        """Probability of an attribute, or the value of a continuous one, by its reading direction."""
        return self.direction(name).read(self._coordinates(point))

    def read_all(self, what: Adapter | np.ndarray | Point) -> dict[str, float]:
        """Every attribute of a point, of an adapter, or of a vector ``(d,)`` or coefficients ``(k,)``."""
        if not isinstance(what, (Adapter, Point, str)):
            what = as_array(what, "coefficients or weights")
        if isinstance(what, Adapter) or (isinstance(what, np.ndarray) and what.shape == (self.layout.size,)):
            what = self.project(what)
        c = self._coordinates(what)
        return {name: direction.read(c) for name, direction in self.directions.items()}

    @checked()
    def interpolate(self, points: Sequence[Point], shares: Sequence[float]) -> Point:
        """A weighted mean of points, see :func:`interpolate`."""
        return interpolate(self, points, shares)

    def entanglement(self) -> Entanglement:
        """How much the attributes come along with each other, see :class:`Entanglement`."""
        return entanglement(self)

    @validated(count=whole(1))
    def nearest(self, point: np.ndarray | Point | str, count: int = 1) -> list[tuple[str, float]]:
        """The fitted rows with the largest cosine to a point's coefficients, and that cosine."""
        c = self._coordinates(point)
        rows = self.coefficients[self.fitted][:, : c.shape[-1]].astype(np.float64)
        cosines = rows @ c / (np.linalg.norm(rows, axis=1) * np.linalg.norm(c) + 1e-30)
        best = np.argsort(-cosines, kind="stable")[:count]
        names = np.asarray(self.ids)[self.fitted]
        return [(str(names[i]), float(cosines[i])) for i in best]

    def distance(self, point: np.ndarray | Point | str) -> float:
        """Root mean square of a point's standardised coefficients: 1 is typical of the population."""
        c = self._coordinates(point)
        return float(self._distances(c[None])[0])

    def _distances(self, c: np.ndarray) -> np.ndarray:
        count = c.shape[-1]
        z = (c - self.coefficient_mean[:count]) / np.maximum(self.coefficient_std[:count], 1e-30)
        return np.sqrt(np.mean(z**2, axis=1))

    @cached_property
    def largest_distance(self) -> float:
        """The distance of the fitted row that is farthest from the mean."""
        return float(self._distances(self.coefficients[self.fitted].astype(np.float64)).max())

    def mahalanobis(self, point: np.ndarray | Point | str) -> float:
        """Mahalanobis distance from the fitted rows' mean, with their full covariance; about the root of k is typical.

        :meth:`distance` is the same with each coefficient by itself and divided by that root, so that 1 is typical.
        """
        c = self._coordinates(point)
        apart = c - self.coefficient_mean[: len(c)]
        values, vectors = np.linalg.eigh(self.coefficient_covariance[: len(c), : len(c)])
        usable = values > values[-1] * len(values) * np.finfo(float).eps
        return float(np.sqrt((((apart @ vectors)[usable]) ** 2 / values[usable]).sum()))


def interpolate(space: WeightSpace, points: Sequence[Point], shares: Sequence[float]) -> Point:
    """Return the weighted mean of points, those with fewer coefficients padded with zeros; shares are normalised.

    Raises
    ------
    InvalidInputError
        If there are not as many shares as points, or the shares are not finite numbers or sum to 0.
    """
    weights = as_array(shares, "shares").astype(np.float64)
    if isinstance(points, (str, Point)) or not isinstance(points, Iterable):
        raise InvalidInputError(f"interpolate takes several points, not {reprlib.repr(points)}")
    values = [space._coordinates(p) for p in points]
    total = weights.sum()
    if weights.shape != (len(values),) or not len(values) or not np.isfinite(total) or total == 0:
        raise InvalidInputError(
            f"{len(values)} points need as many finite shares that do not sum to 0, got {reprlib.repr(shares)}"
        )
    longest = max(map(len, values))
    padded = np.stack([np.pad(c, (0, longest - len(c))) for c in values])
    return space.point(weights / total @ padded, made="interpolation")

"""WeightSpace: mean, standard deviation and principal components, and points in their coordinates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adapter import Adapter
from ..dataset.manifest import Compatibility
from ..errors import InvalidInputError, LayoutMismatchError, UnknownNameError
from ..layout import ParameterLayout

if TYPE_CHECKING:
    from ..hub.resolve import ResolvedRevision, Source
    from .directions import Direction

BASIS_TAG = b"w2w-basis-v1\n"


@dataclass(frozen=True)
class Point:
    """An identity inside a space.

    Attributes
    ----------
    coefficients : ndarray
        float32 ``(k,)``, coordinates along the principal components.
    basis_digest : str
        The basis that the coordinates belong to.
    history : dict
        How it was made (row, seed, edits, inversion loss), for the record.
    """

    coefficients: np.ndarray
    basis_digest: str
    history: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class WeightSpace:
    """A linear space of adapters.

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
        float32 ``(n, k)`` of those rows; the mean and spread below are of the fitted split only.
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
    path: Path | None = None
    source: Source | None = None  # where it was opened from
    whole_digest: str | None = None  # if only the first components were read

    def __repr__(self) -> str:
        return (
            f"WeightSpace({self.name} {self.version}: k {self.k:,} of {self.layout.size:,} numbers, "
            f"{len(self.ids):,} rows, {len(self.directions)} directions, {self.digest[:12]})"
        )

    @classmethod
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

    def save(self, path: Path | str) -> Path:
        """Write a new space folder, see :func:`w2w_hub.space.storage.save_space`."""
        from .storage import save_space

        return save_space(self, path)

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
        return np.asarray(self.splits) == self.fitted_split

    @cached_property
    def coefficient_mean(self) -> np.ndarray:
        return self.coefficients[self.fitted].astype(np.float64).mean(0)

    @cached_property
    def coefficient_std(self) -> np.ndarray:
        return self.coefficients[self.fitted].astype(np.float64).std(0, ddof=1)

    # ------------------------------------------------------------ coordinates
    def project(self, what: Adapter | np.ndarray, k: int | None = None) -> np.ndarray:
        """Coefficients, float32: ``(k,)`` of an adapter or vector, ``(n, k)`` of a matrix ``(n, d)``."""
        values = self.layout.flatten(what) if isinstance(what, Adapter) else np.asarray(what)
        if values.shape[-1] != self.layout.size:
            raise LayoutMismatchError(f"expected {self.layout.size} numbers, got {values.shape[-1]}")
        standardised = (values.astype(np.float64) - self.mean) / self.std
        return (standardised @ self.basis[: self._k(k)].T.astype(np.float64)).astype(np.float32)

    def decode(self, coefficients: np.ndarray | Point) -> np.ndarray:
        """Vectors, float32 ``(d,)`` or ``(n, d)``, of points that may use only the first components."""
        c = self._coordinates(coefficients)
        return ((c @ self.basis[: c.shape[-1]]) * self.std + self.mean).astype(np.float32)

    def adapter(self, point: np.ndarray | Point) -> Adapter:
        """A point as a LoRA."""
        adapter = self.layout.unflatten(self.decode(point))
        adapter.base_model = self.compatibility.base_model
        return adapter

    def point(self, coefficients: np.ndarray, **history: Any) -> Point:
        if self.revision is not None:
            history = {"space": str(self.revision), **history}
        return Point(np.asarray(coefficients, np.float32), self.digest, history)

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
        if k is not None and not 1 <= k <= self.k:
            raise InvalidInputError(f"k must be 1 to {self.k} in this weight space, not {k}")
        return k or self.k

    def _coordinates(self, what: np.ndarray | Point) -> np.ndarray:
        if isinstance(what, Point):
            if what.basis_digest != self.digest:
                raise LayoutMismatchError(
                    f"this point belongs to the weight space {what.basis_digest[:12]}, not to {self.digest[:12]}; "
                    "export it to an adapter and project that"
                )
            what = what.coefficients
        c = np.asarray(what, np.float64)
        self._k(c.shape[-1])
        if not np.isfinite(c).all():
            raise InvalidInputError("coefficients hold NaN or infinite values")
        return c

    # ------------------------------------------------------------ points
    def sample(self, count: int = 1, seed: int = 0, truncation: float = 1.0) -> list[Point]:
        """New identities: each coefficient an independent Gaussian of the fitted rows (paper, section 4.2).

        Parameters
        ----------
        truncation : float
            Factor of the standard deviations: smaller is more average.
        """
        if count < 1 or not truncation >= 0:
            raise InvalidInputError(f"count must be at least 1 and truncation not negative: {count}, {truncation}")
        drawn = np.random.default_rng(seed).standard_normal((count, self.k))
        values = self.coefficient_mean + truncation * self.coefficient_std * drawn
        return [self.point(c, made="sample", seed=seed, index=i, truncation=truncation) for i, c in enumerate(values)]

    def direction(self, name: str) -> Direction:
        if name not in self.directions:
            known = ", ".join(self.directions) or "none: build the space from a labelled dataset"
            raise UnknownNameError(f"no attribute {name!r} in this weight space; there are {known}")
        return self.directions[name]

    def edit(self, point: np.ndarray | Point, strengths: Mapping[str, float]) -> Point:
        """Move along editing directions; strength in standard deviations of the population along each.

        Examples
        --------
        >>> space.edit(space.row("person-0001"), {"Beard": 2.0, "Eyeglasses": -1.0})   # doctest: +SKIP
        """
        c = self._coordinates(point).copy()
        for name, strength in strengths.items():
            direction = self.direction(name)
            if not np.isfinite(strength):
                raise InvalidInputError(f"the strength of {name} must be a finite number, not {strength}")
            step = float(strength) * direction.sd * direction.editing
            if len(c) < len(step):
                raise LayoutMismatchError(f"{name} needs {len(step)} coefficients, this point has {len(c)}")
            c[: len(step)] += step
        history = dict(point.history) if isinstance(point, Point) else {}
        edits = dict(history.get("edits", {}))
        for name, strength in strengths.items():
            edits[name] = edits.get(name, 0.0) + float(strength)
        return self.point(c, **{**history, "edits": edits})

    def read(self, point: np.ndarray | Point, name: str) -> float:
        """Probability of an attribute, by its reading direction."""
        return self.direction(name).probability(self._coordinates(point))

    def nearest(self, point: np.ndarray | Point, count: int = 1) -> list[tuple[str, float]]:
        """The fitted rows with the largest cosine to a point's coefficients, and that cosine."""
        c = self._coordinates(point)
        rows = self.coefficients[self.fitted][:, : c.shape[-1]].astype(np.float64)
        cosines = rows @ c / (np.linalg.norm(rows, axis=1) * np.linalg.norm(c) + 1e-30)
        best = np.argsort(-cosines, kind="stable")[:count]
        names = np.asarray(self.ids)[self.fitted]
        return [(str(names[i]), float(cosines[i])) for i in best]

    def distance(self, point: np.ndarray | Point) -> float:
        """Root mean square of a point's standardised coefficients: 1 is typical of the population."""
        c = self._coordinates(point)
        z = (c - self.coefficient_mean[: len(c)]) / np.maximum(self.coefficient_std[: len(c)], 1e-30)
        return float(np.sqrt(np.mean(z**2)))

    @cached_property
    def largest_distance(self) -> float:
        """The distance of the fitted row that is farthest from the mean."""
        return max(self.distance(row) for row in self.coefficients[self.fitted])


def interpolate(space: WeightSpace, points: Sequence[Point], shares: Sequence[float]) -> Point:
    """A weighted mean of points; shares are normalised."""
    weights = np.asarray(shares, float)
    if len(points) != len(weights) or not len(points) or weights.sum() == 0:
        raise InvalidInputError(f"{len(points)} points need as many shares that do not sum to 0, got {list(shares)}")
    values = np.stack([space._coordinates(p) for p in points])
    return space.point(weights / weights.sum() @ values, made="interpolation")

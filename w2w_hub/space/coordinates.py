"""Coordinates of a weight space: mean, standard deviation and principal components, without a population."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..common.arguments import checked
from ..common.checks import is_whole
from ..common.constraints import as_array
from ..common.deprecated import warn_renamed
from ..common.display import Displayed
from ..common.equality import ByValue
from ..errors import InvalidInputError, LayoutMismatchError
from ..lora.adapter import Adapter
from ..lora.canonical import canonicalize_rows
from ..lora.layout import ParameterLayout
from .fit.engines.ops import NumpyOps
from .population import as_coefficients

OPS = NumpyOps()
BASIS_TAG = b"w2w-basis-v1\n"


def basis_digest(layout: ParameterLayout, values: Iterable[np.ndarray]) -> str:
    """Return the sha256 of a layout, and of mean, std and basis as float32; the basis may come in parts."""
    digest = hashlib.sha256(BASIS_TAG + f"{layout.digest}\n".encode())
    for part in values:
        digest.update(np.ascontiguousarray(part, "<f4").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class Explained(ByValue, Displayed):
    """Projection of an adapter, and the fraction of its norm that the space explains.

    Attributes
    ----------
    coefficients : ndarray
        float32 ``(k,)``.
    explained_ratio : float
        Fraction of the adapter's squared norm, standardized, in the span of the components: 1 is inside the space.
    norm : float
        Norm of the standardized adapter.
    """

    coefficients: np.ndarray
    explained_ratio: float
    norm: float

    @property
    def share(self) -> float:
        """Deprecated name of `explained_ratio`."""
        warn_renamed("Explained.share", "Explained.explained_ratio")
        return self.explained_ratio


@dataclass(frozen=True, eq=False, repr=False)
class Coordinates(ByValue, Displayed):
    """Principal components of standardized adapters; two are equal if all their values are.

    An adapter's vector x has coefficients ``((x - mean) / std) @ basis.T``; coefficients c decode to
    ``(c @ basis) * std + mean`` (weights2weights, section 4.1 and its notebook).

    Attributes
    ----------
    layout : ParameterLayout
    mean, std : ndarray
        float32 ``(d,)``; std has ddof 1, and is 1 where a parameter never varies.
    basis : ndarray
        float32 ``(k, d)``, orthonormal rows, largest variance first.
    singular_values : ndarray
        float64 ``(k,)`` of the standardized matrix.
    residuals : ndarray or None
        float64 ``(k,)``: residual of each component, relative to its eigenvalue.
    canonical : bool
        True if adapters are first replaced by the canonical representatives of their dW.
    full_digest : str or None
        Digest of the whole space, if only its first components are loaded.
    """

    layout: ParameterLayout
    mean: np.ndarray
    std: np.ndarray
    basis: np.ndarray
    singular_values: np.ndarray
    residuals: np.ndarray | None = None
    canonical: bool = False
    full_digest: str | None = field(default=None, repr=False)

    def __hash__(self) -> int:
        return hash(self.digest)

    def _facts(self) -> Mapping[str, object]:
        return {"k": self.k, "parameters": self.layout.size, "digest": self.digest[:12]}

    @property
    def k(self) -> int:
        return len(self.basis)

    @cached_property
    def digest(self) -> str:
        """sha256 of layout, mean, std and basis; identifies what coefficients belong to."""
        if self.full_digest is not None:
            return self.full_digest
        return basis_digest(self.layout, (self.mean, self.std, self.basis))

    def require_k(self, k: int | None) -> int:
        """Return `k` if there are that many components; all of them for None.

        Raises
        ------
        InvalidInputError
        """
        if k is not None and not (is_whole(k) and 1 <= k <= self.k):
            raise InvalidInputError(f"k must be a whole number from 1 to {self.k} in this weight space, not {k}")
        return k or self.k

    def project(self, what: Adapter | np.ndarray, k: int | None = None) -> np.ndarray:
        """Return coefficients, float32: ``(k,)`` of an adapter or vector, ``(n, k)`` of a matrix ``(n, d)``."""
        return self._projected(self._standardized(what), k)

    def project_with_ratio(self, what: Adapter | np.ndarray) -> tuple[np.ndarray, float]:
        """Return float32 coefficients ``(k,)`` of an adapter or vector, and the fraction of its norm that they keep.

        As :meth:`explained`, in float32 and without a float64 copy of the basis.
        """
        standardized = self._standardized(what)
        found = self._projected(standardized, None)
        total, inside = float(standardized @ standardized), found.astype(np.float64)
        return found, float(np.clip(inside @ inside / total, 0, 1)) if total else 1.0

    def _projected(self, standardized: np.ndarray, k: int | None) -> np.ndarray:
        rows = standardized.astype(np.float32)
        found = OPS.inner(np.atleast_2d(rows), self.basis[: self.require_k(k)]).astype(np.float32)
        if not np.isfinite(found).all():
            raise InvalidInputError("these weights contain NaN or infinite values; check the adapter")
        return np.asarray(found[0] if rows.ndim == 1 else found)

    def decode(self, coefficients: np.ndarray, k: int | None = None) -> np.ndarray:
        """Return flattened adapters, float32 ``(d,)`` or ``(n, d)``, from coefficients ``(<= k,)`` or ``(n, <= k)``.

        Coefficients that are left out are 0.

        Parameters
        ----------
        k : int, optional
            Use only the first k coefficients.
        """
        c = as_coefficients(coefficients, self.k, several=True)
        if k is not None:
            c = c[..., : self.require_k(k)]
        vectors: np.ndarray = c.astype(np.float32) @ self.basis[: c.shape[-1]]  # float64 would copy the basis
        vectors *= self.std
        vectors += self.mean
        return vectors

    def represent(self, what: Adapter | np.ndarray) -> np.ndarray:
        """Return the weights that :meth:`project` standardizes, ``(d,)`` or ``(n, d)``.

        These are an adapter's A and B, flattened. In a canonical space A and B are first replaced by one fixed
        factorization of dW = B @ A (float64), so that two adapters with the same effect give the same vector.
        """
        name = "an adapter (read_adapter(path) reads one), or its weights,"
        values = self.layout.flatten(what) if isinstance(what, Adapter) else as_array(what, name)
        if values.ndim not in (1, 2) or values.shape[-1] != self.layout.size:
            raise LayoutMismatchError(f"expected {self.layout.size} weights per row, got shape {values.shape}")
        return canonicalize_rows(self.layout, values) if self.canonical else values

    def _standardized(self, what: Adapter | np.ndarray) -> np.ndarray:
        return np.asarray((self.represent(what).astype(np.float64) - self.mean) / self.std)

    @checked()
    def explained(self, what: Adapter | np.ndarray, *, difference: bool = False) -> Explained:
        """Project any adapter and measure the fraction of its norm that the components explain.

        Parameters
        ----------
        difference : bool
            Treat the adapter as a change of an identity (a Concept Slider) instead of an identity: the mean is not
            subtracted. In a space that is not canonical this is meaningful only for the same initialization.
        """
        standardized = self._standardized(what)
        if difference:
            standardized = standardized + self.mean.astype(np.float64) / self.std
        if standardized.ndim != 1:
            raise InvalidInputError("explained takes one adapter; use project for a matrix of them")
        if not np.isfinite(standardized).all():
            raise InvalidInputError("these weights contain NaN or infinite values; check the adapter")
        c = standardized @ self.basis.T.astype(np.float64)
        total = float(standardized @ standardized)
        return Explained(c.astype(np.float32), float(c @ c) / total if total else 0.0, float(np.sqrt(total)))

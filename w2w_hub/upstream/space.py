"""Write the published components as a weight space, 1,000 of them in memory at a time.

Values are kept as published, but for the sign of a component: this package's rule makes its entry of largest magnitude
positive, and where it does not hold, the component and all coefficients along it change their sign together. The files
are made one after the other in a working folder; one that is finished is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..common.progress import progress
from ..common.text import counted
from ..common.version import __version__
from ..dataset.manifest import Compatibility
from ..errors import CorruptFileError, InvalidInputError
from ..space.coordinate_files import COMPONENTS_A_FILE
from ..space.coordinates import OPS, basis_digest
from ..space.fit.diagnostics import at_steps
from ..space.manifest import ids_digest
from ..space.population_files import coefficients_table
from ..space.storage import write_manifest
from ..store.atomic import replaced, write_json
from ..store.tensorfile import read_header, read_safetensors, save_tensors
from .layout import Found
from .measured import PROBES, ROWS_AT_ONCE, measure_rows
from .published import INITIALIZATION, LICENSE, PROJECT
from .torch_files import StoredTensor

SPLIT = "train"
SIGNS, PROJECTED, MEASURED, NORMS = "signs.json", "projected.json", "measured.json", "squared-norms.npy"
COLUMNS_AT_ONCE = 4096
ROWS_A_GROUP = 1024
ROWS_TO_PROJECT = 256  # so that the components are not read from memory for each few of them


@dataclass
class Sources:
    """The published files of a weight space.

    Attributes
    ----------
    basis : StoredTensor
        ``V.pt``, ``(d, k)``.
    mean, std : ndarray
        float32 ``(d,)``.
    projections : StoredTensor or None
        ``proj_1000pc.pt``, ``(n, p)``.
    rows : StoredTensor or None
        ``all_weights.pt``, ``(n, d)``.
    """

    basis: StoredTensor
    mean: np.ndarray
    std: np.ndarray
    projections: StoredTensor | None
    rows: StoredTensor | None
    constant: int = 0

    def components(self, k: int | None) -> int:
        """Return how many components the weight space has.

        Raises
        ------
        InvalidInputError
            If a given k is more than there are, or than have coefficients.
        """
        published = self.basis.shape[1]
        projected = 0 if self.projections is None else self.projections.shape[1]
        most = published if self.rows is not None else min(published, projected)
        if not most:
            raise InvalidInputError(
                f"{self.basis.path} has no singular values; they follow from proj_1000pc.pt or all_weights.pt, and "
                "neither is there",
                path=self.basis.path,
            )
        if k is not None and k > most:
            why = (
                ""
                if self.rows is not None
                else f", since {projected:,} have coefficients and all_weights.pt is not there"
            )
            raise InvalidInputError(f"k is at most {most:,} of the {published:,} published components{why}, not {k:,}")
        return k or most


@dataclass
class SpaceWriter:
    """Makes the files of a weight space in a working folder.

    Parameters
    ----------
    k : int
    ids : sequence of str
        Of the rows, in the order of the projections.
    """

    sources: Sources
    found: Found
    ids: Sequence[str]
    k: int
    folder: Path
    checks: dict[str, Any] = field(default_factory=dict)  # what was measured with the rows

    def write(
        self, *, name: str, dataset: dict[str, str], record: dict[str, Any], published: dict[str, Any]
    ) -> None:  # fmt: skip
        """Make all files, the manifest last.

        Parameters
        ----------
        dataset : dict
            ``dataset``, ``dataset_version`` and ``dataset_digest`` of the recipe.
        record : dict
            ``imported`` of the recipe.
        published : dict
            Facts for ``as_published`` of the recipe.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._work.mkdir(exist_ok=True)
        for left in self.folder.glob(".*"):  # of a killed process
            left.unlink()
        signs = self._basis()
        self._write_blocks(signs)
        norms = self._measured()
        values = np.sqrt(sum(np.einsum("ij,ij->j", part, part, dtype=np.float64) for part in self._rows()))
        mean, std = self.sources.mean, self.sources.std
        save_tensors({"mean": mean, "std": std, "singular_values": values}, self.folder / "space.safetensors")
        digest = basis_digest(self.found.layout, chain((mean, std), self._parts()))
        self._write_population(norms, digest)
        n, d = len(self.ids), self.found.layout.size - self.sources.constant
        total = max(float(norms.sum()) if norms is not None else float((n - 1) * d), 1e-300)
        facts = {
            "name": name, "version": "0.1.0", "licence": LICENSE, "digest": digest, "k": self.k, "fitted_split": SPLIT,
            "splits": [SPLIT],
            "recipe": {
                **dataset, "rows": n, "row_ids_sha256": ids_digest(self.ids), "k": self.k, "split": SPLIT,
                "standardised": True, "canonical": None, "algorithm": f"as published by {PROJECT}",
                "constant_numbers": self.sources.constant,
                "software": {"w2w_hub": __version__, "numpy": np.__version__},
                "imported": record,
                "as_published": published | {"measured": self.checks, "flipped": np.flatnonzero(signs < 0).tolist()},
            },
            "diagnostics": {
                "orthogonality_error": self._orthogonality(),
                "explained_variance": at_steps(np.cumsum(values**2) / total),
                "held_out": {"rows": 0},
            },
            "compatibility": asdict(Compatibility(self.found.base_model, None, INITIALIZATION)),
        }  # fmt: skip
        write_manifest(self.folder, facts, self.found.layout, {})

    @property
    def _work(self) -> Path:
        """The folder of working files, which stay until the import is finished: a manifest may be made again."""
        return self.folder.with_name(f".{self.folder.name}.w2w-work")

    # -------------------------------------------------------------- the basis
    def _starts(self) -> range:
        return range(0, self.k, COMPONENTS_A_FILE)

    def _file(self, start: int) -> Path:
        return self.folder / f"basis-{start // COMPONENTS_A_FILE:05d}.safetensors"

    def _parts(self) -> Iterator[np.ndarray]:
        """Yield the components of each file, float32 ``(<= 1000, d)``."""
        for start in self._starts():
            yield read_safetensors(self._file(start))[0]["basis"]

    def _basis(self) -> np.ndarray:
        """Write the components; return their signs, -1 where one was flipped."""
        where, signs = self._work / SIGNS, np.ones(self.k, np.float32)
        if where.is_file():
            signs[:] = np.asarray(json.loads(where.read_text("utf-8")), np.float32)
        for start in progress(self._starts(), "writing components", len(self._starts())):
            if self._file(start).is_file():
                continue
            stop = min(start + COMPONENTS_A_FILE, self.k)
            block = self.sources.basis.column_block(start, stop)
            _require_finite(block, self.sources.basis.path)
            largest = np.array([row[np.abs(row).argmax()] for row in block])  # the first of equal magnitudes
            signs[start:stop] = np.where(largest < 0, -1, 1)
            block *= signs[start:stop, None]
            write_json(where, signs.tolist(), replace=True)
            with replaced(self._file(start)) as partial:
                save_tensors({"basis": block}, partial)
        return signs

    def _orthogonality(self) -> float:
        """Return the largest entry of |V Vᵀ - 1|, in float64, a strip of columns at a time."""
        worst = 0.0
        for start in progress(self._starts(), "measuring orthogonality", len(self._starts())):
            stop = min(start + COMPONENTS_A_FILE, self.k)
            product = np.zeros((stop - start, stop))
            for first in range(0, self.found.layout.size, COLUMNS_AT_ONCE):
                strip = np.concatenate([self._strip(each, first) for each in self._starts() if each <= start])
                strip = strip[:stop].astype(np.float64)
                product += strip[start:] @ strip.T
            product[np.arange(stop - start), np.arange(start, stop)] -= 1
            worst = max(worst, float(np.abs(product).max()))
        return worst

    def _strip(self, start: int, first: int) -> np.ndarray:
        """Return some columns of a file's components."""
        header = read_header(self._file(start))
        shape = header.entries["basis"].shape
        begin = header.start + header.entries["basis"].begin
        stored = np.memmap(self._file(start), "<f4", "r", begin, shape)
        return np.array(stored[:, first : first + COLUMNS_AT_ONCE])

    # -------------------------------------------------------------- the rows
    def _coefficients(self, start: int) -> Path:
        """Return the working file of all rows' coefficients along the components of a file, float32."""
        return self._work / f"coefficients-{start // COMPONENTS_A_FILE:05d}.part"

    def _write_blocks(self, signs: np.ndarray) -> None:
        """Write the coefficients of all rows: the published ones, and the rows' own where none were published."""
        projections, rows = self.sources.projections, self.sources.rows
        known = 0 if projections is None else min(projections.shape[1], self.k)
        for start in self._starts():
            if self._coefficients(start).is_file():
                continue
            stop = min(start + COMPONENTS_A_FILE, self.k)
            there = min(max(known - start, 0), stop - start)
            own = (
                self._projected(rows, start, stop) if rows is not None and (there < stop - start or not start) else None
            )
            error = norm = 0.0
            with replaced(self._coefficients(start)) as partial, open(partial, "wb") as file:
                for first in range(0, len(self.ids), ROWS_TO_PROJECT):
                    part = np.empty((min(ROWS_TO_PROJECT, len(self.ids) - first), stop - start), np.float32)
                    if own is not None:
                        part[:] = next(own)
                    if there and projections is not None:
                        given = projections[first : first + len(part), start : start + there].astype(np.float32)
                        _require_finite(given, projections.path)
                        given *= signs[start : start + there]
                        error += float(((part[:, :there] - given) ** 2).sum()) if own is not None else 0
                        norm += float((given**2).sum())
                        part[:, :there] = given
                    part.tofile(file)
                if own is not None and there:
                    relative = float(np.sqrt(error / max(norm, 1e-300)))
                    write_json(self._work / PROJECTED, {"projection_error": relative}, replace=True)

    def _projected(self, rows: StoredTensor, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the coefficients of some rows after the other, float64 ``(<= 256, stop - start)``."""
        basis = read_safetensors(self._file(start))[0]["basis"]
        text = f"projecting on components {start:,} to {stop:,}"
        for first in progress(range(0, len(self.ids), ROWS_TO_PROJECT), text):
            scaled = np.empty((min(ROWS_TO_PROJECT, len(self.ids) - first), rows.shape[1]), np.float32)
            for at in range(0, len(scaled), ROWS_AT_ONCE):
                part = rows[first + at : first + min(at + ROWS_AT_ONCE, len(scaled))].astype(np.float64)
                _require_finite(part, rows.path)
                part -= self.sources.mean
                part /= self.sources.std
                scaled[at : at + len(part)] = part
            yield OPS.inner(scaled, basis)

    def _rows(self) -> Iterator[np.ndarray]:
        """Yield the coefficients of some rows after the other, float32 ``(<= 1024, k)``."""
        for first in range(0, len(self.ids), ROWS_A_GROUP):
            count, parts = min(ROWS_A_GROUP, len(self.ids) - first), []
            for start in self._starts():
                width = min(COMPONENTS_A_FILE, self.k - start)
                part = np.fromfile(self._coefficients(start), np.float32, count * width, offset=first * width * 4)
                parts.append(part.reshape(count, width))
            yield np.concatenate(parts, axis=1)

    def _measured(self) -> np.ndarray | None:
        """Return the squared norms of the standardized rows; None without rows."""
        where, norms = self._work / MEASURED, self._work / NORMS
        if self.sources.rows is None:
            return None
        if not where.is_file():
            first = read_safetensors(self._file(0))[0]["basis"][:PROBES].copy()
            measured = measure_rows(self.sources.rows, self.sources.mean, self.sources.std, first)
            np.save(norms, measured.squared_norms)
            write_json(where, measured.facts, replace=True)
        for each in (where, self._work / PROJECTED):
            self.checks |= json.loads(each.read_text("utf-8")) if each.is_file() else {}
        return np.asarray(np.load(norms))

    def _write_population(self, norms: np.ndarray | None, digest: str) -> None:
        import pyarrow.parquet as pq

        path, writer, start = self.folder / "coefficients" / f"{SPLIT}.parquet", None, 0
        path.parent.mkdir(exist_ok=True)
        try:
            for part in self._rows():
                stop = start + len(part)
                table = coefficients_table(
                    self.ids[start:stop], np.arange(start, stop), np.ones(len(part), bool), part, digest,
                    None if norms is None else norms[start:stop],
                )  # fmt: skip
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
                start = stop
        finally:
            if writer is not None:
                writer.close()


def read_vector(tensor: Any, path: Path, size: int) -> np.ndarray:
    """Return a tensor of `size` numbers as float32 ``(size,)``.

    Raises
    ------
    CorruptFileError
    """
    if not isinstance(tensor, StoredTensor) or int(np.prod(tensor.shape)) != size or tensor.dtype.kind != "f":
        found = f"a tensor of shape {tensor.shape}" if isinstance(tensor, StoredTensor) else "no tensor"
        raise CorruptFileError(
            f"{path} holds {found}; the other files have {counted(size, 'number')} per LoRA", path=path
        )
    values = tensor[...].reshape(-1).astype(np.float32)
    _require_finite(values, path)
    return values


def _require_finite(values: np.ndarray, path: Path) -> None:
    if not np.isfinite(values).all():
        raise CorruptFileError(f"{path} has values that are NaN or infinite; fetch it again", path=path)

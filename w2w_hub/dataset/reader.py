"""Read the rows and labels of an opened dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import checked
from ..common.checks import is_whole
from ..common.constraints import instance
from ..common.deprecated import renamed_keywords
from ..common.display import LONGEST, Displayed, listed
from ..common.text import available, one_line
from ..errors import CorruptFileError, InvalidInputError, UnknownNameError
from ..lora.adapter import Adapter
from ..lora.layout import ParameterLayout
from ..store.commit import open_state
from ..store.hub.source import ResolvedRevision, Source
from ..store.hub.withdrawals import Withdrawal
from ..store.paths import find_file
from .index import RowIndex
from .licenses import license_of, row_licenses
from .manifest import DatasetManifest
from .matrix.geometry import Geometry
from .matrix.matrix import Matrix
from .opening import open_source

if TYPE_CHECKING:
    import pandas as pd


class DatasetReader(Displayed):
    """One state of a dataset: its manifest, labels and matrix of rows.

    Attributes
    ----------
    path : Path
    manifest : DatasetManifest
    labels : DataFrame
        Split, source, licence, consent and attributes, indexed by row id, in row order.
    matrix : Matrix
    source : Source
    """

    def __init__(
        self, path: Path, manifest: DatasetManifest, labels: pd.DataFrame, matrix: Matrix, source: Source | None = None
    ):
        self.path, self.manifest, self.labels, self.matrix = path, manifest, labels, matrix
        self.source = source or Source(path)
        self._index = RowIndex(str(path), labels)

    def __reduce__(self) -> Any:
        source = self.source if self.revision is not None else Source(self.path.absolute())
        return _reopen, (type(self), source, self.matrix.is_lazy, self.manifest.digest)

    def __repr__(self) -> str:
        m = self.manifest
        splits = ", ".join(f"{k} {v}" for k, v in m.splits.items())
        shape = f"{m.rows:,} x {m.layout.size:,} {m.dtype}"
        return one_line(f"{type(self).__name__}({m.name} {m.version}: {shape}, {splits}, {m.digest[:12]})", LONGEST)

    def _facts(self) -> Mapping[str, object]:
        m = self.manifest
        return {
            "name": m.name, "version": m.version, "digest": m.digest[:12],
            "rows": f"{m.rows:,} ({listed(f'{name} {count:,}' for name, count in m.splits.items())})",
            "parameters": f"{m.layout.size:,}, {m.dtype}", "modules": len(m.layout.slots),
            "attributes": listed(f"{name} ({kind})" for name, kind in m.columns.items()),
            "base model": m.compatibility.base_model or "not named", "license": self.license,
            "opened from": str(self.revision or self.path),
        }  # fmt: skip

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def revision(self) -> ResolvedRevision | None:
        """The repository and commit that the dataset was opened from; None for a folder."""
        return self.source.revision

    @property
    def withdrawn(self) -> Mapping[int, Withdrawal]:
        """The rows that were withdrawn from the repository, by index: reading them raises `WithdrawnError`."""
        return self.matrix.withdrawn

    @property
    def address(self) -> str:
        """The path that opens the same state again: the folder, or ``org/name@commit`` if rows are lazy."""
        return str(self.revision) if self.matrix.is_lazy else str(self.path.absolute())

    @property
    def layout(self) -> ParameterLayout:
        return self.manifest.layout

    @property
    def license(self) -> str:
        """The license that the manifest states, or else the rows: ``other`` if they state several."""
        return license_of(self.manifest.licence, row_licenses(self.labels))

    @property
    def shape(self) -> tuple[int, int]:
        return (self.manifest.rows, self.layout.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.manifest.dtype)

    @property
    def geometry(self) -> Geometry | None:
        """The chunks and shards of the matrix; None if they do not consist of whole rows."""
        return self.matrix.geometry

    @property
    def has_view(self) -> bool:
        """True if there is a Parquet view for stock `datasets`."""
        return any(name.startswith("parquet/") for name in self.manifest.files)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.labels.index)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        return tuple(self.manifest.columns)

    def find(self, name: str) -> Path:
        """Return the path of a file that the manifest lists, which is fetched from the Hub if needed.

        Raises
        ------
        MissingPathError, CorruptFileError, HubError
        """
        if self.revision is None:
            return open_state(self.path).find(name)
        return find_file(self.source.need([name]), name)

    def attribute(self, name: str) -> pd.Series:
        """Return the column of an attribute."""
        if not isinstance(name, str) or name not in self.manifest.columns:
            raise UnknownNameError(f"no attribute {name!r}; {available(name, self.attributes, 'w2w inspect DATASET')}")
        return self.labels[name]

    def position(self, row_id: str) -> int:
        """Return the index of the row with an id."""
        return self._index.position(row_id)

    @checked()
    def row_indices(self, key: slice | Sequence[Any] | np.ndarray | pd.Series) -> np.ndarray:
        """Return the indices, 0 to n - 1, of the rows that a slice, a mask or a list of indices or ids selects.

        A mask that is a Series is aligned by its index of ids; a missing value selects nothing.
        """
        return self._index.several(key)

    def where(self, /, split: str | None = None, **attributes: Any) -> np.ndarray:
        """Return the indices of the rows with this split and these attribute values.

        Values are parsed by the attribute's kind: a boolean may be 1, 0 or text, and a number may be text. Rows with a
        missing value never match, and neither do withdrawn rows.

        Raises
        ------
        UnknownNameError
            If there is no such split, attribute or level.
        InvalidInputError
            If a value is missing or cannot be parsed as the attribute's kind.
        """
        for name in attributes:
            self.attribute(name)
        chosen = self._index.matching(self.manifest.kinds, attributes)
        chosen[list(self.withdrawn)] = False
        if split is not None:
            if not isinstance(split, str) or split not in self.manifest.splits:
                raise self._unknown_split(split)
            chosen &= (self.labels["split"] == split).to_numpy(bool)
        return np.flatnonzero(chosen)

    def _unknown_split(self, split: Any) -> UnknownNameError:
        """Return the error for a split that does not exist; an attribute is passed by name."""
        there = f"no split {split!r}; there are {', '.join(self.manifest.splits)}"
        if isinstance(split, str) and split in self.manifest.columns:
            kind, call = self.manifest.kinds[split], f"where({split}=...)" if split.isidentifier() else "where(**{...})"
            there += f". {split!r} is an attribute: use {call}; {kind.values_text(self.labels[split])}"
        return UnknownNameError(there, name=split if isinstance(split, str) else None)

    def __getitem__(self, key: int | str | slice | Sequence[Any] | np.ndarray | pd.Series) -> np.ndarray:
        """Return rows as stored: one id or index gives ``(d,)``; a slice, mask or list gives ``(m, d)``."""
        number = self._index.one(key)
        return self.matrix.rows(self._index.several(key)) if number is None else self.matrix.row(number)

    @renamed_keywords(numbers="indices")
    @checked(out=instance(np.ndarray, "an array"))
    def read_into(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Read rows into an existing float array ``(m, d)`` of the stored dtype or a wider one."""
        numbers = self.row_indices(indices)
        if out.shape != (len(numbers), self.layout.size) or out.dtype.kind != "f":
            raise InvalidInputError(
                f"out must be a float array of shape ({len(numbers)}, {self.layout.size}), not {out.dtype} of shape "
                f"{out.shape}"
            )
        if out.dtype == self.matrix.dtype and out.flags.c_contiguous:
            self.matrix.rows(numbers, out)
        else:
            out[:] = self.matrix.rows(numbers)

    @renamed_keywords(first="start", last="stop")
    @checked()
    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows `start` to before `stop` as stored, read-only and without a copy.

        None unless they are in one local, uncompressed shard. The pages that are read stay in this process's memory
        until :meth:`release`.
        """
        return self.matrix.view(start, stop)

    @checked()
    def release(self, start: int, stop: int) -> None:
        """Allow the operating system to drop the pages of a :meth:`view`, which stays readable."""
        self.matrix.release(start, stop)

    def to_numpy(self, split: str | None = None) -> np.ndarray:
        """Return the whole matrix, or the rows of one split, as stored."""
        return self.matrix.rows(np.arange(len(self)) if split is None else self.where(split=split))

    def iter_blocks(self, rows: int = 256, split: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield row indices and values ``(m, d)``, m at most `rows`, in row order; one block is in memory at a time."""
        if not is_whole(rows) or rows < 1:
            raise InvalidInputError(f"rows must be an integer of at least 1, not {rows!r}")
        chosen = self.where(split=split)
        for start in range(0, len(chosen), rows):
            numbers = chosen[start : start + rows]
            yield numbers, self[numbers]

    def adapter(self, row_id: str | int) -> Adapter:
        """Return one row as a LoRA adapter, float32."""
        return self.layout.unflatten(self[row_id], base_model=self.manifest.compatibility.base_model)

    def mean_std(self, split: str | None = "train") -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation (ddof 1) of the rows of a split, float64 ``(d,)``, in one pass."""
        count, mean, squares = 0, np.zeros(self.layout.size), np.zeros(self.layout.size)
        for _, block in self.iter_blocks(64, split):
            values = block.astype(np.float64)
            here = values.mean(0)
            values -= here
            step = here - mean
            total = count + len(block)
            mean += step * (len(block) / total)
            squares += (values**2).sum(0) + step**2 * (count * len(block) / total)
            count = total
        if count < 2:
            raise InvalidInputError(f"a standard deviation needs at least two rows; split {split!r} has {count}")
        return mean, np.sqrt(squares / (count - 1))


def _reopen(kind: type[DatasetReader], source: Source, lazy: bool, digest: str) -> DatasetReader:
    """Open an unpickled dataset, whose folder must still be in the same state."""
    opened = kind(*open_source(source, lazy))
    if opened.manifest.digest != digest:
        raise CorruptFileError(f"{opened.path} has changed since it was opened; open it again", path=opened.path)
    return opened

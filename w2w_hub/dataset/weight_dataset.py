"""Open a dataset: rows, labels, adapters and the check that nothing has changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import checked, place
from ..common.checks import is_whole
from ..common.constraints import instance
from ..errors import (
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnknownNameError,
    UnsupportedFormatError,
    missing_extra,
)
from ..lora.adapter import Adapter
from ..lora.layout import ParameterLayout
from ..store.commit import State, read_state, staging_folder
from ..store.hub.locate import locate
from ..store.hub.options import HubOptions
from ..store.hub.source import ResolvedRevision, Source
from .index import RowIndex
from .manifest import FORMAT, DatasetManifest
from .matrix.remote import RangedMatrix, open_remote
from .matrix.shards import Geometry, LocalFiles, ShardedMatrix, require_group
from .matrix.zarr_matrix import ZarrMatrix, require_backed, require_shape
from .tables import read_labels

if TYPE_CHECKING:
    import pandas as pd

PINNED_FILES = 256
DASK_BLOCK_BYTES = 64_000_000


class WeightDataset:
    """A dataset of flattened adapters; make one with :meth:`open`.

    Attributes
    ----------
    path : Path
    manifest : DatasetManifest
    layout : ParameterLayout
    labels : DataFrame
        Split, source, licence, consent and attributes, indexed by row id, in row order.

    Examples
    --------
    >>> ds = WeightDataset.open("people")            # doctest: +SKIP
    >>> ds[0], ds["person-0001"], ds[:16], ds[ds.where(split="train", Beard=True)]   # doctest: +SKIP
    >>> ds.adapter("person-0001")                    # doctest: +SKIP
    """

    def __init__(
        self,
        path: Path,
        manifest: DatasetManifest,
        labels: pd.DataFrame,
        matrix: ShardedMatrix | ZarrMatrix,
        source: Source | None = None,
    ):
        self.path, self.manifest, self.labels, self._matrix = path, manifest, labels, matrix
        self.source = source or Source(path)
        self._index = RowIndex(str(path), labels)

    @classmethod
    @checked(path=place())
    def open(
        cls,
        path: Path | str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
        lazy: bool | None = None,
    ) -> WeightDataset:
        """Open a dataset folder, a Hub repository (``org/name``) at a revision, or what a lock file pins.

        Nothing in a folder is hashed; :meth:`verify` does that. What comes from the Hub is verified.

        Parameters
        ----------
        revision : str, optional
            Tag, branch or commit of a repository; ``main`` without it.
        token, cache_dir, local_files_only
            As in huggingface_hub.
        lazy : bool, optional
            Fetch labels only; rows come by byte range when they are read, each checked by its digest, and a shard
            whole once half of it was read. False fetches all shards now, so that all of it opens offline. By
            default a matrix of more than 1 MB is lazy.

        What was opened stays as it was while others put new states in its place.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
        """
        options = HubOptions(token, cache_dir, local_files_only)
        source = locate(path, "dataset", revision=revision, options=options)
        if source.revision is not None:
            return open_remote(source, lazy)
        path = source.folder
        if not path.is_dir():
            unfinished = staging_folder(path).is_dir()
            raise MissingPathError(
                f"{path} was not packed to the end; run the same w2w pack command again to continue"
                if unfinished
                else f"{path} is not a dataset folder; make one with: w2w pack ADAPTER... --out {path}"
            )
        return read_state(path, cls._open, FORMAT)

    @classmethod
    def _open(cls, state: State) -> WeightDataset:
        path, find = state.root, state.find
        manifest = DatasetManifest.from_json(state.data, state.manifest_path)
        labels = read_labels(find, manifest, path)
        files = _require_shards(state)
        matrix: ShardedMatrix | ZarrMatrix
        require_backed(manifest, path)
        try:
            require_group(files, str(path))
            matrix = ShardedMatrix(files, str(path))
        except UnsupportedFormatError:
            matrix = ZarrMatrix(manifest.files, find, str(path))
        require_shape(matrix, manifest, path)
        return cls(path, manifest, labels, matrix)

    def __reduce__(self) -> Any:
        if self.revision is not None:
            return open_remote, (self.source, isinstance(self._matrix, RangedMatrix))
        return _reopen, (self.path.absolute(), self.manifest.digest)

    def __repr__(self) -> str:
        m = self.manifest
        splits = ", ".join(f"{k} {v}" for k, v in m.splits.items())
        return (
            f"WeightDataset({m.name} {m.version}: {m.rows:,} x {m.layout.size:,} {m.dtype}, {splits}, {m.digest[:12]})"
        )

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def revision(self) -> ResolvedRevision | None:
        """The repository and commit that it was opened from; None for a folder."""
        return self.source.revision

    @property
    def address(self) -> str:
        """What opens the same state again: the folder, or ``org/name@commit`` if not all of it is here."""
        return str(self.revision) if isinstance(self._matrix, RangedMatrix) else str(self.path.absolute())

    @property
    def layout(self) -> ParameterLayout:
        return self.manifest.layout

    @property
    def shape(self) -> tuple[int, int]:
        return (self.manifest.rows, self.layout.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.manifest.dtype)

    @property
    def geometry(self) -> Geometry | None:
        """How the matrix is cut, or None if it is laid out in another way than we write it."""
        return self._matrix.geometry

    @property
    def has_view(self) -> bool:
        """Whether there is a Parquet view for stock `datasets`."""
        return any(name.startswith("parquet/") for name in self.manifest.files)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.labels.index)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        return tuple(self.manifest.columns)

    def position(self, row_id: str) -> int:
        """Return the row number of an id."""
        return self._index.position(row_id)

    def where(self, /, split: str | None = None, **attributes: Any) -> np.ndarray:
        """Return the numbers of the rows with this split and these attribute values.

        A value is read as one of the attribute's kind: true and false also as 1 and 0 or as their text, numbers also as
        text. Rows without a value are never chosen.

        Raises
        ------
        UnknownNameError
            If there is no such split, attribute or level.
        InvalidInputError
            If no row can have the value, since it is not of the attribute's kind, or missing.
        """
        for name in attributes:
            self.attribute(name)
        chosen = self._index.matching(self.manifest.columns, attributes)
        if split is not None:
            if not isinstance(split, str) or split not in self.manifest.splits:
                raise UnknownNameError(f"no split {split!r}; there are {', '.join(self.manifest.splits)}")
            chosen &= (self.labels["split"] == split).to_numpy(bool)
        return np.flatnonzero(chosen)

    def attribute(self, name: str) -> pd.Series:
        """Return one attribute's column."""
        if not isinstance(name, str) or name not in self.manifest.columns:
            raise UnknownNameError(f"no attribute {name!r}; there are {', '.join(self.manifest.columns) or 'none'}")
        return self.labels[name]

    def __getitem__(self, key: int | str | slice | Sequence[Any] | np.ndarray | pd.Series) -> np.ndarray:
        """Return rows as stored: one id or number gives ``(d,)``; a slice, mask or list gives ``(m, d)``."""
        number = self._index.one(key)
        return self._matrix.rows(self._index.several(key)) if number is None else self._matrix.row(number)

    @checked(out=instance(np.ndarray, "an array"))
    def read_into(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """Rows by number into an array ``(m, d)`` that is there already, of the stored dtype or a wider one."""
        numbers = self.numbers(numbers)
        if out.shape != (len(numbers), self.layout.size) or out.dtype.kind != "f":
            raise InvalidInputError(
                f"{len(numbers)} rows are read into floats of shape ({len(numbers)}, {self.layout.size}), not "
                f"{out.dtype} of shape {out.shape}"
            )
        if out.dtype == self._matrix.dtype and out.flags.c_contiguous:
            self._matrix.rows(numbers, out)
        else:
            out[:] = self._matrix.rows(numbers)

    @checked()
    def view(self, first: int, last: int) -> np.ndarray | None:
        """Rows `first` to before `last` as stored, without a copy: read-only, of a local uncompressed shard.

        None if they lie in several shards, or elsewhere, or compressed. What is read of it stays in this process's
        memory until :meth:`seen`.
        """
        return self._matrix.view(first, last)

    @checked()
    def seen(self, first: int, last: int) -> None:
        """The rows of a :meth:`view` are not needed in memory any more; it can still be read."""
        if isinstance(self._matrix, ShardedMatrix):
            self._matrix.seen(first, last)

    @checked()
    def numbers(self, key: slice | Sequence[Any] | np.ndarray | pd.Series) -> np.ndarray:
        """Return row numbers, 0 to n - 1, of a slice, a list of numbers or ids, or a mask.

        A mask from a table of labels is aligned by its index, the ids; what is missing in it is not chosen.
        """
        return self._index.several(key)

    def to_numpy(self, split: str | None = None) -> np.ndarray:
        """The whole matrix, or one split's rows, as stored."""
        return self._matrix.rows(np.arange(len(self)) if split is None else self.where(split=split))

    def iter_blocks(self, rows: int = 256, split: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers and values ``(<= rows, d)``, in row order, one block in memory at a time."""
        if not is_whole(rows) or rows < 1:
            raise InvalidInputError(f"a block needs at least one row, not {rows!r}")
        chosen = self.where(split=split)
        for start in range(0, len(chosen), rows):
            numbers = chosen[start : start + rows]
            yield numbers, self[numbers]

    def adapter(self, row_id: str | int) -> Adapter:
        """One row as a usable LoRA, float32."""
        adapter = self.layout.unflatten(self[row_id])
        adapter.base_model = self.manifest.compatibility.base_model
        return adapter

    def mean_std(self, split: str | None = "train") -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (ddof 1) of each number over a split, float64 ``(size,)`` each, in one pass."""
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

    def to_dask(self, rows: int | None = None) -> Any:
        """The matrix as a lazy `dask.array`, in blocks of whole rows (about 64 MB, or `rows` each)."""
        try:
            import dask.array as da
        except ImportError:
            raise missing_extra("dask", "dask") from None
        if rows is not None and (not is_whole(rows) or rows < 1):
            raise InvalidInputError(f"a block needs at least one row, not {rows!r}")
        rows = rows or max(1, DASK_BLOCK_BYTES // (self.layout.size * self.dtype.itemsize))
        return da.from_array(
            _Lazy(self), chunks=(min(rows, len(self)), self.layout.size), name=f"w2w-{self.manifest.digest}-{rows}",
            asarray=False, meta=np.empty((0, 0), self.dtype),
        )  # fmt: skip

    @checked()
    def torch(self, split: str | None = None, *, columns: Sequence[str] = ()) -> Any:
        """A torch `Dataset` of one split: see :class:`w2w_hub.dataset.views.torch.RowDataset`."""
        from .views.torch import RowDataset

        return RowDataset(self, split, columns)

    @checked()
    def torch_stream(self, split: str | None = None, *, columns: Sequence[str] = (), **options: Any) -> Any:
        """A torch `IterableDataset` of one split: see :class:`w2w_hub.dataset.views.torch.RowStream`."""
        from .views.torch import RowStream

        return RowStream(self, split, columns, **options)

    @checked()
    def verify(self, *, deep: bool = True) -> None:
        """Raise one `CorruptFileError` that names every file, shard and row that is not as published.

        See :func:`w2w_hub.dataset.integrity.check`; `deep` hashes all there is.
        """
        from ..store.hub.verify import verify_source
        from .integrity import check

        report = verify_source(self.source, check, deep=deep)
        report.raise_if_any()
        for note in report.notes:
            warnings.warn(note, stacklevel=2)


class _Lazy:
    """What `dask.array.from_array` asks of an array."""

    ndim = 2

    def __init__(self, dataset: WeightDataset):
        self.dataset, self.shape, self.dtype = dataset, dataset.shape, dataset.dtype

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        return self.dataset[key[0]][(slice(None), *key[1:])]


def _reopen(path: Path, digest: str) -> WeightDataset:
    """Open in another process the state that was open in this one."""
    opened = WeightDataset.open(path)
    if opened.manifest.digest != digest:
        raise CorruptFileError(f"{path} has changed since it was opened; open it again")
    return opened


def _require_shards(state: State) -> LocalFiles:
    """The open files of the matrix, each there in full size: Zarr reads a missing or empty shard as zeros."""
    files = LocalFiles(*state.folders)
    listed = {name: entry["size"] for name, entry in state.data["files"].items() if name.startswith("weights.zarr/")}
    for name, size in listed.items():
        # few enough are kept open from now on, so that a new state put in place meanwhile is not mixed into this one
        found = files.size(name) if len(listed) <= PINNED_FILES else state.find(name).stat().st_size
        if found != size:
            raise CorruptFileError(
                f"{state.root / name} has {found} bytes, the manifest lists {size}; fetch the dataset again"
            )
    return files

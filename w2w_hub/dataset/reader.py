"""Open a dataset: rows, labels, adapters and the check that nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adapter import Adapter
from ..errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError
from ..files import recover, sha256_file
from ..hub.resolve import ResolvedRevision, Source, locate
from ..layout import ParameterLayout
from . import labels as label_table
from .manifest import DatasetManifest, dataset_digest, row_digest

if TYPE_CHECKING:
    import pandas as pd


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
        self, path: Path, manifest: DatasetManifest, labels: pd.DataFrame, array: Any, source: Source | None = None
    ):
        self.path, self.manifest, self.labels, self._array = path, manifest, labels, array
        self.source = source or Source(path)
        self._positions = {name: i for i, name in enumerate(labels.index)}

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
    ) -> WeightDataset:
        """Open a dataset folder, a Hub repository (``org/name``) at a revision, or what a lock file pins.

        Nothing in a folder is hashed; :meth:`verify` does that. What comes from the Hub is verified.

        Parameters
        ----------
        revision : str, optional
            Tag, branch or commit of a repository; ``main`` without it.
        token, cache_dir, local_files_only
            As in huggingface_hub.

        Raises
        ------
        MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
        """
        import zarr

        source = locate(
            path, "dataset", revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        path = recover(source.need(name for name in source.files if not name.startswith("parquet/")))
        if not path.is_dir():
            raise MissingPathError(f"{path} is not a dataset folder; make one with: w2w pack ADAPTER... --out {path}")
        manifest = DatasetManifest.read(path)
        labels = _read_labels(path, manifest)
        _require_shards(path, manifest)
        try:
            array: Any = zarr.open_group(path / "weights.zarr", mode="r")["weights"]
        except (KeyError, ValueError, OSError) as error:
            raise CorruptFileError(
                f"{path}/weights.zarr cannot be opened ({error}); fetch the dataset again"
            ) from error
        if array.shape != (manifest.rows, manifest.layout.size) or array.dtype.name != manifest.dtype:
            raise CorruptFileError(
                f"{path}/weights.zarr is {array.dtype.name} {array.shape}, the manifest states "
                f"{manifest.dtype} ({manifest.rows}, {manifest.layout.size})"
            )
        return cls(path, manifest, labels, array, source)

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
    def layout(self) -> ParameterLayout:
        return self.manifest.layout

    @property
    def shape(self) -> tuple[int, int]:
        return (self.manifest.rows, self.layout.size)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.labels.index)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        return tuple(self.manifest.columns)

    def position(self, row_id: str) -> int:
        """The row number of an id."""
        try:
            return self._positions[row_id]
        except KeyError:
            near = ", ".join(list(self._positions)[:3])
            raise UnknownNameError(f"{self.path} has no row {row_id!r}; its ids look like {near}") from None

    def where(self, split: str | None = None, **attributes: Any) -> np.ndarray:
        """Row numbers with this split and these attribute values."""
        chosen = np.ones(len(self), bool)
        if split is not None:
            if split not in self.manifest.splits:
                raise UnknownNameError(f"no split {split!r}; there are {', '.join(self.manifest.splits)}")
            chosen &= (self.labels["split"] == split).to_numpy(bool)
        for name, value in attributes.items():
            chosen &= (self.attribute(name) == value).fillna(False).to_numpy(bool)
        return np.flatnonzero(chosen)

    def attribute(self, name: str) -> pd.Series:
        """One attribute's column."""
        if name not in self.manifest.columns:
            raise UnknownNameError(f"no attribute {name!r}; there are {', '.join(self.manifest.columns) or 'none'}")
        return self.labels[name]

    def __getitem__(self, key: int | str | slice | Sequence[Any] | np.ndarray) -> np.ndarray:
        """Rows as stored: one id or number gives ``(d,)``; a slice, mask or list gives ``(m, d)``."""
        if isinstance(key, str):
            key = self.position(key)
        if isinstance(key, (int, np.integer)):
            if not -len(self) <= key < len(self):
                raise IndexError(f"row {key} of {len(self)}")
            return np.asarray(self._array[int(key) % len(self)])
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step > 0:
                return np.asarray(self._array[start:stop])[::step]
            key = np.arange(start, stop, step)
        picked = np.asarray([self.position(k) if isinstance(k, str) else k for k in key])
        if picked.dtype == bool:
            if picked.shape != (len(self),):
                raise InvalidInputError(f"a mask needs {len(self)} entries, got {picked.shape}")
            picked = np.flatnonzero(picked)
        if not len(picked):
            return np.empty((0, self.layout.size), self.manifest.dtype)
        if picked.min() < -len(self) or picked.max() >= len(self):
            raise IndexError(f"rows {picked.min()} to {picked.max()} of {len(self)}")
        return np.asarray(self._array.oindex[picked % len(self), :])

    def to_numpy(self, split: str | None = None) -> np.ndarray:
        """The whole matrix, or one split's rows, as stored."""
        return np.asarray(self._array[:]) if split is None else self[self.where(split=split)]

    def iter_blocks(self, rows: int = 256, split: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers and values ``(<= rows, d)``, in row order, one block in memory at a time."""
        chosen = self.where(split=split)
        for start in range(0, len(chosen), rows):
            numbers = chosen[start : start + rows]
            yield numbers, self[numbers]

    def adapter(self, row_id: str | int) -> Adapter:
        """One row as a usable LoRA, float32."""
        adapter = self.layout.unflatten(self[row_id])
        adapter.base_model = self.manifest.compatibility.base_model
        return adapter

    def verify(self) -> None:
        """Hash everything; raise `CorruptFileError` naming the file or row that is not as published."""
        self.source.need(self.source.files)
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise CorruptFileError(f"{file} is missing; fetch the dataset again")
            if file.stat().st_size != entry["size"] or sha256_file(file) != entry["sha256"]:
                raise CorruptFileError(f"{file} is not what the manifest lists; fetch the dataset again")
        table = self.labels.reset_index(names="id")
        for numbers, block in self.iter_blocks():
            for number, row in zip(numbers, block, strict=True):
                if row_digest(row) != table["row_sha256"].iloc[number]:
                    raise CorruptFileError(
                        f"{self.path}: row {table['id'].iloc[number]!r} has other values than listed"
                    )
        if dataset_digest(self.layout, label_table.records(table)) != self.manifest.digest:
            raise CorruptFileError(f"{self.path}: labels and rows do not give the digest in the manifest")


def _require_shards(path: Path, manifest: DatasetManifest) -> None:
    """Raise unless every file of the matrix is there in full size: Zarr reads a missing or empty shard as zeros."""
    for name, entry in manifest.files.items():
        file = path / name
        if name.startswith("weights.zarr/"):
            if not file.is_file():
                raise MissingPathError(f"{file} is not there; fetch the dataset again")
            found, listed = file.stat().st_size, entry["size"]
            if found != listed:
                raise CorruptFileError(
                    f"{file} has {found} bytes, the manifest lists {listed}; fetch the dataset again"
                )


def _read_labels(path: Path, manifest: DatasetManifest) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for split in manifest.splits:
        file = path / "labels" / f"{split}.parquet"
        if not file.is_file():
            raise MissingPathError(f"{file} is not there; fetch the dataset again")
        try:
            parts.append(pd.read_parquet(file, dtype_backend="numpy_nullable"))
        except (ValueError, OSError) as error:
            raise CorruptFileError(f"{file} cannot be read ({error}); fetch the dataset again") from error
    table = pd.concat(parts, ignore_index=True)
    for name in (*label_table.RESERVED, *manifest.columns):
        if name not in table.columns:
            raise CorruptFileError(f"{path}/labels has no column {name!r}; fetch the dataset again")
    table = table.sort_values("row")
    if list(table["row"]) != list(range(manifest.rows)):
        raise CorruptFileError(f"{path}/labels does not number the rows 0 to {manifest.rows - 1}")
    for name, kind in manifest.columns.items():
        if kind == "float":
            table[name] = table[name].astype("Float64")
    return table.set_index("id")

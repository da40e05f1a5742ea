"""Torch datasets of rows: map-style, or a shuffled stream divided between workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...common.checks import is_whole, text_list
from ...common.display import Displayed
from ...common.extras import optional_imports
from ...common.text import available
from ...errors import InvalidInputError, UnknownNameError
from ..labels.kinds import CATEGORICAL
from ..labels.names import RESERVED
from ..reader import DatasetReader

with optional_imports("diffusers"):
    import torch
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
    from torch.utils.data._utils.collate import collate, default_collate_fn_map


class Example(dict[str, Any]):
    """A row and its labels; a batch of examples that were read together is collated without a copy."""


def _collate(batch: list[Example], *, collate_fn_map: Any = None) -> dict[str, Any]:
    first = batch[0]["weights"]
    base, size = first._base, first.nbytes
    together = base is not None and len(base) == len(batch) and base.is_contiguous()
    if not together or any(e["weights"].data_ptr() != base.data_ptr() + i * size for i, e in enumerate(batch)):
        result: dict[str, Any] = collate([dict(example) for example in batch], collate_fn_map=collate_fn_map)
        return result
    labels = [{k: v for k, v in example.items() if k != "weights"} for example in batch]
    return {"weights": base, **collate(labels, collate_fn_map=collate_fn_map)}


default_collate_fn_map[Example] = _collate


class _Rows:
    """The rows of a split with their ids and labels."""

    def __init__(self, dataset: DatasetReader, split: str | None, columns: Sequence[str]):
        self.dataset, self.split, self.columns = dataset, split, tuple(text_list(columns, "a column"))
        self.rows = dataset.where(split=split)
        self.labels: dict[str, Any] = {}
        kinds = dataset.manifest.kinds
        for name in self.columns:
            kind = kinds.get(name)
            if kind is None and name not in RESERVED:
                known = available(name, list(dataset.manifest.columns), "w2w inspect DATASET")
                raise UnknownNameError(f"no attribute {name!r}; {known}")
            if name != "id":
                values = (kind or CATEGORICAL).batch(dataset.labels[name].iloc[self.rows])
                self.labels[name] = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        ids = np.asarray(dataset.ids, object)
        self.ids = [str(name) for name in ids[self.rows]]

    def facts(self) -> dict[str, object]:
        """Return what a view of these rows shows."""
        weights = f"{self.dataset.layout.size:,} {self.dataset.dtype}"
        return {
            "dataset": self.dataset.manifest.name, "split": self.split or "all", "rows": len(self.rows),
            "weights": weights, "columns": ", ".join(("id", *self.columns)),
        }  # fmt: skip

    def examples(self, positions: Sequence[int] | np.ndarray) -> list[Example]:
        """Return the rows at positions of the split, read together."""
        positions = [int(p) for p in positions]
        block = torch.from_numpy(self.dataset[self.rows[positions]])
        return [
            Example(weights=row, id=self.ids[p], **{name: values[p] for name, values in self.labels.items()})
            for row, p in zip(block, positions, strict=True)
        ]


class RowDataset(Displayed, Dataset):
    """A map-style torch `Dataset` of one split.

    An item is ``{"weights": tensor (size,), "id": str}`` with `columns`, each as float32 with NaN for a missing value,
    or as text with ``""`` for one. A `DataLoader` reads each batch at once; its workers may be forked or spawned.
    """

    def __init__(self, dataset: DatasetReader, split: str | None = None, columns: Sequence[str] = ()):
        self._rows = _Rows(dataset, split, columns)

    def _facts(self) -> Mapping[str, object]:
        return self._rows.facts()

    def __len__(self) -> int:
        return len(self._rows.rows)

    def __getitem__(self, position: int) -> Example:
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} does not exist; there are {len(self)}, numbered from 0")
        return self._rows.examples([position % len(self)])[0]

    def __getitems__(self, positions: list[int]) -> list[Example]:
        return self._rows.examples(positions)


class RowStream(Displayed, IterableDataset):
    """A torch `IterableDataset` of one split that reads runs of adjacent rows.

    The order of an epoch depends only on ``(seed, epoch)``, not on the number of workers and ranks: the split is
    divided into runs of `run` adjacent rows, the runs are permuted, and the rows of every `buffer` runs are permuted
    together. Rank r of R yields the r-th of R equal parts of that order, and its worker w of W the w-th of W parts of
    the rank's part, so that every row occurs exactly once per epoch. Parts differ by at most one row; with
    ``even=True``, the order is first cut to a multiple of R, so that all ranks have equally many rows.

    Parameters
    ----------
    run, buffer : int
        ``run * buffer`` rows are in memory at a time.
    shuffle : bool
        False keeps the order of the dataset.
    rank, world_size : int, optional
        By default those of `torch.distributed` if it is initialized, else 0 and 1.

    Examples
    --------
    >>> stream = ds.torch_stream("train", seed=1)          # doctest: +SKIP
    >>> for epoch in range(3):                             # doctest: +SKIP
    ...     stream.set_epoch(epoch)
    ...     for batch in DataLoader(stream, batch_size=64, num_workers=2): ...
    """

    def __init__(
        self,
        dataset: DatasetReader,
        split: str | None = None,
        columns: Sequence[str] = (),
        *,
        shuffle: bool = True,
        seed: int = 0,
        run: int = 16,
        buffer: int = 16,
        even: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ):
        if not (is_whole(run) and is_whole(buffer)) or min(run, buffer) < 1:
            raise InvalidInputError(f"run and buffer must be integers of at least 1, not {run!r} and {buffer!r}")
        if not is_whole(seed) or seed < 0:
            raise InvalidInputError(f"seed must be an integer of at least 0, not {seed!r}")
        self._rows = _Rows(dataset, split, columns)
        self.shuffle, self.seed, self.run, self.buffer, self.even = shuffle, seed, run, buffer, even
        if (rank is None) != (world_size is None):
            raise InvalidInputError("give rank and world_size together, or neither")
        if rank is None or world_size is None:
            running = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank, world_size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if running else (0, 1)
        if not 0 <= rank < world_size:
            raise InvalidInputError(f"rank {rank} of {world_size} is not possible")
        self.rank, self.world_size = rank, world_size
        # in shared memory, since persistent workers have a copy of this stream
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _facts(self) -> Mapping[str, object]:
        part = {} if self.world_size == 1 else {"rank": f"{self.rank} of {self.world_size}"}
        return {**self._rows.facts(), "shuffle": self.shuffle, "seed": self.seed, "epoch": self.epoch, **part}

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, as for torch's `DistributedSampler`, also in persistent workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        start, stop = self._part(self._total(), self.rank, self.world_size)
        return stop - start

    def _total(self) -> int:
        total = len(self._rows.rows)
        return total // self.world_size * self.world_size if self.even else total

    @staticmethod
    def _part(total: int, number: int, count: int) -> tuple[int, int]:
        return total * number // count, total * (number + 1) // count

    def order(self) -> np.ndarray:
        """Return the positions in the split of the whole epoch, for all ranks."""
        positions = np.arange(len(self._rows.rows))
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            runs = [positions[i : i + self.run] for i in range(0, len(positions), self.run)]
            runs = [runs[i] for i in rng.permutation(len(runs))]
            pools = [np.concatenate(runs[i : i + self.buffer]) for i in range(0, len(runs), self.buffer)]
            positions = np.concatenate([rng.permutation(pool) for pool in pools]) if pools else positions
        return positions[: self._total()]

    def __iter__(self) -> Iterator[Example]:
        order = self.order()
        start, stop = self._part(len(order), self.rank, self.world_size)
        worker = get_worker_info()
        if worker is not None:
            a, b = self._part(stop - start, worker.id, worker.num_workers)
            start, stop = start + a, start + b
        window = self.run * self.buffer
        for first in range(start, stop, window):
            # read in file order, yield in shuffled order
            wanted = order[first : min(first + window, stop)]
            place = np.empty(len(wanted), int)
            place[np.argsort(wanted)] = np.arange(len(wanted))
            found = self._rows.examples(np.sort(wanted))
            for i in place:
                yield Example(found[i], weights=found[i]["weights"].clone())

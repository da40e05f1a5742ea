"""Write a published matrix of weights as a dataset, streaming its rows from the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.changes.commit import create
from ..dataset.changes.options import DatasetOptions, plan_new
from ..dataset.changes.shard_writer import RowSource
from ..dataset.changes.write import split_labels
from ..dataset.manifest import Compatibility
from ..dataset.problems import Problems
from ..dataset.splits import SplitRule
from ..dataset.weight_dataset import WeightDataset
from ..errors import CorruptFileError, W2WError
from ..store.paths import open_regular
from .labels import Labels
from .layout import Found
from .published import INITIALIZATION, LICENSE, REPOSITORY
from .torch_files import StoredTensor

ROWS_AT_ONCE = 64


@dataclass
class TensorRows(RowSource):
    """Rows of a tensor in a file, at most 64 of them in memory."""

    tensor: StoredTensor
    notes: dict[str, set[Any]] = field(default_factory=dict)
    show_progress: bool = False

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        for start in range(0, len(numbers), ROWS_AT_ONCE):
            part = numbers[start : start + ROWS_AT_ONCE]
            contiguous = part == list(range(part[0], part[0] + len(part)))
            values = self.tensor[part[0] : part[-1] + 1] if contiguous else self.tensor[part]
            for number, row in zip(part, values, strict=True):
                yield row if np.isfinite(row).all() else self._damaged(number)

    def _damaged(self, number: int) -> CorruptFileError:
        path = self.tensor.path
        return CorruptFileError(f"{path}: row {number} has NaN or infinite values; fetch it again", path=path)

    def fingerprint(self, numbers: list[int]) -> Any:
        return [str(self.tensor.path), *stamp(self.tensor.path), numbers[:1], len(numbers)]


def stamp(path: Path) -> list[int]:
    """Return size and time of change of a file, by which a continued import knows it again."""
    import os

    descriptor = open_regular(path)
    try:
        found = os.fstat(descriptor)
        return [found.st_size, found.st_mtime_ns]
    finally:
        os.close(descriptor)


def require_matrix(value: Any, path: Path) -> StoredTensor:
    """Return a value that is a matrix of numbers, one row per model.

    Raises
    ------
    CorruptFileError
    """
    if not isinstance(value, StoredTensor) or len(value.shape) != 2 or value.dtype.kind != "f":
        found = f"a tensor of {value.dtype} {value.shape}" if isinstance(value, StoredTensor) else "no tensor"
        raise CorruptFileError(f"{path} holds {found}, not a matrix of numbers; fetch it again", path=path)
    return value


def write_rows(
    tensor: StoredTensor, path: Path, found: Found, labels: Labels, *, name: str, split_rule: SplitRule | None,
    consent: str | None, parquet_view: bool | str,
) -> WeightDataset:  # fmt: skip
    """Write a dataset of the rows of a tensor; after an interruption the same call continues.

    Raises
    ------
    CorruptFileError, InvalidInputError
        One error lists all problems of labels and rows; nothing is written.
    """
    table = labels.table()
    files = labels.files or [""] * len(labels.ids)
    table["source"] = [f"{REPOSITORY}, {name}" + (f", picture {file}" if file else "") for file in files]
    table["licence"] = LICENSE
    table["consent"] = consent
    options = DatasetOptions(
        name=name, license=LICENSE, split_rule=split_rule, parquet_view=parquet_view,
        compatibility=Compatibility(found.base_model, None, INITIALIZATION),
        dtype="float16" if tensor.dtype == np.float16 else "float32",
    )  # fmt: skip
    problems = Problems()
    normalized = split_labels(table, labels.ids, split_rule, problems)
    plan = plan_new(options, path, found.layout, labels.ids, TensorRows(tensor), normalized, problems)
    return create(path, plan, resumable=True)


__all__ = ["TensorRows", "require_matrix", "stamp", "write_rows"]

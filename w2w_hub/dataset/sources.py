"""Where rows come from besides memory: checkpoints, and other datasets."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptFileError, MissingPathError, W2WError
from ..formats import read_adapter
from ..layout import ParameterLayout
from ..progress import progress
from ..text import command
from .manifest import row_digest
from .templates import Templates

if TYPE_CHECKING:
    from .reader import WeightDataset

ROWS_A_READ = 64


@dataclass
class AdapterRows:
    """LoRA checkpoints of any known dialect, one a row."""

    paths: list[Path]
    layout: ParameterLayout
    show_progress: bool = False
    notes: dict[str, set[Any]] = field(default_factory=dict)

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        templates = Templates(self.layout)
        bases = self.notes.setdefault("base_model", set())
        rescaled = self.notes.setdefault("rescaled", set())
        for number in progress(numbers, "reading adapters") if self.show_progress else numbers:
            path = self.paths[number]
            row = templates.row(path)
            if row is not None:
                yield row
                continue
            try:
                adapter = read_adapter(path)
                row = self.layout.flatten(adapter, where=str(path))
            except W2WError as error:
                yield error
                continue
            bases.add(adapter.base_model)
            if own := self.layout.ratios(adapter):
                scales = Counter(repr(adapter.factors[target].scale) for target in own)
                rescaled.add(json.dumps([row_id(path), dict(sorted(scales.items()))]))
            templates.learn(path, row)
            yield row

    def fingerprint(self, numbers: list[int]) -> Any:
        """Changes whenever a row might; None if it cannot be told."""
        return [self.layout.digest, *([str(self.paths[n]), *stamps(self.paths[n])] for n in numbers)]


def row_id(path: Path) -> str:
    """The id of a checkpoint's row: its file's or folder's name."""
    path = Path(os.path.abspath(path))  # "." has a name too; a link keeps its own
    return path.name if path.is_dir() else path.stem


def stamps(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of the files in a folder."""
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        return [(p.name, (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
    except FileNotFoundError:
        raise MissingPathError(f"{path} is not there") from None
    except OSError as error:
        raise MissingPathError(f"{path} cannot be read: {error.strerror}") from error


@dataclass
class DatasetRows:
    """Rows of a dataset on disk, each checked against its digest before it is copied."""

    path: Path
    digest: str
    _opened: WeightDataset | None = None

    @classmethod
    def of(cls, dataset: WeightDataset) -> DatasetRows:
        return cls(dataset.path, dataset.manifest.digest, dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "digest": self.digest, "_opened": None}

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        from .reader import WeightDataset

        if self._opened is None:
            self._opened = WeightDataset.open(self.path)
        dataset = self._opened
        if dataset.manifest.digest != self.digest:
            raise CorruptFileError(f"{self.path} has changed while it was read; run the same command again")
        listed = dataset.labels["row_sha256"].to_numpy()
        for start in range(0, len(numbers), ROWS_A_READ):
            part = numbers[start : start + ROWS_A_READ]
            for number, row in zip(part, dataset[part], strict=True):
                if row_digest(row) == listed[number]:
                    yield row
                else:
                    yield CorruptFileError(
                        f"{self.path}: row {dataset.ids[number]!r} has other values than listed; "
                        f"see: {command('w2w verify', self.path, options=('--deep',))}"
                    )

    def fingerprint(self, numbers: list[int]) -> Any:
        return [str(self.path), self.digest, numbers]

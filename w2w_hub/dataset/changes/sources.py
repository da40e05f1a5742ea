"""Read rows from checkpoints and from other datasets."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...common.checks import is_whole, items, text_list
from ...common.progress import progress
from ...common.text import command, counted
from ...common.warn import warn_caller
from ...dialects import read_adapter
from ...dialects.scan import Skipped, adapters_of
from ...errors import CorruptFileError, InvalidInputError, MissingPathError, W2WError
from ...lora.layout import ParameterLayout
from ..manifest import row_digest
from ..opening import open_folder
from ..reader import DatasetReader
from .shard_writer import RowSource
from .templates import Templates

ROWS_PER_READ = 64
# names that PEFT, diffusers and their trainers use for every checkpoint or training step
GENERIC = re.compile(
    r"unet|transformer|text_encoder(_\d)?|adapter_model|pytorch_lora_weights|diffusion_pytorch_model|default"
    r"|(checkpoint|epoch|step)[-_]?\d+",
    re.ASCII | re.IGNORECASE,
)


@dataclass
class AdapterRows(RowSource):
    """Rows of LoRA checkpoints of any supported dialect."""

    paths: list[Path]
    layout: ParameterLayout
    ids: list[str] = field(default_factory=list)
    show_progress: bool = False
    notes: dict[str, set[Any]] = field(default_factory=dict)

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        templates = Templates(self.layout)
        bases = self.notes.setdefault("base_model", set())
        rescaled = self.notes.setdefault("rescaled", set())
        unstated = self.notes.setdefault("unstated_scale", set())
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
            if own := self.layout.scale_ratios(adapter):
                scales = Counter(repr(adapter.factors[target].scale) for target in own)
                rescaled.add(json.dumps([self.ids[number], dict(sorted(scales.items()))]))
                if default := adapter.metadata.get("scale_default"):
                    unstated.add(json.dumps([self.ids[number], default]))
            templates.learn(path, row)
            yield row

    def fingerprint(self, numbers: list[int]) -> Any:
        return [self.layout.digest, *([str(self.paths[n]), *_stamps(self.paths[n])] for n in numbers)]


def found_adapters(paths: Sequence[Path]) -> list[Path]:
    """Return the checkpoints that paths name or, if they are folders of several, hold; a warning names what is skipped.

    Raises
    ------
    MissingPathError, NotACheckpointError
    """
    skipped = Skipped()
    found = adapters_of(paths, skipped)
    if skipped.counts:
        warn_caller(f"skipped {skipped}")
    return found


def row_ids(paths: Sequence[Path], ids: str | Sequence[str] | None = None) -> list[str]:
    """Return the row id of each checkpoint: a given id, else the name of its file or folder.

    A name that trainers use for every checkpoint (``unet``, ``checkpoint-800``, ``pytorch_lora_weights``) is replaced
    by that of the folder above. If all names are equal, the names of the nearest folders that differ are used, with a
    warning. Ids that are still equal are an error of the labels.

    Raises
    ------
    InvalidInputError
        If the number of ids is not that of the checkpoints.
    """
    if ids is not None:
        given = [
            str(name) if is_whole(name) else name for name in ([ids] if isinstance(ids, str) else items(ids, "id"))
        ]
        if len(given) != len(paths):
            raise InvalidInputError(
                f"{counted(len(given), 'id')} for {counted(len(paths), 'checkpoint')}; give one id per checkpoint"
            )
        return text_list(given, "an id")
    names = [_own_names(path) for path in paths]
    chosen = [name[0] for name in names]
    if len(paths) < 2 or len(set(chosen)) == len(chosen) or len(set(paths)) < len(paths):
        return chosen
    for level in range(1, min(map(len, names))):
        if len({name[level - 1] for name in names}) > 1:
            break
        chosen = [name[level] for name in names]
        if len(set(chosen)) == len(chosen):
            shown = ", ".join(repr(name) for name in chosen[:3])
            warn_caller(
                f"all {len(paths)} checkpoints are named {names[0][0]!r}; the row ids are the names of folders above: "
                f"{shown}{', ...' if len(chosen) > 3 else ''} (set other ids with ids=)"
            )
            return chosen
    last = [_last_name(path) for path in paths]
    return last if len(set(last)) == len(last) else [name[0] for name in names]


def _last_name(path: Path) -> str:
    path = Path(os.path.abspath(path))  # gives "." a name; unlike resolve(), keeps that of a link
    return path.name if path.is_dir() else path.stem


def _own_names(path: Path) -> list[str]:
    """Return the names that may identify a checkpoint: its own, then those of its parent folders."""
    names = [_last_name(path), *(parent.name for parent in Path(os.path.abspath(path)).parents)]
    names = [name for name in names if name]
    return [name for name in names if not GENERIC.fullmatch(name)] or names[:1] or [""]


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """Return the name, size and modification time of a file, or of each file in a folder."""
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        return [(p.name, (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
    except FileNotFoundError:
        raise MissingPathError(f"{path} does not exist", path=path) from None
    except OSError as error:
        raise MissingPathError(f"{path} cannot be read: {error.strerror}", path=path) from error


@dataclass
class DatasetRows(RowSource):
    """Rows of a dataset folder, each verified by its digest."""

    path: Path
    digest: str
    _opened: DatasetReader | None = None

    @classmethod
    def of(cls, dataset: DatasetReader) -> DatasetRows:
        return cls(dataset.path, dataset.manifest.digest, dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "digest": self.digest, "_opened": None}

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        if self._opened is None:
            self._opened = DatasetReader(*open_folder(self.path))
        dataset = self._opened
        if dataset.manifest.digest != self.digest:
            raise CorruptFileError(
                f"{self.path} was changed while it was read; run the same command again", path=self.path
            )
        listed = dataset.labels["row_sha256"].to_numpy()
        for start in range(0, len(numbers), ROWS_PER_READ):
            part = numbers[start : start + ROWS_PER_READ]
            for number, row in zip(part, dataset[part], strict=True):
                if row_digest(row) == listed[number]:
                    yield row
                else:
                    yield CorruptFileError(
                        f"{self.path}: row {dataset.ids[number]!r} has values that differ from row_sha256; "
                        f"see: {command('w2w verify', self.path, options=('--deep',))}",
                        path=self.path,
                    )

    def fingerprint(self, numbers: list[int]) -> Any:
        return [str(self.path), self.digest, numbers]

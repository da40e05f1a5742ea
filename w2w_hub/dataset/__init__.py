"""Datasets: n adapters as one Zarr matrix with labels, a manifest and a Parquet view."""

from __future__ import annotations

from ..common.lazy import public_names
from .changes.add import add_rows
from .changes.options import DatasetOptions
from .changes.pack import pack_adapters
from .changes.relabel import relabel_rows
from .changes.remove import remove_rows
from .changes.write import write_dataset
from .compare import diff
from .duplicates import find_duplicates
from .integrity import check
from .labels.files import read_labels
from .manifest import Compatibility
from .splits import SplitRule
from .views.huggingface import load_dataset
from .weight_dataset import WeightDataset

__all__ = [
    "Compatibility",
    "DatasetOptions",
    "SplitRule",
    "WeightDataset",
    "add_rows",
    "check",
    "diff",
    "find_duplicates",
    "load_dataset",
    "pack_adapters",
    "read_labels",
    "relabel_rows",
    "remove_rows",
    "write_dataset",
]


def __dir__() -> list[str]:
    return public_names(__name__, __all__)

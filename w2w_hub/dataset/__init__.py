"""Datasets: n adapters as one Zarr matrix with labels, a manifest and a Parquet view."""

from __future__ import annotations

from .compare import diff
from .duplicates import find_duplicates
from .grow import add_rows, relabel_rows, remove_rows
from .integrity import check
from .labels import read_labels
from .pack import pack_adapters
from .reader import WeightDataset
from .splitting import SplitRule
from .views import load_dataset
from .writer import write_dataset

__all__ = [
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

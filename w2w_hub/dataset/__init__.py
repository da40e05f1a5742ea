"""Datasets: n adapters as one Zarr matrix with labels, a manifest and a Parquet view."""

from __future__ import annotations

from .labels import read_labels
from .pack import add_rows, pack_adapters
from .reader import WeightDataset
from .views import load_dataset
from .writer import write_dataset

__all__ = ["WeightDataset", "add_rows", "load_dataset", "pack_adapters", "read_labels", "write_dataset"]

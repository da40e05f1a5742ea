"""Datasets: n adapters as one Zarr matrix with labels, a manifest and a Parquet view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy_names

if TYPE_CHECKING:
    from .changes.add import add_rows as add_rows
    from .changes.options import DatasetOptions as DatasetOptions
    from .changes.pack import pack_adapters as pack_adapters
    from .changes.relabel import relabel_rows as relabel_rows
    from .changes.remove import remove_rows as remove_rows
    from .changes.write import write_dataset as write_dataset
    from .compare import diff as diff
    from .duplicates import find_duplicates as find_duplicates
    from .integrity import check as check
    from .labels.files import read_labels as read_labels
    from .manifest import Compatibility as Compatibility
    from .splits import SplitRule as SplitRule
    from .views.huggingface import load_dataset as load_dataset
    from .weight_dataset import WeightDataset as WeightDataset

# public name -> module, imported when first used
_WHERE = {
    "Compatibility": "dataset.manifest",
    "DatasetOptions": "dataset.changes.options",
    "SplitRule": "dataset.splits",
    "WeightDataset": "dataset.weight_dataset",
    "add_rows": "dataset.changes.add",
    "check": "dataset.integrity",
    "diff": "dataset.compare",
    "find_duplicates": "dataset.duplicates",
    "load_dataset": "dataset.views.huggingface",
    "pack_adapters": "dataset.changes.pack",
    "read_labels": "dataset.labels.files",
    "relabel_rows": "dataset.changes.relabel",
    "remove_rows": "dataset.changes.remove",
    "write_dataset": "dataset.changes.write",
}
__all__ = sorted(_WHERE)
# modules that are attributes before they are imported
_MODULES = (
    "changes", "compare", "duplicates", "integrity", "labels", "manifest", "matrix", "splits", "views",
    "weight_dataset",
)  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__, _WHERE, _MODULES)

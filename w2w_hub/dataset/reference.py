"""Compare adapters with the layout of a dataset, a weight space, a layout file or another adapter."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..dialects import read_adapter
from ..dialects.initialization import a_vector, cosine
from ..lora.adapter import Adapter
from ..lora.layout import ParameterLayout
from ..store.manifest import DATASET as FORMAT
from ..store.manifest import FILENAME, read_json, read_json_in
from ..store.paths import has_file
from .initialization import initialization_of
from .manifest import Compatibility
from .weight_dataset import WeightDataset


class ReferenceLayout:
    """The layout that adapters are compared with.

    Attributes
    ----------
    layout : ParameterLayout
    compatibility : Compatibility or None
        The base model and initialization that a dataset or weight space states.

    Parameters
    ----------
    path : path
        A dataset, a weight space, the manifest of one, a layout (``.json``) or an adapter.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._dataset: WeightDataset | None = None
        self.compatibility: Compatibility | None = None
        described = self.path.is_dir() and has_file(self.path, FILENAME)
        if described or self.path.suffix == ".json":
            data = read_json_in(self.path, FILENAME) if described else read_json(self.path)
            self.layout = ParameterLayout.from_json(data.get("layout", data))
            if "compatibility" in data:
                self.compatibility = Compatibility.from_json(data["compatibility"], self.path)
            if data.get("format") == FORMAT:
                self._dataset = WeightDataset.open(self.path if described else self.path.parent)
        else:
            self.layout = ParameterLayout.from_adapter(read_adapter(self.path))

    def compare(self, adapter: Adapter) -> dict[str, Any]:
        """Return whether and why an adapter fits, its folded scales, and the cosine of its A with the first row's."""
        incompatibility = self.layout.incompatibility(adapter) or None
        facts: dict[str, Any] = {
            "against": str(self.path),
            "fits": incompatibility is None,
            "incompatibility": incompatibility,
            "misfit": incompatibility,  # its old name, until 0.3
        }
        if incompatibility is None:
            ratios = Counter(self.layout.scale_ratios(adapter).values())
            facts["folded_into_B"] = {f"{ratio:g}": count for ratio, count in ratios.items()}
            if self._dataset is not None and len(self._dataset):
                facts["initialisation_cosine"] = cosine(a_vector(adapter), self._first_a)
        return facts

    @property
    def dtype(self) -> str:
        """The dtype of a dataset's rows; float32 for everything else."""
        return "float32" if self._dataset is None else self._dataset.manifest.dtype

    @cached_property
    def start(self) -> np.ndarray | None:
        """The initialization that a dataset publishes, float32 ``(size,)``; None without one."""
        return None if self._dataset is None else initialization_of(self._dataset)

    @cached_property
    def _first_a(self) -> np.ndarray:
        """The A factors of the dataset's first row, read once for all adapters."""
        assert self._dataset is not None
        return a_vector(self._dataset.adapter(0))

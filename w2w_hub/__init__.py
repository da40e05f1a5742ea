"""w2w_hub: weight spaces of customised diffusion models, as a library and a commons."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._moved import find_moved_modules
from .common.datasets_feature import register_when_imported
from .common.version import __version__ as __version__

# public name -> module; everything is imported when first used, so that `import w2w_hub` stays light
_WHERE = {
    "Adapter": "lora",
    "AutoW2WPipeline": "models.pipelines",
    "Direction": "space",
    "ParameterLayout": "lora",
    "Point": "space",
    "W2WError": "errors",
    "W2WPipeline": "models.pipelines",
    "W2WStableDiffusionImg2ImgPipeline": "models.pipelines",
    "W2WStableDiffusionInpaintPipeline": "models.pipelines",
    "WeightDataset": "dataset",
    "WeightSpace": "space",
    "add_rows": "dataset",
    "build_space": "space",
    "describe": "release.describe",
    "load_dataset": "dataset",
    "pack_adapters": "dataset",
    "read_adapter": "dialects",
    "write_adapter": "dialects",
    "write_dataset": "dataset",
}
__all__ = sorted(_WHERE)


def _weight_row() -> type:
    from .dataset.views.weight_row import WeightRow

    return WeightRow


find_moved_modules()
register_when_imported(_weight_row)  # what save_to_disk wrote opens in every process that imports this package

if TYPE_CHECKING:
    from .dataset import WeightDataset as WeightDataset
    from .dataset import add_rows as add_rows
    from .dataset import load_dataset as load_dataset
    from .dataset import pack_adapters as pack_adapters
    from .dataset import write_dataset as write_dataset
    from .dialects import read_adapter as read_adapter
    from .dialects import write_adapter as write_adapter
    from .errors import W2WError as W2WError
    from .lora.adapter import Adapter as Adapter
    from .lora.layout import ParameterLayout as ParameterLayout
    from .models.pipelines import AutoW2WPipeline as AutoW2WPipeline
    from .models.pipelines import W2WPipeline as W2WPipeline
    from .models.pipelines import W2WStableDiffusionImg2ImgPipeline as W2WStableDiffusionImg2ImgPipeline
    from .models.pipelines import W2WStableDiffusionInpaintPipeline as W2WStableDiffusionInpaintPipeline
    from .release.describe import describe as describe
    from .space import Direction as Direction
    from .space import Point as Point
    from .space import WeightSpace as WeightSpace
    from .space import build_space as build_space


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

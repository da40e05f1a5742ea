"""w2w_hub: datasets of LoRA weights, weight spaces fitted to them, and diffusers pipelines that use these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._moved import find_moved_modules
from .common.datasets_feature import register_when_imported
from .common.lazy import lazy_names
from .common.pipelines import PIPELINES
from .common.version import __version__ as __version__

# public name -> module; everything is imported when first used, so that `import w2w_hub` stays light
_WHERE = {
    "Adapter": "lora",
    "AutoW2WPipeline": "models.pipelines",
    "Compatibility": "dataset",
    "Coordinates": "space",
    "DatasetOptions": "dataset",
    "Direction": "space",
    "Encoder": "space.encoder.encoder",
    "LoraFactors": "lora",
    "ParameterLayout": "lora",
    "Point": "space",
    "Population": "space",
    "PopulationModel": "space",
    "SplitRule": "dataset",
    "Target": "lora",
    "W2WError": "errors",
    "WeightDataset": "dataset",
    "WeightSpace": "space",
    "add_rows": "dataset",
    "build_space": "space",
    "calibrate": "models.calibration",
    "calibrate_sets": "models.set_calibration",
    "convert_adapter": "dialects",
    "describe": "release.describe",
    "find_duplicates": "dataset",
    "fit_directions": "space",
    "fit_encoder": "models.encoder",
    "fit_slider": "models.sliders",
    "identify": "info",
    "load_dataset": "dataset",
    "load_point": "space.points",
    "make_atlas": "space.atlas",
    "make_slider": "space",
    "pack_adapters": "dataset",
    "read_adapter": "dialects",
    "read_labels": "dataset",
    "rebuild": "space.fit.rebuild",
    "relabel_rows": "dataset",
    "remove_rows": "dataset",
    "save_point": "space.points",
    "write_adapter": "dialects",
    "write_dataset": "dataset",
    "write_report": "space.report",
}
_WHERE |= {row.name: "models.pipelines" for row in PIPELINES}
__all__ = sorted(_WHERE)


def _weight_row() -> type:
    from .dataset.views.weight_row import WeightRow

    return WeightRow


find_moved_modules()
register_when_imported(_weight_row)  # what save_to_disk wrote opens in every process that imports this package

if TYPE_CHECKING:
    from .dataset import Compatibility as Compatibility
    from .dataset import DatasetOptions as DatasetOptions
    from .dataset import SplitRule as SplitRule
    from .dataset import WeightDataset as WeightDataset
    from .dataset import add_rows as add_rows
    from .dataset import find_duplicates as find_duplicates
    from .dataset import load_dataset as load_dataset
    from .dataset import pack_adapters as pack_adapters
    from .dataset import read_labels as read_labels
    from .dataset import relabel_rows as relabel_rows
    from .dataset import remove_rows as remove_rows
    from .dataset import write_dataset as write_dataset
    from .dialects import convert_adapter as convert_adapter
    from .dialects import read_adapter as read_adapter
    from .dialects import write_adapter as write_adapter
    from .errors import W2WError as W2WError
    from .info import identify as identify
    from .lora import Adapter as Adapter
    from .lora import LoraFactors as LoraFactors
    from .lora import ParameterLayout as ParameterLayout
    from .lora import Target as Target
    from .models.calibration import calibrate as calibrate
    from .models.encoder import fit_encoder as fit_encoder
    from .models.pipelines import AutoW2WPipeline as AutoW2WPipeline
    from .models.pipelines import W2WPipeline as W2WPipeline
    from .models.pipelines import W2WStableDiffusionImg2ImgPipeline as W2WStableDiffusionImg2ImgPipeline
    from .models.pipelines import W2WStableDiffusionInpaintPipeline as W2WStableDiffusionInpaintPipeline
    from .models.set_calibration import calibrate_sets as calibrate_sets
    from .models.sliders import fit_slider as fit_slider
    from .release.describe import describe as describe
    from .space import Coordinates as Coordinates
    from .space import Direction as Direction
    from .space import Point as Point
    from .space import Population as Population
    from .space import PopulationModel as PopulationModel
    from .space import WeightSpace as WeightSpace
    from .space import build_space as build_space
    from .space import fit_directions as fit_directions
    from .space import make_slider as make_slider
    from .space.atlas import make_atlas as make_atlas
    from .space.encoder.encoder import Encoder as Encoder
    from .space.fit.rebuild import rebuild as rebuild
    from .space.points import load_point as load_point
    from .space.points import save_point as save_point
    from .space.report import write_report as write_report


_FOLDERS = (
    "dataset",
    "dialects",
    "errors",
    "info",
    "lora",
    "models",
    "release",
    "space",
    "store",
    "training",
    "upstream",
)
__getattr__, __dir__ = lazy_names(__name__, _WHERE, _FOLDERS)

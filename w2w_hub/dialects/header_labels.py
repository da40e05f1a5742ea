"""What the header of a checkpoint says about it, as labels: `modelspec.*`, kohya's `ss_*` and OneTrainer's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.license_ids import normal_license
from ..common.text import one_line
from ..errors import CorruptFileError
from .loading import open_checkpoint
from .options import parse_object

LONGEST = 300  # characters of a label
RECIPE = "w2w.recipe"  # how `w2w train` trained it, as JSON
ONETRAINER = "ot_config"  # OneTrainer's whole configuration as JSON
# label -> header fields that say it, the first that is there counts
TEXT = {
    "source": ("modelspec.author",),
    "title": ("modelspec.title", "ss_output_name"),
    "trigger_phrase": ("modelspec.trigger_phrase", "trained_prompt"),
    "base_model": ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture"),
    "trained_with": ("modelspec.implementation", "ss_network_module"),
}
NUMBERS = {"steps": ("ss_steps", "ss_max_train_steps"), "learning_rate": ("ss_unet_lr", "ss_learning_rate")}
LABELS = ("licence", *TEXT, *NUMBERS)


def header_labels(path: Path | str) -> dict[str, str | float]:
    """Return what a checkpoint's header says about it; nothing is guessed, and no tensor is read.

    Returns
    -------
    dict
        Some of `licence` (an identifier of SPDX or the Hub), `source`, `title`, `trigger_phrase`, `base_model`,
        `trained_with`, `steps` and `learning_rate`.

    Raises
    ------
    MissingPathError, UnsupportedFormatError, CorruptFileError
    """
    return labels_of_header(open_checkpoint(path).metadata, str(path))


def labels_of_header(metadata: Mapping[str, str], where: str = "the header") -> dict[str, str | float]:
    """Return the labels that the fields of a header state, see :func:`header_labels`."""
    found: dict[str, str | float] = {}
    if (license := normal_license(metadata.get("modelspec.license"))) is not None:
        found["licence"] = license
    settings = _onetrainer(metadata, where)
    recipe = _object_in(metadata, RECIPE, where)
    fields: dict[str, Any] = {"trained_prompt": recipe.get("prompt"), **settings, **metadata}
    for label, names in TEXT.items():
        for name in names:
            value = fields.get(name)
            if isinstance(value, str) and value.strip() not in ("", "None"):
                found[label] = one_line(value.strip(), LONGEST)
                break
    for label, names in NUMBERS.items():
        for name in names:
            try:
                number = float(fields.get(name, ""))
            except (TypeError, ValueError):
                continue
            if 0 < number < float("inf"):
                found[label] = number
                break
    return found


def _onetrainer(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return OneTrainer's settings under the names of kohya's fields that say the same."""
    if not (config := _object_in(metadata, ONETRAINER, where)):
        return {}
    names = {"base_model_name": "ss_sd_model_name", "learning_rate": "ss_learning_rate"}
    return {"ss_network_module": "OneTrainer"} | {new: config[old] for old, new in names.items() if old in config}


def _object_in(metadata: Mapping[str, str], field: str, where: str) -> dict[str, Any]:
    """Return the JSON object in a field of a header; empty without a readable one."""
    try:
        return parse_object(metadata[field], f"{where}: {field}") if field in metadata else {}
    except (CorruptFileError, json.JSONDecodeError):
        return {}

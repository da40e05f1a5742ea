"""Find the layout of the published vectors: `weight_dimensions.pt`, `adapter_config.json`, and what they leave open.

The spelling of the keys in `weight_dimensions.pt` is not documented. Keys that name modules in a spelling of
:mod:`w2w_hub.dialects` are read; other keys are matched by order and shape, with the module paths that the
configuration lists or with Stable Diffusion 1.5. What was assumed is recorded in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.limits import MAX_TENSOR_NAME
from ..dialects.checkpoint import CONFIG
from ..dialects.names import factor_key
from ..dialects.peft import PREFIX, peft_target
from ..dialects.pickled import is_count
from ..dialects.scales import LoraSettings
from ..errors import CorruptFileError, InvalidInputError, LayoutMismatchError, W2WError
from ..lora.adapter import Target
from ..lora.layout import ParameterLayout
from ..store.manifest import read_json
from ..store.paths import short
from .published import ALPHA, BASE_MODEL, SIZE, sd15_targets
from .torch_files import open_file

Shape = tuple[int, ...]
SD15 = "Stable Diffusion 1.5, to_q and to_v, rank 1"


@dataclass
class Found:
    """The layout of the vectors, the base model that the configuration names, and what was assumed."""

    layout: ParameterLayout
    base_model: str
    assumed: list[str] = field(default_factory=list)


def find_layout(dimensions: Path | None, config: Path | None, width: int) -> Found:
    """Return the layout of vectors of `width` numbers.

    Parameters
    ----------
    dimensions, config : Path or None
        ``weight_dimensions.pt`` and ``adapter_config.json``; where one is missing, the published values are assumed.

    Raises
    ------
    LayoutMismatchError
        If the dimensions do not add up to `width`, are not in the order of a layout, or name nothing that is known.
    CorruptFileError
        If a file is damaged or holds anything else.
    """
    assumed: list[str] = []
    if dimensions is not None:
        listed = None if config is None else read_json(config).get("target_modules")
        sizes = _sizes(_entries(dimensions), dimensions, listed, assumed)
    else:
        assumed.append(f"weight_dimensions.pt is not there: the vectors are in the order of {SD15}")
        sizes = sd15_targets()
    total = sum(rank * (inputs + outputs) for rank, inputs, outputs in sizes.values())
    if total != width:
        what = dimensions or "weight_dimensions.pt is not there, and Stable Diffusion 1.5"
        raise LayoutMismatchError(
            f"{what} has {total:,} numbers per LoRA, and the other files have {width:,}; put the files of one model "
            "together",
            path=dimensions,
        )
    scale, base_model = _scale(sizes, config, assumed)
    return Found(ParameterLayout(sizes, scale), base_model, assumed)


def _entries(path: Path) -> list[tuple[str, Shape]]:
    """Return key and shape of each tensor, in the file's order, after their sizes were checked."""
    value = open_file(path)
    if not isinstance(value, dict) or not value:
        raise CorruptFileError(f"{path} is not a dictionary of sizes; fetch it again", path=path)
    found: list[tuple[str, Shape]] = []
    for key, entry in value.items():
        if not isinstance(key, str) or len(key) > MAX_TENSOR_NAME or not isinstance(entry, (tuple, list)):
            raise CorruptFileError(f"{path}: {short(str(key)[:80])} has no pair of sizes; fetch it again", path=path)
        count, shape = entry if len(entry) == 2 else (None, ())
        if isinstance(count, (tuple, list)) and len(count) == 1:  # the size of a vector
            count = count[0]
        shape = tuple(shape) if isinstance(shape, (tuple, list)) else ()
        if len(shape) != 2 or not all(map(is_count, shape)) or not is_count(count) or math.prod(shape) != count:
            raise CorruptFileError(
                f"{path}: {short(key)} has no number and shape of a matrix that agree; fetch it again", path=path
            )
        found.append((key, shape))
    return found


def _sizes(
    entries: list[tuple[str, Shape]], path: Path, listed: Any, assumed: list[str]
) -> dict[Target, tuple[int, int, int]]:
    """Return the modules' sizes, by the keys where these name modules, else by order and shape.

    Parameters
    ----------
    listed : object
        ``target_modules`` of the configuration, which may be paths of all modules.
    """
    named = [_factor(key) for key, _ in entries]
    if all(each is not None for each in named):
        sizes = _by_name([each for each in named if each], [shape for _, shape in entries], path)
        assumed.append(f"{path.name}: its keys name the modules, such as {short(entries[0][0])}")
        return sizes
    paths = listed if isinstance(listed, list) and all(isinstance(each, str) and "." in each for each in listed) else []
    modules = {target for each in paths if (target := peft_target(PREFIX + each)) is not None}
    if modules and 2 * len(modules) == len(entries):
        order = [(target, half) for target in sorted(modules, key=lambda t: t.sort_key) for half in "AB"]
        assumed.append(f"{path.name}: its keys name no module; its tensors are those of {CONFIG}, in a layout's order")
        return _by_name(order, [shape for _, shape in entries], path)
    known = sd15_targets()
    expected = [shape for rank, i, o in known.values() for shape in ((rank, i), (o, rank))]
    shapes = [shape for _, shape in entries]
    unnamed = next(key for (key, _), each in zip(entries, named, strict=True) if each is None)
    if len(shapes) != len(expected):
        raise LayoutMismatchError(
            f"{path}: the key {short(unnamed)} names no module, and {len(shapes)} tensors are not the {len(expected)} "
            f"of {SD15}; they can only be matched with these",
            path=path,
        )
    wrong = next((i for i, (a, b) in enumerate(zip(shapes, expected, strict=True)) if a != b), None)
    if wrong is not None:
        raise LayoutMismatchError(
            f"{path}: tensor {wrong}, {short(entries[wrong][0])}, has shape {shapes[wrong]}; in the order of {SD15} it "
            f"has {expected[wrong]}",
            path=path,
        )
    assumed.append(
        f"{path.name}: its keys, such as {short(unnamed)}, name no module in a known spelling; its {len(shapes)} "
        f"shapes in their order, {SIZE:,} numbers together, are those of {SD15}"
    )
    return known


def _by_name(named: list[tuple[Target, str]], shapes: list[Shape], path: Path) -> dict[Target, tuple[int, int, int]]:
    halves = dict(zip(named, shapes, strict=True))
    if len(halves) != len(named):
        raise LayoutMismatchError(f"{path}: two of its keys name one factor; fetch it again", path=path)
    sizes: dict[Target, tuple[int, int, int]] = {}
    for target, _ in named:
        a, b = halves.get((target, "A")), halves.get((target, "B"))
        if a is None or b is None or a[0] != b[1]:
            raise LayoutMismatchError(f"{path}: {target} has no A (r, in) and B (out, r) of one rank", path=path)
        sizes[target] = a[0], a[1], b[0]
    order = [(target, half) for target in sorted(sizes, key=lambda t: t.sort_key) for half in "AB"]
    if named != order:
        first = next(i for i, (a, b) in enumerate(zip(named, order, strict=False)) if a != b)
        raise LayoutMismatchError(
            f"{path}: tensor {first} is {named[first][1]} of {named[first][0]}, where the order of a layout has "
            f"{order[first][1]} of {order[first][0]}; vectors in another order are not read",
            path=path,
        )
    return sizes


def _factor(key: str) -> tuple[Target, str] | None:
    """Return the target and factor that a key names, in the spellings that PEFT and diffusers use; None for others."""
    for spelled in (key, f"{key}.weight"):
        found = factor_key(spelled)
        target = None if found is None else peft_target(found.module)
        if found is not None and target is not None:
            return target, found.role
    return None


def _scale(sizes: dict[Target, tuple[int, int, int]], config: Path | None, assumed: list[str]) -> tuple[float, str]:
    """Return the scale of all modules, and the base model's name."""
    if config is None:
        assumed.append(f"adapter_config.json is not there: the scale is alpha / rank = {ALPHA:g}, as in the paper")
        ranks = {rank for rank, _, _ in sizes.values()}
        if len(ranks) > 1:
            raise InvalidInputError("the modules have several ranks; put adapter_config.json into the folder")
        return ALPHA / ranks.pop(), BASE_MODEL
    try:
        data = read_json(config)
        settings = LoraSettings(data, config.name, str(config.parent))
        scales = {settings.scale(target.module, size[0], None).scale for target, size in sizes.items()}
    except W2WError as error:
        if error.path is None:
            error.path = config
        raise
    if len(scales) != 1 or not min(scales) > 0:
        raise LayoutMismatchError(
            f"{config} states the scales {sorted(scales)}; one of all modules is read", path=config
        )
    base = data.get("base_model_name_or_path")
    return scales.pop(), base if isinstance(base, str) and base else BASE_MODEL

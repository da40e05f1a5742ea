"""Base models: the digest of their target weights, and the files that diffusers opens."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..common.text import counted
from ..errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    CorruptFileError,
    MissingPathError,
    UnsafePathError,
    UnsupportedFormatError,
    W2WError,
)
from ..lora.adapter import Target
from ..lora.layout import ParameterLayout
from ..store.atomic import write_bytes, write_json
from ..store.manifest import FILENAME as MANIFEST
from ..store.manifest import read_json_in
from ..store.paths import find_file, has_file, short, walk
from ..store.tensorfile import read_safetensors
from .generation import stored_settings

TAG = b"w2w-base-v1\n"
MODEL_INDEX = "model_index.json"
CONFIG = "w2w_pipeline.json"  # in a space folder; names its base model
EMBEDDED = "embedded"
NO_COMPONENT = ("coefficients/", "previews/")  # folders of a weight space outside its base model
WEIGHTS = ".safetensors"
SHARDS = re.compile(r".*\.safetensors\.(.*\.)?index\.(.*\.)?json", re.DOTALL)  # shard indexes, also of variants
VARIANT = re.compile(r"\.(fp16|bf16|fp32|ema|non_ema)[.-]")  # in names of files that are opened only on request
STEMS = {
    "diffusers": ("diffusion_pytorch_model",),
    "transformers": ("model",),
}  # of the weights file that each library opens
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pt2", ".pth", ".th")
STOCK_DTYPE = "float32"  # what stock diffusers opens its own components in, if no dtype is given
COMPONENT = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
CONVERT = (
    "only safetensors are read; convert the base model once, if you trust its source, with: "
    "DiffusionPipeline.from_pretrained(BASE).save_pretrained(CONVERTED)"
)


def digest_of_weights(layout: ParameterLayout, weight: Callable[[Target], np.ndarray | None]) -> str:
    """Compute the sha256 over the target modules' weights ``(out, in)`` as little-endian float16, in layout order.

    float16 makes the digest of a file equal to that of the model loaded from it in float32.

    Raises
    ------
    BaseModelMismatchError
        If a module is missing or has another shape.
    """
    digest, wrong = hashlib.sha256(TAG), []
    for slot in layout.slots:
        values = weight(slot.target)
        expected = slot.weight_shape
        if values is None or values.shape != expected:
            found = "is missing" if values is None else f"has shape {values.shape}"
            wrong.append(f"{slot.target} {found}, expected {expected}")
            continue
        digest.update(f"{slot.target}\n".encode())
        with np.errstate(over="ignore"):
            digest.update(np.ascontiguousarray(values, "<f2").tobytes())
    if wrong:
        more = f" (and {counted(len(wrong) - 1, 'more module')})" if len(wrong) > 1 else ""
        raise BaseModelMismatchError(f"this base model does not fit the layout: {wrong[0]}{more}")
    return digest.hexdigest()


def digest_of_folder(folder: Path | str, layout: ParameterLayout, variant: str | None = None) -> str:
    """Compute the base digest of a diffusers folder, read without torch or diffusers.

    Parameters
    ----------
    variant : str, optional
        The variant of the weights that diffusers opens, such as ``fp16``.
    """
    folder = Path(folder)
    if not (folder.is_dir() and has_file(folder, MODEL_INDEX)):
        raise MissingPathError(f"{folder} is not a diffusers model folder: it has no {MODEL_INDEX}", path=folder)
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for component in {slot.target.component for slot in layout.slots}:
        tensors[component] = {}
        for file in weight_files(folder, component, variant):
            found = read_safetensors(file)[0]
            twice = sorted(tensors[component].keys() & found.keys())
            if twice:
                raise CorruptFileError(f"{file}: tensor {short(twice[0])} is in two shards; fetch it again", path=file)
            tensors[component].update(found)
    return digest_of_weights(layout, lambda target: tensors[target.component].get(f"{target.module}.weight"))


def weight_files(folder: Path, component: str, variant: str | None = None) -> list[Path]:
    """Return the safetensors files that diffusers opens for a component: one file, or the shards of one index.

    If none has the name that diffusers looks for, the only file in the folder is returned.

    Raises
    ------
    MissingPathError, UnsafePathError
    UnsupportedFormatError
        If there are safetensors files that diffusers would not open, other than known variants.
    """
    library = components(folder).get(component, ("", ""))[0]
    names = {file.name for file in require_inside(folder, component) if file.parent == folder / component}
    there = sorted(name for name in names if name.endswith(WEIGHTS))
    if not there:
        raise MissingPathError(f"{folder}/{component} has no safetensors weights; {CONVERT}", path=folder / component)
    asked = variant is not None and any(f".{variant}" in name and _second(name).startswith(variant) for name in names)
    chosen: list[str] = []
    for stem in STEMS.get(library, STEMS["diffusers"] + STEMS["transformers"]):
        plain, lists = f"{stem}{WEIGHTS}", [f"{stem}{WEIGHTS}.index.json"]
        if asked:
            plain = f"{stem}.{variant}{WEIGHTS}"
            lists = [f"{stem}{WEIGHTS}.index.{variant}.json", f"{stem}{WEIGHTS}.{variant}.index.json"]
        shards = [name for name in lists if name in names][:1]
        if plain in names and (not shards or stem == "model"):  # transformers looks for the file first
            chosen = [plain]
        elif shards:
            chosen = _shards(folder, f"{component}/{shards[0]}")
        if chosen:
            break
    if not chosen:
        lists = sorted(name for name in names if SHARDS.fullmatch(name))
        chosen = there if len(there) == 1 or len(lists) != 1 else _shards(folder, f"{component}/{lists[0]}")
        left = [] if set(chosen) >= set(there) and (len(there) == 1 or len(lists) == 1) else there
    else:
        left = [name for name in there if name not in chosen and not (asked or VARIANT.search(name))]
    if left:
        raise UnsupportedFormatError(
            f"{folder / component / left[-1]} would be ignored: diffusers opens other weights in the same folder; "
            "remove one of them",
            path=folder / component / left[-1],
        )
    return [find_file(folder, f"{component}/{name}") for name in chosen]


def _second(name: str) -> str:
    return [*name.split("."), ""][1]


def _shards(folder: Path, name: str) -> list[str]:
    """Return the shard files that an index lists."""
    shards = read_json_in(folder, name).get("weight_map")
    if not isinstance(shards, dict) or not all(_is_shard(shard) for shard in shards.values()):
        raise UnsupportedFormatError(
            f"{folder / name} lists a shard that is not a safetensors file beside it", path=folder / name
        )
    return sorted(set(shards.values()))


def base_files(files: Iterable[str]) -> list[str]:
    """Return the files of a weight space that hold its embedded base model or name its base model."""
    return [f for f in files if f in (MODEL_INDEX, CONFIG) or ("/" in f and not f.startswith(NO_COMPONENT))]


def pipeline_class(folder: Path | str) -> str:
    """Return the stock class that a diffusers folder names.

    Raises
    ------
    CorruptFileError
        If it names no class.
    """
    name = read_json_in(folder, MODEL_INDEX).get("_class_name")
    if not isinstance(name, str):
        raise CorruptFileError(f"{folder}/{MODEL_INDEX} names no pipeline class", path=Path(folder) / MODEL_INDEX)
    return name


def components(folder: Path | str) -> dict[str, tuple[str, str]]:
    """Return the library and class of every component in a diffusers folder's index.

    Settings and absent components (null) are skipped.

    Raises
    ------
    CorruptFileError
        If a component's name is not a plain identifier, or its entry is not a library and a class.
    """
    found = {}
    for name, value in read_json_in(folder, MODEL_INDEX).items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if len(value) != 2 or not all(isinstance(part, str) for part in value) or not COMPONENT.fullmatch(name):
            raise CorruptFileError(
                f"{folder}/{MODEL_INDEX} has an invalid component {name!r}: {value!r}", path=Path(folder)
            )
        found[name] = (value[0], value[1])
    return found


def stated_dtypes(folder: Path | str) -> dict[str, str]:
    """Return the dtype that each of transformers' components states in its ``config.json``; empty if it states none.

    Without ``dtype=``, transformers opens a component in the dtype that it states, diffusers its own in float32.
    """
    folder, found = Path(folder), {}
    for name in components(folder):
        if not has_file(folder, f"{name}/config.json"):
            continue
        config = read_json_in(folder, f"{name}/config.json")
        if "_class_name" not in config:  # which diffusers writes for its own
            found[name] = str(config.get("dtype") or config.get("torch_dtype") or "")
    return found


def mixed_note(folder: Path | str | None) -> str | None:
    """Return a note if stock diffusers needs ``dtype=`` to generate with the base model in a folder, or else None.

    w2w_hub 0.1.0 embedded base models as they were.
    """
    with suppress(W2WError):
        if folder is not None and has_file(Path(folder), MODEL_INDEX):
            wrong = [name for name, dtype in stated_dtypes(folder).items() if dtype not in ("", STOCK_DTYPE)]
            if wrong:
                return (
                    f"{folder}: stock diffusers opens {wrong[0]} of its base model in another dtype than the rest; "
                    "open it there with from_pretrained(..., dtype=torch.float32), or build the weight space again"
                )
    return None


def state_one_dtype(folder: Path | str) -> None:
    """Make transformers' components open in the dtype of the others, so that stock diffusers needs no ``dtype=``.

    Only their ``config.json`` is changed. The weights stay as they are stored: float16 values are widened on opening,
    as those of the denoiser are.
    """
    folder = Path(folder)
    for name, stated in stated_dtypes(folder).items():
        if stated != STOCK_DTYPE:
            config: dict[str, Any] = read_json_in(folder, f"{name}/config.json")
            config.pop("torch_dtype", None)
            text = json.dumps(config | {"dtype": STOCK_DTYPE}, indent=2, sort_keys=True) + "\n"
            write_bytes(folder / name / "config.json", text.encode(), replace=True)


def require_plain_components(folder: Path | str, names: Iterable[str]) -> None:
    """Raise unless these components can be opened without unpickling and without reading files outside the folder.

    Raises
    ------
    MissingPathError
        If a component has no folder.
    UnsafePathError
        If a link leads out of the base model.
    UnsupportedFormatError
        If a component's weights are pickles, or it holds Python code, an adapter's configuration or an index that
        names files elsewhere.
    """
    folder = Path(folder)
    for name in names:
        if not (folder / name).is_dir():
            raise MissingPathError(f"{folder} has no folder for its component {name}", path=folder)
        files = require_inside(folder, name)
        pickles = [file for file in files if file.suffix.lower() in PICKLES]
        if pickles and not any(file.suffix == WEIGHTS for file in files):
            raise UnsupportedFormatError(f"{pickles[0]} is a pickle; {CONVERT}", path=pickles[0])
        for file in files:
            if file.suffix == ".py" or file.name == "adapter_config.json":
                raise UnsupportedFormatError(
                    f"{file}: a component of a base model must not hold code or an adapter; remove it", path=file
                )
            inner = file.relative_to(folder).as_posix()
            if file.name == "config.json":
                config = read_json_in(folder, inner)
                if "auto_map" in config:
                    raise UnsupportedFormatError(
                        f"{file} names Python code (auto_map), which is never run; remove that", path=file
                    )
                if config.get("transformers_weights") is not None:
                    raise UnsupportedFormatError(
                        f"{file} names other weights (transformers_weights); remove that entry", path=file
                    )
            if SHARDS.fullmatch(file.name):
                _shards(folder, inner)


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and name.endswith(WEIGHTS) and not set(name) & set("/\\\0")


def require_inside(folder: Path, name: str) -> list[Path]:
    """Return the files at a name in a folder: the file itself, or all files below a subfolder.

    Raises
    ------
    MissingPathError, UnsafePathError
        If a path leads out of the folder (except to a blob of the Hub cache), or is neither a file nor a folder.
    """
    if not (folder / name).is_dir():
        find_file(folder, name)
        return [folder / name]
    if (folder / name).is_symlink():
        raise UnsafePathError(
            f"{folder / name} is a link, which is not followed; replace it with the folder", path=folder / name
        )
    names = [f"{name}/{found.name}" for found in walk(folder / name)]
    for file in names:
        find_file(folder, file)
    return [folder / file for file in names]


def embed_base(base: Path | str, folder: Path, generation: Mapping[str, Any] | None = None) -> None:
    """Copy a diffusers folder's files into a space folder and mark them as its base model.

    The weights are copied as they are; see :func:`state_one_dtype` for the configurations.

    Raises
    ------
    UnsupportedFormatError
        If the folder holds pickles anywhere.
    UnsafePathError
        If a link leads out of it.
    AlreadyExistsError
        If a file has the name of one in the weight space.
    """
    base = Path(base)
    require_inside(base, MODEL_INDEX)
    require_plain_components(base, components(base))
    for item in sorted(base.iterdir()):
        if item.name == "README.md" or item.name.startswith("."):
            continue
        for file in require_inside(base, item.name):
            if file.suffix.lower() in PICKLES:
                raise UnsupportedFormatError(
                    f"{file} is a pickle, which a weight space must not hold; remove it. {CONVERT}", path=file
                )
        target = folder / item.name
        if target.exists() or item.name == MANIFEST:
            raise AlreadyExistsError(
                f"{base} and the weight space both have a {item.name}; rename or remove the one in the base model",
                path=item,
            )
        if item.is_dir():
            shutil.copytree(item, target)
        else:
            shutil.copyfile(item, target)
    state_one_dtype(folder)
    write_json(folder / CONFIG, {"base_model": EMBEDDED, **stored_settings(generation)})

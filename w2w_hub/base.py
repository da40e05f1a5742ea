"""The base model as the adapters see it: the digest of its target modules' weights."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from .adapter import Target
from .errors import AlreadyExistsError, BaseModelMismatchError, CorruptFileError, MissingPathError
from .files import read_json, read_safetensors, write_json
from .layout import ParameterLayout

TAG = b"w2w-base-v1\n"
MODEL_INDEX = "model_index.json"
CONFIG = "w2w_pipeline.json"  # in a space folder: which base model it is drawn with
EMBEDDED = "embedded"
NO_COMPONENT = ("coefficients/", "previews/")  # a weight space's folders that are no part of its base model


def digest_of_weights(layout: ParameterLayout, weight: Callable[[Target], np.ndarray | None]) -> str:
    """sha256 over the target modules' weights ``(out, in)`` as little-endian float16, in layout order.

    float16, so that a file and the model loaded from it in float32 agree.

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
        more = f" (and {len(wrong) - 1} more modules)" if len(wrong) > 1 else ""
        raise BaseModelMismatchError(f"this base model does not fit the layout: {wrong[0]}{more}")
    return digest.hexdigest()


def digest_of_folder(folder: Path | str, layout: ParameterLayout) -> str:
    """The base digest of a diffusers folder, read without torch or diffusers."""
    folder = Path(folder)
    if not (folder / MODEL_INDEX).is_file():
        raise MissingPathError(f"{folder} is no diffusers model folder: it has no {MODEL_INDEX}")
    components = {slot.target.component for slot in layout.slots}
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for component in components:
        tensors[component] = {}
        files = sorted((folder / component).glob("*.safetensors"))
        files = [f for f in files if ".fp16." not in f.name and ".non_ema." not in f.name] or files
        if not files:
            raise MissingPathError(f"{folder}/{component} holds no safetensors weights; convert the base model first")
        for file in files:
            tensors[component].update(read_safetensors(file)[0])
    return digest_of_weights(layout, lambda target: tensors[target.component].get(f"{target.module}.weight"))


def base_files(files: Iterable[str]) -> list[str]:
    """Which of a weight space's files are its embedded base model, or say where the base model is."""
    return [f for f in files if f in (MODEL_INDEX, CONFIG) or ("/" in f and not f.startswith(NO_COMPONENT))]


def pipeline_class(folder: Path | str) -> str:
    """The stock class that a diffusers folder names."""
    name = read_json(Path(folder) / MODEL_INDEX).get("_class_name")
    if not isinstance(name, str):
        raise CorruptFileError(f"{folder}/{MODEL_INDEX} names no pipeline class")
    return name


def embed_base(base: Path | str, folder: Path) -> None:
    """Copy a diffusers folder's files into a space folder and mark them as its base model."""
    base = Path(base)
    for item in sorted(base.iterdir()):
        if item.name == "README.md" or item.name.startswith("."):
            continue
        target = folder / item.name
        if target.exists():
            raise AlreadyExistsError(f"{base} and the weight space both have a {item.name}; embed a plain base model")
        if item.is_dir():
            shutil.copytree(item, target)
        else:
            shutil.copyfile(item, target)
    write_json(folder / CONFIG, {"base_model": EMBEDDED})

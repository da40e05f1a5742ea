"""Checks of a base model's folder before diffusers opens it: stock classes only, nothing unpickled, no code run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import SchedulerMixin

from ...dialects.base_model import MODEL_INDEX, components, require_inside, require_plain_components
from ...errors import CorruptFileError, InvalidInputError, UnsupportedFormatError
from ...store.manifest import read_json_in

# passed to every stock `from_pretrained`
SAFE: Mapping[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
# its options that would open something else
UNSAFE = ("custom_pipeline", "custom_revision", "load_connected_pipeline", "use_flashpack", "use_onnx")
LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


def safe_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for a stock `from_pretrained` under which it neither unpickles nor runs a repository's code.

    Raises
    ------
    InvalidInputError
        If a given option asks for that.
    """
    for name, value in options.items():
        if (name in UNSAFE and value) or (name in SAFE and value is not None and value is not SAFE[name]):
            raise InvalidInputError(
                f"{name}={value!r} would unpickle files or run code of the base model; leave it out"
            )
    return {name: value for name, value in options.items() if name not in UNSAFE} | dict(SAFE)


def require_safe_base(stock_class: Any, folder: Path, passed: Collection[str] = ()) -> None:
    """Raise unless a base model's folder holds only stock components that open without unpickling.

    Parameters
    ----------
    stock_class : type
        The diffusers pipeline that will open it.
    passed : collection of str
        Components that the caller passes in, which are not read from the folder.

    Raises
    ------
    CorruptFileError
        If its index is malformed.
    UnsupportedFormatError
        For a component class that is not diffusers' or transformers', or not of the pipeline's type, and for
        pickled weights.
    UnsafePathError
        For a path that leads out of the folder.
    """
    require_inside(folder, MODEL_INDEX)
    if (folder / "None.py").exists():  # diffusers loads it as a custom pipeline unasked
        raise UnsupportedFormatError(f"{folder}/None.py would be run as a custom pipeline; remove it")
    index, found = read_json_in(folder, MODEL_INDEX), components(folder)
    expected, _ = stock_class._get_signature_keys(stock_class)
    hints = stock_class._get_signature_types()
    for name in expected:
        if name in index and name not in found and index[name] not in (None, [None, None]):
            raise CorruptFileError(f"{folder}/{MODEL_INDEX} has an invalid component {name!r}: {index[name]!r}")
    for name, (library, kind) in found.items():
        if name in passed:
            continue
        hinted = [hint for hint in hints.get(name, ()) if isinstance(hint, type)] if name in expected else []
        if not _is_stock(name, library, kind, hinted):
            wanted = f", not a {hinted[0].__name__}" if hinted and name != "scheduler" else ""
            raise UnsupportedFormatError(
                f"{folder}/{MODEL_INDEX}: component {name!r} is {library}.{kind}{wanted}; "
                "use a stock class of diffusers or transformers"
            )
    require_plain_components(folder, [name for name in found if name in expected and name not in passed])


def _is_stock(name: str, library: str, kind: str, hinted: list[type]) -> bool:
    """Return whether a class is part of diffusers or transformers, and of an expected type."""
    module = LIBRARIES.get(library)
    if module is None and re.fullmatch(r"[a-z][a-z0-9_]*", library):
        module = getattr(diffusers.pipelines, library, None)  # a pipeline's own parts, as the safety checker
        if not getattr(module, "__name__", "").startswith("diffusers.pipelines."):
            return False
    if module is None or not kind.isidentifier() or kind.startswith("_"):
        return False
    found = getattr(module, kind, None)
    if name == "scheduler":
        return isinstance(found, type) and issubclass(found, SchedulerMixin)
    if not hinted:
        return isinstance(found, type)
    if _family(kind) in {_family(hint.__name__) for hint in hinted}:
        return True
    return isinstance(found, type) and issubclass(found, tuple(hinted))


def _family(kind: str) -> str:
    """Return a class's name without the affixes of fast tokenizers and image processors, and of older names."""
    return re.sub(r"(Fast|Pil)$", "", kind).replace("FeatureExtractor", "ImageProcessor")


def checked(stock_class: Any, check: Callable[[Path], None]) -> Any:
    """Return a subclass that calls `check` with the downloaded folder before opening it."""

    def download(cls: Any, name: Any, /, **options: Any) -> Any:
        folder = super(made, cls).download(name, **options)  # type: ignore[misc]
        check(Path(folder))
        return folder

    made: Any = type(stock_class.__name__, (stock_class,), {"download": classmethod(download)})
    return made

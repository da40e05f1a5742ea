"""Weight spaces with their base models as folders: opened, checked against each other, and written."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch

from ...common.constraints import text
from ...dialects.base_model import CONFIG, EMBEDDED, MODEL_INDEX, base_files, digest_of_folder, pipeline_class
from ...errors import (
    BaseModelMismatchError,
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnsupportedFormatError,
    W2WError,
)
from ...space import WeightSpace
from ...space.storage import save_space
from ...store.atomic import write_bytes, write_json
from ...store.hub.options import HubOptions
from ...store.hub.resolve import open_base
from ...store.manifest import read_json_in
from ...store.paths import has_file, short
from ..injection import base_digest, uncompiled
from ..pictures import save_picture
from .foreign import checked, require_safe_base, safe_options

if TYPE_CHECKING:
    from .mixin import W2WMixin

CUSTOM = "pipeline.py"
CUSTOM_CODE = """# For DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER); the code is in the package:
# pip install 'w2w-hub[diffusers]'
from w2w_hub.models.pipelines import W2WPipeline  # noqa: F401
"""
# both hold every number of a float16 or float32 file closely enough for its digest
EXACT = (torch.float32, torch.float16)
DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float": torch.float32,
    "float16": torch.float16, "fp16": torch.float16, "half": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float64": torch.float64, "fp64": torch.float64, "double": torch.float64,
}  # fmt: skip


# ---------------------------------------------------------------- opening
def open_space(
    cls: type[W2WMixin],
    space: WeightSpace,
    dtype: torch.dtype,
    options: Mapping[str, Any],
    hub: Mapping[str, Any] | None = None,
) -> Any:
    """A pipeline of a space in a local folder and the base model that the folder's configuration names.

    This is where every way of opening ends: a name on a Hub is first resolved to a folder. `hub` says how a
    repository is asked for a base model by reference.
    """
    assert space.path is not None
    assert space.source is not None
    hub = hub or {}
    space.source.need(base_files(space.source.files))
    if not has_file(space.path, CONFIG):
        raise MissingPathError(
            f"{space.path} was built without a base model; build it again with: w2w build DATASET --base BASE, "
            "or use W2WPipeline.from_base"
        )
    config = read_json_in(space.path, CONFIG)
    base, revision = config.get("base_model"), config.get("revision")
    if base == EMBEDDED:
        return with_base(cls, space.path, space, dtype, options)
    if not isinstance(base, str) or not base or not isinstance(revision, (str, type(None))):
        raise UnsupportedFormatError(f"{space.path}/{CONFIG} does not name a base model")
    if space.source.base is not None:  # a lock says which files of it, by digest
        return with_base(cls, open_base(space.source.base, HubOptions(**hub)).folder, space, dtype, options)
    if is_repository(base):
        options = {**hub, **({"revision": revision} if revision else {}), **options}
        return with_repository(cls, base, space, dtype, options)
    return with_base(cls, _beside(space, base), space, dtype, options)


def _beside(space: WeightSpace, base: str) -> Path:
    """Return the folder that a space's configuration names relative to its own.

    In a folder of the user's it may lead out (``../base``); in a repository it must stay inside.

    Raises
    ------
    UnsupportedFormatError
    """
    assert space.path is not None
    relative = Path(base)
    if not base.isprintable() or relative.is_absolute() or "\\" in base:
        raise UnsupportedFormatError(
            f"{space.path}/{CONFIG} names the base model {short(base)}; it must be 'embedded', a repository "
            "(owner/name) or a folder relative to this one"
        )
    if space.revision is not None and ".." in relative.parts:
        raise UnsupportedFormatError(
            f"{space.revision}: {CONFIG} names the base model {short(base)}, which is outside of the repository; "
            "do not use it, or open it with W2WPipeline.from_base"
        )
    return space.path / relative


def is_repository(name: Path | str) -> bool:
    """Whether it reads like the name of a Hub repository, ``owner/name``."""
    parts = str(name).split("/")
    return isinstance(name, str) and len(parts) == 2 and all(p and p[0].isalnum() for p in parts)


def with_base(
    cls: type[W2WMixin], base: Path | str, space: WeightSpace, dtype: torch.dtype, options: Mapping[str, Any]
) -> Any:
    """A pipeline of a base model, a folder or a repository, and a space; the base must be the space's."""
    folder = Path(base)
    if not (folder.is_dir() and has_file(folder, MODEL_INDEX)):
        if folder.exists() or not is_repository(base):
            what = "has no model_index.json" if folder.is_dir() else "is neither a folder nor the name of a repository"
            raise MissingPathError(f"base model {base}: it {what}; give a diffusers folder or repository")
        return with_repository(cls, str(base), space, dtype, options)
    options = safe_options(options)
    require_same_kind(cls, pipeline_class(folder), base)
    verified = _require_folder(cls, folder, space, dtype, options, str(base))
    return _made(cls, _opened(cls.stock_class, folder, dtype, options), space, verified)


def with_repository(
    cls: type[W2WMixin], name: str, space: WeightSpace, dtype: torch.dtype, options: Mapping[str, Any]
) -> Any:
    """A pipeline of a base model on the Hub, whatever lies in a local folder of that name, and a space."""
    options, verified = safe_options(options), False

    def check(folder: Path) -> None:
        nonlocal verified
        verified = _require_folder(cls, folder, space, dtype, options, name)

    stock_class = checked(cls.stock_class, check)
    stock = _opened(stock_class, name, dtype, options)
    require_same_kind(cls, type(stock), name)
    return _made(cls, stock, space, verified)


def _require_folder(
    cls: type[W2WMixin], folder: Path, space: WeightSpace, dtype: torch.dtype, options: Mapping[str, Any], where: str
) -> bool:
    """Refuse a base model's folder that is unsafe to open; return whether its weights are known to be the space's."""
    require_safe_base(cls.stock_class, folder, options)
    if space.compatibility.base_digest is None or dtype in EXACT:
        return False  # it is held against the weights in memory
    variant = options.get("variant")
    found = digest_of_folder(folder, space.layout, variant if isinstance(variant, str) else None)
    _require_digest(found, space, where)  # in memory they will be rounded
    return "unet" not in options  # another one is held against the space itself


def _opened(stock_class: Any, base: Path | str, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """The stock pipeline; whatever diffusers raises becomes one line of ours."""
    try:
        if isinstance(base, str) and os.path.isdir(base):
            base = stock_class.download(base, **options)  # by its name, the folder here would be opened
        return stock_class.from_pretrained(base, dtype=dtype, **options)
    except (W2WError, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        raise MissingPathError(f"base model {base} cannot be opened: {_first_line(error)}") from error
    except Exception as error:
        raise CorruptFileError(
            f"base model {base} cannot be opened by diffusers with these options: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _made(cls: type[W2WMixin], stock: Any, space: WeightSpace, verified: bool) -> Any:
    pipeline = cls(**parts_for(cls, stock))
    pipeline.attach(space, verify=not verified)
    return pipeline


def torch_dtype(dtype: Any, options: dict[str, Any]) -> Any:
    """Take a floating dtype out of a call's arguments: torch's own, by name, or one for each component.

    Raises
    ------
    InvalidInputError
        For another name or dtype, and if `dtype` and `torch_dtype` disagree.
    """
    other = options.pop("torch_dtype", None)
    found = [_floating(given) for given in (dtype, other) if given is not None]
    if len(found) == 2 and found[0] != found[1]:
        raise InvalidInputError(
            f"dtype={reprlib.repr(dtype)} and torch_dtype={reprlib.repr(other)} disagree; give dtype alone"
        )
    return found[0] if found else torch.float32


def _floating(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {text().checked(name, "a component in dtype"): _floating(one) for name, one in given.items()}
    dtype = DTYPES.get(given) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES.values():
        raise InvalidInputError(
            f"dtype must be a floating torch dtype or one of {', '.join(DTYPES)}; not {reprlib.repr(given)}"
        )
    return dtype


def parts_for(cls: type[W2WMixin], pipeline: Any) -> dict[str, Any]:
    """The components and settings with which another class is made of a pipeline's."""
    expected, settings = cls._get_signature_keys(cls)  # type: ignore[attr-defined]
    parts = {name: part for name, part in pipeline.components.items() if name in expected}
    parts |= {name: pipeline.config[name] for name in settings if name in pipeline.config}
    if "requires_safety_checker" in settings and parts.get("safety_checker") is None:
        parts["requires_safety_checker"] = False  # a base without one is not warned about; one that has it keeps it
    return parts


# ---------------------------------------------------------------- what fits
def require_same_kind(cls: type[W2WMixin], found: Any, where: Path | str) -> None:
    """Refuse a pipeline class (or its name) of another kind: other text encoders or another denoiser, as SDXL has."""
    other = getattr(diffusers, found, None) if isinstance(found, str) else found
    if kind(other) != kind(cls.stock_class):
        name = getattr(other, "__name__", found)
        raise BaseModelMismatchError(
            f"{where} is a {name}; {cls.__name__} needs a base model of {cls.stock_class.__name__} or a variant of it "
            f"with the same parts ({', '.join(kind(cls.stock_class))}). For others mix "
            "w2w_hub.models.pipelines.W2WMixin into their class"
        )


def kind(stock_class: Any) -> list[str]:
    """The parts that tell Stable Diffusion from SDXL and others."""
    if not hasattr(stock_class, "_get_signature_keys"):
        return []
    expected, _ = stock_class._get_signature_keys(stock_class)
    return sorted(n for n in expected if n.startswith(("text_encoder", "unet", "transformer", "prior")))


def require_base(model: torch.nn.Module, space: WeightSpace) -> None:
    """Refuse a denoiser whose target weights are not those that the space was made with."""
    foreign = sorted({s.target.component for s in space.layout.slots} - {"unet"})
    if foreign:
        raise BaseModelMismatchError(
            f"this weight space adapts {', '.join(foreign)} too; only spaces of the UNet can be drawn"
        )
    found = base_digest(model, space.layout)
    dtype = next(uncompiled(model).parameters()).dtype
    if space.compatibility.base_digest is not None and dtype in EXACT:
        _require_digest(found, space, "the base model")


def _require_digest(found: str, space: WeightSpace, where: str) -> None:
    stated = space.compatibility.base_digest
    if found != stated:
        raise BaseModelMismatchError(
            f"the target weights of {where} have digest {found[:12]}, this weight space was made with "
            f"{str(stated)[:12]} ({space.compatibility.base_model or 'base model not named'}); their modules have the "
            "same shapes and other values"
        )


# ---------------------------------------------------------------- writing
def save_folder(
    pipe: W2WMixin,
    path: Path | str,
    base_model: str | None,
    revision: str | None,
    custom_pipeline: bool,
    options: Mapping[str, Any],
    sheets: Mapping[str, Any] | None = None,
) -> None:
    """Write the space with its base model, embedded or by reference; see :meth:`W2WMixin.save_pretrained`."""
    space, unet = pipe.space, uncompiled(pipe.unet)  # type: ignore[attr-defined]
    if getattr(unet, "peft_config", None):
        raise InvalidInputError("a style LoRA is loaded; call pipe.unload_lora_weights() before saving")
    stated, found = space.compatibility.base_digest, base_digest(unet, space.layout)
    if stated is not None and stated != found:
        raise BaseModelMismatchError(
            "the base model in memory is not the one of the weight space (fused, cast to another dtype, or an identity "
            "is being drawn); open it again in float32 to save it"
        )
    if base_model is None and revision is not None:
        raise InvalidInputError("revision belongs to a base_model; name the repository")
    if base_model is not None and (not is_repository(base_model) or not revision):
        raise InvalidInputError(
            f"a base model by reference is a repository, owner/name, and a commit; got {base_model!r} and {revision!r}"
        )

    if options.get("safe_serialization") not in (None, True):
        raise InvalidInputError("safe_serialization=False would write pickles; leave it out")

    def extend(folder: Path) -> None:
        if base_model is None:
            stock = pipe.stock_class(**parts_for(pipe.stock_class, pipe))
            stock.save_pretrained(folder, **options)
            write_json(folder / CONFIG, {"base_model": EMBEDDED})
        else:
            write_json(folder / CONFIG, {"base_model": base_model, "revision": revision})
        for name, sheet in (sheets or {}).items():
            save_picture(sheet, folder / "previews" / f"{name}.png")
        if custom_pipeline:
            write_bytes(folder / CUSTOM, CUSTOM_CODE.encode())

    save_space(space, path, extend=extend)

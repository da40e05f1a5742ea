"""Weight spaces with their base models as folders: opened, checked against each other, and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch

from ..base import CONFIG, EMBEDDED, MODEL_INDEX, base_files, digest_of_folder, pipeline_class
from ..errors import (
    BaseModelMismatchError,
    InvalidInputError,
    MissingPathError,
    UnsupportedFormatError,
    W2WError,
)
from ..files import read_json, write_bytes, write_json
from ..hub.resolve import open_base
from ..injection import base_digest, uncompiled
from ..pictures import save_picture
from ..space import WeightSpace
from ..space.storage import save_space

if TYPE_CHECKING:
    from .mixin import W2WMixin

CUSTOM = "pipeline.py"
CUSTOM_CODE = """# For DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER); the code is in the package:
# pip install 'w2w-hub[diffusers]'
from w2w_hub.pipeline import W2WPipeline  # noqa: F401
"""
# both hold every number of a float16 or float32 file closely enough for its digest
EXACT = (torch.float32, torch.float16)


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
    if not (space.path / CONFIG).is_file():
        raise MissingPathError(
            f"{space.path} was built without a base model; build it again with: w2w build DATASET --base BASE, "
            "or use W2WPipeline.from_base"
        )
    config = read_json(space.path / CONFIG)
    base, revision = config.get("base_model"), config.get("revision")
    if base == EMBEDDED:
        return with_base(cls, space.path, space, dtype, options)
    if not isinstance(base, str) or not base or not isinstance(revision, (str, type(None))):
        raise UnsupportedFormatError(f"{space.path}/{CONFIG} does not name a base model")
    if space.source.base is not None:  # a lock says which files of it, by digest
        return with_base(cls, open_base(space.source.base, **hub).folder, space, dtype, options)
    options = {**hub, **({"revision": revision} if revision else {}), **options}
    source: Path | str = base
    if not is_repository(base) and not Path(base).is_absolute():
        source = space.path / base  # a folder beside the space
    return with_base(cls, source, space, dtype, options)


def is_repository(name: Path | str) -> bool:
    """Whether it reads like the name of a Hub repository, ``owner/name``."""
    parts = str(name).split("/")
    return isinstance(name, str) and len(parts) == 2 and all(p and p[0].isalnum() for p in parts)


def with_base(
    cls: type[W2WMixin], base: Path | str, space: WeightSpace, dtype: torch.dtype, options: Mapping[str, Any]
) -> Any:
    """A pipeline of a base model, a folder or a repository, and a space; the base must be the space's."""
    folder = Path(base)
    local = (folder / MODEL_INDEX).is_file()
    if not local:
        if folder.exists() or not is_repository(base):
            what = "has no model_index.json" if folder.is_dir() else "is neither a folder nor the name of a repository"
            raise MissingPathError(f"base model {base}: it {what}; give a diffusers folder or repository")
    else:
        require_same_kind(cls, pipeline_class(folder), base)
    stated = space.compatibility.base_digest
    verified = False
    if local and stated is not None and dtype not in EXACT:  # in memory it will be rounded
        _require_digest(digest_of_folder(folder, space.layout), space, str(base))
        verified = "unet" not in options  # another one is held against the space itself
    try:
        stock = cls.stock_class.from_pretrained(base, dtype=dtype, **options)
    except W2WError:
        raise
    except OSError as error:
        raise MissingPathError(f"base model {base} cannot be opened: {str(error).strip().splitlines()[0]}") from error
    if not local:
        require_same_kind(cls, type(stock), base)
    pipeline = cls(**parts_for(cls, stock))
    pipeline.attach(space, verify=not verified)
    return pipeline


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
            f"with the same parts ({', '.join(kind(cls.stock_class))}). For others mix w2w_hub.pipeline.W2WMixin "
            "into their class"
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

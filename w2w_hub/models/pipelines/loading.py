"""Opens weight spaces with their base models, and checks that both belong together."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch

from ...common.arguments import RULES, place
from ...common.constraints import optional, text, validated, whole
from ...common.pipelines import family_of
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
from ...store.hub.options import HubOptions
from ...store.hub.resolve import open_base as open_pinned_base
from ...store.manifest import read_json_in
from ...store.paths import has_file, short, similar
from ..injection import base_digest, uncompiled
from .foreign import checked, require_safe_base, safe_options
from .quiet import quiet_loading

PLACE = place()
HUB = {name: RULES[name] for name in ("revision", "token", "cache_dir", "local_files_only")}
# dtypes in which loaded weights still have the digest of their float16 or float32 files
EXACT = (torch.float32, torch.float16)
DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float": torch.float32,
    "float16": torch.float16, "fp16": torch.float16, "half": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float64": torch.float64, "fp64": torch.float64, "double": torch.float64,
}  # fmt: skip


# ---------------------------------------------------------------- where a base model is
@dataclass(frozen=True)
class Base:
    """A base model to open: a local diffusers folder, or a repository on the Hub.

    Attributes
    ----------
    place : Path or str
        A path is a folder, a string the name of a repository.
    options : mapping
        Keywords of the stock `from_pretrained`: revision, token, variant and others.
    where : str
        Its name in messages.
    """

    place: Path | str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return str(self.place)

    def class_name(self) -> str:
        """Return the stock class's name in ``model_index.json``, which is fetched from a repository."""
        if isinstance(self.place, Path):
            return pipeline_class(self.place)
        from huggingface_hub import hf_hub_download

        chosen = ("revision", "token", "cache_dir", "local_files_only")
        with _one_line_errors(self.place):
            file = hf_hub_download(self.place, MODEL_INDEX, **{n: self.options[n] for n in chosen if n in self.options})
        return pipeline_class(Path(file).parent)


Choose = Callable[[Base], Any]  # from a base model to the class, one with W2WMixin, that opens it


def base_at(place: Path | str, options: Mapping[str, Any]) -> Base:
    """Return the base model in a folder, or else in the repository of that name.

    Raises
    ------
    InvalidInputError
        If an option would unpickle files or run code.
    MissingPathError
        If there is neither.
    """
    folder, options = Path(place), safe_options(options)
    if folder.is_dir() and has_file(folder, MODEL_INDEX):
        return Base(folder, options)
    if folder.exists() or not is_repository(place):
        what = "has no model_index.json" if folder.is_dir() else "is neither a folder nor the name of a repository"
        near = None if folder.exists() else similar(folder)
        advice = f"did you mean {short(str(near))}?" if near else "give a diffusers folder or repository"
        raise MissingPathError(f"base model {place} {what}; {advice}")
    return Base(str(place), options)


def base_of(space: WeightSpace, options: Mapping[str, Any], hub: Mapping[str, Any] | None = None) -> Base:
    """Return the base model that the configuration in a space's folder names.

    Parameters
    ----------
    hub : mapping, optional
        Token, cache and other options for a base model in a repository.
    """
    assert space.path is not None
    assert space.source is not None
    hub = hub or {}
    space.source.need(base_files(space.source.files))
    if not has_file(space.path, CONFIG):
        raise MissingPathError(
            f"{space.path} was built without a base model; build it again with: w2w build DATASET --base BASE, "
            "or use W2WPipeline.from_base",
            path=space.path,
        )
    config = read_json_in(space.path, CONFIG)
    base, revision = config.get("base_model"), config.get("revision")
    if base == EMBEDDED:
        return base_at(space.path, options)
    if not isinstance(base, str) or not base or not isinstance(revision, (str, type(None))):
        raise UnsupportedFormatError(f"{space.path}/{CONFIG} does not name a base model")
    if space.source.base is not None:  # a lock file pins its files by digest
        return base_at(open_pinned_base(space.source.base, HubOptions(**hub)).folder, options)
    if is_repository(base):  # never a local folder of that name
        pinned = {"revision": revision} if revision else {}
        return Base(base, safe_options({**hub, **pinned, **options}))
    return base_at(_beside(space, base), options)


def _beside(space: WeightSpace, base: str) -> Path:
    """Return the folder that a space's configuration names relative to its own.

    In a local space it may lead out (``../base``); in a repository it must stay inside.

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
            "open it with W2WPipeline.from_base"
        )
    return space.path / relative


def is_repository(name: Path | str) -> bool:
    """Return whether a name has the form ``owner/name``."""
    parts = str(name).split("/")
    return isinstance(name, str) and len(parts) == 2 and all(p and p[0].isalnum() for p in parts)


# ---------------------------------------------------------------- opening
@validated(path=PLACE, k=optional(whole(1)), **HUB)
def open_space(
    choose: Choose,
    path: Path | str,
    dtype: Any = None,
    *,
    k: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> Any:
    """Open a weight space with its base model; see :meth:`W2WMixin.from_pretrained`."""
    hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    space = WeightSpace.from_pretrained(path, k, revision=revision, **hub)
    dtype = torch_dtype(dtype, options)
    return open_base(choose, base_of(space, options, hub), space, dtype)


def open_base(choose: Choose, base: Base, space: WeightSpace, dtype: Any) -> Any:
    """Return a pipeline with a base model and a space, which must belong together.

    Raises
    ------
    BaseModelMismatchError
        If the base model is not the space's, or does not fit the class that `choose` returns.
    """
    cls, verified = choose(base), False

    def check(folder: Path) -> None:
        nonlocal verified
        verified = _require_folder(cls.stock_class, folder, space, dtype, base)

    if isinstance(base.place, Path):
        require_same_kind(cls, base.class_name(), base.where)
        check(base.place)
        stock = _opened(cls.stock_class, base, dtype)
    else:
        stock = _opened(checked(cls.stock_class, check), base, dtype)
        require_same_kind(cls, type(stock), base.where)
    pipeline = cls(**parts_for(cls, stock))
    pipeline.attach(space, verify=not verified)
    return pipeline


def open_stock(base: Base, dtype: torch.dtype) -> Any:
    """Return the stock pipeline of a base model, without a weight space.

    Raises
    ------
    BaseModelMismatchError
        If diffusers has no such pipeline.
    """
    stock_class = getattr(diffusers, base.class_name(), None)
    if not kind(stock_class):
        raise BaseModelMismatchError(f"{base.where} is a {base.class_name()}, which this diffusers does not have")

    def check(folder: Path) -> None:
        require_safe_base(stock_class, folder, base.options)

    if isinstance(base.place, Path):
        check(base.place)
        return _opened(stock_class, _without_absent(base, base.place, stock_class), dtype)
    return _opened(checked(stock_class, check), base, dtype)


def _without_absent(base: Base, folder: Path, stock_class: Any) -> Base:
    """Return a base model with None for each component that it was saved without, such as Stable Diffusion 3's T5."""
    expected, _ = stock_class._get_signature_keys(stock_class)
    needed = set(expected) - set(stock_class._optional_components)
    index = read_json_in(folder, MODEL_INDEX)
    absent = {name: None for name in needed if index.get(name) == [None, None]}
    return Base(base.place, {**absent, **base.options})


def _require_folder(stock_class: Any, folder: Path, space: WeightSpace, dtype: Any, base: Base) -> bool:
    """Raise if a base model's folder is unsafe; return whether its weights are verified to be the space's."""
    require_safe_base(stock_class, folder, base.options)
    if space.compatibility.base_digest is None or dtype in EXACT:
        return False  # the weights in memory are compared instead
    variant = base.options.get("variant")
    found = digest_of_folder(folder, space.layout, variant if isinstance(variant, str) else None)
    _require_digest(found, space, base.where)  # they will be rounded in memory
    return "unet" not in base.options  # a UNet that is passed in is compared in memory


def _opened(stock_class: Any, base: Base, dtype: Any) -> Any:
    place, options = base.place, base.options
    with _one_line_errors(place), quiet_loading(local=isinstance(place, Path)):
        if isinstance(place, str) and os.path.isdir(place):
            place = stock_class.download(place, **options)  # its name alone would open the local folder
        return stock_class.from_pretrained(place, dtype=dtype, **options)


@contextmanager
def _one_line_errors(base: Path | str) -> Iterator[None]:
    """Convert errors of diffusers and the Hub's client to ours, with one line."""
    try:
        yield
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


def torch_dtype(dtype: Any, options: dict[str, Any]) -> Any:
    """Return the floating dtype given as `dtype` or `torch_dtype`; the latter is removed from `options`.

    A dtype is torch's, a name, or a mapping from components to these.

    Raises
    ------
    InvalidInputError
        For an unknown name or another dtype, and if `dtype` and `torch_dtype` disagree.
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


def parts_for(cls: Any, pipeline: Any) -> dict[str, Any]:
    """Return a pipeline's components and settings that another class's constructor accepts."""
    expected, settings = cls._get_signature_keys(cls)
    parts = {name: part for name, part in pipeline.components.items() if name in expected}
    parts |= {name: pipeline.config[name] for name in settings if name in pipeline.config}
    if "requires_safety_checker" in settings and parts.get("safety_checker") is None:
        parts["requires_safety_checker"] = False  # no warning for a base without one
    return parts


# ---------------------------------------------------------------- what fits
def require_same_kind(cls: Any, found: Any, where: str) -> None:
    """Raise unless a stock class, given as class or name, has the same text encoders and denoiser as `cls`.

    Raises
    ------
    BaseModelMismatchError
        Names the class that fits, if there is one.
    """
    other = getattr(diffusers, found, None) if isinstance(found, str) else found
    if kind(other) == kind(cls.stock_class):
        return
    name = str(getattr(other, "__name__", found))
    fitting = family_of(name)
    advice = f"open it with {fitting[0].name}" if fitting else "mix w2w_hub.models.pipelines.W2WMixin into its class"
    raise BaseModelMismatchError(
        f"{where} is a {name}; {cls.__name__} needs a base model of {cls.stock_class.__name__} or a variant of it "
        f"with the same parts ({', '.join(kind(cls.stock_class))}); {advice}"
    )


def kind(stock_class: Any) -> list[str]:
    """Return the components that distinguish Stable Diffusion from SDXL and others."""
    if not hasattr(stock_class, "_get_signature_keys"):
        return []
    expected, _ = stock_class._get_signature_keys(stock_class)
    return sorted(n for n in expected if n.startswith(("text_encoder", "unet", "transformer", "prior")))


def require_base(model: torch.nn.Module, space: WeightSpace) -> None:
    """Raise unless a denoiser has the target weights that the space was built for."""
    foreign = sorted({s.target.component for s in space.layout.slots} - {"unet"})
    if foreign:
        raise BaseModelMismatchError(
            f"this weight space adapts {', '.join(foreign)}; only weight spaces of the UNet can be used"
        )
    found = base_digest(model, space.layout)
    dtype = next(uncompiled(model).parameters()).dtype
    if space.compatibility.base_digest is not None and dtype in EXACT:
        _require_digest(found, space, "the base model")


def _require_digest(found: str, space: WeightSpace, where: str) -> None:
    stated = space.compatibility.base_digest
    if found != stated:
        raise BaseModelMismatchError(
            f"the target weights of {where} have digest {found[:12]}, this weight space was built for "
            f"{str(stated)[:12]} ({space.compatibility.base_model or 'base model not named'}); the shapes of "
            "their modules agree, the values differ"
        )

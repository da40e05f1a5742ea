"""The registry of dialects, including those of other packages, and detection of a checkpoint's dialect."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from ..common.text import an
from ..common.warn import warn_caller
from ..errors import NotACheckpointError, UnsupportedFormatError
from ..store.paths import short
from .checkpoint import Checkpoint
from .dialect import Dialect, FolderUse, WritableDialect

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = __name__.rpartition(".")[0]  # group of entry points: "w2w_hub.dialects"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)


@cache
def dialects() -> dict[str, Dialect]:
    """Return every dialect by name: built-in ones, then those of installed packages in order of package name.

    A package adds a dialect by an entry point in the group ``w2w_hub.dialects``. An entry point that cannot be loaded,
    is not a `Dialect` or uses an existing name is skipped with a warning that names its package.
    """
    from importlib.metadata import entry_points

    found = {dialect.name: dialect for dialect in _built_in()}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (_package(point), point.name)):
        try:
            dialect = point.load()
            if not isinstance(dialect, Dialect):
                raise TypeError(
                    f"{point.value} is {an(type(dialect).__name__)}, not an instance of w2w_hub.dialects.Dialect"
                )
            name = getattr(dialect, "name", None)
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{short(name)} is not a valid name: lower-case letters, digits, - and _")
            if name in found:
                raise ValueError(f"a dialect {name} exists already")
        except Exception as error:
            warn_caller(
                f"the dialect {point.name} of the package {_package(point)} is skipped: {type(error).__name__}: "
                f"{error}; update or uninstall the package"
            )
        else:
            found[name] = dialect
    return found


def _built_in() -> tuple[Dialect, ...]:
    from .cloneofsimo import CLONEOFSIMO
    from .diffusers import DIFFUSERS
    from .diffusers_old import DIFFUSERS_OLD
    from .flux import BFL, XLABS
    from .kohya import KOHYA, ONETRAINER
    from .lycoris import LYCORIS
    from .mlx import MLX
    from .peft import PEFT

    return (PEFT, DIFFUSERS, DIFFUSERS_OLD, KOHYA, LYCORIS, CLONEOFSIMO, XLABS, BFL, ONETRAINER, MLX)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"


def writers() -> dict[str, WritableDialect]:
    """Return the dialects that can be written, by name."""
    return {name: dialect for name, dialect in dialects().items() if isinstance(dialect, WritableDialect)}


def weights_names(*, with_config: bool) -> tuple[str, ...]:
    """Return the names of weights files to look for in a folder with or without ``adapter_config.json``, in order."""
    use = FolderUse.WITH_CONFIG if with_config else FolderUse.WITHOUT_CONFIG
    return tuple(
        dialect.weights_name for dialect in dialects().values() if dialect.weights_name and dialect.folder_use & use
    )


def dialect_of(checkpoint: Checkpoint) -> Dialect:
    """Return the dialect of an opened checkpoint without reading its tensors.

    Raises
    ------
    UnsupportedFormatError
        If none matches, or more than one does.
    """
    found = [dialect for dialect in dialects().values() if dialect.matches(checkpoint)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnsupportedFormatError(
            f"{checkpoint.where} matches {len(found)} dialects ({', '.join(f.name for f in found)}), and no trainer "
            "mixes them; save the modules of each dialect in a separate file"
        )
    vectors = _embeddings(checkpoint)
    if vectors:
        raise NotACheckpointError(
            f"{checkpoint.where} is a textual-inversion embedding ({', '.join(vectors[:3])}), not a LoRA: it changes "
            "no weight; load it with diffusers' load_textual_inversion"
        )
    raise NotACheckpointError(
        f"{checkpoint.where} is not a LoRA checkpoint of a known dialect ({', '.join(dialects())})"
    )


def _embeddings(checkpoint: Checkpoint) -> list[str]:
    """Return the keys of a file that holds only textual-inversion embeddings; empty for any other file."""
    vector = all(1 <= len(shape) <= 2 and shape[-1] in (768, 1024, 1280) for shape in checkpoint.shapes.values())
    named = all(
        (k.startswith("<") and k.endswith(">")) or k in ("emb_params", "clip_l", "clip_g") for k in checkpoint.keys
    )
    return list(checkpoint.keys) if vector and named else []

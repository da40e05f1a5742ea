"""Write an adapter in any writable dialect, and convert checkpoints between dialects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.arguments import ADAPTER, checked
from ..common.constraints import names
from ..common.deprecated import renamed_keywords
from ..errors import InvalidInputError
from ..lora.adapter import COMPONENTS, Adapter
from ..store.atomic import new_folder, require_output, write_bytes
from ..store.replacing import files_named
from .dialect import WritableDialect
from .reading import read_adapter
from .registry import writers

DEFAULT_DIALECTS = ("peft", "diffusers")
SINGLE = ".safetensors"


@checked(adapter=ADAPTER, dialects=names())
def write_adapter(
    adapter: Adapter, folder: Path | str, dialects: tuple[str, ...] = DEFAULT_DIALECTS, *, overwrite: bool = False
) -> None:
    """Write an adapter as a folder that stock libraries open correctly.

    The default writes ``adapter_config.json`` and ``adapter_model.safetensors`` for `PeftModel.from_pretrained`, and
    ``pytorch_lora_weights.safetensors`` for `pipe.load_lora_weights`: each library silently misreads the other's file.
    ``"kohya"`` writes ``kohya_lora.safetensors`` for sd-scripts, ComfyUI and other tools.

    Parameters
    ----------
    overwrite : bool
        Replace an existing folder, if it holds only files with these names.

    Raises
    ------
    AlreadyExistsError, DiskError
    """
    if not dialects:
        raise InvalidInputError(f"dialects is empty; choose from {', '.join(writers())}")
    chosen = [writer_of(name) for name in dialects]
    require_output(folder, overwrite=overwrite, own=adapter_files)
    with new_folder(folder, overwrite=overwrite, own=adapter_files) as partial:
        for writer in chosen:
            writer.write(adapter, partial)


def adapter_files(folder: Path) -> Iterable[str]:
    """Return the files in a folder that :func:`write_adapter` and :func:`convert_adapter` write, of any dialect."""
    names = ["adapter_config.json", *(writer.weights_name or "" for writer in writers().values())]
    below = [f"{component}/{name}" for component in COMPONENTS for name in names]
    return files_named(*names, *below)(folder)


def writer_of(name: object) -> WritableDialect:
    """Return a writable dialect by name.

    Raises
    ------
    InvalidInputError
        If it does not exist; the message lists those that do.
    """
    known = writers()
    if not isinstance(name, str) or name not in known:
        raise InvalidInputError(f"dialect {name!r} cannot be written; choose from {', '.join(known)}")
    return known[name]


@renamed_keywords(believe="trust")
@checked()
def convert_adapter(
    source: Path | str, out: Path | str, dialect: str, *, overwrite: bool = False, **options: Any
) -> Adapter:
    """Read a checkpoint, write it in another dialect, and return the adapter.

    Parameters
    ----------
    out : path
        A new folder, or with the suffix ``.safetensors`` a new file (not for PEFT). A PEFT folder holds one model: for
        an adapter of several, `out` gets one subfolder per component.
    overwrite : bool
        Replace an existing file, or a folder that holds only files with the names that a conversion writes.
    **options
        As for :func:`read_adapter`.

    Examples
    --------
    >>> convert_adapter("kohya.safetensors", "my-lora", "peft")                 # doctest: +SKIP
    """
    require_writable(out, dialect, overwrite=overwrite)
    adapter = read_adapter(source, **options)
    write_in_dialect(adapter, out, dialect, overwrite=overwrite)
    return adapter


def write_in_dialect(adapter: Adapter, out: Path | str, dialect: str, *, overwrite: bool = False) -> None:
    """Write an adapter as one file or folder of one dialect, see :func:`convert_adapter`."""
    writer, out = require_writable(out, dialect, overwrite=overwrite)
    components = sorted({target.component for target in adapter.factors})
    if writer.one_component and len(components) > 1:
        with new_folder(out, overwrite=overwrite, own=adapter_files) as partial:
            for name in components:
                mine = {target: pair for target, pair in adapter.factors.items() if target.component == name}
                write_adapter(replace(adapter, factors=mine), partial / name, (dialect,))
    elif out.suffix != SINGLE:
        write_adapter(adapter, out, (dialect,), overwrite=overwrite)
    else:
        with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None, prefix=".w2w-") as folder:
            write_adapter(adapter, Path(folder) / "lora", (dialect,))
            write_bytes(out, next((Path(folder) / "lora").iterdir()).read_bytes(), replace=overwrite)


def require_writable(out: Path | str, dialect: str, *, overwrite: bool) -> tuple[WritableDialect, Path]:
    """Return the writer of a dialect and the path, if :func:`write_in_dialect` can write there."""
    writer, out = writer_of(dialect), Path(out)
    if out.suffix == SINGLE and not writer.single_file:
        raise InvalidInputError(f"{dialect} adapters are folders, not single files; name {out.stem}, not {out.name}")
    require_output(out, overwrite=overwrite, own=None if out.suffix == SINGLE else adapter_files)
    return writer, out

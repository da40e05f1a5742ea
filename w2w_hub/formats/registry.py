"""The registry of dialects: which one a checkpoint is in, and the calls that read and write them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..adapter import Adapter
from ..errors import InvalidInputError, MissingPathError, UnsupportedFormatError
from ..files import new_folder


class CheckpointFormat(Protocol):
    """One dialect. Implementations are modules' singletons, listed in :data:`FORMATS`."""

    name: str

    def matches(self, path: Path) -> bool:
        """Whether the file or folder is in this dialect, judged by all its keys."""
        ...

    def read(self, path: Path) -> Adapter:
        """Read it exactly, or raise."""
        ...

    def write(self, adapter: Adapter, folder: Path) -> None:
        """Write it into an existing folder."""
        ...


def formats() -> dict[str, CheckpointFormat]:
    """Every dialect by name."""
    from .diffusers import DIFFUSERS
    from .peft import PEFT

    return {form.name: form for form in (PEFT, DIFFUSERS)}


def detect(path: Path | str) -> CheckpointFormat:
    """The one dialect that a checkpoint is in.

    Raises
    ------
    UnsupportedFormatError
        If none matches, or more than one does.
    """
    path = Path(path)
    if not path.exists():
        raise MissingPathError(f"{path} is not there")
    found = [form for form in formats().values() if form.matches(path)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(formats())
    if not found:
        raise UnsupportedFormatError(f"{path} is no LoRA checkpoint in a dialect known here ({known})")
    raise UnsupportedFormatError(
        f"{path} matches {len(found)} dialects ({', '.join(f.name for f in found)}); name the file you mean"
    )


def read_adapter(path: Path | str) -> Adapter:
    """Read a LoRA checkpoint of any known dialect.

    Examples
    --------
    >>> adapter = read_adapter("my-lora/")          # a PEFT folder            # doctest: +SKIP
    >>> adapter.factors[Target("unet", "mid_block.attentions.0...attn1.to_q")]  # doctest: +SKIP

    Raises
    ------
    MissingPathError, UnsupportedFormatError, CorruptFileError, ScaleConflictError, InvalidInputError
        Nothing is guessed: a file that is not read exactly is refused with the reason.
    """
    path = Path(path)
    adapter = detect(path).read(path)
    adapter.require_finite(str(path))
    return adapter


def write_adapter(adapter: Adapter, folder: Path | str, dialects: tuple[str, ...] = ("peft", "diffusers")) -> None:
    """Write an adapter as a new folder that PEFT and diffusers both open correctly.

    The default writes ``adapter_config.json`` + ``adapter_model.safetensors`` for
    `PeftModel.from_pretrained` and ``pytorch_lora_weights.safetensors`` for
    `pipe.load_lora_weights`: either alone is silently wrong in the other library.
    """
    known = formats()
    for name in dialects:
        if name not in known:
            raise InvalidInputError(f"no writer for dialect {name!r}; there are {', '.join(known)}")
    with new_folder(folder) as partial:
        for name in dialects:
            known[name].write(adapter, partial)

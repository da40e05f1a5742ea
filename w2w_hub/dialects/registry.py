"""The registry of dialects: which one a checkpoint is in, and the calls that read and write them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..common.arguments import checked
from ..errors import InvalidInputError, NotACheckpointError, UnsupportedFormatError
from ..lora.adapter import Adapter, Target
from ..store.atomic import new_folder, require_new, write_bytes
from ..store.tensorfile import short
from .checkpoint import Checkpoint, ReadOptions, open_checkpoint
from .flux_model import require_proportions

if TYPE_CHECKING:
    import numpy as np


class CheckpointFormat(Protocol):
    """One dialect. Implementations are modules' singletons, listed in :func:`formats`."""

    name: str

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Whether its keys hold any that only this dialect writes; all keys are looked at."""
        ...

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        """Read it exactly, or raise."""
        ...


@runtime_checkable
class WritableFormat(Protocol):
    """A dialect that is written too."""

    name: str

    def write(self, adapter: Adapter, folder: Path) -> None:
        """Write it into an existing folder."""
        ...


@runtime_checkable
class DenseFormat(Protocol):
    """A dialect whose modules are no rank-r products."""

    def deltas(self, checkpoint: Checkpoint) -> Mapping[Target, np.ndarray]:
        """The exact change of every weight, computed when it is asked for."""
        ...


@cache
def formats() -> dict[str, CheckpointFormat]:
    """Every dialect by name."""
    from .cloneofsimo import CLONEOFSIMO
    from .diffusers import DIFFUSERS
    from .diffusers_old import DIFFUSERS_OLD
    from .flux import BFL, XLABS
    from .kohya import KOHYA, ONETRAINER
    from .lycoris import LYCORIS
    from .mlx import MLX
    from .peft import PEFT

    all_of_them = (PEFT, DIFFUSERS, DIFFUSERS_OLD, KOHYA, LYCORIS, CLONEOFSIMO, XLABS, BFL, ONETRAINER, MLX)
    return {form.name: form for form in all_of_them}


def writers() -> dict[str, WritableFormat]:
    """The dialects that are written."""
    return {name: form for name, form in formats().items() if isinstance(form, WritableFormat)}


def recognise(checkpoint: Checkpoint) -> CheckpointFormat:
    """The one dialect that an opened checkpoint is in.

    Raises
    ------
    UnsupportedFormatError
        If none matches, or more than one does.
    """
    found = [form for form in formats().values() if form.matches(checkpoint)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(formats())
    if found:
        raise UnsupportedFormatError(
            f"{checkpoint.where} matches {len(found)} dialects ({', '.join(f.name for f in found)}), of which no "
            "trainer writes two into one file; save the modules of each by themselves"
        )
    vectors = _embeddings(checkpoint)
    if vectors:
        raise NotACheckpointError(
            f"{checkpoint.where} is a textual-inversion embedding ({', '.join(vectors[:3])}), no LoRA: it changes no "
            "weight; load it with diffusers' load_textual_inversion"
        )
    raise NotACheckpointError(f"{checkpoint.where} is no LoRA checkpoint in a dialect known here ({known})")


def _embeddings(checkpoint: Checkpoint) -> list[str]:
    """The vectors of a file that holds nothing but textual-inversion embeddings."""
    vector = all(1 <= len(shape) <= 2 and shape[-1] in (768, 1024, 1280) for shape in checkpoint.shapes.values())
    named = all(
        (k.startswith("<") and k.endswith(">")) or k in ("emb_params", "clip_l", "clip_g") for k in checkpoint.keys
    )
    return list(checkpoint.keys) if vector and named else []


@checked()
def detect(path: Path | str, *, allow_torch: bool = False) -> CheckpointFormat:
    """The one dialect that a checkpoint is in; its tensors are not read.

    Raises
    ------
    UnsupportedFormatError
        If none matches, or more than one does.
    """
    return recognise(open_checkpoint(path, allow_torch=allow_torch))


@checked()
def read_adapter(
    path: Path | str,
    *,
    allow_torch: bool = False,
    believe: str | None = None,
    alpha: float | None = None,
    component: str | None = None,
    svd_rank: int | None = None,
    canonical: str | None = None,
) -> Adapter:
    """Read a LoRA checkpoint of any known dialect.

    Parameters
    ----------
    path : path
        A file, or a folder that holds one checkpoint.
    allow_torch : bool
        Open the named ``.pt``, ``.bin`` or ``.ckpt`` file. It is read as data: nothing in it is unpickled or run.
    believe : "tensors" or "config", optional
        Which to take if the configuration and the tensors disagree about rank or alpha; without it that is an error.
    alpha : float, optional
        States the alpha of a checkpoint that does not state it; one that states another is an error.
    component : str, optional
        States the model of a checkpoint whose keys do not name it (``"text_encoder_2"``, ...); one whose keys name
        another is an error.
    svd_rank : int, optional
        Approximate every module by its best factors of this rank; ``metadata["error"]`` says how well. Needed for
        LoKr and LoHa, whose changes are no product of two such factors; :func:`read_deltas` gives those exactly.
    canonical : "svd", optional
        Replace each module's factors by the one representative of their product, see `canonicalise`.

    Examples
    --------
    >>> adapter = read_adapter("my-lora/")          # a PEFT folder            # doctest: +SKIP
    >>> adapter.factors[Target("unet", "mid_block.attentions.0...attn1.to_q")]  # doctest: +SKIP

    Raises
    ------
    MissingPathError, UnsupportedFormatError, CorruptFileError, ScaleConflictError, InvalidInputError
        Nothing is guessed: a file that is not read exactly is refused with the reason.
    """
    options = ReadOptions(believe, alpha, component, svd_rank)
    adapter = parse_checkpoint(open_checkpoint(path, allow_torch=allow_torch), options)
    if canonical is not None:
        from ..lora.canonical import canonicalise

        adapter = canonicalise(adapter, canonical)
    return adapter


def parse_checkpoint(checkpoint: Checkpoint, options: ReadOptions | None = None) -> Adapter:
    """:func:`read_adapter` of an opened checkpoint."""
    options = options or ReadOptions()
    form = recognise(checkpoint)
    _refuse_dora(checkpoint)
    try:
        adapter = form.read(checkpoint, options)
    except InvalidInputError as error:
        if type(error) is not InvalidInputError or str(error).startswith(checkpoint.where):
            raise
        raise InvalidInputError(f"{checkpoint.where}: {error}") from error
    adapter.require_finite(checkpoint.where)
    require_proportions(_sizes(adapter), checkpoint.where)
    other = next((t for t in adapter.factors if options.component not in (None, t.component)), None)
    if other is not None:
        raise InvalidInputError(
            f"{checkpoint.where}: component is {options.component}, but its keys name {short(str(other), 200)}; "
            "leave component out"
        )
    if options.svd_rank is not None and not isinstance(form, DenseFormat):
        from ..lora.canonical import canonicalise

        adapter = canonicalise(adapter, rank=options.svd_rank)
    return adapter


def _sizes(adapter: Adapter) -> dict[Target, tuple[int, int]]:
    """Inputs and outputs of a transformer's modules."""
    return {t: (p.inputs, p.outputs) for t, p in adapter.factors.items() if t.component == "transformer"}


class _Deltas(Mapping[Target, "np.ndarray"]):
    """The dense changes of an adapter with factors, one at a time."""

    def __init__(self, adapter: Adapter):
        self._factors = adapter.factors

    def __getitem__(self, target: Target) -> np.ndarray:
        from .assemble import limited

        pair = self._factors[target]
        limited(pair.A.shape[1] * pair.outputs, target, "this adapter")
        return pair.delta()

    def __iter__(self) -> Iterator[Target]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)


@checked()
def read_deltas(path: Path | str, *, allow_torch: bool = False) -> Mapping[Target, np.ndarray]:
    """The exact change dW of every weight of any known checkpoint, also of LoKr and LoHa.

    Returns
    -------
    mapping of Target to ndarray
        float64 ``(out, in)``, of a convolution ``(out, in, kh, kw)``. Each is computed when it is asked for: all of
        Stable Diffusion 1.5 at once would take 7 GB.
    """
    checkpoint = open_checkpoint(path, allow_torch=allow_torch)
    form = recognise(checkpoint)
    _refuse_dora(checkpoint)
    if isinstance(form, DenseFormat):
        return form.deltas(checkpoint)
    return _Deltas(parse_checkpoint(checkpoint))


def _refuse_dora(checkpoint: Checkpoint) -> None:
    found = [k for k in checkpoint.keys if k.endswith(".dora_scale") or "lora_magnitude_vector" in k]
    if found:
        raise UnsupportedFormatError(
            f"{checkpoint.where} is a DoRA ({len(found)} magnitude vectors, {found[0][:120]}): they rescale the base "
            "weights, so its change is no sum that could be added; train it without DoRA"
        )


@checked()
def write_adapter(adapter: Adapter, folder: Path | str, dialects: tuple[str, ...] = ("peft", "diffusers")) -> None:
    """Write an adapter as a new folder that stock libraries open correctly.

    The default writes ``adapter_config.json`` + ``adapter_model.safetensors`` for
    `PeftModel.from_pretrained` and ``pytorch_lora_weights.safetensors`` for
    `pipe.load_lora_weights`: either alone is silently wrong in the other library.
    ``"kohya"`` writes ``kohya_lora.safetensors`` for sd-scripts, ComfyUI and other tools.
    """
    if not isinstance(adapter, Adapter):
        raise InvalidInputError(f"a {type(adapter).__name__} is not an adapter; read one with read_adapter")
    if isinstance(dialects, str) or not isinstance(dialects, Iterable):
        raise InvalidInputError(f"dialects are a tuple of names such as ('kohya',), not {dialects!r}")
    dialects = tuple(dialects)
    if not dialects:
        raise InvalidInputError(f"no dialect to write is named; there are {', '.join(writers())}")
    chosen = [_writer(name) for name in dialects]
    with new_folder(folder) as partial:
        for writer in chosen:
            writer.write(adapter, partial)


def _writer(name: object) -> WritableFormat:
    known = writers()
    if not isinstance(name, str) or name not in known:
        raise InvalidInputError(f"no writer for dialect {name!r}; there are {', '.join(known)}")
    return known[name]


@checked()
def convert_adapter(source: Path | str, out: Path | str, dialect: str, **options: Any) -> Adapter:
    """Read a checkpoint and write it in another dialect; returns the adapter that was written.

    Parameters
    ----------
    out : path
        A new folder, or with the ending ``.safetensors`` a new file, which PEFT cannot be. A PEFT folder holds one
        model: of an adapter of several, each gets a folder of its component's name in it.
    **options
        As :func:`read_adapter` takes them.

    Examples
    --------
    >>> convert_adapter("kohya.safetensors", "my-lora", "peft")                 # doctest: +SKIP
    """
    _writer(dialect)
    out = require_new(out)
    single = out.suffix == ".safetensors"
    if single and dialect == "peft":
        raise InvalidInputError(f"a PEFT adapter is a folder with its configuration; name {out.stem}, not {out.name}")
    adapter = read_adapter(source, **options)
    components = sorted({target.component for target in adapter.factors})
    if dialect == "peft" and len(components) > 1:
        with new_folder(out) as partial:
            for name in components:
                mine = {target: pair for target, pair in adapter.factors.items() if target.component == name}
                write_adapter(replace(adapter, factors=mine), partial / name, (dialect,))
        return adapter
    if not single:
        write_adapter(adapter, out, (dialect,))
        return adapter
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None, prefix=".w2w-") as folder:
        write_adapter(adapter, Path(folder) / "lora", (dialect,))
        write_bytes(out, next((Path(folder) / "lora").iterdir()).read_bytes())
    return adapter

"""Read a LoRA checkpoint of any dialect: as factors, or as the exact change of every weight."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..common.arguments import checked
from ..common.deprecated import renamed_keywords
from ..common.text import an, counted
from ..errors import InvalidInputError, NotACheckpointError, UnsupportedFormatError
from ..lora.adapter import Adapter, LoraFactors, Target
from ..lora.canonical import canonicalize
from ..store.manifest import FORMAT_NAMES, OPENED_BY, SPACE, stated_format
from ..store.tensorfile import short
from .assemble import require_size
from .checkpoint import Checkpoint, ReadOptions, provenance
from .dialect import DenseDialect, Dialect, LazyDeltas
from .flux_model import require_proportions
from .loading import open_checkpoint
from .registry import dialect_of


@checked()
def recognize(path: Path | str, *, allow_torch: bool = False) -> Dialect:
    """Return the dialect of a checkpoint without reading its tensors.

    Raises
    ------
    UnsupportedFormatError
        If none matches, or more than one does.

    Examples
    --------
    >>> recognize("my-lora/").name                                              # doctest: +SKIP
    'peft'
    """
    return dialect_of(_opened(path, allow_torch))


@renamed_keywords(believe="trust")
@checked()
def read_adapter(
    path: Path | str,
    *,
    allow_torch: bool = False,
    trust: str | None = None,
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
        Read a ``.pt``, ``.bin`` or ``.ckpt`` file, as data: nothing in it is unpickled or run.
    trust : "tensors" or "config", optional
        The source to use if configuration and tensors disagree about rank or alpha. Default: such a conflict is an
        error.
    alpha : float, optional
        The alpha of a checkpoint that does not state one; a different stated alpha is an error.
    component : str, optional
        The model of a checkpoint whose keys do not name it (``"text_encoder_2"``, ...); keys that name another are an
        error.
    svd_rank : int, optional
        Approximate every module by its best factors of this rank; ``metadata["error"]`` is the relative error. Required
        for LoKr and LoHa, whose dW is not a product B @ A; :func:`read_deltas` returns dW exactly.
    canonical : "svd", optional
        Replace each module's factors by the canonical representative of their product, see `canonicalize`.

    Examples
    --------
    >>> adapter = read_adapter("my-lora/")          # a PEFT folder            # doctest: +SKIP
    >>> {str(target): pair.rank for target, pair in adapter.factors.items()}    # doctest: +SKIP

    Raises
    ------
    MissingPathError, UnsupportedFormatError, CorruptFileError, ScaleConflictError, InvalidInputError
        Nothing is guessed: a file that cannot be read exactly is an error with the reason.
    """
    options = ReadOptions(trust, alpha, component, svd_rank)
    adapter = parse_checkpoint(_opened(path, allow_torch), options)
    return adapter if canonical is None else canonicalize(adapter, canonical)


def _opened(path: Path | str, allow_torch: bool) -> Checkpoint:
    """Open a checkpoint; for a dataset, a weight space or a saved point, say what opens it."""
    try:
        return open_checkpoint(path, allow_torch=allow_torch)
    except UnsupportedFormatError as error:
        ours = stated_format(Path(path))
        if ours is None:
            raise
        advice = "w2w export writes its people as LoRAs" if ours == SPACE else f"open it with {OPENED_BY[ours]}"
        text = f"{path} is {an(FORMAT_NAMES[ours])}, not a LoRA checkpoint; {advice}"
        raise NotACheckpointError(text, path=Path(path)) from error


def parse_checkpoint(checkpoint: Checkpoint, options: ReadOptions | None = None) -> Adapter:
    """Read an opened checkpoint, see :func:`read_adapter`."""
    options = options or ReadOptions()
    dialect = dialect_of(checkpoint)
    _refuse_dora(checkpoint)
    try:
        adapter = dialect.read(checkpoint, options)
    except InvalidInputError as error:
        if type(error) is not InvalidInputError:
            raise
        said = error.message.removeprefix(f"{checkpoint.where}: ")  # some start with the path already
        raise InvalidInputError(f"{checkpoint.where}: {said}", path=checkpoint.path) from error
    adapter.metadata = {**adapter.metadata, **provenance(checkpoint.metadata)}
    adapter.require_finite(checkpoint.where)
    transformer = {t: (p.inputs, p.outputs) for t, p in adapter.factors.items() if t.component == "transformer"}
    require_proportions(transformer, checkpoint.where)
    other = next((t for t in adapter.factors if options.component not in (None, t.component)), None)
    if other is not None:
        raise InvalidInputError(
            f"{checkpoint.where}: component is {options.component}, but its keys name {short(str(other), 200)}; "
            "omit component"
        )
    if options.svd_rank is not None and not isinstance(dialect, DenseDialect):
        adapter = canonicalize(adapter, rank=options.svd_rank)
    return adapter


@checked()
def read_deltas(path: Path | str, *, allow_torch: bool = False) -> LazyDeltas:
    """Read the exact change dW of every weight from a checkpoint of any known dialect, including LoKr and LoHa.

    Returns
    -------
    mapping of Target to ndarray
        float64 ``(out, in)``, for a convolution ``(out, in, kh, kw)``. Each is computed on access: all of Stable
        Diffusion 1.5 at once would take 7 GB.
    """
    checkpoint = _opened(path, allow_torch)
    dialect = dialect_of(checkpoint)
    _refuse_dora(checkpoint)
    if isinstance(dialect, DenseDialect):
        return dialect.deltas(checkpoint)
    factors = parse_checkpoint(checkpoint).factors
    scales = frozenset(pair.scale for pair in factors.values())
    return LazyDeltas({target: partial(_delta, target, pair) for target, pair in factors.items()}, scales)


def _delta(target: Target, pair: LoraFactors) -> np.ndarray:
    require_size(pair.columns * pair.outputs, target, "this adapter")
    return pair.delta()


def _refuse_dora(checkpoint: Checkpoint) -> None:
    found = [k for k in checkpoint.keys if k.endswith(".dora_scale") or "lora_magnitude_vector" in k]
    if found:
        raise UnsupportedFormatError(
            f"{checkpoint.where} is a DoRA ({counted(len(found), 'magnitude vector')}, {found[0][:120]}): they rescale "
            "the base weights, so dW is not scale * B @ A; train it without DoRA"
        )

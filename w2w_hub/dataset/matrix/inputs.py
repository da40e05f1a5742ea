"""Convert a caller's weights and ids from NumPy, torch, JAX, pandas or lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...common.checks import is_whole
from ...errors import InvalidInputError, W2WError

BLOCK_ROWS = 64
# 8 and 16 bit dtypes that NumPy lacks, which float32 represents exactly
NARROW = ("bfloat16", "float8")


def as_matrix(weights: Any) -> np.ndarray:
    """Return weights as a NumPy array without changing a value, and without a copy if possible.

    Tensors are detached and moved to the CPU; bfloat16 and 8 bit formats are widened to float32.

    Raises
    ------
    InvalidInputError
        If weights are not real numbers, or are integers that float32 cannot represent.
    """
    try:
        array = _array(weights)
    except W2WError:
        raise
    # tensors raise many types of errors: sparse, quantized, on a meta device
    except Exception as error:
        raise InvalidInputError(f"weights of type {_type(weights)} cannot be read: {_first_line(error)}") from error
    if np.ma.isMaskedArray(array):
        if np.ma.getmaskarray(array).any():
            raise InvalidInputError("weights have masked values; fill them in or omit their rows")
        array = array.data
    if str(array.dtype).startswith(NARROW):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(f"weights of dtype {array.dtype} are not real numbers; use float32 or float16")
    if array.dtype.kind in "iu":
        _require_exact(array)
    return array


def _array(weights: Any) -> np.ndarray:
    if hasattr(weights, "detach"):
        tensor = weights.detach().cpu()
        tensor = tensor.float() if str(tensor.dtype).removeprefix("torch.").startswith(NARROW) else tensor
        return tensor.resolve_neg().numpy() if not tensor.is_complex() else np.empty(0, complex)
    if hasattr(weights, "iloc") and hasattr(weights, "dtypes"):
        return _from_frame(weights)
    if isinstance(weights, (list, tuple)) and any(hasattr(row, "detach") for row in weights):
        return np.stack([_array(row) for row in weights])
    if isinstance(weights, (str, bytes, Mapping)) or weights is None:
        raise InvalidInputError(f"weights must be a matrix (n, d), not a {_type(weights)}")
    if hasattr(weights, "__dlpack__") and not hasattr(weights, "__array__"):
        return np.from_dlpack(weights)
    return weights if np.ma.isMaskedArray(weights) else np.asarray(weights)


def _from_frame(frame: Any) -> np.ndarray:
    """Return the values of a DataFrame of numbers."""
    import pandas as pd

    columns = [frame.iloc[:, i] for i in range(frame.shape[1])] if frame.ndim == 2 else [frame]
    for column in columns:
        if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
            raise InvalidInputError(f"weights have a column {column.name!r} of {column.dtype}; drop it")
        if column.isna().any():
            raise InvalidInputError(f"weights have missing values, the first in {column.name!r}; omit these rows")
    found = frame.to_numpy()
    result: np.ndarray = found.astype(np.float64) if found.dtype.kind == "O" else found
    return result


def _require_exact(array: np.ndarray) -> None:
    """Raise `InvalidInputError` if float32 would round an integer."""
    for start in range(0, len(array) if array.ndim else 0, BLOCK_ROWS):
        block = array[start : start + BLOCK_ROWS]
        wide = block.astype(np.float64)
        with np.errstate(invalid="ignore"):
            exact = (wide.astype(block.dtype) == block) & (wide.astype(np.float32) == wide)
        if not exact.all():
            raise InvalidInputError(
                f"weights of dtype {array.dtype} have integers that float32 cannot represent, the first after row "
                f"{start}; convert them to floats"
            )


def row_names(weights: Any) -> list[str] | None:
    """Return the text index of a DataFrame; None for anything else."""
    index = getattr(weights, "index", None)
    if not hasattr(weights, "iloc") or index is None or index.nlevels > 1:
        return None
    names = index.tolist()
    return names if names and all(isinstance(name, str) for name in names) else None


def id_list(ids: Any) -> list[str]:
    """Return ids as text; integers become their digits."""
    if isinstance(ids, (str, bytes, Mapping)) or not isinstance(ids, Iterable):
        raise InvalidInputError(f"ids must be a list of text, one per row, not {ids!r}")
    found = [str(name) if isinstance(name, str) or is_whole(name) else name for name in ids]
    for name in found:
        if not isinstance(name, str):
            raise InvalidInputError(f"row id {name!r} is not text")
    return found


def _type(value: Any) -> str:
    return type(value).__name__


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

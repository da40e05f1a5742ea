"""The dataset manifest: what a dataset is, typed, and its digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFileError, InvalidInputError, UnsupportedFormatError
from ..files import read_json
from ..layout import ParameterLayout

FORMAT, FORMAT_VERSION = "w2w-dataset", 1
FILENAME = "manifest.json"
ROW_TAG, DATASET_TAG = b"w2w-row-v1\n", b"w2w-dataset-v1\n"
DTYPES = ("float16", "float32")
UNKNOWN = "unknown"
_KINDS = {"name": str, "version": str, "rows": int, "digest": str, "columns": dict, "splits": dict, "files": dict}


@dataclass(frozen=True)
class Compatibility:
    """What the rows need to be comparable beyond their shapes; kept out of the layout's digest.

    Attributes
    ----------
    base_model : str or None
        Repository or folder of the base model: a hint, since mirrors are welcome.
    base_digest : str or None
        sha256 of the target modules' base weights, see :func:`w2w_hub.injection.base_digest`.
    initialisation : str
        Name of the one initialisation that all rows were trained from, or ``"unknown"``. A raw weight
        space needs it known, since B @ A does not determine B and A.
    """

    base_model: str | None = None
    base_digest: str | None = None
    initialisation: str = UNKNOWN


@dataclass
class DatasetManifest:
    """``manifest.json`` of a dataset; validates itself."""

    name: str
    version: str
    rows: int
    dtype: str
    layout: ParameterLayout
    digest: str
    columns: dict[str, str]  # attribute -> binary, categorical or float
    splits: dict[str, int]
    compatibility: Compatibility = field(default_factory=Compatibility)
    licence: str = "unknown"
    float16_max_error: float | None = None  # largest change of a value by storing it in float16
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> sha256, size

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise InvalidInputError(f"{name} is {getattr(self, name)!r}, expected {kind.__name__}")
        for name, entry in self.files.items():
            if not isinstance(entry, dict) or {"sha256", "size"} - set(entry):
                raise InvalidInputError(f"files does not state sha256 and size of {name!r}")
        if self.dtype not in DTYPES:
            raise InvalidInputError(f"dtype {self.dtype!r} cannot be stored; choose {' or '.join(DTYPES)}")
        if sum(self.splits.values()) != self.rows:
            raise InvalidInputError(f"the splits hold {sum(self.splits.values())} rows, the matrix {self.rows}")

    def to_json(self) -> dict[str, Any]:
        data = {"format": FORMAT, "format_version": FORMAT_VERSION}
        data |= {key: value for key, value in vars(self).items() if key not in ("layout", "compatibility")}
        data["layout"] = {"digest": self.layout.digest, "size": self.layout.size, **self.layout.to_json()}
        data["compatibility"] = asdict(self.compatibility)
        return data

    @classmethod
    def read(cls, folder: Path) -> DatasetManifest:
        path = folder / FILENAME
        data = read_json(path)
        require_format(data, FORMAT, FORMAT_VERSION, path)
        try:
            layout = ParameterLayout.from_json(data["layout"])
            if layout.digest != data["layout"]["digest"]:
                raise CorruptFileError(f"{path}: the layout does not have the digest that is stated beside it")
            known = {k: data[k] for k in cls.__dataclass_fields__ if k in data}
            known |= {"layout": layout, "compatibility": Compatibility(**data["compatibility"])}
            return cls(**known)
        except (KeyError, TypeError, InvalidInputError, UnsupportedFormatError) as error:
            raise CorruptFileError(f"{path} lacks or misstates a field ({error}); fetch it again") from error


def require_format(data: Mapping[str, Any], name: str, version: int, path: Path) -> None:
    """Raise unless a manifest is of this format, in a version that can be read."""
    if data.get("format") != name:
        raise UnsupportedFormatError(f"{path} is a {data.get('format')!r} manifest, expected {name!r}")
    found = data.get("format_version")
    if not isinstance(found, int) or not 1 <= found <= version:
        raise UnsupportedFormatError(
            f"{path} has format version {found}, this w2w_hub reads up to {version}: pip install -U w2w-hub"
        )


def row_digest(row: np.ndarray) -> str:
    """sha256 of an algorithm tag, the dtype and the stored little-endian values; the scale is not applied."""
    little = np.ascontiguousarray(row, row.dtype.newbyteorder("<"))
    return hashlib.sha256(ROW_TAG + f"{row.dtype.name}\n".encode() + little.tobytes()).hexdigest()


def dataset_digest(layout: ParameterLayout, rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 over the layout and every row's id, content, split and labels, whatever the rows' order.

    Each row is a mapping with `id`, `row_sha256`, `split` and its attributes; missing values are None.
    """
    lines = sorted(json.dumps(dict(row), sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows)
    digest = hashlib.sha256(DATASET_TAG + f"{layout.digest}\n".encode())
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()

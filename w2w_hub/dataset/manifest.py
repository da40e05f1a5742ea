"""The dataset manifest: what a dataset is, typed, and its digests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFileError, InvalidInputError, UnsupportedFormatError
from ..files import read_json, write_bytes
from ..layout import ParameterLayout

FORMAT, FORMAT_VERSION = "w2w-dataset", 1
FILENAME = "manifest.json"
ROW_TAG, DATASET_TAG = b"w2w-row-v1\n", b"w2w-dataset-v1\n"
DTYPES = ("float16", "float32")
UNKNOWN = "unknown"
CHECKSUM = "checksum"
_KINDS = {"name": str, "version": str, "rows": int, "digest": str, "columns": dict, "splits": dict, "files": dict}
_OPTIONAL_KINDS = {"column_info": dict, "split_rule": dict, "view": dict, "rescaled": dict}


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
    column_info: dict[str, dict[str, str]] = field(default_factory=dict)  # attribute -> unit, source
    split_rule: dict[str, Any] | None = None  # column, holdout, seed and split of a split by groups
    view: dict[str, Any] | None = None  # dtype and max_error of the Parquet view
    # id -> {scale: modules}, of rows with modules whose own scale was not the layout's: the ratio is folded into B
    rescaled: dict[str, dict[str, int]] | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise InvalidInputError(f"{name} is {getattr(self, name)!r}, expected {kind.__name__}")
        for name, kind in _OPTIONAL_KINDS.items():
            if not isinstance(getattr(self, name), (kind, type(None))):
                raise InvalidInputError(f"{name} is {getattr(self, name)!r}, expected {kind.__name__}")
        for name, info in self.column_info.items():
            if name not in self.columns:
                known = ", ".join(self.columns) or "none"
                raise InvalidInputError(f"unit or source of a column {name!r} that is not there; there are {known}")
            if not isinstance(info, dict) or not all(isinstance(v, str) for v in info.values()):
                raise InvalidInputError(f"unit and source of column {name!r} must be text, not {info!r}")
        for name, entry in self.files.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise InvalidInputError(f"files names {name!r}, which is outside the folder")
            if not isinstance(entry, dict) or {"sha256", "size"} - set(entry):
                raise InvalidInputError(f"files does not state sha256 and size of {name!r}")
        if self.dtype not in DTYPES:
            raise InvalidInputError(f"dtype {self.dtype!r} cannot be stored; choose {' or '.join(DTYPES)}")
        if sum(self.splits.values()) != self.rows:
            raise InvalidInputError(f"the splits hold {sum(self.splits.values())} rows, the matrix {self.rows}")

    def to_json(self) -> dict[str, Any]:
        data = {"format": FORMAT, "format_version": FORMAT_VERSION}
        data |= {
            key: value
            for key, value in vars(self).items()
            if key not in ("layout", "compatibility") and not (key in _OPTIONAL_KINDS and not value)
        }
        data["layout"] = {"digest": self.layout.digest, "size": self.layout.size, **self.layout.to_json()}
        data["compatibility"] = asdict(self.compatibility)
        return data

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` in one step, with the checksum of its own bytes."""
        data = self.to_json() | {CHECKSUM: "0" * 64}
        raw = (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
        blank = f'"{CHECKSUM}": "{"0" * 64}"'.encode()
        filled = raw.replace(blank, f'"{CHECKSUM}": "{hashlib.sha256(raw).hexdigest()}"'.encode())
        write_bytes(folder / FILENAME, filled, replace=True)

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


def verify_checksum(path: Path) -> None:
    """Raise `CorruptFileError` if a manifest that states a checksum of its bytes has other bytes."""
    raw = path.read_bytes()
    found = re.findall(rb'"checksum": "([0-9a-f]{64})"', raw)
    known = {"format", "format_version", *DatasetManifest.__dataclass_fields__}
    strange = [v for k, v in read_json(path).items() if k not in known]
    # its own name may be what was changed
    if not found and not any(isinstance(v, str) and re.fullmatch(".{62,66}", v) for v in strange):
        return  # written before manifests had one
    if len(found) != 1 or hashlib.sha256(raw.replace(found[0], b"0" * 64)).hexdigest().encode() != found[0]:
        raise CorruptFileError(f"{path} has changed since it was written; fetch the dataset again")


def row_digest(row: np.ndarray) -> str:
    """sha256 of an algorithm tag, the dtype and the stored little-endian values; the scale is not applied."""
    little = np.ascontiguousarray(row, row.dtype.newbyteorder("<"))
    digest = hashlib.sha256(ROW_TAG + f"{row.dtype.name}\n".encode())
    digest.update(little.view(np.uint8).data)
    return digest.hexdigest()


def dataset_digest(layout: ParameterLayout, rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 over the layout and every row's id, content, split and labels, whatever the rows' order.

    Each row is a mapping with `id`, `row_sha256`, `split` and its attributes; missing values are None.
    """
    lines = sorted(json.dumps(dict(row), sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows)
    digest = hashlib.sha256(DATASET_TAG + f"{layout.digest}\n".encode())
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()

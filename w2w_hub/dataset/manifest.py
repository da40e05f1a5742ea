"""The typed manifest of a dataset, and the digests of its rows and content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.constraints import optional, text
from ..common.display import Displayed
from ..common.text import counted
from ..errors import CorruptFileError, InvalidInputError, UnsupportedFormatError
from ..lora.layout import ParameterLayout
from ..store import manifest as store
from ..store.atomic import write_bytes
from ..store.manifest import DATASET as FORMAT
from ..store.manifest import FILENAME, read_manifest, seal
from ..store.paths import short
from .labels.kinds import LabelKind, stored_kinds
from .labels.names import RESERVED as RESERVED
from .labels.names import is_split_name as is_split_name
from .training_records import require_records

FORMAT_VERSION = 1
ROW_TAG, DATASET_TAG = b"w2w-row-v1\n", b"w2w-dataset-v1\n"
DTYPES = ("float16", "float32")
UNKNOWN = "unknown"

_KINDS = {
    "name": str, "version": str, "rows": int, "dtype": str, "digest": str, "columns": dict, "splits": dict,
    "licence": str, "files": dict,
}  # fmt: skip
_OPTIONAL_KINDS = {
    "column_info": dict,
    "split_rule": dict,
    "view": dict,
    "rescaled": dict,
    "label_kinds": dict,
    "training": list,
    "imported": dict,
    "history": list,
}
_RULE_KINDS = {"column": str, "holdout": (int, float), "seed": int, "split": str}


@dataclass(frozen=True)
class Compatibility:
    """Facts besides the layout that decide whether rows are comparable; the layout's digest does not cover them.

    Attributes
    ----------
    base_model : str or None
        Repository or folder of the base model: a hint, since mirrors hold the same weights.
    base_digest : str or None
        sha256 of the target modules' base weights, see :func:`w2w_hub.models.injection.base_digest`.
    initialisation : str
        Name of the one initialization that all rows were trained from, or ``"unknown"``. A weight
        space of raw factors (not canonical ones) requires it, since B @ A does not determine B and A.
    """

    base_model: str | None = None
    base_digest: str | None = None
    initialisation: str = UNKNOWN

    def __post_init__(self) -> None:
        for name in ("base_model", "base_digest"):
            optional(text()).checked(getattr(self, name), f"{name} of a compatibility record")
        text().checked(self.initialisation, "initialisation of a compatibility record")

    @classmethod
    def from_json(cls, data: Any, where: Path | str) -> Compatibility:
        """Parse the record of a manifest, ignoring unknown fields."""
        if not isinstance(data, Mapping):
            raise CorruptFileError(f"{where}: field 'compatibility' is missing or invalid; fetch it again")
        known = {name: data.get(name, ...) for name in cls.__dataclass_fields__}
        for name, value in known.items():
            if not isinstance(value, str if name == "initialisation" else (str, type(None))):
                raise CorruptFileError(f"{where}: field 'compatibility.{name}' is missing or invalid; fetch it again")
        return cls(**known)  # type: ignore[arg-type]


@dataclass(repr=False)
class DatasetManifest(Displayed):
    """``manifest.json`` of a dataset, validated when it is constructed."""

    name: str
    version: str
    rows: int
    dtype: str
    layout: ParameterLayout
    digest: str
    columns: dict[str, str]  # attribute -> binary, categorical or float; see `kinds`
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
    label_kinds: dict[str, dict[str, Any]] = field(default_factory=dict)  # attribute -> what `columns` does not say
    training: list[dict[str, Any]] | None = None  # recipe, engine and batches of rows that `train_many` trained
    # source and license of rows that were imported from another project, whose license is restricted
    imported: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)  # version, date, changes, contributors of releases

    def __post_init__(self) -> None:
        for name, kind in (_KINDS | _OPTIONAL_KINDS).items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL_KINDS:
                continue
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InvalidInputError(f"{name} is {short(value)}, expected {kind.__name__}")
        self.column_info, self.label_kinds = self.column_info or {}, self.label_kinds or {}
        self.history = list(self.history or [])
        for entry in self.history:
            _require_history(entry)
        for name in self.columns:
            if not isinstance(name, str) or name in (*RESERVED, "weights"):
                raise InvalidInputError(f"columns has {short(name)}, which is not a valid name of an attribute")
        for name in self.label_kinds:
            if name not in self.columns:
                raise InvalidInputError(f"label_kinds has {short(name)}, which is not a column")
        stored_kinds(self.columns, self.label_kinds)
        for name, info in self.column_info.items():
            if name not in self.columns:
                known = ", ".join(self.columns) or "none"
                raise InvalidInputError(f"column_info has {name!r}, which is not a column; there are {known}")
            if not isinstance(info, dict) or not all(isinstance(v, str) for v in info.values()):
                raise InvalidInputError(f"unit and source of column {name!r} must be text, not {info!r}")
        store.require_files(self.files, f"dataset {self.name!r}")
        if self.dtype not in DTYPES:
            raise InvalidInputError(f"dtype {short(self.dtype)} cannot be stored; choose {' or '.join(DTYPES)}")
        for name, count in self.splits.items():
            if not is_split_name(name) or isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise InvalidInputError(f"split {short(name)} of {short(count)} rows is not possible")
        if sum(self.splits.values()) != self.rows:
            raise InvalidInputError(
                f"the splits hold {counted(sum(self.splits.values()), 'row')}, the matrix {self.rows}"
            )
        for name, kinds in _RULE_KINDS.items() if self.split_rule else ():
            value = (self.split_rule or {}).get(name)
            if not isinstance(value, kinds) or isinstance(value, bool):  # type: ignore[arg-type]
                raise InvalidInputError(f"split_rule states {name} as {short(value)}")
        error = self.float16_max_error
        if error is not None and (isinstance(error, bool) or not isinstance(error, (int, float)) or not error >= 0):
            raise InvalidInputError(f"float16_max_error is {short(error)}, expected a number or null")
        if self.view and self.view.get("dtype", "float16") not in DTYPES:
            raise InvalidInputError(f"view has dtype {short(self.view.get('dtype'))}, not {' or '.join(DTYPES)}")
        if not all(isinstance(modules, dict) for modules in (self.rescaled or {}).values()):
            raise InvalidInputError("rescaled does not map each row to a number of modules per scale")
        require_records(self.training or ())

    @property
    def kinds(self) -> dict[str, LabelKind]:
        """The kind of each attribute."""
        return stored_kinds(self.columns, self.label_kinds)

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
        """Write ``manifest.json`` atomically, with a checksum of its own bytes."""
        write_bytes(folder / FILENAME, seal(self.to_json()), replace=True)

    @classmethod
    def read(cls, folder: Path) -> DatasetManifest:
        """Read the manifest in a folder."""
        return cls.from_json(read_manifest(folder, FORMAT), folder / FILENAME)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: Path | str) -> DatasetManifest:
        """Build a manifest from its JSON, which :func:`w2w_hub.store.manifest.parse_manifest` returns."""
        try:
            layout = ParameterLayout.from_json(data["layout"])
            if layout.digest != data["layout"]["digest"] or layout.size != data["layout"]["size"]:
                raise CorruptFileError(f"{where}: the layout does not have the digest or size stated beside it")
            known = {k: data[k] for k in cls.__dataclass_fields__ if k in data}
            known |= {"layout": layout, "compatibility": Compatibility.from_json(data["compatibility"], where)}
            return cls(**known)
        except (KeyError, TypeError, InvalidInputError, UnsupportedFormatError) as error:
            raise CorruptFileError(f"{where} has a missing or invalid field ({error}); fetch it again") from error


def _require_history(entry: Any) -> None:
    """Raise unless an entry of `history` states a version, a date, changes and contributors as text."""
    known = entry if isinstance(entry, dict) else {}
    for name in ("version", "date"):
        if not isinstance(known.get(name), str):
            raise InvalidInputError(f"history states {name} as {short(known.get(name))}")
    for name in ("changes", "contributors"):
        value = known.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InvalidInputError(f"history states {name} as {short(value)}")


FIELDS = {"format", "format_version", *DatasetManifest.__dataclass_fields__}


def row_digest(row: np.ndarray) -> str:
    """Return the sha256 of a tag, the dtype and the stored little-endian values, without the scale applied."""
    little = np.ascontiguousarray(row, row.dtype.newbyteorder("<"))
    digest = hashlib.sha256(ROW_TAG + f"{row.dtype.name}\n".encode())
    digest.update(little.view(np.uint8).data)
    return digest.hexdigest()


def dataset_digest(layout: ParameterLayout, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sha256 of the layout and of every row's id, content, split and labels, in any order of rows.

    Parameters
    ----------
    rows : iterable of mapping
        Each with `id`, `row_sha256`, `split` and the attributes; a missing value is None.
    """
    lines = sorted(json.dumps(dict(row), sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows)
    digest = hashlib.sha256(DATASET_TAG + f"{layout.digest}\n".encode())
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()

"""Read and write the fields that all manifests share: `format`, `format_version`, `files` and `checksum`.

Every manifest is read alike: its size is limited, its format and version must be known, each listed file must have a
valid name, and unknown fields are ignored. w2w_hub 0.1.0 wrote version 1.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..common.limits import MAX_FILES, MAX_JSON_BYTES, MAX_JSON_VALUES
from ..common.subject import Where, about
from ..common.text import one_line
from ..errors import CorruptFileError, MissingPathError, UnsafePathError, UnsupportedFormatError
from .paths import OURS, is_name, read_file, read_regular, short

FILENAME, CARD = "manifest.json", "README.md"
CHECKSUM = "checksum"
DATASET, SPACE, LOCK, POINT, ENCODER = "w2w-dataset", "w2w-space", "w2w-lock", "w2w-point", "w2w-encoder"
WITHDRAWALS, MERGE = "w2w-withdrawals", "w2w-merge"
FORMAT_NAMES = {
    DATASET: "dataset", SPACE: "weight space", LOCK: "lock", POINT: "saved point", ENCODER: "encoder",
    WITHDRAWALS: "list of withdrawn rows", MERGE: "merged contribution",
}  # fmt: skip
OPENED_BY = {
    DATASET: "WeightDataset.open", SPACE: "WeightSpace.from_pretrained", LOCK: "w2w_hub.release.read_lock",
    POINT: "Point.load", ENCODER: "Encoder.load", WITHDRAWALS: "WeightDataset.open, with the name of its repository",
    MERGE: "w2w release",
}  # fmt: skip
MADE_BY = {DATASET: "w2w pack makes one of LoRAs", SPACE: "w2w build makes one of a dataset"}
# what to do where a folder of the first kind is given and one of the second is expected
INSTEAD = {
    (DATASET, SPACE): MADE_BY[SPACE], (SPACE, DATASET): "give the dataset that it was built from",
}  # fmt: skip
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _as_it_is(data: dict[str, Any]) -> dict[str, Any]:
    return data


def _with_population(data: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a weight space of version 1, which always has its population."""
    return {**data, "population": True}


# format -> version -> function that upgrades the fields to the newest version
READERS: dict[str, dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    DATASET: {1: _as_it_is},
    SPACE: {1: _with_population, 2: _as_it_is},
    LOCK: {1: _as_it_is},
    POINT: {1: _as_it_is},
    WITHDRAWALS: {1: _as_it_is},
    MERGE: {1: _as_it_is},
    ENCODER: {1: _as_it_is},
}


def read_manifest(folder: Path, *formats: str) -> dict[str, Any]:
    """Return the validated ``manifest.json`` of a folder, in the fields of the newest version.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsafePathError, UnsupportedFormatError
    """
    return parse_manifest(read_file(folder, FILENAME, MAX_JSON_BYTES), folder / FILENAME, *formats)


def parse_manifest(raw: bytes, where: Where, *formats: str) -> dict[str, Any]:
    """Parse and validate the bytes of a manifest, see :func:`read_manifest`."""
    data = upgraded(parse_json(raw, where), where, *(formats or (DATASET, SPACE)))
    data["files"] = require_files(data.get("files"), where)
    return data


def upgraded(data: dict[str, Any], where: Where, *formats: str) -> dict[str, Any]:
    """Return data of one of these formats upgraded from any known version to the newest."""
    name = data.get("format")
    if name not in formats:
        wanted = " or ".join(f"a {FORMAT_NAMES[f]}" for f in formats)
        known = isinstance(name, str) and name in OPENED_BY
        found = another(str(name)) if known else f"has the format {short(name)}"
        instead = INSTEAD.get((str(name), formats[0])) if len(formats) == 1 else None
        hint = f": {instead}" if instead else ""
        raise UnsupportedFormatError(f"{where} {found}; expected {wanted}{hint}", **about(where))
    readers, version = READERS[str(name)], data.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version not in readers:
        raise UnsupportedFormatError(
            f"{where} has format version {one_line(str(version), 80)}, this w2w_hub reads up to {max(readers)}: "
            "pip install -U w2w-hub",
            **about(where),
        )
    return readers[version](data)


def no_manifest(folder: Path, *expected: str) -> MissingPathError:
    """Return the error for a folder without a manifest, with what it is or holds instead."""
    if (folder / "model_index.json").is_file():
        hint = "it is a base model; open it with W2WPipeline.from_base, or give it to w2w build --base"
    else:
        meant: list[str] = []
        with suppress(OSError):  # a folder that may not be listed
            inside = (inner for inner in sorted(folder.iterdir()) if inner.is_dir() and not inner.is_symlink())
            meant = [str(inner) for inner in inside if stated_format(inner) in expected][:3]
        what = f"it has no {FILENAME}" if folder.is_dir() else "it is a file"
        what += f"; {MADE_BY[expected[0]]}" if len(expected) == 1 else ""
        hint = f"did you mean {' or '.join(map(short, meant))}?" if meant else what
    kinds = " or ".join(FORMAT_NAMES[name] for name in expected)
    return MissingPathError(f"{folder} is not a {kinds}; {hint}", path=folder / FILENAME)


def another(name: str) -> str:
    """Return what to say of a file or folder of one of our formats where another kind of file is expected."""
    return f"belongs to a {FORMAT_NAMES[name]} (open it with {OPENED_BY[name]})"


def require_files(files: Any, where: Where) -> dict[str, dict[str, Any]]:
    """Return the `files` of a manifest or lock: relative path to ``{"sha256", "size"}``, each one valid."""
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        raise misstated(where, "'files'")
    for name, entry in files.items():
        if not is_name(name) or name.split("/")[0].startswith(OURS) or name.lower() == FILENAME:
            raise UnsafePathError(
                f"{where} lists the file {short(name)}, which is outside of the folder or not a file name",
                **about(where),
            )
        size = entry.get("size") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**63:
            raise misstated(where, f"the size of {short(name)}")
        if not isinstance(entry.get("sha256"), str) or not _SHA256.fullmatch(entry["sha256"]):
            raise misstated(where, f"the sha256 of {short(name)}")
    return files


def misstated(where: Where, field: str, advice: str = "fetch it again") -> CorruptFileError:
    """Return the error for a required field that is missing or wrong."""
    return CorruptFileError(f"{where}: {field} is missing or invalid; {advice}", **about(where))


# -------------------------------------------------------------------- JSON
def read_json(path: Path | str) -> dict[str, Any]:
    """Return the JSON object in a file that the user named."""
    return parse_json(read_regular(path, MAX_JSON_BYTES), Path(path), constants=True)


def read_json_in(folder: Path | str, name: str) -> dict[str, Any]:
    """Return the JSON object in a file below a folder; no link is followed."""
    return parse_json(read_file(Path(folder), name, MAX_JSON_BYTES), Path(folder, name), constants=True)


def parse_json(raw: bytes, where: Where, *, constants: bool = False) -> dict[str, Any]:
    """Return a JSON object; refuse repeated keys and, without `constants`, NaN and infinity."""
    values = count_values(raw)
    if values > MAX_JSON_VALUES:
        raise CorruptFileError(
            f"{where} holds {values:,} JSON values, the limit is {MAX_JSON_VALUES:,}", **about(where)
        )
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=float if constants else refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{where} is not valid JSON ({error}); fetch it again", **about(where)) from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"{where} holds a JSON {type(value).__name__}, expected an object", **about(where))
    return value


def count_values(raw: bytes) -> int:
    """Return an upper bound of the values in JSON text, before it is parsed."""
    return sum(raw.count(mark) for mark in (b",", b":", b"[", b"{"))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object of these pairs; raise `ValueError` for a repeated key."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {short(name)} is repeated")
        found[name] = value
    return found


def refuse_constant(name: str) -> float:
    """Raise `ValueError` for NaN and infinity."""
    raise ValueError(f"{name} is not JSON")


# ---------------------------------------------------------------- checksum
def seal(data: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest with their checksum, computed with zeros in place of its 64 digits."""
    fields = {key: value for key, value in data.items() if key != CHECKSUM} | {CHECKSUM: "0" * 64}
    raw = (json.dumps(fields, indent=1, allow_nan=False) + "\n").encode()
    blank = f'"{CHECKSUM}": "{"0" * 64}"'.encode()
    head, _, tail = raw.rpartition(blank)
    return head + f'"{CHECKSUM}": "{hashlib.sha256(raw).hexdigest()}"'.encode() + tail


def has_right_checksum(raw: bytes, known: set[str] | None = None) -> bool | None:
    """Return whether the bytes of a manifest match the checksum in them; None if there is none.

    Parameters
    ----------
    known : set of str, optional
        The fields of its format. A digest in an unknown field is taken for a checksum whose name was changed.
    """
    found = re.findall(rb'"checksum": "([0-9a-f]{64})"', raw)
    if not found and not _renamed_checksum(raw, known):
        return None  # older than checksums in manifests
    # an unknown field may hold such text, too; the checksum is written last
    blank = b"0" * 64
    return any(hashlib.sha256(_replaced(raw, digest, blank)).hexdigest().encode() == digest for digest in set(found))


def _replaced(raw: bytes, digest: bytes, blank: bytes) -> bytes:
    head, _, tail = raw.rpartition(b'"checksum": "' + digest + b'"')
    return head + b'"checksum": "' + blank + b'"' + tail


def _renamed_checksum(raw: bytes, known: set[str] | None) -> bool:
    if known is None:
        return False
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    unknown = [v for k, v in data.items() if k not in known] if isinstance(data, dict) else []
    return any(isinstance(v, str) and re.fullmatch(".{62,66}", v) for v in unknown)


def kind_of(manifest: Mapping[str, Any]) -> str:
    """Return ``dataset`` or ``space``, the kind of repository that a manifest describes."""
    return "dataset" if manifest.get("format") == DATASET else "space"


def stated_format(path: Path) -> str | None:
    """Return the format of a folder's manifest or a JSON file; None if it is not one of ours."""
    try:
        data = parse_json(read_file(path, FILENAME, MAX_JSON_BYTES), path) if path.is_dir() else read_json(path)
    except (CorruptFileError, MissingPathError):
        return None
    name = data.get("format")
    return name if isinstance(name, str) and name in FORMAT_NAMES else None

"""Single files: each function returns what a file is, or None if it is of another kind."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..common.limits import MAX_WITHDRAWALS_BYTES
from ..common.text import command, counted, few, one_line, quote
from ..dialects.loading import PICKLES
from ..errors import W2WError
from ..release.contribution.batch import FORMAT as BATCH
from ..space.encoder.encoder import is_encoder
from ..space.points import is_point
from ..store.hub.pins import read_lock
from ..store.hub.withdrawals import parse_withdrawals
from ..store.manifest import FILENAME, LOCK, MERGE, POINT, WITHDRAWALS, read_json, read_json_in, stated_format
from ..store.parquet import parquet_file
from ..store.paths import read_regular
from ..store.tensorfile import LFS, read_header
from ..upstream.found import PLACES
from ..upstream.published import PROJECT
from .adapters import adapter_info, encoder_info, point_info
from .looking import PICTURES, first_bytes, free_name, is_pickle, picture_format
from .result import UNKNOWN, Info, Step

NOT_OPENED = "a pickle can run code when it is opened; it was not opened"
ATLAS = {"id", "x", "y", "neighbors"}  # columns of an atlas
PAGE = b'<meta name="generator" content="w2w_hub">'  # in common/pages/templates/base.html
MOST_ABOVE = 4  # folders above a file in which a manifest may list it


def file_info(path: Path) -> Info:
    """Return what a regular file is.

    Raises
    ------
    W2WError
        If it cannot be read.
    """
    head = first_bytes(path)
    for recognize in _FILES:
        found = recognize(path, head)
        if found is not None:
            return found
    shown = path.suffix or "no suffix"
    return Info(str(path), UNKNOWN, f"a file that w2w does not know ({shown}, {counted(path.stat().st_size, 'byte')})")


def _pointer(path: Path, head: bytes) -> Info | None:
    if not head.startswith(LFS):
        return None
    pull = ("the file itself is fetched by: git lfs pull",)
    return Info(str(path), "Git LFS pointer", "pointer of Git LFS in place of a file", {}, (), pull)


def _part(path: Path, head: bytes) -> Info | None:
    """Recognize a file that the manifest of a folder above lists, and that manifest itself."""
    for depth, folder in enumerate(list(path.parents)[:MOST_ABOVE], 1):
        name = "/".join(path.parts[-depth:])
        with suppress(W2WError, OSError):
            if not (folder / FILENAME).is_file() or stated_format(folder) is None:
                continue
            files = read_json_in(folder, FILENAME).get("files")
            if name == FILENAME or (isinstance(files, dict) and name in files):
                kind = "dataset" if stated_format(folder) == "w2w-dataset" else "weight space"
                steps = (Step(command("w2w info", folder), f"say more about the {kind}"),)
                return Info(str(path), f"file of a {kind}", f"part of the {kind} {folder}", {}, (), (), steps)
    return None


def _tensors(path: Path, head: bytes) -> Info | None:
    if path.suffix not in (".safetensors", ".npz"):
        return None
    if path.suffix == ".safetensors":
        told = read_header(path).metadata
        if told.get("format") == BATCH:
            return batch_info(path)
        if is_point(path):
            return point_info(path)
        if is_encoder(path):
            return encoder_info(path)
    return adapter_info(path)


def batch_info(path: Path) -> Info:
    """Return what the rows of a contribution are; what the header says is not proved by anything."""
    header = read_header(path)
    rows = max((entry.shape[0] for entry in header.entries.values() if entry.shape), default=0)
    told = {name: header.metadata[name] for name in sorted(header.metadata) if name not in ("format", "format_version")}
    hint = "it is reviewed where it was offered: w2w review ORG/NAME lists the open pull requests"
    summary = f"rows of a contribution: {counted(rows, 'LoRA')} that somebody offers to a dataset"
    return Info(str(path), "contribution", summary, {"rows": rows, **told}, (), (hint,))


def _pickle(path: Path, head: bytes) -> Info | None:
    if path.suffix not in PICKLES or not (is_pickle(head) or path.suffix != ".bin"):
        return None
    if (root := upstream_root(path)) is not None:
        step = Step(
            command("w2w import-w2w", root, options=("--out", free_name("imported"))),
            "read all of its files as data and make a dataset and a weight space of them",
        )
        summary = f"file of {PROJECT}, as it was published"
        return Info(str(path), f"{PROJECT} file", summary, {}, (NOT_OPENED,), (), (step,))
    word = quote(path)
    hints = (
        f"as an adapter, only its tensors: w2w inspect {word} --allow-torch",
        f"as a point of {PROJECT}: w2w import-w2w {word} --space SPACE --out point.json",
    )
    return Info(str(path), "pickle", "file of torch, or another pickle", {}, (NOT_OPENED,), hints)


def upstream_root(path: Path) -> Path | None:
    """Return the folder of a download of weights2weights in which a file has its published path; else None."""
    for place in (place for places in PLACES.values() for place in places):
        parts = tuple(place.split("/"))
        if path.suffix == ".pt" and path.parts[-len(parts) :] == parts:
            return path.parents[len(parts) - 1]
    return None


def _json(path: Path, head: bytes) -> Info | None:
    if head.lstrip()[:1] != b"{":
        return None
    stated = stated_format(path)
    if stated == LOCK:
        return lock_info(path)
    if stated == POINT or (stated is None and _is_old_point(path)):
        return point_info(path)
    if stated == WITHDRAWALS:
        rows = parse_withdrawals(read_regular(path, MAX_WITHDRAWALS_BYTES), path).rows
        summary = f"list of {counted(len(rows), 'withdrawn row')} of a dataset"
        return Info(str(path), "list of withdrawn rows", summary, {"ids": [row.id for row in rows]})
    if stated == MERGE:
        return Info(str(path), "merged contribution", "record of a contribution that waits for a release")
    return None


def _is_old_point(path: Path) -> bool:
    """Return whether a JSON file is a point that states no format."""
    with suppress(W2WError):
        return path.suffix == ".json" and "format" not in (data := read_json(path)) and "basis_digest" in data
    return False


def lock_info(path: Path) -> Info:
    """Return what a lock file pins."""
    lock = read_lock(path)
    pins = [f"{pin.name} ({pin.kind}), commit {pin.commit[:12]}" for pin in lock.pins]
    steps = [
        Step(command("w2w restore", path), "fetch everything that it pins, and verify it"),
        Step(command("w2w verify", path), "verify what is fetched"),
        Step(command("w2w archive", path, options=("--out", free_name("bundle"))), "write all of it to one folder"),
        Step(command("w2w cite", path), "print citations"),
    ]
    summary = f"lock file: pins {few([pin.name for pin in lock.pins], 3)}"
    return Info(str(path), "lock", summary, {"pins": pins, "packages": dict(lock.packages)}, (), (), tuple(steps))


def _table(path: Path, head: bytes) -> Info | None:
    columns = _columns(path, head)
    if columns is None or "id" not in columns:
        return None
    if path.suffix == ".parquet" and set(columns) >= ATLAS:
        hint = "open it in embedding-atlas, or in the Hub's viewer of a dataset"
        return Info(str(path), "atlas", "map of people, as w2w atlas writes it", {"columns": columns}, (), (hint,))
    word = quote(path)
    hints = (f"as labels of adapters: w2w pack ADAPTERS --labels {word} --out people",
             f"of a dataset's rows: w2w relabel DATASET --labels {word}")  # fmt: skip
    summary = f"table of labels with {counted(len(columns), 'column')}"
    return Info(str(path), "labels", summary, {"columns": columns}, (), hints)


def _columns(path: Path, head: bytes) -> list[str] | None:
    """Return the names of a table's columns, shortened; None if it is no table. No value is read but a first line."""
    if path.suffix == ".parquet" and head.startswith(b"PAR1"):
        with parquet_file(path, None) as found:
            return [one_line(name, 100) for name in found.schema_arrow.names]
    first = head.decode("utf-8-sig", errors="replace").partition("\n")[0]
    if path.suffix in (".csv", ".tsv"):
        with suppress(csv.Error, StopIteration):
            names = next(csv.reader([first], delimiter="\t" if path.suffix == ".tsv" else ","))
            return [one_line(name.strip(), 100) for name in names]
    if path.suffix == ".jsonl":
        with suppress(ValueError, RecursionError):
            value = json.loads(first)
            return [one_line(name, 100) for name in value] if isinstance(value, dict) else None
    return None


def _picture(path: Path, head: bytes) -> Info | None:
    kind = picture_format(head)
    if kind is None or path.suffix.lower() not in PICTURES:
        return None
    word = quote(path)
    hints = (
        f"to find the person of it in a weight space: w2w invert SPACE {word} --out points",
        f"to train a LoRA of the person: w2w train {word} --base MODEL --out person",
    )
    return Info(str(path), "picture", f"picture ({kind})", {}, (), hints)


def _page(path: Path, head: bytes) -> Info | None:
    if path.suffix.lower() not in (".html", ".htm") or PAGE not in head:
        return None
    return Info(str(path), "page", "page for a browser that w2w wrote", {}, (), (f"open {path} in a browser",))


_FILES: tuple[Callable[[Path, bytes], Info | None], ...] = (
    _pointer, _part, _tensors, _pickle, _json, _table, _picture, _page,
)  # fmt: skip

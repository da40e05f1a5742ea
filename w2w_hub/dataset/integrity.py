"""Find what is not as published: the exact file, shard or row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arguments import checked
from ..errors import CorruptFileError, UnsupportedFormatError, W2WError
from ..files import list_files, sha256_file
from ..progress import progress
from . import labels as label_table
from .manifest import FILENAME, DatasetManifest, dataset_digest, row_digest, verify_checksum
from .problems import SHOWN, tell_all
from .reader import WeightDataset
from .shards import ARRAY, ShardedMatrix
from .state import settle

UNLISTED = (FILENAME, "README.md")  # editing the card breaks no pin


@dataclass
class Problem:
    """One thing that is wrong: a file, or a row in it."""

    file: str
    message: str
    rows: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What :func:`check` found."""

    path: Path
    deep: bool
    problems: list[Problem] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)  # files in the folder that the manifest does not know
    files: int = 0
    bytes_hashed: int = 0
    rows: int = 0
    digest: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems

    def settle(self) -> None:
        """Raise `CorruptFileError` with all problems in one line, if there are any."""
        if self.problems:
            told = "; ".join(problem.message for problem in self.problems[:SHOWN])
            more = f"; and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            raise tell_all(CorruptFileError(told + more))

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "ok": self.ok} | {
            k: v for k, v in vars(self).items() if k not in ("path", "problems")
        } | {"problems": [vars(problem) for problem in self.problems]}  # fmt: skip


@checked()
def check(path: Path | str, *, deep: bool = True) -> Report:
    """Compare a dataset folder with its manifest and its own digests.

    Without `deep`: the manifest's checksum, presence and size of every file, the hashes of labels and metadata, the
    index of every shard, and the dataset digest that rows' digests and labels give. With it also the hash of every
    shard and of every row, so that any changed bit is found, and the rows it is in are named.

    Raises
    ------
    MissingPathError, UnsupportedFormatError
        If there is no dataset to check; all else is in the report.
    """
    path = Path(path)
    report = Report(path, deep)
    try:
        if not path.is_dir():
            WeightDataset.open(path)  # says what is missing
        settle(path)
        verify_checksum(path / FILENAME)
    except CorruptFileError as error:
        report.problems.append(Problem(FILENAME, str(error)))
    try:
        manifest = DatasetManifest.read(path)
    except (CorruptFileError, UnsupportedFormatError) as error:
        if not report.problems and isinstance(error, UnsupportedFormatError):
            raise  # it is as it was written, by another version or as something else
        report.problems.append(Problem(FILENAME, str(error)))
        return report
    report.digest, report.rows = manifest.digest, manifest.rows
    _check_files(report, manifest)
    wrong = {problem.file for problem in report.problems} - {FILENAME}
    try:
        dataset = WeightDataset.open(path)
    except W2WError as error:
        if not wrong:  # else the reason is listed already
            report.problems.append(Problem("", str(error)))
        return report
    _check_rows(report, dataset, wrong)
    return report


def _check_files(report: Report, manifest: DatasetManifest) -> None:
    there = set(list_files(report.path))
    report.unlisted = sorted(n for n in there - set(manifest.files) - set(UNLISTED) if not n.startswith("."))
    hashed = [n for n in manifest.files if report.deep or not _is_bulk(n)]
    for name in manifest.files:
        file, entry = report.path / name, manifest.files[name]
        if name not in there:
            report.problems.append(Problem(name, f"{file} is missing; fetch the dataset again"))
        elif file.stat().st_size != entry["size"]:
            report.problems.append(
                Problem(
                    name,
                    f"{file} is not what the manifest lists: it has {file.stat().st_size} bytes instead of "
                    f"{entry['size']}; fetch the dataset again",
                )
            )
    broken = {problem.file for problem in report.problems}
    report.files = len(manifest.files)
    for name in progress([n for n in hashed if n not in broken], "hashing files"):
        file, entry = report.path / name, manifest.files[name]
        report.bytes_hashed += entry["size"]
        if sha256_file(file) != entry["sha256"]:
            report.problems.append(Problem(name, f"{file} is not what the manifest lists; fetch the dataset again"))


def _is_bulk(name: str) -> bool:
    return name.startswith("parquet/") or (name.startswith(f"{ARRAY}/") and not name.endswith("zarr.json"))


def _check_rows(report: Report, dataset: WeightDataset, wrong: set[str]) -> None:
    table = dataset.labels.reset_index(names="id")
    if dataset_digest(dataset.layout, label_table.records(table)) != dataset.manifest.digest:
        report.problems.append(
            Problem("labels", f"{report.path}: labels and rows do not give the digest in the manifest")
        )
    matrix, g = dataset._matrix, dataset.geometry
    listed, ids = table["row_sha256"].tolist(), table["id"].tolist()
    if not isinstance(matrix, ShardedMatrix) or g is None:
        spans = [("weights.zarr", 0, len(dataset))]
    else:
        spans = [(g.shard_path(i), i * g.shard_rows, min((i + 1) * g.shard_rows, g.rows)) for i in range(g.shards)]
    for number, (name, start, stop) in enumerate(progress(spans, "hashing rows")):
        bad: list[str] = []
        try:
            if isinstance(matrix, ShardedMatrix):
                matrix.shard_index(number)
            if report.deep:
                for first in range(start, stop, 64):
                    block = dataset[first : min(first + 64, stop)]
                    bad += [ids[first + i] for i, row in enumerate(block) if row_digest(row) != listed[first + i]]
        except W2WError as error:
            report.problems.append(Problem(name, str(error)))
            continue
        if bad:
            shown = ", ".join(repr(i) for i in bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
            where = f"{report.path / name}: " if name in wrong else f"{report.path}: "
            rows = f"row {shown} has" if len(bad) == 1 else f"rows {shown} have"
            report.problems.append(Problem(name, f"{where}{rows} other values than listed", bad))

"""Open the parts of a dataset: in a folder, or at a commit of a Hub repository."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..common.text import ShellText, command
from ..common.warn import warn_caller
from ..errors import CorruptFileError, MissingPathError, UnsupportedFormatError
from ..store.byte_source import ByteSource, LocalFiles
from ..store.commit import State, read_state, staging_folder
from ..store.hub.ranges import RangedFiles
from ..store.hub.source import Source
from ..store.hub.withdrawals import withdrawals_of
from ..store.manifest import DATASET as FORMAT
from ..store.manifest import FILENAME, no_manifest
from ..store.paths import find_file, missing
from .manifest import DatasetManifest
from .matrix.geometry import GROUP
from .matrix.matrix import Matrix
from .matrix.ranged_matrix import RangedMatrix
from .matrix.sharded_matrix import ShardedMatrix, require_group
from .matrix.zarr_matrix import ZarrMatrix, require_backed, require_shape
from .tables import read_labels
from .withdrawn import GuardedMatrix, notice, withdrawn_rows

if TYPE_CHECKING:
    import pandas as pd

PINNED_FILES = 256
LAZY_ABOVE = 1_000_000  # bytes; a larger matrix is lazy by default


class DatasetParts(NamedTuple):
    """The parts of an opened dataset; `path` is its folder, or the commit's folder in the cache."""

    path: Path
    manifest: DatasetManifest
    labels: pd.DataFrame
    matrix: Matrix
    source: Source


def open_source(source: Source, lazy: bool | None = None, *, guarded: bool = True) -> DatasetParts:
    """Open what :func:`w2w_hub.store.hub.locate.locate` found.

    Parameters
    ----------
    lazy : bool, optional
        See :meth:`WeightDataset.open`.
    guarded : bool
        Refuse to read rows that were withdrawn from the repository, which asks it for the list of them.
    """
    if source.revision is None:
        return open_folder(source.folder)
    parts = _open_commit(source, lazy)
    return parts._replace(matrix=_guarded(parts.matrix, parts.labels, source)) if guarded else parts


def open_folder(path: Path) -> DatasetParts:
    """Open the present state of a dataset folder.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError
    """
    if not path.is_dir():
        if staging_folder(path).is_dir():
            raise MissingPathError(
                f"{path} is not packed completely; run the same w2w pack command again to continue", path=path
            )
        make = command("w2w pack", ShellText("ADAPTER..."), options=("--out", ShellText("DATASET")))
        raise missing(path, f"a dataset is made by: {make}") if not path.exists() else no_manifest(path, FORMAT)
    try:
        return read_state(path, _open_state, FORMAT)
    except MissingPathError as error:
        if error.path != path / FILENAME:
            raise
        raise no_manifest(path, FORMAT) from error


def _open_state(state: State) -> DatasetParts:
    path, find = state.root, state.find
    manifest = DatasetManifest.from_json(state.data, state.manifest_path)
    labels = read_labels(find, manifest, path)
    files, where = _open_shards(state), str(path)
    matrix = _open_matrix(
        manifest, files, where, lambda: ShardedMatrix(files, where), lambda: ZarrMatrix(manifest.files, find, where)
    )
    return DatasetParts(path, manifest, labels, matrix, Source(path))


def _open_matrix(
    manifest: DatasetManifest, files: ByteSource, where: str, sharded: Callable[[], Matrix], other: Callable[[], Matrix]
) -> Matrix:
    """Open the matrix as shards of whole rows, or else with any other Zarr layout, and check it."""
    require_backed(manifest, where)
    try:
        require_group(files, where)
        matrix = sharded()
    except UnsupportedFormatError:
        matrix = other()
    require_shape(matrix, manifest, where)
    return matrix


def _open_shards(state: State) -> LocalFiles:
    """Open the files of the matrix; each must have its full size, since Zarr reads missing shards as zeros."""
    files = LocalFiles(*state.folders)
    listed = {name: entry["size"] for name, entry in state.data["files"].items() if name.startswith(f"{GROUP}/")}
    for name, size in listed.items():
        # keep a moderate number of files open, so that a new state never mixes with this one
        found = files.size(name) if len(listed) <= PINNED_FILES else state.find(name).stat().st_size
        if found != size:
            raise CorruptFileError(
                f"{state.root / name} has {found} bytes, the manifest lists {size}; fetch the dataset again",
                path=state.root / name,
            )
    return files


def _open_commit(source: Source, lazy: bool | None) -> DatasetParts:
    weights = [name for name in source.files if name.startswith(f"{GROUP}/")]
    if lazy is None:
        lazy = sum(source.files[name]["size"] for name in weights) > LAZY_ABOVE
    now = [name for name in weights if not lazy or name.endswith("zarr.json")]
    folder = source.need([*(name for name in source.files if name.startswith("labels/")), *now])
    manifest, where = DatasetManifest.read(folder), str(source.revision)
    labels = read_labels(partial(find_file, folder), manifest, where)
    files = RangedFiles(source)
    matrix = _open_matrix(
        manifest, files, where,
        lambda: RangedMatrix(files, where, labels["row_sha256"].to_numpy(str)),
        lambda: ZarrMatrix(manifest.files, partial(find_file, source.need(weights)), where),
    )  # fmt: skip
    return DatasetParts(folder, manifest, labels, matrix, source)


def _guarded(matrix: Matrix, labels: pd.DataFrame, source: Source) -> Matrix:
    """Return a matrix that refuses the rows that the repository lists as withdrawn, and warn of them."""
    revision = source.revision
    assert revision is not None
    repo = revision.renamed or revision.repo
    withdrawn = withdrawn_rows(labels, withdrawals_of(repo, source.options))
    if not withdrawn:
        return matrix
    ids = tuple(labels.index)
    warn_caller(f"{revision.repo} at {revision.asked}: {notice(withdrawn, ids)}; they are left out and cannot be read")
    return GuardedMatrix(matrix, withdrawn, ids, revision)

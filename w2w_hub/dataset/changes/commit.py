"""Commit a plan as the next state of a dataset; all datasets are created and changed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.progress import progress
from ...common.text import counted
from ...common.warn import warn_caller
from ...errors import AlreadyExistsError, InvalidInputError, W2WError
from ...store.atomic import require_output
from ...store.commit import next_state, open_state
from ...store.hashing import entry_of
from ...store.manifest import DATASET
from ...store.replacing import files_named
from ..card import dataset_card, updated_card
from ..credits import row_credits
from ..labels import table as label_table
from ..licenses import imported_from, row_licenses
from ..manifest import DatasetManifest, dataset_digest
from ..matrix.geometry import ARRAY, GROUP, next_geometry
from ..reader import DatasetReader
from ..splits import kept_rule
from ..tables import ViewPart, same_view_part, view_parts, write_labels, write_view_part
from ..training_records import kept_records
from ..weight_dataset import WeightDataset
from .derived import write_derived
from .matrix_files import WrittenMatrix, write_matrix
from .plan import Plan
from .workers import run_tasks

if TYPE_CHECKING:
    import pandas as pd

MANY_ROWS = 2000


def create(
    path: Path, plan: Plan, *, overwrite: bool = False, resumable: bool = False, workers: int = 1, dask: Any = None
) -> WeightDataset:
    """Write and open a new dataset, or replace the rows of one; see :func:`w2w_hub.store.commit.next_state`."""
    require_dataset_output(path, overwrite=overwrite)
    with next_state(path, replace=overwrite, resumable=resumable) as staging:
        commit(plan, staging, path, workers=workers, dask=dask)
    return WeightDataset.open(path)


def require_dataset_output(path: Path | str, *, overwrite: bool = False) -> Path:
    """Return the path if a dataset can be written there; with `overwrite`, it may be one already.

    Files in its folder that its manifest does not list are left alone.

    Raises
    ------
    AlreadyExistsError, DiskError
    """
    path = Path(path)
    if not overwrite or path.is_symlink() or not path.is_dir():
        return require_output(path, overwrite=overwrite, own=files_named())
    try:
        open_state(path, DATASET)
    except W2WError as error:
        raise AlreadyExistsError(f"{path} is not a dataset; remove it, or choose another output", path=path) from error
    return path


def change(
    path: Path | str, plan: Callable[[WeightDataset], Plan], *, workers: int = 1, dask: Any = None
) -> WeightDataset:
    """Plan, write and open the next state of a dataset folder, under the writers' lock.

    Raises
    ------
    InvalidInputError
        If the dataset is on the Hub, where published versions cannot be changed.
    """
    dataset = WeightDataset.open(path)  # raises errors before a staging folder is created
    if dataset.revision is not None:
        repo = dataset.revision.repo
        raise InvalidInputError(
            f"{path} is on the Hub, where published versions cannot be changed; download it first: "
            f"hf download {repo} --repo-type dataset --local-dir {repo.split('/')[1]}",
            path=path,
        )
    with next_state(dataset.path, replace=True, resumable=True) as staging:
        commit(plan(WeightDataset.open(path)), staging, dataset.path, workers=workers, dask=dask)
    return WeightDataset.open(path)


def commit(plan: Plan, staging: Path, folder: Path, *, workers: int = 1, dask: Any = None) -> None:
    """Write the next state of `folder` into `staging`: matrix, labels, view, manifest and card.

    Raises
    ------
    W2WError
        All problems of the plan and of its rows, in one error.
    """
    base, ids = plan.base, plan.ids
    if len(ids) > MANY_ROWS:
        plan.problems.raise_if_any()  # before minutes of reading checkpoints
    present = None if base is None else base.geometry
    g = plan.geometry or next_geometry(present, len(ids), plan.manifest.layout.size, plan.manifest.dtype)
    matrix = write_matrix(plan, g, ids, staging, workers, dask)
    plan.problems.raise_if_any()
    derived = write_derived(plan, matrix.digests, g, staging, folder, workers, dask)
    plan.problems.raise_if_any()
    if matrix.unstated_scale:
        _warn_of_unstated_scales(matrix.unstated_scale, plan.manifest.layout.scale)
    table = plan.labels.drop(columns=["row", "row_sha256"], errors="ignore")
    table["row"] = np.arange(len(table))
    table["row_sha256"] = matrix.digests
    manifest = _manifest(plan, table, matrix)
    files = manifest.files
    files.update(derived)
    for name in (f"{GROUP}/zarr.json", f"{ARRAY}/zarr.json"):
        files[name] = entry_of(staging / name)
    for split in manifest.splits:
        name = f"labels/{split}.parquet"
        write_labels(table[(table["split"] == split).to_numpy(bool)], staging / name)
        files[name] = entry_of(staging / name)
    if plan.view is not None:
        parts = view_parts(table, manifest.splits, g, plan.view, staging, (staging, folder))
        error = _write_view(parts, plan, staging, folder, files, workers, dask)
        manifest.view = {"dtype": plan.view, "max_error": error}
    manifest.files = dict(sorted(files.items()))
    manifest.write(staging)
    before = None if base is None else _card_of(base)
    card = updated_card(folder, manifest, row_licenses(table), row_credits(table, manifest), before=before)
    (staging / "README.md").write_text(card, "utf-8")


def _card_of(dataset: DatasetReader) -> str:
    manifest, labels = dataset.manifest, dataset.labels
    return dataset_card(manifest, row_licenses(labels), row_credits(labels, manifest))


def _manifest(plan: Plan, table: pd.DataFrame, matrix: WrittenMatrix) -> DatasetManifest:
    """Return the manifest completed with facts about the written rows; it lists only the shards yet."""
    draft, compatibility = plan.manifest, plan.manifest.compatibility
    errors = [error for error in (matrix.max_error, draft.float16_max_error) if error is not None]
    rescaled = (draft.rescaled or {}) | matrix.rescaled
    if plan.base is None and compatibility.base_model is None and len(matrix.base_models) == 1:
        compatibility = replace(compatibility, base_model=next(iter(matrix.base_models)))
    before = None if plan.base is None or plan.resplit else plan.base.labels["split"]
    kinds = label_table.kinds(table)
    return replace(
        draft,
        rows=len(table),
        digest=dataset_digest(draft.layout, label_table.records(table)),
        columns={column: kind.stored for column, kind in kinds.items()},
        label_kinds={column: entry for column, kind in kinds.items() if (entry := kind.to_json()) is not None},
        splits={str(k): int(v) for k, v in table["split"].value_counts(sort=False).items()},
        compatibility=compatibility,
        float16_max_error=max(errors, default=None),
        files=dict(matrix.files),
        column_info={k: v for k, v in draft.column_info.items() if v},
        split_rule=kept_rule(draft.split_rule, table, before),
        training=kept_records(draft.training or (), set(table["id"])) or None,
        imported=draft.imported or imported_from(row_licenses(table)),
        rescaled={name: rescaled[name] for name in sorted(set(table["id"]) & set(rescaled))} or None,
    )


def _warn_of_unstated_scales(unstated: dict[str, str], scale: float) -> None:
    """Warn of rows that were converted to the dataset's scale from a default, since their checkpoints state none."""
    first, default = min(unstated.items())
    rows = counted(len(unstated), "row was read with a scale that its checkpoint does not state",
                   "rows were read with a scale that their checkpoints do not state")  # fmt: skip
    warn_caller(
        f"{rows}, the first is {first!r} ({default}); the other rows have scale {scale:g}: if these were trained with "
        "it too, pack them again from files that state it",
    )


def _write_view(
    parts: list[ViewPart], plan: Plan, staging: Path, folder: Path, files: dict[str, Any], workers: int, dask: Any
) -> float:
    """Write the files of the Parquet view that have changed; return the largest rounding error of all files."""
    largest = 0.0
    wanted: list[ViewPart] = []
    for part in parts:
        old = None if plan.base is None else plan.base.manifest
        if old is not None and part.name in old.files and same_view_part(part, folder):
            files[part.name] = old.files[part.name]
            largest = max(largest, float((old.view or {}).get("max_error", 0.0)))
        else:
            wanted.append(part)
    done = run_tasks(write_view_part, wanted, workers=workers, dask=dask)
    for name, error in progress(done, "writing the Parquet view", total=len(wanted)):
        files[name] = entry_of(staging / name)
        largest = max(largest, error)
    return largest

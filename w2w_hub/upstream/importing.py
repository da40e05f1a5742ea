"""Import the files that weights2weights published as datasets and a weight space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.arguments import checked
from ..common.constraints import number, one_of, optional, path, text
from ..common.display import Displayed
from ..dataset.weight_dataset import WeightDataset
from ..dialects.writing import adapter_files
from ..space.points import POINT_FILES
from ..space.weight_space import WeightSpace
from ..store.atomic import as_disk_error, require_output
from ..store.manifest import DATASET, SPACE
from ..store.replacing import files_below, files_listed, files_named, files_of_any
from .found import find_files
from .job import ADAPTERS, DOGS, LABELS, PEOPLE, POINTS, REPORT, SPACE_FOLDER, TERMS, ImportJob
from .labels import ALPHANUMERIC, ORDERS
from .published import LICENSE
from .rows import stamp
from .run import Run, one_import


@dataclass(frozen=True, repr=False)
class Imported(Displayed):
    """The folder that an import made.

    Attributes
    ----------
    path : Path
    report : dict
        ``import.json``: the files with their sha256, what was assumed (`assumed`), what was measured (`checks`), and
        what was left out (`skipped`).
    """

    path: Path
    report: dict[str, Any]

    @cached_property
    def dataset(self) -> WeightDataset | None:
        """The published identities; None if their weights were not there."""
        return WeightDataset.open(self.path / PEOPLE) if (self.path / PEOPLE).is_dir() else None

    @cached_property
    def dogs(self) -> WeightDataset | None:
        """The published dogs; None if they were not there."""
        return WeightDataset.open(self.path / DOGS) if (self.path / DOGS).is_dir() else None

    @cached_property
    def space(self) -> WeightSpace | None:
        """The published weight space, opened completely; None if its files were not there."""
        return WeightSpace.from_pretrained(self.path / SPACE_FOLDER) if (self.path / SPACE_FOLDER).is_dir() else None

    @property
    def points(self) -> list[Path]:
        """The imported points."""
        return sorted((self.path / POINTS).glob("*.json"))

    @property
    def adapters(self) -> list[Path]:
        """The folders of the imported adapters."""
        return sorted((self.path / ADAPTERS).glob("*/"))

    def _facts(self) -> dict[str, object]:
        return {"path": str(self.path), **self.report["made"], "license": LICENSE}


def import_files(folder: Path) -> Iterable[str]:
    """Return the files in a folder that an import made, see :mod:`w2w_hub.store.replacing`."""
    adapters = [files_below(f"{ADAPTERS}/{each.name}", adapter_files) for each in (folder / ADAPTERS).glob("*")]
    own = files_of_any(
        files_named(REPORT, TERMS, LABELS), files_below(PEOPLE, files_listed(DATASET)),
        files_below(DOGS, files_listed(DATASET)), files_below(SPACE_FOLDER, files_listed(SPACE)),
        files_below(POINTS, POINT_FILES), *adapters,
    )  # fmt: skip
    return own(folder) if (folder / REPORT).is_file() else ()


@checked(
    folder=path(), out=path(), split_by=optional(text()), holdout=number(above=0, below=1), consent=optional(text()),
    row_order=one_of(*ORDERS),
)  # fmt: skip
def import_w2w(
    folder: Path | str,
    out: Path | str,
    *,
    k: int | None = None,
    split_by: str | None = None,
    holdout: float = 0.1,
    consent: str | None = None,
    row_order: str = ALPHANUMERIC,
    parquet_view: bool | str = False,
    overwrite: bool = False,
) -> Imported:
    """Import the files that weights2weights published as datasets and a weight space.

    The files are pickles. They are read as data: no class or function that they name is looked up or called, and a file
    that names any but a short list is refused. Tensors are streamed, so that memory stays below 1.5 GB for the whole
    publication. What an import makes appears at once when it is finished; after an interruption the same call
    continues.

    Parameters
    ----------
    folder : path
        A download of the repository, complete or in part: the files of ``files/`` and ``weights_datasets/``, and beside
        them points (``.pt``) and adapters (``adapter_model.safetensors``) that were saved with weights2weights.
    out : path
        The new folder, with what could be made: ``dataset`` (identities), ``dogs``, ``space``, ``points``,
        ``adapters``, ``labels.csv`` (labels without weights) and ``import.json``, the report.
    k : int, optional
        Components of the weight space. By default as many as have published coefficients (1,000), or all (10,000) if
        the weights are there, of which the other coefficients are computed.
    split_by : str, optional
        Column of the labels that says who is shown: all models of one person are on one side of the split. By default
        one that is named so (``celebrity``); without any, all rows are in ``train``, with a warning.
    holdout : float
        Fraction of the rows that such a split holds out.
    consent : str, optional
        The consent of the people shown, as the rows and the weight space shall state it. Without it, nothing that was
        imported, or is made of it, can be pushed publicly.
    row_order : {"alphanumeric", "table"}
        The order of the published rows: alphanumeric by the names of the models' folders, as documented, or that of the
        table of labels. A warning says if the labels fit the other order better.
    parquet_view : bool or {"float16", "float32"}
        Also write the view that stock `datasets` reads, see :class:`DatasetOptions`.
    overwrite : bool
        Replace an earlier import, and discard an unfinished one with other files or options.

    Returns
    -------
    Imported

    Raises
    ------
    CorruptFileError, UnsupportedFormatError, LayoutMismatchError
        If a file is truncated, malicious or another one than its name says; nothing is written.
    InvalidInputError
        If the files are not of one population, or k is larger than what they determine.
    MissingPathError, AlreadyExistsError, BusyError, DiskError

    Warns
    -----
    LeakingSplitWarning
        If no column says who is shown.

    Examples
    --------
    >>> imported = import_w2w("weights2weights", "imported")                           # doctest: +SKIP
    >>> imported.space, imported.report["assumed"]                                     # doctest: +SKIP
    """
    folder, out = Path(folder), Path(out)
    require_output(out, overwrite=overwrite, own=import_files)
    with as_disk_error(out, "; finished parts are kept, run the same again to continue"), one_import(out):
        files = find_files(folder)
        job = ImportJob(files, k, split_by, holdout, consent, parquet_view, row_order)
        plan = {
            "folder": str(folder.resolve()), "files": {name: stamp(each) for name, each in files.all.items()},
            "k": k, "split_by": split_by, "holdout": holdout, "consent": consent, "parquet_view": parquet_view,
            "row_order": row_order,
        }  # fmt: skip
        run = Run(out, plan, restart=overwrite)
        try:
            report = job.make(run)
        except KeyboardInterrupt as interrupt:
            interrupt.__notes__ = ["finished parts are kept and the same command continues from them"]
            raise
        run.finish(overwrite=overwrite, own=import_files)
    return Imported(out, report)

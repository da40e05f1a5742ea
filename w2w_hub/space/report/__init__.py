"""Report on a weight space: one self-contained HTML page, and the same figures as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.arguments import DATASET, SPACE, checked
from ...common.constraints import optional
from ...store.atomic import new_folder, require_output, write_json
from ...store.replacing import files_named
from .figures import entanglement_by_population, figures
from .page import page

if TYPE_CHECKING:
    from ...dataset import WeightDataset
    from ..weight_space import WeightSpace

__all__ = ["entanglement_by_population", "figures", "page", "write_report"]

REPORT_FILES = files_named("report.html", "report.json")


@checked(space=SPACE, dataset=optional(DATASET))
def write_report(
    space: WeightSpace, path: Path | str, dataset: WeightDataset | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write a folder with ``report.html`` and ``report.json``, and return the latter's contents.

    Parameters
    ----------
    dataset : WeightDataset, optional
        The dataset of the space: adds scatter plots by attribute, and entanglement by population size.

    overwrite : bool
        Replace the folder of an earlier report.

    Raises
    ------
    AlreadyExistsError, DatasetChangedError, DiskError
    """
    path = require_output(path, overwrite=overwrite, own=REPORT_FILES)
    data = figures(space, dataset)
    with new_folder(path, overwrite=overwrite, own=REPORT_FILES) as folder:
        (folder / "report.html").write_text(page(data), "utf-8")
        write_json(folder / "report.json", data)
    return data

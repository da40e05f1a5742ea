"""Pack checkpoints into a new dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.arguments import checked
from ...common.checks import path_list
from ...dialects import read_adapter
from ...errors import InvalidInputError, W2WError
from ...lora.layout import ParameterLayout
from ..problems import Problems
from ..weight_dataset import WeightDataset
from .commit import create, require_dataset_output
from .options import DatasetOptions, OptionKeywords, merged, plan_new, takes_options
from .sources import AdapterRows, row_ids
from .write import split_labels

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd
    from distributed import Client


@takes_options
@checked()
def pack_adapters(
    adapters: Path | str | Sequence[Path | str],
    path: Path | str,
    *,
    ids: str | Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    workers: int = 1,
    dask: str | Client | None = None,
    overwrite: bool = False,
    options: DatasetOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> WeightDataset:
    """Pack LoRA checkpoints of any supported dialect into a new dataset.

    One row is in memory at a time. After an interruption, the same call resumes: finished shards are kept if their
    checkpoints have not changed.

    Parameters
    ----------
    adapters : sequence of path
        LoRA files or folders.
    ids : sequence of str, optional
        One id per checkpoint, in their order. By default, the name of the checkpoint's file or folder; if trainers use
        that name for every checkpoint (``PERSON/unet``, ``PERSON/checkpoint-800``,
        ``PERSON/pytorch_lora_weights.safetensors``), the name of the folder above.
    labels : DataFrame, optional
        See :func:`read_labels`.
    workers : int
        Processes that read and write shards.
    dask : str or distributed.Client, optional
        Client, or address of the scheduler, of a Dask cluster to use instead; its workers need access to the files.
    overwrite : bool
        Replace an existing dataset.
    options : DatasetOptions, optional
        Storage options and metadata.
    **keywords
        Fields of `options`.

    Raises
    ------
    LayoutMismatchError, InvalidInputError, UnknownNameError, CorruptFileError, ...
        One error lists all problems of labels and checkpoints; nothing is written.
    """
    options = merged(options, keywords)
    paths = path_list(adapters, "an adapter")
    if not paths:
        raise InvalidInputError("there are no adapters to pack")
    path = require_dataset_output(path, overwrite=overwrite)
    names = row_ids(paths, ids)
    problems = Problems()
    table = split_labels(labels, names, options.split_rule, problems)
    layout = _first_layout(paths, problems)
    plan = plan_new(options, path, layout, names, AdapterRows(paths, layout, names), table, problems)
    return create(path, plan, overwrite=overwrite, resumable=True, workers=workers, dask=dask)


def _first_layout(paths: Sequence[Path], problems: Problems) -> ParameterLayout:
    """Return the layout of the first readable checkpoint; raise all problems if none is readable."""
    errors = []
    for path in paths:
        try:
            return ParameterLayout.from_adapter(read_adapter(path))
        except W2WError as error:
            errors.append(error)
    problems.extend(errors)
    problems.raise_if_any()
    raise AssertionError

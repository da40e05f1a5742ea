"""Pack checkpoints into a new dataset."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.arguments import checked
from ...common.checks import path_list
from ...common.text import ShellText, command, counted
from ...common.warn import warn_caller
from ...dialects import read_adapter
from ...dialects.header_labels import header_labels as read_header_labels
from ...errors import InvalidInputError, W2WError
from ...lora.adapter import Adapter
from ...lora.layout import ParameterLayout
from ..labels import table as label_table
from ..manifest import UNKNOWN
from ..problems import Problems
from ..weight_dataset import WeightDataset
from .commit import create, require_dataset_output
from .options import DatasetOptions, OptionKeywords, merged, plan_new, takes_options
from .sources import AdapterRows, found_adapters, row_ids
from .workers import worker_count
from .write import split_labels

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd
    from distributed import Client


class IncompleteRecordWarning(UserWarning):
    """Warning that a packed dataset does not state its initialization, base model or license."""


@takes_options
@checked()
def pack_adapters(
    adapters: Path | str | Sequence[Path | str],
    path: Path | str,
    *,
    ids: str | Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    extra_labels: str = "refuse",
    header_labels: bool = False,
    workers: int | None = 1,
    dask: str | Client | None = None,
    overwrite: bool = False,
    options: DatasetOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> WeightDataset:
    """Pack LoRA checkpoints of any supported dialect into a new dataset.

    One row is in memory at a time. After an interruption, the same call resumes: finished shards are kept if their
    checkpoints have not changed. Warnings name what a weight space or a publication will need and the dataset does not
    state: one initialization, the base model, a license (:func:`relabel_rows` fills them in); and files that were
    skipped.

    Parameters
    ----------
    adapters : path or sequence of path
        LoRA files or folders. A folder that holds several is scanned as by ``w2w inspect``; what is not an adapter
        there is skipped.
    ids : sequence of str, optional
        One id per checkpoint, in their order. By default, the name of the checkpoint's file or folder; if trainers use
        that name for every checkpoint (``PERSON/unet``, ``PERSON/checkpoint-800``,
        ``PERSON/pytorch_lora_weights.safetensors``), the name of the folder above.
    labels : DataFrame, optional
        See :func:`read_labels`.
    extra_labels : {"refuse", "ignore"}
        What to do with labels of ids that are not packed.
    header_labels : bool
        Also take labels from the checkpoints' headers, where `labels` has none: license, author, title, trigger phrase,
        base model, trainer, steps and learning rate (`modelspec.*`, kohya's `ss_*`, OneTrainer's settings).
    workers : int, optional
        Processes that read and write shards; None is as many as there are processors, for 2,000 or more adapters.
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
    paths = found_adapters(paths)
    names = row_ids(paths, ids)
    problems = Problems()
    if header_labels:
        labels = _with_header_labels(labels, paths, names)
    table = split_labels(labels, names, options.split_rule, problems, extra_labels)
    first, adapter = _first_readable(paths, problems)
    layout = ParameterLayout.from_adapter(adapter)
    plan = plan_new(options, path, layout, names, AdapterRows(paths, layout, names), table, problems)
    count = worker_count(workers, len(paths))
    dataset = create(path, plan, overwrite=overwrite, resumable=True, workers=count, dask=dask)
    if dataset.manifest.rescaled and (default := adapter.metadata.get("scale_default")):
        rows = counted(len(dataset.manifest.rescaled), "row has", "rows have")
        warn_caller(
            f"the dataset's scale {layout.scale:g} is that of {first}, which does not state it ({default}); {rows} "
            "another scale, whose ratio to it was multiplied into B",
        )
    _warn_of_missing_facts(dataset)
    return dataset


def _with_header_labels(labels: pd.DataFrame | None, paths: Sequence[Path], names: Sequence[str]) -> pd.DataFrame:
    """Return labels with what headers say where they say nothing; an unreadable checkpoint is reported later."""
    import pandas as pd

    found: dict[str, dict[str, Any]] = {}
    for path, name in zip(paths, names, strict=True):
        with suppress(W2WError):
            for label, value in read_header_labels(path).items():
                found.setdefault(label, {})[name] = value
    given = pd.DataFrame({"id": names}) if labels is None else label_table.as_table(labels, Problems())
    table = given.copy()
    for label, values in found.items():
        stated = table["id"].map(values).astype(object)
        table[label] = stated if label not in table.columns else table[label].astype(object).where(
            table[label].notna(), stated
        )  # fmt: skip
    table.attrs = dict(given.attrs)
    return table


def _warn_of_missing_facts(dataset: WeightDataset) -> None:
    """Warn of each fact that a later step needs and the dataset does not state."""
    record, path = dataset.manifest.compatibility, dataset.path
    licenses = dataset.labels["licence"]
    missing = {
        "initialization": ("NAME", record.initialisation == UNKNOWN, "a weight space needs it, or --canonical svd"),
        "base": ("FOLDER", record.base_digest is None, "nothing can check that a space is used with the right model"),
        "license": ("ID", dataset.manifest.licence == UNKNOWN and licenses.isna().any(), "a publication needs it"),
    }
    for name, (value, is_missing, why) in missing.items():
        if is_missing:
            then = command("w2w relabel", path, options=(f"--{name}", ShellText(value)))
            fact = {"base": "base model"}.get(name, name)
            warn_caller(f"no {fact} is stated; {why}: {then}", IncompleteRecordWarning)


def _first_readable(paths: Sequence[Path], problems: Problems) -> tuple[Path, Adapter]:
    """Return the first readable checkpoint; raise all problems if none is readable."""
    errors = []
    for path in paths:
        try:
            return path, read_adapter(path)
        except W2WError as error:
            errors.append(error)
    problems.extend(errors)
    problems.raise_if_any()
    raise AssertionError

"""Turn checkpoints into a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.arguments import checked
from ...dialects import read_adapter
from ...dialects.base_model import digest_of_folder
from ...errors import InvalidInputError, W2WError
from ...lora.layout import ParameterLayout
from ...store.atomic import require_new
from ...store.commit import next_state
from ..manifest import UNKNOWN, Compatibility
from ..splits import SplitRule
from ..weight_dataset import WeightDataset
from .build import SHARD_BYTES, Content, Origin, build, parse_size, plan_geometry
from .problems import Problems
from .sources import AdapterRows, path_list, row_ids
from .write import split_labels, stored_dtype, view_dtype

if TYPE_CHECKING:
    import pandas as pd


@checked()
def pack_adapters(
    adapters: Path | str | Sequence[Path | str],
    path: Path | str,
    *,
    ids: str | Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    column_info: Mapping[str, Mapping[str, str]] | None = None,
    split_rule: SplitRule | None = None,
    base: Path | str | None = None,
    initialisation: str = UNKNOWN,
    dtype: str | None = None,
    compression: str = "none",
    shard_size: int | str = SHARD_BYTES,
    name: str | None = None,
    version: str = "0.1.0",
    licence: str = "unknown",
    parquet_view: bool | str = True,
    workers: int = 1,
    dask: str | Any | None = None,
) -> WeightDataset:
    """Pack LoRA checkpoints of any known dialect into a new dataset.

    One row is in memory at a time. A packing that was killed or interrupted is continued by the same call: shards
    that were finished and whose checkpoints have not changed are not written again.

    Parameters
    ----------
    adapters : sequence of path
        LoRA files or folders.
    ids : sequence of str, optional
        The rows' ids, one for each checkpoint, in their order. Without it a row's id is its checkpoint's file or folder
        name; where trainers call every checkpoint the same (``PERSON/unet``, ``PERSON/checkpoint-800``,
        ``PERSON/pytorch_lora_weights.safetensors``), it is the name of the folder above.
    labels : DataFrame, optional
        See :func:`read_labels`.
    base : path, optional
        Folder of the base model, whose target weights' digest is recorded.
    initialisation : str
        Name of the one initialisation that all adapters were trained from.
    workers : int
        Processes that read and write shards.
    dask : str or distributed.Client, optional
        Address of a Dask scheduler whose workers do it instead; they must see the same files.
    column_info, split_rule, dtype, compression, shard_size, name, version, licence, parquet_view
        As :func:`write_dataset` takes them; `dtype` is float32 unless said otherwise.

    Raises
    ------
    LayoutMismatchError, InvalidInputError, UnknownNameError, CorruptFileError, ...
        All that is wrong with labels and checkpoints in one error; nothing is written then.
    """
    paths = path_list(adapters, "an adapter")
    if not paths:
        raise InvalidInputError("no adapter was given")
    path = Path(path)
    require_new(path)
    names = row_ids(paths, ids)
    problems = Problems()
    table = split_labels(labels, names, split_rule, problems)
    layout = first_layout(paths, problems)
    digest = None if base is None else digest_of_folder(base, layout)
    stored = stored_dtype(dtype)
    content = Content(
        name or path.name, layout, stored, version, licence, Compatibility(None, digest, initialisation),
        {k: dict(v) for k, v in (column_info or {}).items()},
        None if split_rule is None else split_rule.to_json(), view_dtype(parquet_view),
    )  # fmt: skip
    geometry = plan_geometry(len(names), layout.size, stored, parse_size(shard_size), compression)
    with next_state(path, resumable=True) as staging:
        origin = Origin.joined([(AdapterRows(paths, layout, names), range(len(paths)))])
        build(
            staging, path, content, names, table, origin, geometry=geometry, problems=problems, workers=workers,
            dask=dask,
        )  # fmt: skip
    return WeightDataset.open(path)


def first_layout(paths: Sequence[Path], problems: Problems) -> ParameterLayout:
    """The layout of the first checkpoint that can be read; if none can be, all that is wrong is raised."""
    errors = []
    for path in paths:
        try:
            return ParameterLayout.from_adapter(read_adapter(path))
        except W2WError as error:
            errors.append(error)
    problems.extend(errors)
    problems.settle()
    raise AssertionError

"""The Parquet file of an atlas."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...common.version import __version__
from .contents import AtlasContents

OWN = ("id", "split", "x", "y", "neighbors", "thumbnail")
ROWS_PER_GROUP = 500  # the Hub's viewer reads whole row groups for a page of pictures


def parquet_bytes(atlas: AtlasContents) -> bytes:
    """Return the Parquet file of an atlas, see :meth:`Atlas.save`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": pa.array(atlas.ids, pa.string()),
        "split": pa.array(atlas.splits.tolist(), pa.string()),
    }
    for name, shown in zip(atlas.labels.columns, column_names(atlas.labels.columns), strict=True):
        columns[shown] = _plain(pa.array(atlas.labels[name], from_pandas=True))
    columns |= {name: pa.array(atlas.positions[:, axis]) for axis, name in enumerate("xy")}
    lists = [_lists(values) for values in (atlas.neighbors, atlas.distances)]
    columns["neighbors"] = pa.StructArray.from_arrays(lists, ["ids", "distances"])
    if atlas.thumbnails is not None:
        files = pa.array([f"{name}.webp" for name in atlas.ids], pa.string())
        pictures = [pa.array(atlas.thumbnails, pa.binary()), files]
        columns["thumbnail"] = pa.StructArray.from_arrays(pictures, ["bytes", "path"])
    table = pa.table(columns)
    features = {field.name: _feature(field.type) for field in table.schema}
    if atlas.thumbnails is not None:
        features["thumbnail"] = {"_type": "Image"}
    told = {
        "huggingface": {"info": {"features": features}},
        "w2w.atlas": {
            "software": f"w2w_hub {__version__}", "space": f"{atlas.space.name} {atlas.space.version}",
            "space_digest": atlas.space.digest, "license": atlas.space.licence, "by": atlas.by, "axes": atlas.axes,
            "labels": atlas.labeled_by,
        },
    }  # fmt: skip
    table = table.replace_schema_metadata({name: json.dumps(value) for name, value in told.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def column_names(labels: Iterable[str]) -> list[str]:
    """Return the names of label columns beside an atlas' own columns."""
    found: list[str] = []
    names = list(labels)
    for name in names:
        shown = name
        while shown in OWN or shown in found or (shown != name and shown in names):
            shown = f"label_{shown}"
        found.append(shown)
    return found


def _plain(values: Any) -> Any:
    """Return texts, and ordered categories, which some viewers do not show, as one type of text."""
    import pyarrow as pa

    kind = values.type
    return values.cast(pa.string()) if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) else values


def _lists(values: np.ndarray) -> Any:
    """Return a matrix as a column of lists."""
    import pyarrow as pa

    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def _feature(kind: Any) -> Any:
    """Return what `datasets` calls an Arrow type."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.float64(): "float64", pa.bool_(): "bool"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}

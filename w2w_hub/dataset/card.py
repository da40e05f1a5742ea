"""Render the Hub card of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.text import Markdown, code, markdown, python_string, table_row
from ..errors import MissingPathError
from ..store.cards import TAGS, is_same_card, join_card, read_card, render_card, size_category, split_card
from .manifest import DatasetManifest
from .splits import BY_ROWS


def dataset_configs(manifest: DatasetManifest) -> list[dict[str, Any]]:
    """Return the card's ``configs``: the files of the Parquet view and of the labels, per split."""
    configs = []
    views = {split: view_files(manifest.files, split) for split in manifest.splits}
    if any(views.values()):
        files = [{"split": s, "path": v if len(v) > 1 else v[0]} for s, v in views.items() if v]
        configs.append({"config_name": "weights", "default": True, "data_files": files})
    labels = [{"split": split, "path": f"labels/{split}.parquet"} for split in manifest.splits]
    configs.append({"config_name": "labels", "data_files": labels} | ({} if configs else {"default": True}))
    return configs


def view_files(files: Mapping[str, Any], split: str) -> list[str]:
    """Return the files of a split's Parquet view, in order."""
    first = f"parquet/{split}.parquet"
    return [*([first] if first in files else []), *sorted(f for f in files if f.startswith(f"parquet/{split}-"))]


def dataset_card(manifest: DatasetManifest) -> str:
    """Return a dataset's README.md, whose YAML lists the files of each split for stock `datasets`."""
    configs = dataset_configs(manifest)
    view = manifest.view or {}
    about = "in float16"
    if view:
        about = f"in {view['dtype']}, " + (f"off by at most {view['max_error']:.2g}" if view["max_error"] else "exact")
    load = f"""
from datasets import load_dataset  # the same rows without w2w_hub{f", {about}" if len(configs) > 1 else ""}

"""
    name = python_string(manifest.name)
    load += "".join(f"load_dataset({name}, {python_string(config['config_name'])})\n" for config in configs)
    rows = [
        table_row(code(column), kind.describe(), info.get("unit", ""), info.get("source", ""))
        for column, kind in manifest.kinds.items()
        for info in (manifest.column_info.get(column, {}),)
    ]
    rule = manifest.split_rule
    metadata = {
        "pretty_name": manifest.name,
        "license": manifest.licence,
        "size_categories": [size_category(manifest.rows)],
        "tags": TAGS,
        "configs": configs,
    }
    values: dict[str, Any] = {
        "name": manifest.name,
        "quoted_name": name,
        "version": manifest.version,
        "rows": f"{manifest.rows:,}",
        "size": f"{manifest.layout.size:,}",
        "dtype": manifest.dtype,
        "modules": len(manifest.layout.slots),
        "scale": f"{manifest.layout.scale:g}",
        "digest": code(manifest.digest),
        "layout_digest": code(manifest.layout.digest),
        "base_model": manifest.compatibility.base_model or "not stated",
        "base_digest": code(manifest.compatibility.base_digest or "not stated"),
        "initialisation": manifest.compatibility.initialisation,
        "rounding": "none" if manifest.float16_max_error is None else f"at most {manifest.float16_max_error:.3g}",
        "split_rule": _split_text(rule),
        "splits": Markdown(", ".join(f"{markdown(split)} {rows:,}" for split, rows in manifest.splits.items())),
        "columns": Markdown("\n".join(rows) or "| - | - | - | - |"),
        "load": Markdown(load.rstrip()),
    }
    return render_card("dataset_card.md", metadata, values)


def _split_text(rule: Mapping[str, Any] | None) -> Markdown:
    """Return how the rows were split."""
    if not rule:
        return Markdown("as given")
    if rule["column"] == BY_ROWS:
        return Markdown(f"by rows, {rule['holdout']:g} of them held out")
    return Markdown(f"all rows of one {code(rule['column'])} on one side")


def updated_card(folder: Path, old: DatasetManifest, new: DatasetManifest) -> str:
    """Return the card of a new state: rendered again, unless it was edited by hand; then only its YAML is updated."""
    try:
        text = read_card(folder)
    except MissingPathError:
        return dataset_card(new)
    data, body = split_card(text)
    if not data or is_same_card(text, dataset_card(old)):
        return dataset_card(new)
    data |= {"configs": dataset_configs(new), "size_categories": [size_category(new.rows)]}
    return join_card(data | ({"license": new.licence} if new.licence != old.licence else {}), body)

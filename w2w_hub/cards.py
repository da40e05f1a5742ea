"""Render the Hub cards of datasets and weight spaces from the templates in ``cards/``."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset.manifest import DatasetManifest


def template(name: str) -> Template:
    """A card template: from the installed package, or from the repository beside it."""
    here = Path(__file__).parent
    for folder in (here / "_cards", here.parent / "cards"):
        if (folder / name).is_file():
            return Template((folder / name).read_text())
    raise FileNotFoundError(f"card template {name} is not installed; install w2w-hub again")


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"


def dataset_card(manifest: DatasetManifest, *, parquet_view: bool) -> str:
    """README.md of a dataset, whose YAML tells stock `datasets` which files are which split."""
    configs = []
    for config, folder, wanted in (("weights", "parquet", parquet_view), ("labels", "labels", True)):
        if wanted:
            configs.append(f"- config_name: {config}")
            if not any("default" in line for line in configs):
                configs.append("  default: true")
            configs.append("  data_files:")
            for split in manifest.splits:
                configs += [f"  - split: {json.dumps(split)}", f"    path: {folder}/{split}.parquet"]
    values: dict[str, Any] = {
        "quoted_name": json.dumps(manifest.name),  # a JSON string is a YAML string, whatever it holds
        "quoted_licence": json.dumps(manifest.licence),
        "name": manifest.name,
        "version": manifest.version,
        "size_category": size_category(manifest.rows),
        "configs": "\n".join(configs),
        "rows": f"{manifest.rows:,}",
        "size": f"{manifest.layout.size:,}",
        "dtype": manifest.dtype,
        "modules": len(manifest.layout.slots),
        "scale": f"{manifest.layout.scale:g}",
        "digest": manifest.digest,
        "layout_digest": manifest.layout.digest,
        "base_model": manifest.compatibility.base_model or "not stated",
        "base_digest": manifest.compatibility.base_digest or "not stated",
        "initialisation": manifest.compatibility.initialisation,
        "splits": ", ".join(f"{name} {rows:,}" for name, rows in manifest.splits.items()),
        "columns": "\n".join(f"| `{name}` | {kind} |" for name, kind in manifest.columns.items()) or "| - | - |",
    }
    return template("dataset_card.md").substitute(values)


def space_card(manifest: dict[str, Any], directions: list[tuple[str, Any]]) -> str:
    """README.md of a weight space."""
    embedded = "model_index.json" in manifest["files"]
    held_out = manifest["diagnostics"].get("held_out", {})
    rows = [
        f"| {name} | {'-' if d.auc is None else f'{d.auc:.3f}'} | {d.held_out_rows} | {d.sd:.2f} |"
        for name, d in directions
    ]
    explained = manifest["diagnostics"].get("explained_variance", {})
    there = held_out.get("explained_variance", {})
    values = {
        "name": manifest["name"],
        "version": manifest["version"],
        "licence": manifest["licence"],
        "base_model": "embedded" if embedded else manifest["compatibility"]["base_model"] or "not stated",
        "dataset": f"{manifest['recipe']['dataset']} {manifest['recipe']['dataset_version']}",
        "dataset_digest": manifest["recipe"]["dataset_digest"],
        "digest": manifest["digest"],
        "k": manifest["k"],
        "rows": manifest["recipe"]["rows"],
        "size": f"{manifest['layout']['size']:,}",
        "algorithm": manifest["recipe"]["algorithm"],
        "held_out_rows": held_out.get("rows", 0),
        "spectrum": "\n".join(f"| {c} | {v:.3f} | {there.get(c, float('nan')):.3f} |" for c, v in explained.items()),
        "directions": "\n".join(rows) or "| - | - | - | - |",
    }
    return template("space_card.md").substitute(values)

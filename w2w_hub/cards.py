"""Render the Hub cards of datasets and weight spaces from the templates in ``cards/``."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from . import __version__

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


def dataset_configs(manifest: DatasetManifest) -> list[dict[str, Any]]:
    """The card's ``configs``: which files are which split, for the view and for the labels."""
    configs = []
    views = {split: view_files(manifest.files, split) for split in manifest.splits}
    if any(views.values()):
        files = [{"split": s, "path": v if len(v) > 1 else v[0]} for s, v in views.items() if v]
        configs.append({"config_name": "weights", "default": True, "data_files": files})
    labels = [{"split": split, "path": f"labels/{split}.parquet"} for split in manifest.splits]
    configs.append({"config_name": "labels", "data_files": labels} | ({} if configs else {"default": True}))
    return configs


def view_files(files: Mapping[str, Any], split: str) -> list[str]:
    """The files of one split's Parquet view, in order."""
    first = f"parquet/{split}.parquet"
    return [*([first] if first in files else []), *sorted(f for f in files if f.startswith(f"parquet/{split}-"))]


def dataset_card(manifest: DatasetManifest) -> str:
    """README.md of a dataset, whose YAML tells stock `datasets` which files are which split."""
    configs = dataset_configs(manifest)
    view = manifest.view or {}
    about = "in float16"
    if view:
        about = f"in {view['dtype']}, " + (f"off by at most {view['max_error']:.2g}" if view["max_error"] else "exact")
    load = f"""
from datasets import load_dataset  # the same rows without w2w_hub{f", {about}" if len(configs) > 1 else ""}

"""
    load += "".join(f'load_dataset("{manifest.name}", "{config["config_name"]}")\n' for config in configs)
    rows = [
        f"| `{name}` | {kind} | {info.get('unit', '')} | {info.get('source', '')} |"
        for name, kind in manifest.columns.items()
        for info in (manifest.column_info.get(name, {}),)
    ]
    rule = manifest.split_rule
    values: dict[str, Any] = {
        "quoted_name": json.dumps(manifest.name),  # a JSON string is a YAML string, whatever it holds
        "quoted_licence": json.dumps(manifest.licence),
        "name": manifest.name,
        "version": manifest.version,
        "size_category": size_category(manifest.rows),
        "configs": "\n".join(f"- {json.dumps(config, ensure_ascii=False)}" for config in configs),
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
        "rounding": "none" if manifest.float16_max_error is None else f"at most {manifest.float16_max_error:.3g}",
        "split_rule": f"all rows of one `{rule['column']}` on one side" if rule else "as given",
        "splits": ", ".join(f"{name} {rows:,}" for name, rows in manifest.splits.items()),
        "columns": "\n".join(rows) or "| - | - | - | - |",
        "load": load.rstrip(),
    }
    return template("dataset_card.md").substitute(values)


def updated_card(folder: Path, old: DatasetManifest, new: DatasetManifest) -> str:
    """The card of a new state: rendered again, unless somebody has written in it; then only its facts for machines."""
    import yaml

    path = folder / "README.md"
    try:
        text = path.read_text("utf-8")
        _, head, body = text.split("---\n", 2)
        data = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return dataset_card(new)
    if text == dataset_card(old) or not isinstance(data, dict):
        return dataset_card(new)
    data |= {"configs": dataset_configs(new), "size_categories": [size_category(new.rows)]}
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n{body}"


def space_card(manifest: dict[str, Any], directions: list[tuple[str, Any]]) -> str:
    """README.md of a weight space."""
    embedded = "model_index.json" in manifest["files"]
    recipe, diagnostics = manifest["recipe"], manifest["diagnostics"]
    held_out = diagnostics.get("held_out", {})
    there = held_out.get("explained_variance", {})
    noise = diagnostics.get("nulls", {}).get("gaussian_spectrum", {})
    before = ["standardised" if recipe.get("standardised", True) else "centred only"]
    if recipe.get("canonical"):
        before.insert(0, "canonical representatives of dW")
    remarks = [f"- `{name}` is unreliable: {d.unreliable}." for name, d in directions if d.unreliable]
    remarks += [f"- No direction for `{name}`: {why}." for name, why in diagnostics.get("no_direction", {}).items()]
    values = {
        "name": manifest["name"],
        "version": manifest["version"],
        "quoted_licence": json.dumps(manifest["licence"]),
        "related": related_repositories(manifest),
        "pipeline": pipeline_block(manifest, [name for name, _ in directions]),
        "base_model": "embedded" if embedded else manifest["compatibility"]["base_model"] or "not stated",
        "dataset": f"{recipe['dataset']} {recipe['dataset_version']}",
        "dataset_digest": recipe["dataset_digest"],
        "digest": manifest["digest"],
        "k": manifest["k"],
        "rows": recipe["rows"],
        "size": f"{manifest['layout']['size']:,}",
        "algorithm": recipe["algorithm"],
        "rows_before": ", ".join(before),
        "residual": _small(diagnostics.get("largest_residual")),
        "orthogonality": _small(diagnostics.get("orthogonality_error")),
        "held_out_rows": held_out.get("rows", 0),
        "spectrum": "\n".join(
            f"| {c} | {v:.3f} | {_share(there.get(c))} | {_share(noise.get(c))} |"
            for c, v in diagnostics.get("explained_variance", {}).items()
        ),
        "directions": "\n".join(_direction_row(name, d) for name, d in directions) or "| - | - | - | - | - |",
        "remarks": "\n".join(["", *remarks, ""]) if remarks else "",
    }
    return template("space_card.md").substitute(values)


def _direction_row(name: str, direction: Any) -> str:
    figure = "-" if direction.score is None else f"{direction.score:.3f}"
    if direction.kind == "float" and direction.score is not None:
        figure = f"R² {figure}"
    interval = "-" if direction.interval is None else f"{direction.interval[0]:.3f} to {direction.interval[1]:.3f}"
    name = name.replace("|", "\\|").replace("\n", " ")
    return f"| {name} | {figure} | {interval} | {direction.held_out_rows} | {direction.sd:.2f} |"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _small(value: float | None) -> str:
    return "not stated" if value is None else f"{value:.1e}"


def related_repositories(manifest: dict[str, Any]) -> str:
    """YAML lines that name the base model and the dataset, if they are repositories on a Hub."""
    named = {"base_model": manifest["compatibility"]["base_model"], "datasets": manifest["recipe"].get("dataset")}
    lines = []
    for key, name in named.items():
        if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
            lines += [f"{key}:", f"- {name}"]
    return "".join(f"{line}\n" for line in lines)


def pipeline_block(manifest: dict[str, Any], attributes: list[str]) -> str:
    """How to draw from a space with a base model, with its previews; nothing for one without."""
    files = manifest["files"]
    if "w2w_pipeline.json" not in files:
        return ""
    import importlib.metadata

    versions = []
    for package in ("torch", "diffusers", "transformers", "peft"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    edits = f"pipe.edit({{{json.dumps(attributes[0])}: 3.0}})  # standard deviations\n" if attributes else ""
    pictures = "".join(f"![{Path(f).stem}]({f})\n\n" for f in sorted(files) if f.startswith("previews/"))
    return f"""{pictures}```bash
pip install 'w2w-hub[diffusers]=={__version__}'
```

```python
from w2w_hub import W2WPipeline

pipe = W2WPipeline.from_pretrained(".")  # this folder, or the name of its repository with a revision
pipe.sample_identity(seed=0)  # a new person; pipe.identity = None is the base model, exactly
{edits}pipe("sks person").images[0].save("person.png")
pipe.export("person-lora")  # a LoRA for PEFT and diffusers
```

Written with {", ".join(versions)}.

"""

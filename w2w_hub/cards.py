"""Render the Hub cards of datasets and weight spaces from the templates in ``cards/``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import __version__
from .errors import CorruptFileError, MissingPathError
from .store.limits import MAX_CARD_BYTES, MAX_CARD_METADATA
from .store.manifest import CARD
from .store.paths import read_file
from .text import Markdown, code, markdown, python_string, table_row, yaml_text

if TYPE_CHECKING:
    from .dataset.manifest import DatasetManifest


TAGS = ["w2w-hub", "lora", "weight-space"]
_FRONT = re.compile(r"\A---[ \t]*\r?\n(?P<yaml>(?:.*?\r?\n)?)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def template(name: str) -> Template:
    """Return a card's template: from the installed package, or from the repository beside it."""
    here = Path(__file__).parent
    for folder in (here / "_cards", here.parent / "cards"):
        if (folder / name).is_file():
            return Template((folder / name).read_text("utf-8"))
    raise MissingPathError(f"card template {name} is not installed; install w2w-hub again")


def render_card(name: str, metadata: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return a card: its metadata as YAML, and a template of which every value is escaped that is not `Markdown`."""
    return join_card(metadata, template(name).substitute({key: markdown(value) for key, value in values.items()}))


def read_card(folder: Path) -> str:
    """Return the text of a folder's card.

    Raises
    ------
    MissingPathError, UnsafePathError
    CorruptFileError
        If it is not UTF-8.
    """
    try:
        return read_file(folder, CARD, MAX_CARD_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{folder / 'README.md'} is not UTF-8 ({error.reason}); save it as UTF-8") from error


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Return metadata and body of a card; metadata that is not a mapping is taken as none."""
    import yaml

    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        data = yaml.safe_load(match["yaml"]) if len(match["yaml"]) <= MAX_CARD_METADATA else None
        yaml_text(data if isinstance(data, dict) else {})  # it is written again
    except (yaml.YAMLError, ValueError, RecursionError):  # a date such as 2020-13-40 is a ValueError
        data = None
    return (data if isinstance(data, dict) else {}), text[match.end() :]


def join_card(metadata: Mapping[str, Any], body: str) -> str:
    """Return the text of a card."""
    return f"---\n{yaml_text(metadata)}---\n{body}"


def is_same_card(text: str, other: str) -> bool:
    """Return whether two cards say the same, however their YAML is written."""
    return text == other or split_card(text) == split_card(other)


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
    """Return README.md of a dataset, whose YAML tells stock `datasets` which files are which split."""
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
        table_row(code(column), kind, info.get("unit", ""), info.get("source", ""))
        for column, kind in manifest.columns.items()
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
        "split_rule": Markdown(f"all rows of one {code(rule['column'])} on one side") if rule else "as given",
        "splits": Markdown(", ".join(f"{markdown(split)} {rows:,}" for split, rows in manifest.splits.items())),
        "columns": Markdown("\n".join(rows) or "| - | - | - | - |"),
        "load": Markdown(load.rstrip()),
    }
    return render_card("dataset_card.md", metadata, values)


def updated_card(folder: Path, old: DatasetManifest, new: DatasetManifest) -> str:
    """Return the card of a new state.

    It is rendered again, unless somebody has written in it; then only its facts for machines change.
    """
    try:
        text = read_card(folder)
    except MissingPathError:
        return dataset_card(new)
    data, body = split_card(text)
    if not data or is_same_card(text, dataset_card(old)):
        return dataset_card(new)
    return join_card(data | {"configs": dataset_configs(new), "size_categories": [size_category(new.rows)]}, body)


def space_card(manifest: dict[str, Any], directions: list[tuple[str, Any]]) -> str:
    """Return README.md of a weight space."""
    embedded = "model_index.json" in manifest["files"]
    recipe, diagnostics = manifest["recipe"], manifest["diagnostics"]
    held_out = diagnostics.get("held_out", {})
    there = held_out.get("explained_variance", {})
    noise = diagnostics.get("nulls", {}).get("gaussian_spectrum", {})
    before = ["standardised" if recipe.get("standardised", True) else "centred only"]
    if recipe.get("canonical"):
        before.insert(0, "canonical representatives of dW")
    remarks = [f"- {code(n)} is unreliable: {markdown(d.unreliable)}." for n, d in directions if d.unreliable]
    remarks += [
        f"- No direction for {code(name)}: {markdown(why)}."
        for name, why in diagnostics.get("no_direction", {}).items()
    ]
    metadata = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": manifest["licence"],
        **related_repositories(manifest),
        "tags": TAGS,
    }
    values = {
        "name": manifest["name"],
        "version": manifest["version"],
        "pipeline": pipeline_block(manifest, [name for name, _ in directions]),
        "base_model": "embedded" if embedded else manifest["compatibility"]["base_model"] or "not stated",
        "dataset": f"{recipe['dataset']} {recipe['dataset_version']}",
        "dataset_digest": code(recipe["dataset_digest"]),
        "digest": code(manifest["digest"]),
        "k": manifest["k"],
        "rows": recipe["rows"],
        "size": f"{manifest['layout']['size']:,}",
        "algorithm": recipe["algorithm"],
        "rows_before": ", ".join(before),
        "residual": _small(diagnostics.get("largest_residual")),
        "orthogonality": _small(diagnostics.get("orthogonality_error")),
        "held_out_rows": held_out.get("rows", 0),
        "spectrum": Markdown(
            "\n".join(
                table_row(c, _share(v), _share(there.get(c)), _share(noise.get(c)))
                for c, v in diagnostics.get("explained_variance", {}).items()
            )
        ),
        "directions": Markdown("\n".join(_direction_row(name, d) for name, d in directions) or "| - | - | - | - | - |"),
        "remarks": Markdown("\n".join(["", *remarks, ""]) if remarks else ""),
    }
    return render_card("space_card.md", metadata, values)


def _direction_row(name: str, direction: Any) -> Markdown:
    figure = "-" if direction.score is None else f"{direction.score:.3f}"
    if direction.kind == "float" and direction.score is not None:
        figure = f"R² {figure}"
    interval = "-" if direction.interval is None else f"{direction.interval[0]:.3f} to {direction.interval[1]:.3f}"
    return table_row(name, figure, interval, direction.held_out_rows, f"{direction.sd:.2f}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _small(value: float | None) -> str:
    return "not stated" if value is None else f"{value:.1e}"


def related_repositories(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the card's metadata that names the base model and the dataset, if they are repositories on a Hub."""
    named = {"base_model": manifest["compatibility"]["base_model"], "datasets": manifest["recipe"].get("dataset")}
    return {
        key: [name]
        for key, name in named.items()
        if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name, re.ASCII)
    }


def pipeline_block(manifest: dict[str, Any], attributes: list[str]) -> Markdown:
    """Return how to draw from a space with a base model, with its previews; nothing for one without."""
    files = manifest["files"]
    if "w2w_pipeline.json" not in files:
        return Markdown("")
    import importlib.metadata

    versions = []
    for package in ("torch", "diffusers", "transformers", "peft"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    edits = f"pipe.edit({{{python_string(attributes[0])}: 3.0}})  # standard deviations\n" if attributes else ""
    previews = sorted(f for f in files if f.startswith("previews/"))
    pictures = "".join(f"![{markdown(Path(f).stem)}]({quote(f, errors='replace')})\n\n" for f in previews)
    return Markdown(f"""{pictures}```bash
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

""")

"""Hub cards of weight spaces."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..common.pipelines import text_to_image_row
from ..common.text import Markdown, code, markdown, python_string, table_row
from ..common.version import __version__
from ..dialects.base_model import CONFIG, MODEL_INDEX, pipeline_class
from ..errors import W2WError
from ..store.cards import TAGS, render_card
from ..store.hub.cache import REPO
from .directions.synonyms import synonyms, synonyms_text


def space_card(manifest: dict[str, Any], directions: list[tuple[str, Any]], folder: Path) -> str:
    """Return README.md of a weight space; `folder` holds the files that the manifest lists."""
    embedded = MODEL_INDEX in manifest["files"]
    recipe, diagnostics = manifest["recipe"], manifest["diagnostics"]
    held_out = diagnostics.get("held_out", {})
    there = held_out.get("explained_variance", {})
    noise = diagnostics.get("nulls", {}).get("gaussian_spectrum", {})
    before = ["standardised" if recipe.get("standardised", True) else "centred only"]
    if recipe.get("canonical"):
        before.insert(0, "canonical representatives of dW")
    remarks = []
    if not manifest.get("population", True):
        remarks.append(
            "- Its population is not included: it projects, samples and edits, and knows no rows and no neighbors. "
            "This is format version 2, which w2w_hub 0.1.0 does not read."
        )
    remarks += [f"- {code(n)} is unreliable: {markdown(d.unreliable)}." for n, d in directions if d.unreliable]
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
        "pipeline": pipeline_block(manifest, [name for name, _ in directions], folder),
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
        "directions": Markdown(_direction_rows(dict(directions)) or "| - | - | - | - | - |"),
        "remarks": Markdown("\n".join(["", *remarks, ""]) if remarks else ""),
    }
    return render_card("space_card.md", metadata, values)


def _direction_rows(directions: Mapping[str, Any]) -> str:
    """Return rows of a Markdown table; directions that say the same are one row."""
    distinct = synonyms(directions)
    shown = {name: f"{name} {synonyms_text(others)}".rstrip() for name, others in distinct.items()}
    return "\n".join(_direction_row(shown[name], directions[name]) for name in distinct)


def _direction_row(name: str, direction: Any) -> Markdown:
    figure = "-" if direction.score is None else direction.read_out.score.shown(direction.score)
    interval = "-" if direction.interval is None else f"{direction.interval[0]:.3f} to {direction.interval[1]:.3f}"
    return table_row(name, figure, interval, direction.held_out_rows, f"{direction.sd:.2f}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _small(value: float | None) -> str:
    return "not stated" if value is None else f"{value:.1e}"


def related_repositories(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the card's metadata that names the base model and the dataset, if they are repositories on a Hub."""
    named = {"base_model": manifest["compatibility"]["base_model"], "datasets": manifest["recipe"].get("dataset")}
    return {key: [name] for key, name in named.items() if isinstance(name, str) and REPO.fullmatch(name)}


def pipeline_block(manifest: dict[str, Any], attributes: list[str], folder: Path) -> Markdown:
    """Return a card's example of generating pictures, and its previews; empty for a space without a base model."""
    files = manifest["files"]
    if CONFIG not in files:
        return Markdown("")
    import importlib.metadata

    pipeline = text_to_image_row(_stock_class(files, folder)).name
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
from w2w_hub import {pipeline}

pipe = {pipeline}.from_pretrained(".")  # this folder, or the name of its repository with a revision
pipe.sample_identity(seed=0)  # a new person; pipe.identity = None is the base model, exactly
{edits}pipe("sks person").images[0].save("person.png")
pipe.export("person-lora")  # a LoRA for PEFT and diffusers
```

Written with {", ".join(versions)}.

""")


def _stock_class(files: Collection[str], folder: Path) -> str | None:
    """Return the stock class of an embedded base model; None if there is none that can be read."""
    if MODEL_INDEX not in files:
        return None
    try:
        return pipeline_class(folder)
    except W2WError:
        return None

"""Hub cards of weight spaces."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..common.pipelines import text_to_image_row
from ..common.text import Markdown, code, few, file_size, markdown, python_string, table_row
from ..common.version import __version__
from ..dataset.card import HUB
from ..dataset.licenses import license_text
from ..dialects.base_model import CONFIG, EMBEDDED, MODEL_INDEX, pipeline_class
from ..dialects.generation import read_settings, shown_settings
from ..errors import W2WError
from ..store.cards import TAGS, render_card
from ..store.hub.cache import REPO
from ..store.manifest import read_json_in
from .directions.curve import StrengthCurve
from .directions.missing import by_reason
from .directions.synonyms import synonyms, synonyms_text

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # from one eighth of a line's height to all of it
SHOWN_STRENGTHS = range(13)  # standard deviations
REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)  # of a link: a tag, a branch or a commit


@dataclass(frozen=True)
class HubFacts:
    """What a card says that only a Hub knows.

    Attributes
    ----------
    repo : str
        The repository in which it is published, ``org/name``.
    title : str, optional
        By default the manifest's name.
    dataset : (str, str), optional
        Repository and revision of the dataset that the space was built from.
    base_model : str, optional
        Repository of the base model, if the Hub has it.
    """

    repo: str
    title: str | None = None
    dataset: tuple[str, str] | None = None
    base_model: str | None = None


def space_card(
    manifest: dict[str, Any], directions: list[tuple[str, Any]], folder: Path, facts: HubFacts | None = None
) -> str:
    """Return README.md of a weight space; `folder` holds the files that the manifest lists."""
    embedded = MODEL_INDEX in manifest["files"]
    recipe, diagnostics = manifest["recipe"], manifest["diagnostics"]
    held_out = diagnostics.get("held_out", {})
    there = held_out.get("explained_variance", {})
    noise = diagnostics.get("nulls", {}).get("gaussian_spectrum", {})
    sizes = [int(entry.get("size", 0)) for entry in manifest["files"].values()]
    before = ["standardised" if recipe.get("standardised", True) else "centred only"]
    if recipe.get("canonical"):
        before.insert(0, "canonical representatives of dW")
    remarks = []
    if not manifest.get("population", True):
        remarks.append(
            "- Its population is not included: it projects, samples and edits, and knows no rows and no neighbors. "
            "This is format version 2, which w2w_hub 0.1.0 does not read."
        )
    remarks += imported_remarks(recipe)
    remarks += [f"- {code(n)} is unreliable: {markdown(d.unreliable)}." for n, d in directions if d.unreliable]
    remarks += [
        f"- No direction for {few([code(name) for name in names])}: {markdown(why)}."
        for names, why in by_reason(diagnostics.get("no_direction", {}))
    ]
    metadata = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": manifest["licence"],
        **related_repositories(manifest, folder, facts),
        "tags": TAGS,
    }
    values = {
        "title": (facts and facts.title) or manifest["name"],
        "version": manifest["version"],
        "pipeline": pipeline_block(manifest, [name for name, _ in directions], folder),
        "base_model": "embedded" if embedded else manifest["compatibility"]["base_model"] or "not stated",
        "license": license_text(manifest["licence"], {}),
        "files": f"{len(sizes):,} files, {file_size(sum(sizes))}",
        "dataset": _dataset_link(recipe, facts),
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
        "directions": Markdown(_direction_rows(dict(directions)) or "| - | - | - | - | - | - | - |"),
        "strengths": f"{SHOWN_STRENGTHS[0]} to {SHOWN_STRENGTHS[-1]} sd",
        "remarks": Markdown("\n".join(["", *remarks, ""]) if remarks else ""),
    }
    return render_card("space_card.md", metadata, values)


def imported_remarks(recipe: Mapping[str, Any]) -> list[str]:
    """Return lines of a card about a weight space of another project's LoRAs."""
    lines, imported, published = [], recipe.get("imported"), recipe.get("as_published")
    if isinstance(imported, Mapping):
        source, license = code(str(imported.get("from"))), markdown(str(imported.get("license")))
        lines.append(f"- Its LoRAs were published by {source}: {license}.")
    if isinstance(published, Mapping):
        flipped = published.get("flipped")
        count = len(flipped) if isinstance(flipped, list) else 0
        lines.append(
            "- Mean, deviations and components are kept as they were published there, with the opposite sign in "
            f"{count:,} components; they were not fitted here, and `w2w rebuild` does not apply."
        )
        measured = published.get("measured")
        kind = measured.get("components_of", "standardized") if isinstance(measured, Mapping) else "standardized"
        if kind != "standardized":
            of = "the rows as they are" if kind == "as they are" else f"{kind or 'other'} rows"
            lines.append(f"- As measured, its components are of {markdown(of)}, not of the standardised ones.")
    return lines


def _direction_rows(directions: Mapping[str, Any]) -> str:
    """Return rows of a Markdown table; directions that say the same are one row."""
    distinct = synonyms(directions)
    shown = {name: f"{name} {synonyms_text(others)}".rstrip() for name, others in distinct.items()}
    return "\n".join(_direction_row(shown[name], directions[name]) for name in distinct)


def _direction_row(name: str, direction: Any) -> Markdown:
    figure = "-" if direction.score is None else direction.read_out.score.shown(direction.score)
    interval = "-" if direction.interval is None else f"{direction.interval[0]:.3f} to {direction.interval[1]:.3f}"
    judged = direction.picture_curve or direction.curve
    typical = "-" if direction.typical is None else f"{direction.typical:.1f}"
    return table_row(
        name, figure, interval, direction.held_out_rows, f"{direction.sd:.2f}", typical, _sparkline(judged)
    )  # fmt: skip


def _sparkline(curve: StrengthCurve | None) -> str:
    """Return the fractions that show the attribute after pushes of `SHOWN_STRENGTHS`, as a line of bars."""
    if curve is None:
        return "-"
    shown = [curve.at(strength)["shown"] for strength in SHOWN_STRENGTHS if strength <= curve.strengths[-1]]
    return "".join(BARS[round(fraction * (len(BARS) - 1))] for fraction in shown)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _small(value: float | None) -> str:
    return "not stated" if value is None else f"{value:.1e}"


def related_repositories(
    manifest: Mapping[str, Any], folder: Path, facts: HubFacts | None = None
) -> dict[str, list[str]]:
    """Return the card's metadata that the Hub makes links of: repositories of the base model and the dataset.

    The base model is named if the space refers to a repository and commit, or if the Hub is known to have it: the name
    that adapters state may be anything.
    """
    base = None if facts is None else facts.base_model
    if CONFIG in manifest["files"]:
        with contextlib.suppress(W2WError):
            stated = read_json_in(folder, CONFIG).get("base_model")
            base = base if stated == EMBEDDED else stated
    dataset = dataset_repository(manifest["recipe"], facts)
    named = {"base_model": base, "datasets": dataset and dataset[0]}
    return {key: [name] for key, name in named.items() if isinstance(name, str) and REPO.fullmatch(name)}


def dataset_repository(recipe: Mapping[str, Any], facts: HubFacts | None = None) -> tuple[str, str] | None:
    """Return the repository and revision of the dataset, as given to `push` or as it was opened for the build."""
    if facts is not None and facts.dataset is not None:
        return facts.dataset
    stated = recipe.get("dataset_revision")
    opened: Any = stated if isinstance(stated, Mapping) else {}  # of a manifest that nobody validated
    repo, revision = opened.get("repo"), opened.get("revision") or opened.get("commit")
    plain = all(isinstance(text, str) for text in (repo, revision)) and REPO.fullmatch(repo)
    return (repo, revision) if plain else None


def _dataset_link(recipe: Mapping[str, Any], facts: HubFacts | None) -> str:
    found = dataset_repository(recipe, facts)
    if found is None:
        return f"{recipe['dataset']} {recipe['dataset_version']}"
    repo, revision = found
    if facts is None or not REVISION.fullmatch(revision):
        return f"{repo} {revision}"
    return Markdown(f"[{repo} {revision}]({HUB}/datasets/{repo}/tree/{revision})")


def linked_dataset(card: str) -> tuple[str, str] | None:
    """Return the repository and revision of the dataset that a published card links; None if it links none."""
    found = re.search(rf"^\| dataset \| \[({REPO.pattern}) ({REVISION.pattern})\]\({HUB}/datasets/", card, re.M | re.A)
    return None if found is None else (found[1], found[2])


def pipeline_block(manifest: dict[str, Any], attributes: list[str], folder: Path) -> Markdown:
    """Return a card's example of generating pictures, and its previews; empty for a space without a base model."""
    files = manifest["files"]
    if CONFIG not in files:
        return Markdown("")
    import importlib.metadata

    stock = _stock_class(files, folder)
    row = text_to_image_row(stock)
    pipeline, settings = row.name, {}
    with contextlib.suppress(W2WError):
        settings = read_settings(read_json_in(folder, CONFIG), folder / CONFIG)
    used = f"  # with {shown_settings(settings)}, unless others are given" if settings else ""
    plain = ""
    if stock is not None:
        shown = shown_settings(settings)
        plain = f"""
```python
from diffusers import {row.stock}  # without w2w_hub

stock = {row.stock}.from_pretrained(".")  # this folder, or the name of its repository with a revision
stock.load_lora_weights("person-lora")
stock("sks person"{", " + shown if shown else ""}).images[0].save("person.png")
```
"""
    versions = []
    for package in ("torch", "diffusers", "transformers", "peft"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    edits = f"pipe.edit({{{python_string(attributes[0])}: 3.0}})  # standard deviations\n" if attributes else ""
    previews = sorted(f for f in files if f.startswith("previews/"))
    pictures = "".join(f"![{markdown(Path(f).stem)}]({quote(f, errors='replace')})\n\n" for f in previews)
    return Markdown(f"""{pictures}```bash
pip install -e '.[diffusers]'  # in a clone of w2w_hub, {__version__} or newer
```

```python
from w2w_hub import {pipeline}

pipe = {pipeline}.from_pretrained(".")  # this folder, or the name of its repository with a revision
pipe.sample_identity(seed=0)  # a new person; pipe.identity = None is the base model, exactly
{edits}pipe("sks person").images[0].save("person.png"){used}
pipe.export("person-lora")  # a LoRA for PEFT and diffusers
```
{plain}
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

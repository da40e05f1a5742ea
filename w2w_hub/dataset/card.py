"""Render the Hub card of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.text import Markdown, code, file_size, markdown, python_string, table_row
from ..errors import MissingPathError
from ..store.cards import (
    RENDERED,
    TAGS,
    is_rendered,
    join_card,
    read_card,
    render_card,
    size_category,
    split_card,
    with_facts,
)
from .credits import RowCredits, change_log, credit_rows
from .initialization import FILE as START_FILE
from .licenses import OTHER, RowLicenses, license_of, license_text
from .manifest import UNKNOWN, DatasetManifest
from .matrix.geometry import GROUP
from .splits import BY_ROWS

HUB = "https://huggingface.co"  # never another endpoint: a mirror's address is not everybody's


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


def _initialization(manifest: DatasetManifest, repo: str | None) -> str:
    """Return the name of the initialization and, where it is published, how to train rows that fit."""
    name = markdown(manifest.compatibility.initialisation)
    if repo is None or START_FILE not in manifest.files:
        return name
    start, offer = code(f"w2w init {repo} --out start"), code(f"w2w contribute {repo} ADAPTER")
    return Markdown(f"{name}; train adapters that fit with {start}, and offer them with {offer}")


def dataset_card(
    manifest: DatasetManifest, rows: RowLicenses | None = None, credits: RowCredits | None = None, *,
    title: str | None = None, repo: str | None = None,
) -> str:  # fmt: skip
    """Return a dataset's README.md, whose YAML lists the files of each split for stock `datasets`.

    Parameters
    ----------
    rows : mapping, optional
        Licenses of the rows, see :func:`w2w_hub.dataset.licenses.row_licenses`.
    credits : RowCredits, optional
        Contributors and sources of the rows.
    title : str, optional
        By default the manifest's name.
    repo : str, optional
        The repository on the Hub (``org/name``) in which it is published.
    """
    configs, view, rows = dataset_configs(manifest), manifest.view, rows or {}
    viewed = f"{view['dtype']}, {_rounding(view['max_error'])}" if view else "none"
    load = f"""
from datasets import load_dataset  # the same rows without w2w_hub{f": {viewed}" if len(configs) > 1 else ""}

"""
    name, title = python_string(manifest.name), title or manifest.name
    load += "".join(f"load_dataset({name}, {python_string(config['config_name'])})\n" for config in configs)
    rule, license = manifest.split_rule, license_of(manifest.licence, rows)
    metadata = {
        "pretty_name": title,
        "license": license,
        **({"license_name": "mixed"} if license == OTHER and manifest.licence == UNKNOWN else {}),
        "size_categories": [size_category(manifest.rows)],
        "tags": TAGS,
        "configs": configs,
    }
    sizes = {file: int(entry.get("size", 0)) for file, entry in manifest.files.items()}
    weights = sum(size for file, size in sizes.items() if file.startswith(f"{GROUP}/"))
    values: dict[str, Any] = {
        "title": title,
        "quoted_name": name,
        "version": manifest.version,
        "rows": f"{manifest.rows:,}",
        "size": f"{manifest.layout.size:,}",
        "dtype": manifest.dtype,
        "modules": len(manifest.layout.slots),
        "scale": f"{manifest.layout.scale:g}",
        "license": license_text(manifest.licence, rows),
        "files": f"{len(sizes):,} files, {file_size(sum(sizes.values()))}; of these the weights {file_size(weights)}",
        "digest": code(manifest.digest),
        "layout_digest": code(manifest.layout.digest),
        "base_model": manifest.compatibility.base_model or "not stated",
        "base_digest": code(manifest.compatibility.base_digest or "not stated"),
        "initialisation": _initialization(manifest, repo),
        "rounding": f"{manifest.dtype}, {_rounding(manifest.float16_max_error)}",
        "view": viewed,
        "split_rule": _split_text(rule),
        "splits": Markdown(", ".join(f"{markdown(split)} {rows:,}" for split, rows in manifest.splits.items())),
        "labels": _label_table(manifest),
        "spaces": Markdown("" if repo is None else f"| weight spaces | {_spaces_link(repo)} |\n"),
        "load": Markdown(load.rstrip()),
        "credits": credit_rows(credits or RowCredits()),
        "changes": change_log(manifest),
    }
    return render_card("dataset_card.md", metadata, values)


def _split_text(rule: Mapping[str, Any] | None) -> Markdown:
    """Return how the rows were split."""
    if not rule:
        return Markdown("as given")
    if rule["column"] == BY_ROWS:
        return Markdown(f"by rows, {rule['holdout']:g} of them held out")
    return Markdown(f"all rows of one {code(rule['column'])} on one side")


def _rounding(error: float | None) -> str:
    """Return in words how stored values differ from the given ones, at most by `error`."""
    return f"rounded by at most {error:.2g}" if error else "exactly as given"


def _label_table(manifest: DatasetManifest) -> Markdown:
    """Return a table of the label columns, without a unit or source if no column has one; empty without columns."""
    if not manifest.kinds:
        return Markdown("")
    infos = {column: manifest.column_info.get(column, {}) for column in manifest.kinds}
    more = [key for key in ("unit", "source") if any(info.get(key) for info in infos.values())]
    lines = [table_row("label", "kind", *more), table_row(*[Markdown("---")] * (2 + len(more)))]
    for column, kind in manifest.kinds.items():
        lines.append(table_row(code(column), kind.describe(), *(infos[column].get(key, "") for key in more)))
    return Markdown("\n".join(["", *lines, ""]))


def _spaces_link(repo: str) -> str:
    """Return a link to the weight spaces on the Hub whose cards name this dataset, as `push` makes them."""
    return f"[those on the Hub that name this dataset]({HUB}/models?dataset=dataset:{repo})"


def updated_card(
    folder: Path, manifest: DatasetManifest, rows: RowLicenses | None = None, credits: RowCredits | None = None, *,
    before: str | None = None,
) -> str:  # fmt: skip
    """Return the card of a new state: rendered again, or the text that somebody wrote with the facts that changed.

    Parameters
    ----------
    before : str, optional
        The card that :func:`dataset_card` renders for the present state, if the new one is made of it.
    """
    new = dataset_card(manifest, rows, credits)
    try:
        text = read_card(folder)
    except MissingPathError:
        return new
    data, body = split_card(text)
    if not data or is_rendered(text):
        return new
    (facts, after), (old, then) = split_card(new), split_card(before or new)
    data.pop(RENDERED, None)
    changed = {key: facts[key] for key in ("license", "license_name") if key in facts and facts[key] != old.get(key)}
    always = {key: facts[key] for key in ("configs", "size_categories")}
    return join_card(data | changed | always, with_facts(body, then, after))

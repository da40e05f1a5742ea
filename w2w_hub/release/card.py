"""Render the card of a published version: metadata that the Hub accepts, and the body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..common.text import python_string
from ..dataset.card import dataset_card
from ..dataset.credits import read_row_credits
from ..dataset.licenses import read_row_licenses
from ..space.card import HubFacts, space_card
from ..store.cards import RENDERED, is_rendered, join_card, mark_rendered, read_card, split_card
from ..store.manifest import CARD, kind_of
from ..store.paths import find_file

# https://huggingface.co/docs/hub/repositories-licenses; newer ones are published as `other` with their name
HUB_LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
    pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
    """.split()  # noqa: SIM905, it is read as a list of words
)
# keys that the Hub or `datasets` act on; other keys of a hand-written card stay
OWN_KEYS = ("license", "license_name", "size_categories", "configs", "base_model", "datasets")


def license_keys(name: str) -> dict[str, str]:
    """Return the metadata key `license`, and `license_name` for a license that the Hub has no name for."""
    if name.lower() in HUB_LICENSES - {"other"}:
        return {"license": name.lower()}
    return {"license": "other", "license_name": re.sub(r"[^\w.+-]+", "-", name).strip("-").lower() or "other"}


def with_metadata(text: str, required: Mapping[str, Any]) -> str:
    """Return a card with this metadata, which replaces keys that the Hub reads and keeps others."""
    data, body = split_card(text)
    for key, value in required.items():
        there = data.get(key)
        if key == "tags":
            data[key] = list(dict.fromkeys([*(there if isinstance(there, list) else ()), *value]))
        elif key in OWN_KEYS or there is None:
            data[key] = value
    if "license_name" not in required:
        data.pop("license_name", None)
    data.pop(RENDERED, None)
    return join_card(data, body)


def published_card(folder: Path, manifest: Mapping[str, Any], facts: HubFacts, *, own: str | None = None) -> str:
    """Return the card of a version: rendered for `manifest`, or with the folder's hand-written text.

    Parameters
    ----------
    own : str, optional
        A hand-written card from elsewhere.
    """
    if own is None and is_written(folder):
        own = read_card(folder)
    metadata, body = split_card(_render(folder, manifest, facts))
    if "license_name" not in metadata:
        metadata |= license_keys(metadata["license"])
    if own is None:
        return mark_rendered(metadata, _as_published(body, manifest, facts.repo))
    data, text = split_card(own)
    return with_metadata(join_card(data, _as_published(text, manifest, facts.repo)), metadata)


def is_written(folder: Path) -> bool:
    """Return whether a folder's card is hand-written, so not as this package rendered it."""
    return (folder / CARD).is_file() and not is_rendered(read_card(folder))


def rendered_body(folder: Path, manifest: Mapping[str, Any], facts: HubFacts) -> str:
    """Return the body of a version's rendered card as `push` publishes it."""
    return _as_published(split_card(_render(folder, manifest, facts))[1], manifest, facts.repo)


def title_of(folder: Path, manifest: Mapping[str, Any], repo: str) -> str:
    """Return a published version's title: its own name, or the repository's if it is only named after its folder."""
    name = str(manifest["name"])
    return repo.partition("/")[2] if name == folder.absolute().name else name


def _as_published(body: str, manifest: Mapping[str, Any], repo: str) -> str:
    """Return a body whose examples open the published version instead of the local folder."""
    where = python_string(repo), f"revision={python_string('v' + str(manifest['version']))}"
    name = re.escape(python_string(str(manifest["name"])))
    body = re.sub(
        rf'\b(open|load_dataset)\({name}((?:, "\w+")?)\)(  # a folder: )?',
        lambda m: f"{m[1]}({where[0]}{m[2]}, {where[1]})" + ("  # " if m[3] else ""),
        body,
    )
    return re.sub(
        r'from_pretrained\("\."\)(  # this folder[^\n]*)?', lambda _: f"from_pretrained({where[0]}, {where[1]})", body
    )


def _render(folder: Path, manifest: Mapping[str, Any], facts: HubFacts) -> str:
    from ..dataset.manifest import DatasetManifest
    from ..space.storage import load_directions

    if kind_of(manifest) == "dataset":
        typed = replace(DatasetManifest.read(folder), version=str(manifest["version"]))
        find = partial(find_file, folder)
        rows, credits = read_row_licenses(find, typed), read_row_credits(find, typed)
        return dataset_card(typed, rows, credits, title=facts.title, repo=facts.repo)
    return space_card(dict(manifest), list(load_directions(folder).items()), folder, facts)

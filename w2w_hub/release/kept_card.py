"""What a push keeps of the card of the last version: the dataset that it links, and edits that were made on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..common.limits import MAX_CARD_BYTES
from ..common.warn import warn_caller
from ..dataset.credits import with_change_log
from ..dataset.manifest import DatasetManifest
from ..dialects.base_model import CONFIG, MODEL_INDEX
from ..errors import HubNotFoundError
from ..space.card import HubFacts, dataset_repository, linked_dataset
from ..store.cards import is_rendered, with_facts
from ..store.hub.source import Source, download
from ..store.manifest import CARD, kind_of
from ..store.paths import read_file
from .card import is_written, rendered_body


def kept_link(published: Source, was: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the dataset that the last version's card links, if a weight space is of the same one and names none.

    Parameters
    ----------
    published : Source
        The last version.
    was, manifest : mapping
        The manifests of the last version and of the new one.

    Returns
    -------
    (str, str) or None
        Repository and revision.
    """
    if kind_of(manifest) == "dataset" or dataset_repository(manifest["recipe"]):
        return None
    if was.get("recipe", {}).get("dataset_digest") != manifest["recipe"]["dataset_digest"]:
        return None
    with suppress(HubNotFoundError):
        return linked_dataset(_card_of(published))
    return None


def kept_card(published: Source, repo: str, folder: Path, manifest: Mapping[str, Any], facts: HubFacts) -> str | None:
    """Return the last version's card with the facts of the new one, if it was edited on the Hub; else None.

    A hand-written card in the folder replaces it, with a warning.
    """
    theirs = _card_of(published)
    if is_rendered(theirs):
        return None
    if is_written(folder):
        warn_caller(
            f"{repo}: README.md was edited on the Hub; the folder's replaces it, and the Hub's history keeps the edit"
        )
        return None
    published.need(
        name for name in published.files if name.startswith(("directions.", "labels/")) or name in (CONFIG, MODEL_INDEX)
    )
    before = rendered_body(published.folder, published.manifest(), facts)
    text = with_facts(theirs, before, rendered_body(folder, manifest, facts))
    if kind_of(manifest) == "dataset":
        text = with_change_log(text, DatasetManifest.from_json(dict(manifest), folder))
    return text


def _card_of(published: Source) -> str:
    assert published.revision is not None
    download(published.revision, CARD, published)
    return read_file(published.folder, CARD, MAX_CARD_BYTES).decode("utf-8", errors="replace")

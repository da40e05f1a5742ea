"""Find on the Hub what a published card links: the dataset and base model of a weight space."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import HubAccessError, HubError, HubNotFoundError, InvalidInputError
from ..space.card import HubFacts, dataset_repository
from ..store.hub.cache import REPO
from ..store.hub.client import call
from ..store.hub.locate import locate, split_lock
from ..store.hub.pins import is_lock, read_lock
from ..store.manifest import kind_of
from .card import title_of
from .remote import Remote


def hub_facts(
    folder: Path, manifest: Mapping[str, Any], repo: str, dataset: Path | str | None, remote: Remote
) -> HubFacts:
    """Return what the card of a version says that only the Hub knows.

    Parameters
    ----------
    dataset : path or str, optional
        Where the user says that the space's dataset is, see :func:`w2w_hub.release.push`.

    Raises
    ------
    InvalidInputError
        If a dataset is named for a dataset, or another one than the space was built from.
    """
    title = title_of(folder, manifest, repo)
    if kind_of(manifest) == "dataset":
        if dataset is not None:
            raise InvalidInputError("dataset= is the dataset that a weight space was built from", name="dataset")
        return HubFacts(repo, title)
    found = _dataset_at(dataset, manifest, remote) if dataset is not None else _dataset_beside(repo, manifest, remote)
    return HubFacts(repo, title, found, _base_model(manifest, remote))


def _dataset_at(place: Path | str, manifest: Mapping[str, Any], remote: Remote) -> tuple[str, str]:
    """Return the repository and revision of the dataset at a place, which the space must have been built from."""
    wanted, lock = manifest["recipe"]["dataset_digest"], Path(split_lock(str(place))[0])
    if is_lock(lock):
        pins = [pin for pin in read_lock(lock).pins if pin.kind == "dataset" and pin.digest == wanted]
        if pins:
            return pins[0].repo, pins[0].revision
        raise InvalidInputError(
            f"{lock} pins no dataset of digest {wanted[:12]}, from which the weight space was built; pin it: "
            f"w2w pin org/name@version -o {lock}",
            path=lock,
            name="dataset",
        )
    source = locate(place, "dataset", options=remote.options)
    if source.revision is None:
        raise InvalidInputError(
            f"{place} is a folder, which a card cannot link; publish it, then name it as org/name@version",
            name="dataset",
        )
    found = source.manifest()["digest"]
    if found != wanted:
        raise InvalidInputError(
            f"{place} has digest {found[:12]}, the weight space was built from {wanted[:12]}; name the version that it "
            f"was built from, see: w2w log {source.revision.repo}",
            name="dataset",
        )
    revision = source.revision
    return revision.renamed or revision.repo, revision.commit if revision.asked == "main" else revision.asked


def _dataset_beside(repo: str, manifest: Mapping[str, Any], remote: Remote) -> tuple[str, str] | None:
    """Return the public dataset of the same owner and the recipe's name, if it is the one the space was built from."""
    recipe = manifest["recipe"]
    name = f"{repo.partition('/')[0]}/{recipe.get('dataset')}"
    if dataset_repository(recipe) is not None or not REPO.fullmatch(name):
        return None
    with suppress(HubError, ValueError):
        info: Any = call(name, remote.client.repo_info, name, repo_type="dataset")
        head = None if info.private else Remote(name, "dataset", remote.options.token).head()
        # a card does not name what its readers cannot see
        if head is not None and head.manifest and head.manifest["digest"] == recipe["dataset_digest"]:
            tags = [tag for tag, commit in head.tags.items() if commit == head.commit]
            return name, next(iter(tags), str(head.commit))
    return None


def _base_model(manifest: Mapping[str, Any], remote: Remote) -> str | None:
    """Return the name that the adapters state for their base model, if the Hub has a model of that name."""
    name = manifest["compatibility"].get("base_model")
    if not isinstance(name, str) or not REPO.fullmatch(name):
        return None
    try:
        call(name, remote.client.repo_info, name, repo_type="model")
    except (HubNotFoundError, HubAccessError):
        return None
    return name

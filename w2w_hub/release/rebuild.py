"""Build a pinned weight space again from its dataset, and compare the two."""

from __future__ import annotations

from typing import Any

from ..errors import CorruptFileError, HubNotFoundError
from ..store.hub.cache import REPO, SHA
from ..store.hub.options import HubOptions
from ..store.hub.pins import Lock, Pin
from ..store.hub.resolve import open_pin, open_repository


def rebuild_pin(lock: Lock, pin: Pin, options: HubOptions) -> tuple[str, list[str]]:
    """Build a pinned weight space again, compare the components, and return the result and notes.

    The dataset is the pinned one with the recipe's digest, or else the repository and commit in the recipe.

    Raises
    ------
    HubNotFoundError
        If the dataset is neither pinned nor recorded.
    CorruptFileError
        If the two differ by more than the bound between two engines.
    """
    from ..dataset.weight_dataset import open_located
    from ..space import WeightSpace
    from ..space.fit.rebuild import ANGLE_BOUND, compare_spaces, rebuild

    wanted, recorded = pin.recipe.get("dataset_digest"), pin.recipe.get("dataset_revision")
    pinned = next((p for p in lock.pins if p.kind == "dataset" and p.digest == wanted), None)
    if pinned is not None:
        source = open_pin(pinned, options)
    elif isinstance(recorded, dict) and _is_commit(recorded):
        source = open_repository(recorded["repo"], "dataset", recorded["commit"], options)
    else:
        raise HubNotFoundError(
            f"{pin.name} was built from {pin.recipe.get('dataset')} ({str(wanted)[:12]}), which the lock does not pin; "
            "add it with: w2w pin",
            what="repository",
            repo_id=pin.repo,
        )
    source.need(n for n in source.files if not n.startswith("parquet/"))
    dataset = open_located(source, lazy=False)
    published_source = open_pin(pin, options)
    published = WeightSpace.from_pretrained(published_source.need(published_source.files))
    found = compare_spaces(published, rebuild(published, dataset))
    if found.identical:
        return f"k {published.k}: the same bytes", []
    measured = (
        f"singular values within {found.singular_value_error:.1e}, {found.separated} separated components within an "
        f"angle of {found.angle:.1e}"
    )
    if not found.within_bound:
        raise CorruptFileError(
            f"{pin.name}: the rebuilt space differs: {measured}; the largest allowed angle is {ANGLE_BOUND:g}",
            repo_id=pin.repo,
            revision=pin.commit,
        )
    return f"k {published.k}: {measured}", []


def _is_commit(recorded: dict[str, Any]) -> bool:
    """Return whether a recipe records a repository and a commit of its dataset."""
    repo, commit = recorded.get("repo"), recorded.get("commit")
    return isinstance(repo, str) and bool(REPO.fullmatch(repo)) and bool(SHA.fullmatch(str(commit)))

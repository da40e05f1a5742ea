"""Compare two versions of a dataset or weight space, and find the level of increment that the changes require."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import checked, place
from ..common.display import Displayed
from ..common.text import counted, few
from ..dialects.base_model import CONFIG, MODEL_INDEX
from ..dialects.generation import KEY as GENERATION
from ..errors import CorruptFileError, HubNotFoundError, MissingPathError
from ..space.encoder.encoder import FILE as ENCODER
from ..space.population_model.storage import FILES as MODEL_FILES
from ..store.hub.client import Token
from ..store.hub.locate import locate_either
from ..store.hub.options import HubOptions
from ..store.hub.semver import Change, compare_common, compare_files, highest_level
from ..store.hub.source import Source
from ..store.manifest import kind_of, read_json_in

OWN_FOLDERS = ("coefficients/", "previews/")  # of a weight space; its other folders hold an embedded base model

if TYPE_CHECKING:
    from ..dataset import WeightDataset
    from ..dataset.compare import Difference as RowDifference


@dataclass(frozen=True, repr=False)
class VersionDifference(Displayed):
    """The changes between two versions of a dataset or weight space.

    Attributes
    ----------
    kind : {"dataset", "space"}
    old, new : dict
        ``version``, ``digest`` and, from the Hub, ``repo`` and ``commit``.
    level : {"none", "patch", "minor", "major"}
        The smallest increment that the version rules allow.
    changes : tuple of Change
    rows : w2w_hub.dataset.compare.Difference or None
        The rows, labels and facts that differ; None for weight spaces.
    """

    kind: str
    old: dict[str, Any]
    new: dict[str, Any]
    level: str
    changes: tuple[Change, ...]
    rows: RowDifference | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "old": self.old, "new": self.new, "level": self.level,
            "changes": [{"level": c.level, "text": c.text} for c in self.changes],
            **({} if self.rows is None else vars(self.rows)),
        }  # fmt: skip


@checked(old=place(), new=place())
def diff(
    old: str | Path, new: str | Path, *, token: Token = None, cache_dir: Path | str | None = None
) -> VersionDifference:
    """Compare two versions of a dataset or weight space (`w2w diff`); only manifests, labels and settings are fetched.

    Parameters
    ----------
    old, new : path or str
        ``org/name@revision`` or a folder.

    Raises
    ------
    InvalidInputError
        If a name belongs to a dataset and a weight space.
    MissingPathError, HubNotFoundError, HubError

    Examples
    --------
    >>> diff("org/people@v1.0.0", "org/people@v1.1.0").rows.added   # doctest: +SKIP
    """
    options = HubOptions(token, cache_dir)
    first = locate_either(old, options=options)
    kind = kind_of(first.manifest())
    second = locate_either(new, kind=kind, options=options)
    changes, rows = compare(first, second)
    return VersionDifference(kind, _facts(first), _facts(second), highest_level(changes), tuple(changes), rows)


def _facts(source: Source) -> dict[str, Any]:
    manifest = source.manifest()
    facts = {"version": manifest.get("version"), "digest": manifest.get("digest")}
    return facts | (source.revision.to_json() if source.revision else {})


def compare(old: Source, new: Source) -> tuple[list[Change], RowDifference | None]:
    """Return all differences between two versions, and the rows that differ if they are datasets."""
    was, now = old.manifest(), new.manifest()
    changes = compare_common(was, now)
    rows = None
    if was["format"] == now["format"]:
        if kind_of(was) == "dataset":
            from ..dataset.compare import diff as diff_rows

            rows = diff_rows(*(_dataset(source) for source in (old, new)))
            found = _compare_rows(rows, was, now)
        else:
            found = _compare_spaces(old, new)
        changes += found or compare_files(was, now)
    return changes, rows


def _dataset(source: Source) -> WeightDataset:
    from ..dataset.opening import open_source
    from ..dataset.weight_dataset import WeightDataset

    return WeightDataset(*open_source(source, lazy=True, guarded=False))  # rows are compared by their digests


def _compare_rows(rows: RowDifference, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    changes = []
    if was["dtype"] != now["dtype"]:
        changes.append(Change("major", f"stored as {now['dtype']}, was {was['dtype']}"))
    for name, (before, after) in rows.columns.items():
        if before is None:
            changes.append(Change("minor", f"new attribute {name} ({after})"))
        elif after is None:
            changes.append(Change("major", f"attribute {name} was removed"))
        else:
            changes.append(Change("major", f"attribute {name} is {after}, was {before}"))
    moved = [name for name, columns in rows.relabelled.items() if "split" in columns]
    relabelled = [name for name, columns in rows.relabelled.items() if set(columns) - {"split"} - set(rows.columns)]
    for ids, level, text in (
        (rows.removed, "major", ("row was removed", "rows were removed")),
        (rows.changed, "major", ("row has other weights", "rows have other weights")),
        (moved, "major", ("row is in another split", "rows are in another split")),
        (rows.added, "minor", ("row was added", "rows were added")),
        (relabelled, "minor", ("row was relabeled", "rows were relabeled")),
    ):
        if ids:
            changes.append(Change(level, f"{counted(len(ids), *text)} ({few(ids, 3)})"))
    return changes


def _compare_spaces(old: Source, new: Source) -> list[Change]:
    was, now = old.manifest(), new.manifest()
    changes = []
    if was["digest"] != now["digest"]:
        why = "another dataset" if _fitted(was) != _fitted(now) else "another computation"
        text = f"another basis: k {was['k']} -> {now['k']}, from {why}; saved points do not fit it"
        changes.append(Change("major", text))
    gone = sorted(set(was["directions"]) - set(now["directions"]))
    more = sorted(set(now["directions"]) - set(was["directions"]))
    if gone:
        changes.append(
            Change("major", f"{counted(len(gone), 'direction was', 'directions were')} removed: {few(gone)}")
        )
    if more:
        changes.append(Change("minor", f"{counted(len(more), 'direction was', 'directions were')} added: {few(more)}"))
    differing = {n for n in {**was["files"], **now["files"]} if was["files"].get(n) != now["files"].get(n)}
    if not (gone or more) and any(name.startswith("directions.") for name in differing):
        changes.append(Change("minor", "directions were estimated again"))
    modeled = [MODEL_FILES[1] in manifest["files"] for manifest in (was, now)]
    if modeled[0] != modeled[1]:
        lost = Change("major", "the population model was removed: no attribute can be set")
        changes.append(lost if modeled[0] else Change("minor", "a population model was added"))
    elif any(name in differing for name in MODEL_FILES) and was["digest"] == now["digest"]:
        changes.append(Change("minor", "the population model was estimated again"))
    had, has = (bool(manifest.get("population", True)) for manifest in (was, now))
    if had != has:
        lost = Change("major", "the population was removed: no rows, no neighbors")
        changes.append(lost if had else Change("minor", "the population was added"))
    elif any(name.startswith("coefficients/") for name in differing) and was["digest"] == now["digest"]:
        changes.append(Change("minor", "coefficients of other rows"))
    if ENCODER in was["files"] and ENCODER not in now["files"]:
        changes.append(Change("major", "the encoder was removed"))
    elif ENCODER in differing:
        changes.append(Change("minor", f"an encoder was {'fitted again' if ENCODER in was['files'] else 'added'}"))
    base = {n for n in differing if n in (CONFIG, MODEL_INDEX) or ("/" in n and not n.startswith(OWN_FOLDERS))}
    if CONFIG in base and _has_same_base(old, new):
        base.remove(CONFIG)
        changes.append(Change("minor", "other generation settings"))
    if CONFIG in base or any(not name.endswith((".json", ".txt")) for name in base):
        changes.append(Change("major", "the base model or its repository changed"))
    elif base:  # each release of diffusers writes its version there
        changes.append(Change("minor", f"settings of the base model: {', '.join(sorted(base)[:3])}"))
    return changes


def _has_same_base(old: Source, new: Source) -> bool:
    """Return whether two weight spaces name the same base model, whatever the settings to generate with."""
    stated = []
    for source in (old, new):
        try:
            config = read_json_in(source.need([CONFIG]), CONFIG)
        except (MissingPathError, CorruptFileError, HubNotFoundError):  # one has none
            return False
        stated.append({name: value for name, value in config.items() if name != GENERATION})
    return stated[0] == stated[1]


def _fitted(manifest: Mapping[str, Any]) -> Any:
    return manifest.get("recipe", {}).get("dataset_digest")


__all__ = ["VersionDifference", "compare", "diff"]

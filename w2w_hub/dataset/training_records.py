"""Records of how rows were trained, in a dataset's manifest: recipe, engine, and who shared a batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import InvalidInputError
from ..store.paths import short

Records = Sequence[Mapping[str, Any]]


def require_records(records: Records) -> None:
    """Raise unless records of training have the form of FORMAT.md.

    Raises
    ------
    InvalidInputError
    """
    for record in records:
        batches = record.get("batches") if isinstance(record, Mapping) else None
        if not isinstance(batches, list):
            raise InvalidInputError(f"training has {short(record)}, which is not an object with batches")
        for batch in batches:
            together, ids = (batch.get("together"), batch.get("ids")) if isinstance(batch, Mapping) else (None, None)
            whole = isinstance(together, int) and not isinstance(together, bool) and together > 0
            if not whole or not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
                raise InvalidInputError(f"training has the batch {short(batch)}, expected its size and ids")


def trigger_phrase(records: Records, ids: Collection[str]) -> str | None:
    """Return the prompt that all of these rows were trained with; None if they differ, or one is not recorded."""
    found, missing = set(), set(ids)
    for record in records:
        mine = {name for batch in record["batches"] for name in batch["ids"]} & missing
        recipe = record.get("recipe")
        if mine:
            found.add(recipe.get("prompt") if isinstance(recipe, Mapping) else None)
            missing -= mine
    phrase = found.pop() if len(found) == 1 and not missing else None
    return phrase if isinstance(phrase, str) and phrase.strip() else None


def kept_records(records: Records, ids: Collection[str]) -> list[dict[str, Any]]:
    """Return the records of rows that are still there."""
    there, kept = set(ids), []
    for record in records:
        batches = [dict(b, ids=[name for name in b["ids"] if name in there]) for b in record["batches"]]
        batches = [batch for batch in batches if batch["ids"]]
        if batches:
            kept.append(dict(record, batches=batches))
    return kept

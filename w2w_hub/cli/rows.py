"""Identities that are named on the command line: rows' points, or with ``--dataset`` the rows' own LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..common.display import percent
from .output import say

if TYPE_CHECKING:
    from ..space import WeightSpace
    from ..space.identity import Identity

F = TypeVar("F", bound=Callable[..., Any])


def people_option(function: F) -> F:
    """Add the option ``--dataset``, see :func:`find_identities`."""
    return click.option(
        "--dataset", "people", type=click.Path(path_type=Path), metavar="PEOPLE",
        help="A row's id means the row's own LoRA in this dataset, not its point in SPACE.",
    )(function)  # fmt: skip


def find_identities(space: WeightSpace, names: Iterable[str], people: Path | None) -> list[Identity]:
    """Return the identities of names, each as :func:`w2w_hub.space.identity.resolve` does.

    Parameters
    ----------
    people : path or None
        The dataset in which a row's id means the row's own LoRA.
    """
    from ..dataset import WeightDataset
    from ..space.identity import resolve

    opened = None if people is None else WeightDataset.open(people)
    return [resolve(space, name, opened) for name in names]


def find_identity(space: WeightSpace, name: str, people: Path | None) -> Identity:
    """Return the identity of one name, see :func:`find_identities`."""
    return find_identities(space, [name], people)[0]


def captions(names: Sequence[str], identities: Sequence[Identity | None]) -> list[str]:
    """Return the captions of identities on a sheet; of a row, with whether it is its point or its own LoRA."""
    found = []
    for name, identity in zip(names, identities, strict=True):
        is_row = identity is not None and identity.point.history.get("row") == name
        which = "" if not is_row else " (own LoRA)" if identity is not None and identity.exact else " (its point)"
        found.append(f"{name if is_row else Path(name).stem}{which}")
    return found


def say_which(names: Sequence[str], identities: Sequence[Identity]) -> None:
    """Say for rows whether their points or their own LoRAs are meant, in one line each."""
    rows = [i for name, i in zip(names, identities, strict=True) if i.point.history.get("row") == name]
    if len(rows) == 1:
        say(rows[0].note + _advice(rows))
    elif rows:
        known = [identity.explained_ratio for identity in rows]
        kept = [ratio for ratio in known if ratio is not None]
        share = "" if not kept else percent(min(kept))
        if share and share != percent(max(kept)):
            share = f"{share} to {percent(max(kept))}"
        if rows[0].exact:
            inside = f", {share} of the variance of each in the weight space" if share else ""
            say(f"{len(rows)} rows: their own LoRAs{inside}")
        else:
            inside = f", {share} of their weights' variance kept" if share else ""
            say(f"{len(rows)} rows: their points in the weight space{inside}{_advice(rows)}")


def _advice(rows: Sequence[Identity]) -> str:
    whose = "its own LoRA" if len(rows) == 1 else "their own LoRAs"
    return "" if rows[0].exact else f"; for {whose} add: --dataset PEOPLE"

"""Split rows by groups: all rows of one person, say, on one side, since random splits leak."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInputError, UnknownNameError
from .labels import DEFAULT_SPLIT, require_split_name
from .problems import Problems

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SplitRule:
    """Hold out whole groups of rows.

    Groups that a split has already stay in it, so that a dataset grows without a leak. The others are held out in
    the order of a hash of seed and group, as long as that brings the held-out share nearer to `holdout`: the result
    depends on neither the order of rows nor the machine.

    Attributes
    ----------
    column : str
        The label that names a row's group; every row needs one.
    holdout : float
        Share of the rows to hold out.
    split : str
        The name of the split they go to; all others go to ``train``.
    """

    column: str
    holdout: float = 0.1
    seed: int = 0
    split: str = "test"

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise InvalidInputError(f"holdout must be between 0 and 1, not {self.holdout}")
        if self.split == DEFAULT_SPLIT:
            raise InvalidInputError(f"rows cannot be held out from {DEFAULT_SPLIT!r} into itself; name another split")
        require_split_name(self.split)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def apply(self, table: pd.DataFrame, *, placed: Any = None, problems: Problems | None = None) -> pd.DataFrame:
        """The table with its ``split`` column made by this rule.

        Parameters
        ----------
        placed : array of bool, optional
            Rows whose split stands, with all of their groups.
        """
        import numpy as np

        found = Problems() if problems is None else problems
        if self.column not in table.columns:
            raise UnknownNameError(
                f"no column {self.column!r} to split by; there are {', '.join(map(str, table.columns))}"
            )
        groups = table[self.column].astype("string")
        open_rows = np.flatnonzero(groups.isna().to_numpy())
        if len(open_rows):
            found.add(
                InvalidInputError(
                    f"{len(open_rows)} rows have no {self.column!r}, the first is {table['id'].iloc[open_rows[0]]!r}; "
                    "without it nobody knows on which side they belong: label them, or give each row its split"
                )
            )
            if problems is None:
                found.settle()
            return table
        names = groups.to_numpy(str)
        standing = np.zeros(len(table), bool) if placed is None else np.asarray(placed, bool)
        side: dict[str, str] = {}
        for name, split in zip(names[standing], table["split"].to_numpy(str)[standing], strict=True):
            if side.setdefault(name, split) != split:
                found.add(InvalidInputError(f"{self.column} {name!r} has rows in {side[name]!r} and in {split!r}"))
        sizes = dict(zip(*(a.tolist() for a in np.unique(names, return_counts=True)), strict=True))
        held = sum(sizes[name] for name, split in side.items() if split == self.split)
        wanted = self.holdout * len(table)
        for name in sorted((n for n in sizes if n not in side), key=self._order):
            nearer = abs(held + sizes[name] - wanted) < abs(held - wanted)
            side[name] = self.split if nearer else DEFAULT_SPLIT
            held += sizes[name] if nearer else 0
        result = table.copy()
        result["split"] = table["split"].where(standing, [side[name] for name in names]).astype("string")
        if problems is None:
            found.settle()
        return result

    def _order(self, name: str) -> bytes:
        return hashlib.sha256(f"w2w-split-v1\n{self.seed}\n{name}".encode()).digest()

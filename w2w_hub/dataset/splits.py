"""Split rows by groups: all rows of one person, say, on one side, since random splits leak.

A dataset's rule holds for every state: :func:`placed_by_rule` puts new rows where their groups are or refuses them, and
:func:`kept_rule`, which every next state passes through, drops a rule that labels have broken.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..common.checks import is_whole
from ..errors import CorruptFileError, InvalidInputError, UnknownNameError
from .labels.names import DEFAULT_SPLIT, require_split_name
from .problems import Problems

if TYPE_CHECKING:
    import pandas as pd

NO_GROUPS = ("split", "row", "row_sha256")  # columns that cannot name a group


class SplitRuleWarning(UserWarning):
    """A dataset's split rule was dropped, since its labels no longer follow it."""


@dataclass(frozen=True)
class SplitRule:
    """Hold out whole groups of rows.

    Groups that a split has already stay in it, so that a dataset grows without a leak. The others are held out in
    the order of a hash of seed and group, as long as that brings the held-out fraction nearer to `holdout`: the result
    depends on neither the order of rows nor the machine.

    A dataset keeps its rule through every change. Rows that are added without a split of their own follow it; one that
    states another split than its group has is refused. Labels that move a row to another split, or put one group on
    two sides, end the rule with a warning.

    Attributes
    ----------
    column : str
        The label that names a row's group; every row needs one.
    holdout : float
        Fraction of the rows to hold out.
    split : str
        The name of the split they go to; all others go to ``train``.
    """

    column: str
    holdout: float = 0.1
    seed: int = 0
    split: str = "test"

    def __post_init__(self) -> None:
        if not isinstance(self.column, str) or self.column in NO_GROUPS:
            raise InvalidInputError(f"rows are split by a column that names their group, not by {self.column!r}")
        if not isinstance(self.holdout, Real) or isinstance(self.holdout, bool) or not 0 < self.holdout < 1:
            raise InvalidInputError(f"holdout must be between 0 and 1, not {self.holdout!r}")
        if not is_whole(self.seed):
            raise InvalidInputError(f"seed must be a whole number, not {self.seed!r}")
        require_split_name(self.split)
        if self.split.lower() == DEFAULT_SPLIT:
            raise InvalidInputError(f"rows cannot be held out from {DEFAULT_SPLIT!r} into itself; name another split")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SplitRule:
        """Return the rule that a manifest states; unknown fields are ignored."""
        if not isinstance(data, Mapping):
            raise CorruptFileError("split_rule in the manifest is not an object of fields")
        try:
            return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})
        except (TypeError, InvalidInputError) as error:
            raise CorruptFileError(f"split_rule in the manifest cannot be followed: {error}") from error

    def apply(
        self, table: pd.DataFrame, *, placed: Sequence[bool] | None = None, problems: Problems | None = None
    ) -> pd.DataFrame:
        """Return the table with its ``split`` column made by this rule.

        Parameters
        ----------
        placed : sequence of bool, optional
            Rows whose split is fixed, and with it that of their groups.
        problems : Problems, optional
            Collects rows without a group and groups in two splits, which are raised here without it.
        """
        import pandas as pd

        found = Problems() if problems is None else problems
        groups = self._groups(table)
        without = table["id"][groups.isna().to_numpy(bool)]
        if len(without):
            found.add(
                InvalidInputError(
                    f"{len(without)} rows have no {self.column!r}, the first is {without.iloc[0]!r}; "
                    "label them, since the split keeps all rows of a group on one side"
                )
            )
            if problems is None:
                found.raise_if_any()
            return table
        names, ids, splits = groups.tolist(), table["id"].tolist(), table["split"].tolist()
        standing = [False] * len(table) if placed is None else list(placed)
        side: dict[str, str] = {}
        for name, split, row, stands in zip(names, splits, ids, standing, strict=True):
            if stands and side.setdefault(name, split) != split:
                found.add(
                    InvalidInputError(
                        f"row {row!r} is for split {split!r}, but {self.column} {name!r} is in {side[name]!r}, and all "
                        "of its rows must be in one: leave the row's split out, or state one for all of them"
                    )
                )
        sizes = Counter(names)
        held = sum(sizes[name] for name, split in side.items() if split == self.split)
        wanted = self.holdout * len(table)
        for name in sorted((n for n in sizes if n not in side), key=self._order):
            nearer = abs(held + sizes[name] - wanted) < abs(held - wanted)
            side[name] = self.split if nearer else DEFAULT_SPLIT
            held += sizes[name] if nearer else 0
        result = table.copy()
        result["split"] = pd.Series([side[name] for name in names], table.index, dtype="string")
        if problems is None:
            found.raise_if_any()
        return result

    def broken_by(self, table: pd.DataFrame) -> str | None:
        """Return how a table of labels breaks this rule; None if it holds."""
        if self.column not in table.columns:
            return f"there is no column {self.column!r} any more"
        groups = self._groups(table)
        if groups.isna().any():
            return f"row {table['id'][groups.isna()].iloc[0]!r} has no {self.column!r}"
        side: dict[str, str] = {}
        for name, split in zip(groups.tolist(), table["split"].tolist(), strict=True):
            if side.setdefault(name, split) != split:
                return f"{self.column} {name!r} is in {side[name]!r} and in {split!r}"
        return None

    def _groups(self, table: pd.DataFrame) -> pd.Series:
        if self.column not in table.columns:
            known = ", ".join(map(str, table.columns))
            raise UnknownNameError(f"no column {self.column!r} to split by; there are {known}")
        return group_names(table[self.column])

    def _order(self, name: str) -> bytes:
        return hashlib.sha256(f"w2w-split-v1\n{self.seed}\n{name}".encode()).digest()


def group_names(column: pd.Series) -> pd.Series:
    """Return each row's group as text, equal for equal values: -0.0 is 0.0."""
    import pandas as pd

    return (column + 0.0 if pd.api.types.is_float_dtype(column.dtype) else column).astype("string")


def require_rule(rule: Any) -> None:
    """Raise `InvalidInputError` unless it is a rule, or None."""
    if rule is not None and not isinstance(rule, SplitRule):
        raise InvalidInputError(f"split_rule is a SplitRule, for instance SplitRule('person'), not {rule!r}")


def states_splits(labels: pd.DataFrame) -> bool:
    """Return whether a table of labels states splits other than ``train``."""
    return bool((labels["split"].dropna() != DEFAULT_SPLIT).any())


def placed_by_rule(rule: SplitRule, table: pd.DataFrame, old_rows: int, problems: Problems) -> pd.DataFrame:
    """Return labels in which rows without a split follow a dataset's rule; contradictions are added to `problems`.

    Parameters
    ----------
    old_rows : int
        Number of present rows, which come first. If they break the rule themselves, as versions up to 0.1.0 allowed,
        it is not applied, and the next state drops it.
    """
    if rule.broken_by(table.iloc[:old_rows]) is not None:
        return table.assign(split=table["split"].fillna(DEFAULT_SPLIT))
    return rule.apply(table, placed=table["split"].notna().tolist(), problems=problems)


def kept_rule(
    stated: Mapping[str, Any] | None, table: pd.DataFrame, before: pd.Series | None = None
) -> dict[str, Any] | None:
    """Return a split rule if a next state keeps it; None, after a warning, if its labels end it.

    Parameters
    ----------
    table : DataFrame
        The labels of the next state.
    before : Series, optional
        The split of each present row by id; a row that moves to another split ends the rule.
    """
    if stated is None:
        return None
    reason = None
    if before is not None:
        old = table["id"].map(before)
        moved = table["id"][(old.notna() & (old != table["split"])).to_numpy(bool)]
        reason = f"row {moved.iloc[0]!r} was moved to another split" if len(moved) else None
    reason = reason or SplitRule.from_json(stated).broken_by(table)
    if reason is None:
        return dict(stated)
    warnings.warn(
        f"the split by {stated['column']!r} is dropped: {reason}; make it again with: w2w relabel DATASET "
        f"--split-by {stated['column']}",
        SplitRuleWarning,
        stacklevel=3,
    )
    return None

"""Split rows by groups, such as all rows of one person, to prevent leaks between splits; or row by row.

The rule of a dataset holds in every state: :func:`placed_by_rule` puts new rows into the splits of their groups, and
:func:`kept_rule`, which the commit calls, drops a rule that labels contradict.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..common.checks import is_whole
from ..common.text import ShellText, available, command, counted
from ..common.warn import warn_caller
from ..errors import CorruptFileError, InvalidInputError, UnknownNameError
from .labels.names import DEFAULT_SPLIT, require_split_name
from .problems import Problems

if TYPE_CHECKING:
    import pandas as pd

NO_GROUPS = ("split", "row", "row_sha256")  # columns that cannot be grouped by
BY_ROWS = "id"  # the column of a split by rows: each row is a group of its own


class SplitRuleWarning(UserWarning):
    """Warning that a dataset's split rule was dropped, since its labels contradict it."""


@dataclass(frozen=True)
class SplitRule:
    """Hold out whole groups of rows, or single rows.

    Groups that are already in a split stay there, so that a growing dataset does not leak. The others are held out in
    the order of a hash of seed and group, as long as that brings the held-out fraction nearer to `holdout`; the result
    depends neither on the order of the rows nor on the machine.

    A dataset keeps its rule. Added rows without a split follow it; an added row with another split than its group is
    an error. Labels that move a row to another split, or a group into two splits, drop the rule with a warning.

    Attributes
    ----------
    column : str
        The label column with the group of each row; none may be missing. By default ``id``: a split by rows.
    holdout : float
        Fraction of the rows to hold out.
    split : str
        The split of the held-out rows; all others are in ``train``.
    """

    column: str = BY_ROWS
    holdout: float = 0.1
    seed: int = 0
    split: str = "test"

    def __post_init__(self) -> None:
        if not isinstance(self.column, str) or self.column in NO_GROUPS:
            raise InvalidInputError(f"column {self.column!r} cannot be used for a split; name a column of groups")
        if not isinstance(self.holdout, Real) or isinstance(self.holdout, bool) or not 0 < self.holdout < 1:
            raise InvalidInputError(f"holdout must be between 0 and 1, not {self.holdout!r}")
        if not is_whole(self.seed):
            raise InvalidInputError(f"seed must be a whole number, not {self.seed!r}")
        require_split_name(self.split)
        if self.split.lower() == DEFAULT_SPLIT:
            raise InvalidInputError(f"rows cannot be held out from {DEFAULT_SPLIT!r} into itself; name another split")

    @property
    def by_rows(self) -> bool:
        """True if each row is a group of its own."""
        return self.column == BY_ROWS

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
        """Return the table with a ``split`` column by this rule.

        Parameters
        ----------
        placed : sequence of bool, optional
            Rows whose split is fixed, and with it the split of their groups.
        problems : Problems, optional
            Collects rows without a group and groups in two splits. By default, they are raised.
        """
        import pandas as pd

        found = Problems() if problems is None else problems
        groups = self._groups(table)
        without = table["id"][groups.isna().to_numpy(bool)]
        if len(without):
            found.add(
                InvalidInputError(
                    f"{counted(len(without), 'row has', 'rows have')} no {self.column!r}, the first is "
                    f"{without.iloc[0]!r}; the split rule needs the group of every row"
                )
            )
            if problems is None:
                found.raise_if_any()
            return table
        names, ids, splits = groups.tolist(), table["id"].tolist(), table["split"].tolist()
        fixed = [False] * len(table) if placed is None else list(placed)
        side: dict[str, str] = {}
        for name, split, row, is_fixed in zip(names, splits, ids, fixed, strict=True):
            if is_fixed and side.setdefault(name, split) != split:
                found.add(
                    InvalidInputError(
                        f"row {row!r} has split {split!r}, but other rows of {self.column} {name!r} are in "
                        f"{side[name]!r}; omit the row's split, or give all of them the same split"
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
        """Return how a table of labels contradicts this rule; None if it does not."""
        if self.column not in table.columns:
            return f"column {self.column!r} was removed"
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
            known = available(self.column, list(map(str, table.columns)), "w2w inspect DATASET")
            raise UnknownNameError(f"no column {self.column!r} to split by; {known}")
        return group_names(table[self.column])

    def _order(self, name: str) -> bytes:
        return hashlib.sha256(f"w2w-split-v1\n{self.seed}\n{name}".encode()).digest()


def group_names(column: pd.Series) -> pd.Series:
    """Return the group of each row as text, with -0.0 as 0.0."""
    import pandas as pd

    return (column + 0.0 if pd.api.types.is_float_dtype(column.dtype) else column).astype("string")


def require_rule(rule: Any) -> None:
    """Raise `InvalidInputError` unless `rule` is a `SplitRule` or None."""
    if rule is not None and not isinstance(rule, SplitRule):
        raise InvalidInputError(f"split_rule must be a SplitRule, such as SplitRule('person'), not {rule!r}")


def states_splits(labels: pd.DataFrame) -> bool:
    """Return whether a table of labels has splits other than ``train``."""
    return bool((labels["split"].dropna() != DEFAULT_SPLIT).any())


def placed_by_rule(rule: SplitRule, table: pd.DataFrame, old_rows: int, problems: Problems) -> pd.DataFrame:
    """Return labels in which rows without a split follow a dataset's rule; contradictions are added to `problems`.

    Parameters
    ----------
    old_rows : int
        Number of existing rows, which come first. If they already contradict the rule, as versions up to 0.1.0
        allowed, the rule is not applied, and the commit drops it.
    """
    if rule.broken_by(table.iloc[:old_rows]) is not None:
        return table.assign(split=table["split"].fillna(DEFAULT_SPLIT))
    return rule.apply(table, placed=table["split"].notna().tolist(), problems=problems)


def kept_rule(
    stated: Mapping[str, Any] | None, table: pd.DataFrame, before: pd.Series | None = None
) -> dict[str, Any] | None:
    """Return the split rule of the next state: the given one, or None, with a warning, if labels contradict it.

    Parameters
    ----------
    table : DataFrame
        The labels of the next state.
    before : Series, optional
        The current split of each row, by id; a row that moves to another split contradicts the rule.
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
    warn_caller(
        f"the split rule by {stated['column']!r} was dropped: {reason}; to split again: "
        f"{command('w2w relabel', ShellText('DATASET'), options=('--split-by', stated['column']))}",
        SplitRuleWarning,
    )
    return None

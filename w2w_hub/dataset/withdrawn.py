"""Refuse the rows of a dataset on the Hub that were withdrawn, whichever revision is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from ..common.text import command, counted, few
from ..errors import WithdrawnError
from ..store.hub.source import ResolvedRevision
from ..store.hub.withdrawals import Withdrawal, WithdrawalList
from .matrix.matrix import Matrix

if TYPE_CHECKING:
    import pandas as pd


def withdrawn_rows(labels: pd.DataFrame, listed: WithdrawalList) -> dict[int, Withdrawal]:
    """Return the withdrawals of rows, by row index: of withdrawn ids, and of withdrawn weights under other ids."""
    if not len(listed):
        return {}
    found = {}
    for number, (row, digest) in enumerate(zip(labels.index, labels["row_sha256"], strict=True)):
        withdrawal = listed.find(str(row), str(digest))
        if withdrawal is not None:
            found[number] = withdrawal
    return found


def notice(rows: Mapping[int, Withdrawal], ids: Sequence[str]) -> str:
    """Return which rows were withdrawn, and when, for warnings and notes."""
    shown = few([f"{ids[number]} ({entry.date}, {entry.reason})" for number, entry in rows.items()], 3)
    return f"{counted(len(rows), 'row was', 'rows were')} withdrawn: {shown}"


def withdrawn_error(
    rows: Mapping[int, Withdrawal], ids: Sequence[str], revision: ResolvedRevision, advice: str = ""
) -> WithdrawnError:
    """Return the error for a call that needs withdrawn rows."""
    number = next(iter(rows))
    log = command("w2w log", revision.repo)
    return WithdrawnError(
        f"{revision.repo} at {revision.asked}: {notice(rows, ids)}, and cannot be read at any revision; "
        + (advice or f"read the others, ds[ds.where()], or open a version without it, see: {log}"),
        date=rows[number].date, repo_id=revision.repo, revision=revision.asked, name=ids[number],
    )  # fmt: skip


class HasMatrix(Protocol):
    """A dataset."""

    matrix: Matrix


D = TypeVar("D", bound=HasMatrix)


class HasRows(Protocol):
    """A dataset."""

    @property
    def withdrawn(self) -> Mapping[int, Withdrawal]: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def revision(self) -> ResolvedRevision | None: ...


def require_readable(dataset: HasRows, indices: np.ndarray, advice: str = "") -> None:
    """Raise `WithdrawnError` if one of these rows was withdrawn; `advice` replaces what the error advises."""
    found = {int(number): dataset.withdrawn[int(number)] for number in indices if int(number) in dataset.withdrawn}
    if found and dataset.revision is not None:
        raise withdrawn_error(found, dataset.ids, dataset.revision, advice)


class GuardedMatrix(Matrix):
    """A matrix whose withdrawn rows raise `WithdrawnError` when they are read.

    Attributes
    ----------
    withdrawn : mapping of int to Withdrawal
    whole : Matrix
        The same matrix, without the refusal.
    """

    def __init__(
        self, matrix: Matrix, withdrawn: Mapping[int, Withdrawal], ids: Sequence[str], revision: ResolvedRevision
    ):
        self.whole, self.withdrawn, self._ids, self._revision = matrix, withdrawn, ids, revision
        self.shape, self.dtype, self.geometry = matrix.shape, matrix.dtype, matrix.geometry
        self.is_lazy = matrix.is_lazy
        self._numbers = np.array(sorted(withdrawn), np.int64)

    def rows(self, numbers: np.ndarray | Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        self._require(np.asarray(numbers, np.int64))
        return self.whole.rows(numbers, out)

    def row(self, number: int) -> np.ndarray:
        self._require(np.array([number]))
        return self.whole.row(number)

    def view(self, start: int, stop: int) -> np.ndarray | None:
        inside = (self._numbers >= start) & (self._numbers < stop)
        return None if inside.any() else self.whole.view(start, stop)

    def release(self, start: int, stop: int) -> None:
        self.whole.release(start, stop)

    def parts(self) -> list[tuple[str, int, int]]:
        return self.whole.parts()

    def check_part(self, number: int) -> None:
        self.whole.check_part(number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "whole":
            raise AttributeError(name)
        return getattr(self.whole, name)

    def _require(self, numbers: np.ndarray) -> None:
        found = sorted({int(number) for number in numbers[np.isin(numbers, self._numbers)]})
        if found:
            raise withdrawn_error({n: self.withdrawn[n] for n in found}, self._ids, self._revision)


def with_all_rows(dataset: D) -> D:
    """Return a dataset that reads withdrawn rows, too: to compare others with them, never to give them out."""
    matrix: Any = dataset.matrix
    if not isinstance(matrix, GuardedMatrix):
        return dataset
    made: Any = object.__new__(type(dataset))  # copy.copy would open it again
    vars(made).update(vars(dataset), matrix=matrix.whole)
    return cast(D, made)

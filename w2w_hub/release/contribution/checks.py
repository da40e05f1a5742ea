"""The checks of a batch against a dataset, which the contributor and the maintainer run alike.

Nothing in the batch is trusted. Of the dataset, layout, labels, sketches and initialization are
needed, but not the matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...common.license_ids import normal_license
from ...common.text import few, nearest, one_line
from ...dataset.initialization import SAME_START, initialization_of
from ...dataset.labels.kinds import LabelKind
from ...dataset.labels.names import CONTRIBUTOR, RESERVED, STATED, TAKEN, asked_name
from ...dataset.labels.table import ROW_ID
from ...dataset.manifest import UNKNOWN
from ...dataset.reader import DatasetReader
from ...dataset.sketches import NEAR, WIDTH, Sketches, near_units, sketches_of
from ...dataset.splits import BY_ROWS
from ...dataset.withdrawn import with_all_rows
from ...store.hub.withdrawals import last_seen
from ...store.paths import short
from .batch import Batch
from .measure import Measured, measure
from .waiting import Waiting

MAX_TEXT, MAX_ID = 500, 128  # characters of a label, and of an id
DECIDED = ("split", "row", "row_sha256", CONTRIBUTOR)  # columns that the dataset or its release decides
# what spreadsheets take for the start of a formula, also in full width
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
MARKUP = "<>"
_WORD = re.compile(r"[^\W_]")  # a letter or digit of any script
NOTHING = frozenset({"", "unknown", "none", "null", "nan", "n/a", "na", "tbd", "todo", "?", "-"})


@dataclass(frozen=True)
class Finding:
    """One problem of a row.

    Attributes
    ----------
    check : str
        ``layout``, ``finite``, ``initialisation``, ``norm``, ``spectrum``, ``duplicate``, ``near_duplicate``, ``id``,
        ``split``, ``label``, ``source``, ``licence``, ``consent`` or ``withdrawn``.
    message : str
        What is wrong and what to do, in one line.
    """

    check: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """Whether one row can be accepted.

    Attributes
    ----------
    id : str
    problems : tuple of Finding
        Reasons to refuse it.
    notes : tuple of str
        What a maintainer should look at.
    facts : mapping
        Measured numbers: `initialisation_cosine`, `norm`, `directions`.
    """

    id: str
    problems: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True without problems."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        problems = [{"check": p.check, "message": p.message} for p in self.problems]
        return {"id": self.id, "ok": self.ok, "problems": problems, "notes": list(self.notes), **self.facts}


@dataclass
class Reference:
    """What is known of a published dataset without its matrix.

    Attributes
    ----------
    name : str
        Name of the dataset in messages.
    dataset : DatasetReader
    sketches : Sketches or None
    start : ndarray or None
        The published initialization ``(size,)``; without one, the first row, if all rows have one initialization.
    start_is_row : bool
    withdrawn : mapping of str to str
        Ids and digests of rows that were withdrawn from the repository, with their date.
    """

    name: str
    dataset: DatasetReader
    sketches: Sketches | None = None
    start: np.ndarray | None = None
    start_is_row: bool = False
    withdrawn: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: DatasetReader, name: str | None = None) -> Reference:
        """Read what the checks need of an opened dataset; from the Hub at most 5 MB for 65,000 rows."""
        dataset = with_all_rows(dataset)
        start, is_row = initialization_of(dataset), False
        if start is None and dataset.manifest.compatibility.initialisation != UNKNOWN and len(dataset):
            start, is_row = dataset[0].astype(np.float32), True
        revision = dataset.revision
        stated = name or (revision.repo if revision is not None else str(dataset.path))
        gone = {} if revision is None else last_seen(revision.renamed or revision.repo, dataset.source.options).dates
        return cls(stated, dataset, sketches_of(dataset), start, is_row, gone)

    @cached_property
    def digests(self) -> dict[str, str]:
        """The id of the row with each digest."""
        labels = self.dataset.labels
        return dict(zip(labels["row_sha256"].tolist(), labels.index, strict=True))

    @cached_property
    def ids(self) -> dict[str, str]:
        """The ids, by themselves in lower case."""
        return {name.lower(): name for name in self.dataset.ids}


def check_batch(
    batch: Batch, reference: Reference, *, withdrawn: Mapping[str, str] | None = None, waiting: Waiting | None = None,
    digests: Sequence[str] | None = None,
) -> list[Verdict]:  # fmt: skip
    """Check every row of a batch; return one verdict per row, in the batch's order.

    Parameters
    ----------
    withdrawn : mapping of str to str, optional
        Ids and row digests that were withdrawn, with their date; by default those of `reference`.
    waiting : Waiting, optional
        Rows that were merged and not yet released.
    digests : sequence of str, optional
        Of the rows in the dataset's dtype, if they are known.
    """
    dataset, waiting = reference.dataset, waiting or Waiting()
    checker = _Checker(reference, reference.withdrawn if withdrawn is None else withdrawn, waiting)
    measured = measure(
        batch.rows, dataset.layout, dataset.dtype, reference.start, reference.sketches, waiting.units, digests
    )
    return [checker.verdict(*each) for each in zip(batch.rows, batch.labels, measured, strict=True)]


class _Checker:
    """Checks the rows of one batch in turn, each also against those before it."""

    def __init__(self, reference: Reference, withdrawn: Mapping[str, str], waiting: Waiting):
        self.reference, self.withdrawn, self.waiting = reference, withdrawn, waiting
        self.manifest = reference.dataset.manifest
        self.kinds = self.manifest.kinds
        self.seen_ids: dict[str, str] = {}
        self.seen_digests: dict[str, str] = {}
        self.seen_units = np.empty((0, WIDTH), np.float32)
        self.seen_names: list[str] = []
        self.notes: list[str] = []
        self.facts: dict[str, float] = {}

    def verdict(self, row: np.ndarray, label: Mapping[str, Any], measured: Measured) -> Verdict:
        self.notes, self.facts = [], {}
        name = label.get("id")
        shown = one_line(name, MAX_ID) if isinstance(name, str) else short(name)
        problems = [*self._id(name), *self._values(row, shown, measured), *self._labels(label)]
        return Verdict(shown, tuple(problems), tuple(self.notes), dict(self.facts))

    # ---------------------------------------------------------------- ids
    def _id(self, name: Any) -> Iterator[Finding]:
        if not isinstance(name, str) or len(name) > MAX_ID or not ROW_ID.fullmatch(name):
            yield Finding(
                "id", f"id {short(name)}: use at most {MAX_ID} letters, digits, dots, dashes and underscores, "
                "and start with a letter or digit",
            )  # fmt: skip
            return
        there = self.reference.ids.get(name.lower())
        if there is not None:
            yield Finding("id", f"{self.reference.name} has a row {there!r} already; rename this adapter")
        elif name.lower() in self.seen_ids:
            yield Finding("id", f"another adapter of this batch has the id {self.seen_ids[name.lower()]!r}; rename one")
        elif name in self.withdrawn:
            yield Finding(
                "withdrawn", f"the row {name!r} was withdrawn on {self.withdrawn[name]}; an id is not used again"
            )
        if (merged := self.waiting.ids.get(name.lower())) is not None:
            yield Finding("id", f"#{merged.pull_request}, which is merged, has this id; rename the adapter")
        self.seen_ids.setdefault(name.lower(), name)

    # -------------------------------------------------------------- values
    def _values(self, row: np.ndarray, name: str, measured: Measured) -> Iterator[Finding]:
        if not measured.finite:
            yield Finding("finite", "it holds NaN or infinite values; train it again")
            return
        stored = row
        if row.dtype != self.reference.dataset.dtype:
            with np.errstate(over="ignore"):
                stored = row.astype(self.reference.dataset.dtype)
            if not np.isfinite(stored).all():
                yield Finding(
                    "finite", f"it holds values up to {np.abs(row).max():g}, beyond the range of the dataset's "
                    f"{stored.dtype.name}; train it again",
                )  # fmt: skip
                return
        yield from self._start(measured.cosine)
        yield from self._size(measured.norm, measured.directions)
        yield from self._duplicates(stored, measured, name)

    def _start(self, found: float) -> Iterator[Finding]:
        reference = self.reference
        if reference.start is None:
            self.notes.append(f"{reference.name} does not know what its rows were trained from; that is not checked")
            return
        self.facts["initialisation_cosine"] = found
        if found < SAME_START:
            of = "its first row" if reference.start_is_row else "its initialization"
            yield Finding(
                "initialisation", f"it was not trained from the initialization of {reference.name} (cosine of A with "
                f"that of {of}: {found:.2f}, trained ones have more than {SAME_START:g}); train it from the start file "
                f"(w2w init {reference.name}), or contribute to a dataset that accepts any initialization",
            )  # fmt: skip

    def _size(self, norm: float, directions: float) -> Iterator[Finding]:
        self.facts |= {"norm": norm, "directions": directions}
        if norm == 0:
            yield Finding("norm", "it changes nothing (B is zero); train it first")
            return
        sketches = self.reference.sketches
        if sketches is None:
            self.notes.append(
                f"{self.reference.name} publishes no sketches: outliers and near duplicates are not found"
            )
            return
        if usual := sketches.outlier("norm", norm):
            advice = "train it for fewer steps or with a lower rate" if norm > usual[1] else "train it for more steps"
            yield Finding(
                "norm", f"the norm of its change is {norm:.3g}, those of {self.reference.name} are {usual[0]:.3g} to "
                f"{usual[1]:.3g}; {advice}, and check its alpha",
            )  # fmt: skip
        if usual := sketches.outlier("concentration", directions):
            yield Finding(
                "spectrum", f"its change spreads over {directions:.3g} singular directions, those of "
                f"{self.reference.name} over {usual[0]:.3g} to {usual[1]:.3g}; check that all modules "
                "were trained alike",
            )  # fmt: skip

    def _duplicates(self, stored: np.ndarray, measured: Measured, name: str) -> Iterator[Finding]:
        digest, where = measured.digest, self.reference.name
        if digest in self.withdrawn:
            yield Finding(
                "withdrawn", f"this adapter was withdrawn on {self.withdrawn[digest]} and is not accepted again"
            )
        same = self.reference.digests.get(digest)
        if same is not None:
            yield Finding("duplicate", f"it is the row {same!r} of {where}; leave it out")
            return
        if digest in self.seen_digests:
            yield Finding("duplicate", f"it equals {self.seen_digests[digest]!r} of this batch; leave one out")
            return
        merged = self.waiting.digests.get(digest)
        if merged is not None:
            yield Finding("duplicate", f"it equals a row of #{merged.pull_request}, which is merged; leave it out")
        self.seen_digests[digest] = name
        one = measured.unit
        if one is None:
            return
        if measured.near is not None:
            number, cosine = measured.near
            yield Finding(
                "near_duplicate", f"it nearly equals the row {self.reference.dataset.ids[number]!r} of {where} (cosine "
                f"about the mean: {cosine:.3f}, limit {NEAR:g}); leave it out",
            )  # fmt: skip
        if measured.waiting is not None and merged is None:
            yield Finding(
                "near_duplicate", f"it nearly equals {self.waiting.names[measured.waiting[0]]}, which is merged "
                f"(cosine about the mean: {measured.waiting[1]:.3f}, limit {NEAR:g}); leave it out",
            )  # fmt: skip
        alike = near_units(self.seen_units[: len(self.seen_names)], one, stored.size)[:1]
        for number, cosine in alike:
            yield Finding(
                "near_duplicate", f"it nearly equals {self.seen_names[number]!r} of this batch (cosine about the mean: "
                f"{cosine:.3f}); leave one out",
            )  # fmt: skip
        if len(self.seen_names) == len(self.seen_units):
            self.seen_units = np.concatenate(
                [self.seen_units, np.empty((len(self.seen_names) + 16, WIDTH), np.float32)]
            )
        self.seen_units[len(self.seen_names)] = one
        self.seen_names.append(name)

    # -------------------------------------------------------------- labels
    def _labels(self, label: Mapping[str, Any]) -> Iterator[Finding]:
        for name in DECIDED:
            if name in label:
                yield Finding("split" if name == "split" else "label", f"leave out {name!r}: the dataset decides it")
        for name in STATED:
            yield from self._stated(name, label.get(name))
        for name, value in label.items():
            if name in (*RESERVED, *DECIDED) or value is None:
                continue
            yield from self._label(name, value)
        missing = [name for name in self.kinds if label.get(name) is None and name != CONTRIBUTOR]
        if missing:
            self.notes.append(f"no value for {few([one_line(name, 40) for name in missing])}")
        rule = self.manifest.split_rule
        if rule and rule["column"] != BY_ROWS and label.get(rule["column"]) is None:
            yield Finding("label", f"{rule['column']!r} is missing: it decides the split; state it")

    def _stated(self, name: str, value: Any) -> Iterator[Finding]:
        option = asked_name(name)
        if value is None or (isinstance(value, str) and _says_nothing(value)):
            yield Finding(name, f"it states no {option}; add --{option} ..., or a column {option!r} to the labels")
            return
        if wrong := _bad_text(value):
            yield Finding(name, f"{option} {wrong}")
        elif name == "licence" and normal_license(value) is None:
            near = nearest(str(value), ["apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "openrail++",
                                        "cc-by-nc-4.0", "creativeml-openrail-m"])  # fmt: skip
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            yield Finding(name, f"license {short(value)} is not one of SPDX or of the Hub; {hint}see spdx.org/licenses")

    def _label(self, name: str, value: Any) -> Iterator[Finding]:
        kind = self.kinds.get(name)
        if kind is None or name in TAKEN:
            near = nearest(name, list(self.kinds))
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            yield Finding(
                "label", f"{self.reference.name} has no label {short(name)}; {hint}leave it out, or propose the column "
                "to the maintainers first",
            )  # fmt: skip
            return
        if wrong := self._wrong(name, kind, value):
            yield Finding("label", wrong)

    def _wrong(self, name: str, kind: LabelKind, value: Any) -> str:
        """Return what is wrong with a value of an attribute; empty if it can be stored as it is."""
        if wrong := kind.misstated(value, name):
            return wrong
        if not isinstance(value, str):
            return ""
        if wrong := _bad_text(value):
            return f"label {name!r} {wrong}"
        levels = self._levels(name)
        if not kind.graded and value not in levels:
            near = nearest(value, levels)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            self.notes.append(f"{name} {short(value)} is new to {self.reference.name}{hint}")
        return ""

    def _levels(self, name: str) -> list[str]:
        found: list[str] = self.reference.dataset.labels[name].dropna().unique().tolist()
        return found


def _says_nothing(value: str) -> bool:
    """Return whether a text states nothing: ``None.``, ``n/a`` or no letter and no digit."""
    return value.strip(" .!?-").lower() in NOTHING or _WORD.search(value) is None


def _bad_text(value: Any) -> str:
    """Return why a value cannot be a text of the labels; empty if it can."""
    if not isinstance(value, str):
        return f"is text; {short(value)} is not"
    if not value.strip() or len(value) > MAX_TEXT or not value.isprintable() or value != one_line(value, MAX_TEXT):
        return f"{short(value)}: use 1 to {MAX_TEXT} printable characters"
    if value.lstrip().startswith(FORMULA):
        return f"{short(value)} starts as a formula of a spreadsheet; start it with a letter or digit"
    if any(mark in value for mark in MARKUP):
        return f"{short(value)} holds markup (< or >); write it in plain words"
    return ""


__all__ = ["DECIDED", "MAX_TEXT", "STATED", "Finding", "Reference", "Verdict", "check_batch"]

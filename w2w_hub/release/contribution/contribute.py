"""Offer adapters to a published dataset: check them, and open one pull request with one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import checked, place
from ...common.checks import path_list
from ...common.constraints import Rule, flag, one_of, optional, text
from ...common.license_ids import normal_license
from ...common.progress import progress
from ...common.text import command, counted, few, one_line
from ...common.version import __version__
from ...dataset.changes.sources import found_adapters, row_ids
from ...dataset.labels import table as label_table
from ...dataset.labels.values import plain_values
from ...dataset.labels.written import as_written
from ...dataset.problems import Problems
from ...dataset.reader import DatasetReader
from ...dataset.weight_dataset import WeightDataset
from ...dialects import read_adapter
from ...errors import HubError, InvalidInputError, LayoutMismatchError, W2WError
from ...lora.adapter import Adapter
from ...store.hub.client import Token, api, call, retry_delay
from .batch import MAX_BATCH_ROWS, Batch, pack_batch
from .checks import DECIDED, STATED, Finding, Reference, Verdict, check_batch

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3  # adapters in the title


@dataclass(frozen=True)
class Contribution:
    """The result of `contribute`, or its plan in a dry run.

    Attributes
    ----------
    repo, commit : str
        The repository, and the commit that the adapters were checked against.
    verdicts : tuple of Verdict
        One per adapter, in their order.
    paths : tuple of Path
        Where each was read from.
    outcome : {"planned", "opened", "offered", "merged", "refused"}
        `offered`: an open pull request has this batch already. `merged`: the repository has it. `refused`: an adapter
        was refused, so that nothing is sent; with `accept_rest`, all of them were.
    batch : str or None
        Name of the batch.
    files : mapping of str to int
        Paths in the repository, and their size in bytes.
    number : int or None
        Number of the pull request.
    url : str or None
    title : str
    """

    repo: str
    commit: str
    verdicts: tuple[Verdict, ...]
    paths: tuple[Path, ...]
    outcome: str
    batch: str | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    number: int | None = None
    url: str | None = None
    title: str = ""

    @property
    def accepted(self) -> tuple[str, ...]:
        """The ids of adapters without problems."""
        return tuple(verdict.id for verdict in self.verdicts if verdict.ok)

    def to_json(self) -> dict[str, Any]:
        verdicts = [{**v.to_json(), "path": str(p)} for v, p in zip(self.verdicts, self.paths, strict=True)]
        return {**vars(self), "paths": [str(path) for path in self.paths], "verdicts": verdicts,
                "files": dict(self.files), "accepted": list(self.accepted)}  # fmt: skip


def _label(value: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError
    return value


@checked(
    repo=place(), label=optional(Rule("a mapping of label names to values", _label)), accept_rest=flag(),
    source=optional(text()), license=optional(text()), consent=optional(text()), dry_run=flag(),
    extra_labels=one_of("refuse", "ignore"), allow_torch=flag(),
)  # fmt: skip
def contribute(
    repo: Path | str,
    adapters: Path | str | Sequence[Path | str],
    *,
    ids: str | Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    extra_labels: str = "refuse",
    label: Mapping[str, Any] | None = None,
    source: str | None = None,
    license: str | None = None,
    consent: str | None = None,
    accept_rest: bool = False,
    dry_run: bool = False,
    allow_torch: bool = False,
    trust: str | None = None,
    alpha: float | None = None,
    component: str | None = None,
    token: Token = None,
) -> Contribution:
    """Check adapters against a published dataset and offer them in one pull request (`w2w contribute`).

    No write access to the repository is needed. The pull request adds two files, a batch of rows and their labels;
    maintainers check it again. The same adapters and labels are offered once: after an interruption, the same call
    finds its own pull request. The matrix of the dataset is not downloaded.

    Parameters
    ----------
    repo : str
        ``org/name`` of a dataset on the Hub; in a dry run also a dataset folder.
    adapters : path or sequence of path
        LoRA files or folders of any dialect; a folder that holds several is scanned.
    ids : sequence of str, optional
        One id per adapter; by default the names of their files or folders.
    labels : DataFrame, optional
        Labels by ``id``, see :func:`w2w_hub.read_labels`; ``split`` and ``row`` are the dataset's to decide.
    extra_labels : {"refuse", "ignore"}
        What to do with labels of other ids.
    label : mapping, optional
        Labels of all of these adapters, ``{"Beard": True}``; where `labels` has a value, that counts.
    source, license, consent : str, optional
        Where the adapters are from, their license (of SPDX or the Hub), and whose consent there is to publish them: of
        all adapters for which `labels` states none.
    accept_rest : bool
        Send the adapters without problems, although others were refused.
    dry_run : bool
        Check, and send nothing.
    allow_torch, trust, alpha, component
        As for :func:`w2w_hub.read_adapter`.
    token : str or bool, optional
        As in huggingface_hub.

    Returns
    -------
    Contribution
        With a verdict per adapter; an adapter with problems raises nothing.

    Raises
    ------
    InvalidInputError, UnknownNameError
        If the labels are not of these adapters.
    MissingPathError, NotACheckpointError
        If a path is no adapter and no folder of adapters.
    HubError
        If the repository cannot be read, or the pull request not be opened.

    Examples
    --------
    >>> contribute("org/people", "my-lora", source="trained by me", license="cc-by-4.0",
    ...            consent="given by the person", dry_run=True)                  # doctest: +SKIP
    """
    paths = found_adapters(path_list(adapters, "an adapter"))
    if not paths:
        raise InvalidInputError("there are no adapters to contribute")
    if len(paths) > MAX_BATCH_ROWS:
        raise InvalidInputError(f"{counted(len(paths), 'adapter')}; send at most {MAX_BATCH_ROWS:,} in one batch")
    names = row_ids(paths, ids)
    dataset = WeightDataset.open(repo, token=token)
    if dataset.revision is None and not dry_run:
        raise InvalidInputError(
            f"{repo} is a folder; name the dataset's repository (org/name), or add its rows yourself: "
            f"{command('w2w add', dataset.path, *paths[:1])}",
            name="repo",
        )
    stated = {"source": source, "licence": license, "consent": consent}
    table = _labels(dataset, names, labels, label or {}, stated, extra_labels)
    reference = Reference.of(dataset)
    options = {"allow_torch": allow_torch, "trust": trust, "alpha": alpha, "component": component}
    found = _checked(paths, names, table, reference, options)
    revision = dataset.revision
    where = dataset.manifest.digest if revision is None else revision.commit
    repository = str(dataset.path) if revision is None else revision.renamed or revision.repo
    made = Contribution(repository, where, found.verdicts, tuple(paths), "refused")
    good = [i for i, verdict in enumerate(found.verdicts) if verdict.ok]
    if not good or (len(good) < len(paths) and not accept_rest):
        return made
    chosen = [names[i] for i in good]
    meta = {"dataset": f"{repository}@{where}", "software": f"w2w_hub {__version__}",
            "initialisation": dataset.manifest.compatibility.initialisation}  # fmt: skip
    rows = np.stack([found.rows[i] for i in good])
    name, files = pack_batch(chosen, rows, [table[i] for i in good], meta, dataset.layout)
    title = f"Contribute {counted(len(chosen), 'adapter')}: {few(chosen, NAMED)} (batch {name})"
    made = replace(made, outcome="planned", batch=name, files={p: len(data) for p, data in files.items()}, title=title)
    return made if dry_run else _Offer(made, files, token).send()


# ------------------------------------------------------------------ labels
def _labels(
    dataset: DatasetReader,
    names: Sequence[str],
    labels: pd.DataFrame | None,
    label: Mapping[str, Any],
    stated: Mapping[str, str | None],
    extra: str,
) -> list[dict[str, Any]]:
    """Return the labels of each adapter as plain values of the dataset's kinds; what is not of a kind stays as it is.

    Raises
    ------
    InvalidInputError, UnknownNameError
        If a column is the dataset's to decide, or labels are of other ids.
    """
    given = [] if labels is None else [str(name) for name in getattr(labels, "columns", [])]
    for name in (*given, *label):
        if name in DECIDED:
            raise InvalidInputError(
                f"leave out the label {name!r}: the dataset decides the split and the place of a row, its release who "
                "offered it",
                name=name,
            )
    columns: dict[str, dict[str, Any]] = {name: dict.fromkeys(names, value) for name, value in label.items()}
    if labels is not None:
        problems, kinds = Problems(), dataset.manifest.kinds
        table = label_table.as_table(labels, problems, dataset.labels.columns)
        table = as_written(label_table.labels_of(names, table, problems, extra), kinds)
        problems.raise_if_any()
        for name in table.columns:
            if name != "id":
                values = dict(zip(table["id"], plain_values(table[name], name), strict=True))
                known = {row: value for row, value in values.items() if value is not None}
                columns[name] = {**columns.get(name, {}), **known}
    for name, text_of_all in stated.items():
        if text_of_all is not None:
            columns[name] = {**dict.fromkeys(names, text_of_all), **columns.get(name, {})}
    made: list[dict[str, Any]] = []
    for row in names:
        values = {name: column.get(row) for name, column in columns.items()}
        order = [*STATED, *(name for name in columns if name not in STATED)]
        made.append({name: _plain(dataset, name, values[name]) for name in order if values.get(name) is not None})
    return made


def _plain(dataset: DatasetReader, name: str, value: Any) -> Any:
    """Return a value as its attribute's kind stores it, or unchanged for the checks to refuse."""
    if name == "licence":
        return normal_license(value) or value
    kind = dataset.manifest.kinds.get(name)
    if kind is None:
        return value if isinstance(value, (str, bool, int, float)) else str(value)
    try:
        return kind.convert([value], name)[0]
    except InvalidInputError:
        return value if isinstance(value, (str, bool, int, float)) else str(value)


# ------------------------------------------------------------------ checks
@dataclass
class _Found:
    verdicts: tuple[Verdict, ...]
    rows: dict[int, np.ndarray]


def _checked(
    paths: Sequence[Path],
    names: Sequence[str],
    labels: Sequence[dict[str, Any]],
    reference: Reference,
    options: Mapping[str, Any],
) -> _Found:
    """Read and check each adapter; one that cannot be read or does not fit is a verdict as well."""
    layout = reference.dataset.layout
    rows: dict[int, np.ndarray] = {}
    unread: dict[int, Finding] = {}
    ignored: dict[int, str] = {}
    for i, path in enumerate(progress(list(paths), "reading adapters")):
        try:
            adapter = read_adapter(path, **options)
            rows[i] = layout.flatten(adapter, where=str(path))
            ignored[i] = _ignored(adapter)
        except LayoutMismatchError as error:
            unread[i] = Finding("layout", _misfit(str(error), adapter, reference))
        except W2WError as error:
            unread[i] = Finding("layout", str(error))
    order = list(rows)
    batch = Batch(
        "", tuple(names[i] for i in order),
        np.stack([rows[i] for i in order]) if rows else np.empty((0, layout.size), np.float32),
        tuple({"id": names[i], **labels[i]} for i in order),
    )  # fmt: skip
    verdicts = dict(zip(order, check_batch(batch, reference), strict=True))
    for i, finding in unread.items():
        verdicts[i] = Verdict(one_line(names[i], 128), (finding,))
    for i, note in ignored.items():
        if note:
            verdicts[i] = replace(verdicts[i], notes=(*verdicts[i].notes, note))
    return _Found(tuple(verdicts[i] for i in range(len(paths))), rows)


def _ignored(adapter: Adapter) -> str:
    """Return a note on tensors of the file that are no LoRA factors and are left out."""
    if not adapter.ignored_keys:
        return ""
    keys = few([one_line(key, 80) for key in adapter.ignored_keys], 2)
    return f"{counted(len(adapter.ignored_keys), 'tensor')} of the file cannot be stored and are left out: {keys}"


def _misfit(message: str, adapter: Adapter, reference: Reference) -> str:
    """Return why an adapter does not fit the layout, and what to do."""
    ranks = {slot.rank for slot in reference.dataset.layout.slots}
    mine = {pair.rank for pair in adapter.factors.values()}
    advice = f"train it from the start file of {reference.name}: {command('w2w init', reference.name)}"
    if mine != ranks and set(adapter.factors) == {slot.target for slot in reference.dataset.layout.slots}:
        advice += "; an adapter of another rank is not converted, since that would lose or invent directions"
    return f"{message}; {advice}"


# ------------------------------------------------------------------- the Hub
class _Offer:
    """Opens the pull request of a batch, or finds the one that an interrupted call has opened."""

    def __init__(self, made: Contribution, files: Mapping[str, bytes], token: Token):
        self.made, self.files, self.repo = made, files, made.repo
        self.client = api(token)

    def send(self) -> Contribution:
        there = self._there()
        if there is not None:
            return there
        try:
            info = call(self.repo, self._commit, retries=0)
        except HubError as error:
            # the pull request may be open although the answer was lost
            there = self._there()
            if there is None or retry_delay(error.__cause__ or error, 0) is None:
                raise
            return there
        return replace(self.made, outcome="opened", number=info.pr_num, url=info.pr_url)

    def _commit(self) -> Any:
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in self.files.items()]
        lines = [f"- {verdict.id}" for verdict in self.made.verdicts if verdict.ok]
        about = "\n".join([f"Checked against {self.made.commit} by w2w_hub {__version__}.", "", *lines])
        return self.client.create_commit(
            self.repo, operations, repo_type="dataset", commit_message=self.made.title, commit_description=about,
            create_pr=True,
        )  # fmt: skip

    def _there(self) -> Contribution | None:
        """Return the contribution if the repository or an open pull request of it has this batch already."""
        if self._has("main"):
            return replace(self.made, outcome="merged")
        for each in self._discussions():
            marked = (
                each.is_pull_request and each.status in ("open", "draft") and f"(batch {self.made.batch})" in each.title
            )
            if marked and self._has(f"refs/pr/{each.num}"):
                url = f"{self.client.endpoint}/datasets/{self.repo}/discussions/{each.num}"
                return replace(self.made, outcome="offered", number=each.num, url=url)
        return None

    def _discussions(self) -> list[Any]:
        return call(
            self.repo,
            lambda: list(
                self.client.get_repo_discussions(self.repo, repo_type="dataset", discussion_type="pull_request")
            ),
        )

    def _has(self, revision: str) -> bool:
        """Return whether a revision has the batch's files; their folder's name states their digests."""
        there = call(
            self.repo, self.client.get_paths_info, self.repo, list(self.files), repo_type="dataset", revision=revision
        )
        sizes = {each.path: getattr(each, "size", None) for each in there}
        return sizes == {path: len(data) for path, data in self.files.items()}


__all__ = ["Contribution", "contribute"]

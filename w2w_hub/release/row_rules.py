"""Rules for the rows of a dataset that everybody may read: what they state, and that nobody withdrew them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.text import command, counted, enumeration
from ..dataset.labels.names import asked_name
from ..dataset.licenses import row_digests, rows_without
from ..dataset.manifest import DatasetManifest
from ..dataset.withdrawn import notice, withdrawn_rows
from ..errors import InvalidInputError, WithdrawnError
from ..store.hub.source import Source
from ..store.manifest import FILENAME as MANIFEST
from ..store.manifest import kind_of
from ..store.paths import find_file
from .remote import Head, Remote
from .withdrawal import labels_of, read_list


def require_stated_rows(remote: Remote, head: Head, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise if rows of a dataset for everybody do not state their source, license and consent.

    Rows that the repository's last version has published already are not new to anybody.

    Raises
    ------
    InvalidInputError
    """
    if kind_of(manifest) != "dataset":
        return
    missing = rows_without(lambda name: find_file(folder, name), DatasetManifest.from_json(manifest, folder / MANIFEST))
    if not missing or (head.commit is not None and remote.is_private()):
        return
    if head.source is not None and kind_of(head.source.manifest()) == "dataset":
        labels = head.source.need(name for name in head.source.files if name.startswith("labels/"))
        there = row_digests(lambda name: find_file(labels, name), head.source.files)
        mine = row_digests(lambda name: find_file(folder, name), manifest["files"])
        missing = {name: [row for row in rows if there.get(row) != mine[row]] for name, rows in missing.items()}
    missing = {name: rows for name, rows in missing.items() if rows}
    if not missing:
        return
    columns = list(map(asked_name, missing))
    rows = {row for names in missing.values() for row in names}
    first, relabel = min(rows), command("w2w relabel", folder, options=("--labels", "FILE"))
    count, table = counted(len(rows), "row does", "rows do"), enumeration(["id", *columns])
    raise InvalidInputError(
        f"{folder}: {count} not state the {enumeration(columns)}, as published ones must, the first is {first!r}; "
        f"state them with {relabel} (columns {table}), or publish for yourself with --private",
        path=folder,
        name=first,
    )


def require_not_withdrawn(remote: Remote, commit: str, source: Source) -> None:
    """Raise before a version is made with rows that were withdrawn from the repository.

    Raises
    ------
    WithdrawnError
    """
    labels = labels_of(source)
    rows = withdrawn_rows(labels, read_list(remote, commit))
    if rows:
        ids = [str(labels.index[number]) for number in rows]
        raise WithdrawnError(
            f"{source.folder}: {notice(rows, labels.index)}; a new version must not have them, remove them with: "
            f"{command('w2w remove', source.folder, *ids[:3])}{' ...' if ids[3:] else ''}",
            date=next(iter(rows.values())).date, path=source.folder, repo_id=remote.repo, name=ids[0],
        )  # fmt: skip

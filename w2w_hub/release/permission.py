"""Refuse to publish imported LoRAs of people whose license is restricted and whose consent nobody stated.

Rows that were imported under such a license mark their dataset, and it the weight spaces built from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..common.text import ShellText, command
from ..dataset.licenses import read_consent, read_row_licenses
from ..dataset.manifest import UNKNOWN, DatasetManifest
from ..errors import HubError, InvalidInputError
from ..store.commit import open_state
from ..store.manifest import kind_of


def missing_permission(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Return why a folder must not be published for everybody; None if nothing forbids it.

    Parameters
    ----------
    manifest : mapping
        Of a verified dataset or weight space in the folder.
    """
    if kind_of(manifest) == "dataset":
        imported = manifest.get("imported")
        if not imported:
            return None
        parsed, find = DatasetManifest.from_json(manifest, folder), open_state(folder).find
        stated = None not in read_row_licenses(find, parsed) or parsed.licence != UNKNOWN
        consent = read_consent(find, parsed)
        fix = command("w2w relabel", folder, options=("--labels", ShellText("CONSENT.csv")))
        advice = f"state it in a column 'consent' of every row, {fix}"
    else:
        imported = manifest["recipe"].get("imported")
        if not imported:
            return None
        stated, consent = manifest["licence"] != UNKNOWN, imported.get("consent")
        advice = "state it in the dataset or on import (consent=, --consent), and make the weight space again"
    if stated and isinstance(consent, str) and consent.strip():
        return None
    source = imported.get("from")
    if not stated:
        return f"its LoRAs were imported from {source}, and the license of some is not stated; state it"
    return (
        f"its LoRAs were imported from {source}, and the people shown have not consented, as far as is stated; {advice}"
    )


def require_permission(folder: Path, manifest: Mapping[str, Any], repo: str, *, private: Callable[[], bool]) -> None:
    """Raise unless a folder may be published in a repository; any folder may be in a private one.

    Parameters
    ----------
    private : callable
        Returns whether the repository is or will be private; called only if the folder must not be public.

    Raises
    ------
    InvalidInputError
        Also if the Hub cannot say whether the repository is private.
    """
    reason = missing_permission(folder, manifest)
    if reason is None:
        return
    with suppress(HubError):
        if private():
            return
    raise InvalidInputError(
        f"{folder} must not be published: {reason}; or push it to a private repository, with --private (private=True)",
        path=folder,
        repo_id=repo,
        name="consent",
    )

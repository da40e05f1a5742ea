"""The pip command that installs an optional part of this package from where the package came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from .text import quote
from .version import __version__

NAME = "w2w-hub"
CHECKOUT = Path(__file__).resolve().parents[2]


def install_command(extra: str) -> str:
    """Return the pip command that adds an extra, from the same clone, URL or index."""
    if (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "w2w_hub" / "common").is_dir() and not _installed():
        return f"pip install -e {quote(f'{CHECKOUT}[{extra}]')}"
    stated = _direct_url()
    url = str(stated.get("url", ""))
    if isinstance(stated.get("dir_info"), dict) and urlsplit(url).scheme == "file":
        return f"pip install {quote(f'{unquote(urlsplit(url).path)}[{extra}]')}"
    source = _source(stated)
    return f"pip install {quote(f'{NAME}[{extra}] @ {source}' if source else f'{NAME}[{extra}]')}"


def requirement(extra: str) -> str:
    """Return the requirement that installs this version with an extra on another machine.

    A clone or an archive on this machine counts as the version of an index that it states. Names, passwords and queries
    in an address, which may be secret, are left out.
    """
    parts = urlsplit(_source(_direct_url()))
    if parts.scheme.rpartition("+")[2] not in ("http", "https"):
        return f"{NAME}[{extra}]=={__version__}"
    public = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
    return f"{NAME}[{extra}] @ {public}"


def _source(stated: dict[str, Any]) -> str:
    """Return the address that pip installed the package from, with its commit; empty for an index."""
    url, version_control = str(stated.get("url", "")), stated.get("vcs_info")
    if isinstance(version_control, dict) and url:
        return f"{version_control.get('vcs', 'git')}+{url}@{version_control.get('commit_id', 'main')}"
    return url


def _installed() -> bool:
    """Return whether the package is in a folder of installed packages, where another package may have left a file."""
    return CHECKOUT.name in ("site-packages", "dist-packages")


def _direct_url() -> dict[str, Any]:
    """Return where pip says that the package came from (PEP 610); empty for an index."""
    from importlib import metadata

    try:
        stated = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return {}
    return stated if isinstance(stated, dict) else {}

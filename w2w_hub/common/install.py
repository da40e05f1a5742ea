"""The pip command that installs an optional part of this package from where the package came."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .text import quote

NAME = "w2w-hub"
CHECKOUT = Path(__file__).resolve().parents[2]


def install_command(extra: str) -> str:
    """Return the pip command that adds an extra, from the same clone, URL or index."""
    if (CHECKOUT / "pyproject.toml").is_file():
        return f"pip install -e {quote(f'{CHECKOUT}[{extra}]')}"
    stated = _direct_url()
    url = str(stated.get("url", ""))
    if isinstance(stated.get("dir_info"), dict) and urlsplit(url).scheme == "file":
        return f"pip install {quote(f'{unquote(urlsplit(url).path)}[{extra}]')}"
    version_control = stated.get("vcs_info")
    if isinstance(version_control, dict) and url:
        url = f"{version_control.get('vcs', 'git')}+{url}@{version_control.get('commit_id', 'main')}"
    return f"pip install {quote(f'{NAME}[{extra}] @ {url}' if url else f'{NAME}[{extra}]')}"


def _direct_url() -> dict[str, Any]:
    """Return where pip says that the package came from (PEP 610); empty for an index."""
    try:
        stated = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return {}
    return stated if isinstance(stated, dict) else {}

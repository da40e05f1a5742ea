"""The options of calls to the Hub: token, cache folder, and whether the network may be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .client import Token


@dataclass(frozen=True)
class HubOptions:
    """The three keywords of every public call to the Hub, passed on as one object.

    Attributes
    ----------
    token : str, bool or None
        As in huggingface_hub: None uses the saved token, False none.
    cache_dir : path or None
        Another cache than the usual one (``HF_HUB_CACHE``).
    local_files_only : bool
        Read the cache only; make no request.
    """

    token: Token = field(default=None, repr=False)
    cache_dir: Path | str | None = None
    local_files_only: bool = False

"""The picture in a checkpoint's header: `modelspec.thumbnail`, a data URI. A stranger's is never decoded here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FIELD = "modelspec.thumbnail"  # of Stability's model metadata standard, in which 256 x 256 pixels are recommended
MAX_THUMBNAIL = 2**18  # characters; larger ones are not kept
# no SVG, which runs scripts, and no address, which a program that shows the picture would open
_FORM = re.compile(r"data:image/(jpeg|png|webp|gif);base64,([A-Za-z0-9+/]{4,}={0,2})")


def is_thumbnail(value: Any) -> bool:
    """Return whether a value is a JPEG, PNG, WebP or GIF as a data URI of at most 256 KiB, by its form alone."""
    return isinstance(value, str) and len(value) <= MAX_THUMBNAIL and _FORM.fullmatch(value) is not None


def shown_header(told: Mapping[str, str]) -> dict[str, str]:
    """Return header fields to show, in which a thumbnail is words: its format and size. It is not decoded."""
    shown = dict(told)
    value = shown.get(FIELD)
    if value is not None and not is_thumbnail(value):
        shown[FIELD] = "no JPEG, PNG, WebP or GIF of at most 256 KiB as a data URI; ignored"
    elif value is not None:
        kind, data = value.removeprefix("data:image/").split(";base64,")
        shown[FIELD] = f"{kind.upper()}, {3 * len(data) // 4 - data.count('='):,} bytes"
    return shown


__all__ = ["FIELD", "MAX_THUMBNAIL", "is_thumbnail", "shown_header"]

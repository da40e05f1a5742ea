"""Read and render Hub cards: YAML front matter and a body from the templates in ``cards/``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from string import Template
from typing import Any

from ..common.limits import MAX_CARD_BYTES, MAX_CARD_METADATA
from ..common.text import markdown, yaml_text
from ..errors import CorruptFileError, MissingPathError
from .manifest import CARD
from .paths import read_file

TAGS = ["w2w-hub", "lora", "weight-space"]
# metadata key: sha256 of a card as it was rendered, so that one that somebody edited is told from it
RENDERED = "w2w_hub_card"
MAX_SPELLED_OUT = 16 * MAX_CARD_METADATA  # characters of a card's metadata as JSON; YAML's aliases can make it any size
_FRONT = re.compile(r"\A---[ \t]*\r?\n(?P<yaml>(?:.*?\r?\n)?)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def template(name: str) -> Template:
    """Return a card template of the installed package, or of the source repository."""
    here = Path(__file__).parents[1]  # the package
    for folder in (here / "_cards", here.parent / "cards"):
        if (folder / name).is_file():
            return Template((folder / name).read_text("utf-8"))
    raise MissingPathError(f"card template {name} is not installed; install w2w-hub again", name=name)


def render_card(name: str, metadata: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return a card: metadata as YAML, and a template filled with values, escaped unless they are `Markdown`."""
    body = template(name).substitute({key: markdown(value) for key, value in values.items()})
    return mark_rendered(metadata, body)


def mark_rendered(metadata: Mapping[str, Any], body: str) -> str:
    """Return a card whose metadata state its digest, see :func:`is_rendered`."""
    plain = {name: value for name, value in metadata.items() if name != RENDERED}
    return join_card(plain | {RENDERED: _digest(plain, body)}, body)


def is_rendered(text: str) -> bool:
    """Return whether a card is as this package rendered it, in any release; its YAML may be written differently."""
    metadata, body = split_card(text)
    stated = metadata.pop(RENDERED, None)
    if not isinstance(stated, str):
        return False
    try:
        return stated == _digest(metadata, body, MAX_SPELLED_OUT)
    except (TypeError, ValueError, RecursionError):  # keys of several types, cycles, aliases of aliases
        return False


def _digest(metadata: Mapping[str, Any], body: str, limit: int | None = None) -> str:
    """Return the sha256 of a card; a `ValueError` says that its metadata have more characters than `limit`."""
    found, length = hashlib.sha256(), 0
    for part in json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).iterencode(metadata):
        length += len(part)
        if limit is not None and length > limit:
            raise ValueError(f"more than {limit:,} characters")
        found.update(part.encode())
    found.update(("\n" + body).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def read_card(folder: Path) -> str:
    """Return the text of a folder's card.

    Raises
    ------
    MissingPathError, UnsafePathError
    CorruptFileError
        If it is not UTF-8.
    """
    try:
        return read_file(folder, CARD, MAX_CARD_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(
            f"{folder / 'README.md'} is not UTF-8 ({error.reason}); save it as UTF-8", path=folder / CARD
        ) from error


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Return metadata and body of a card; metadata other than a mapping is ignored."""
    import yaml

    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        data = yaml.safe_load(match["yaml"]) if len(match["yaml"]) <= MAX_CARD_METADATA else None
        yaml_text(data if isinstance(data, dict) else {})  # it is written again
    except (yaml.YAMLError, ValueError, RecursionError):  # a date such as 2020-13-40 is a ValueError
        data = None
    return (data if isinstance(data, dict) else {}), text[match.end() :]


def join_card(metadata: Mapping[str, Any], body: str) -> str:
    """Return the text of a card."""
    return f"---\n{yaml_text(metadata)}---\n{body}"


def with_facts(text: str, before: str, after: str) -> str:
    """Return an edited card in which lines with facts of the previous version are updated."""
    old, new = before.splitlines(), after.splitlines()
    fresh: dict[str, str] = {}
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "replace" and j - i == m - k:
            fresh.update(zip(old[i:j], new[k:m], strict=True))
    return "".join(fresh.get(line.rstrip("\r\n"), line.rstrip("\r\n")) + "\n" for line in text.splitlines())


def size_category(rows: int) -> str:
    """Return the Hub's size category for a number of rows."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"

"""Cite versions as BibTeX or CITATION.cff, with version, commit and digest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..common.arguments import checked, place
from ..common.constraints import Rule, validated
from ..common.text import terminal, yaml_text
from ..errors import InvalidInputError
from ..store.hub.client import Token, endpoint
from ..store.hub.locate import locate_either
from ..store.hub.options import HubOptions
from ..store.hub.pins import Pin, is_lock, read_lock
from .lock import pin_of

# SPDX's spelling for CITATION.cff; the Hub uses lower case
SPDX = {
    name.lower(): name
    for name in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-4.0",
        "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "MPL-2.0", "ODbL-1.0", "Unlicense", "ISC",
    )
}  # fmt: skip
# BibTeX counts escaped braces, too, so that they are spelled as commands
TEX = {character: f"\\{character}" for character in "_&%#$"} | {
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
DESCRIPTIONS = {"dataset": "dataset of LoRA adapters", "space": "weight space of LoRA adapters"}


@checked(what=place())
def cite(what: str | Path, *, token: Token = None, cache_dir: Path | str | None = None) -> list[Pin]:
    """Return the pins to cite: those of a lock file, or of one ``org/name@revision`` (`w2w cite`).

    Pass them to :func:`bibtex` or :func:`citation_file`.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError
        If a lock file cannot be read.
    InvalidInputError
        If it is a folder; publish it first.
    HubNotFoundError, HubError

    Examples
    --------
    >>> print(bibtex(cite("org/people@v1.0.0")))   # doctest: +SKIP
    """
    if is_lock(Path(what)):
        return list(read_lock(what).pins)
    options = HubOptions(token, cache_dir)
    return [pin_of(locate_either(what, options=options), options)]


def _listed_pins(value: Any) -> list[Pin]:
    pins: list[Any] = list(value) if isinstance(value, (list, tuple)) else [None]
    if not all(isinstance(pin, Pin) for pin in pins):
        raise ValueError
    return pins


PINS = Rule("a list of pins, as cite returns it", _listed_pins)


def address(pin: Pin) -> str:
    """Return the URL of a pinned commit."""
    page = quote(f"{'datasets/' if pin.kind == 'dataset' else ''}{pin.repo}/tree/{pin.commit}")
    return f"{quote(endpoint(), safe=':/@[]%')}/{page}"


@validated(pins=PINS)
def bibtex(pins: Sequence[Pin]) -> str:
    """Return one BibTeX entry per pin."""
    return "\n".join(_entry(pin) for pin in pins)


def _entry(pin: Pin) -> str:
    organization, name = pin.repo.split("/")
    fields = {
        "title": f"{{{_tex(name)}}}, a {DESCRIPTIONS[pin.kind]}",
        "author": " and ".join(f"{{{_tex(name)}}}" for name in (organization, *pin.contributors)),
        "year": _tex((pin.published or "")[:4]),
        "version": _tex(pin.version),
        "publisher": "Hugging Face",
        "url": address(pin),
        "note": _tex(f"commit {pin.commit}, sha256 {pin.digest}{_sources(pin)}"),
    }
    key = re.sub(r"[^A-Za-z0-9]+", "-", f"{pin.repo}-{pin.version}").strip("-").lower()
    lines = [f"  {field:<9} = {{{value}}}," for field, value in fields.items() if value]
    return "\n".join([f"@misc{{{key},", *lines, "}", ""])


def _sources(pin: Pin) -> str:
    return f"; rows from: {', '.join(pin.sources)}" if pin.sources else ""


def _tex(text: str) -> str:
    """Return a text with the special characters of TeX escaped."""
    return "".join(TEX.get(character, character) for character in terminal(text))


@validated(pins=PINS)
def citation_file(pins: Sequence[Pin]) -> str:
    """Return a CITATION.cff (version 1.2.0): it cites the first weight space, and lists other pins as references."""
    if not pins:
        raise InvalidInputError("give at least one pin to cite", name="pins")
    ordered = sorted(pins, key=lambda pin: pin.kind != "space")
    first = _cff(ordered[0])
    data: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "If you use this, please cite it with its version and commit.",
        **first,
    }
    if len(ordered) > 1:
        data["references"] = [{**_cff(pin), "type": "data"} for pin in ordered[1:]]
    return yaml_text(data)


def _cff(pin: Pin) -> dict[str, Any]:
    organization, name = pin.repo.split("/")
    found: dict[str, Any] = {
        "type": "dataset",
        "title": f"{name}, a {DESCRIPTIONS[pin.kind]}",
        "authors": [{"name": name} for name in (organization, *pin.contributors)],
        "version": pin.version,
        "commit": pin.commit,
        "url": address(pin),
        "identifiers": [{"type": "other", "value": f"sha256:{pin.digest}", "description": "digest of the content"}],
    }
    if pin.sources:
        found["abstract"] = f"{found['title']}, with rows from: {', '.join(pin.sources)}."
    if pin.published:
        found["date-released"] = pin.published
    if pin.licence.lower() in SPDX:
        found["license"] = SPDX[pin.licence.lower()]
    return found


__all__ = ["address", "bibtex", "citation_file", "cite"]

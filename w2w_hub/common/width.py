"""Widths of text in columns of a terminal, where East Asian characters take two and marks none."""

from __future__ import annotations

import unicodedata

CUT = "..."


def columns_of(text: str) -> int:
    """Return the columns that a terminal uses for one line of visible text.

    Examples
    --------
    >>> columns_of("hair"), columns_of("\\u6f22\\u5b57"), columns_of("e\\u0301")
    (4, 4, 1)
    """
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def head(text: str, columns: int) -> str:
    """Return the longest beginning of a text that fits into some columns."""
    used = 0
    for place, character in enumerate(text):
        used += _columns(character)
        if used > columns:
            return text[:place]
    return text


def tail(text: str, columns: int) -> str:
    """Return the longest end of a text that fits into some columns; it does not begin with a combining mark."""
    used, start = 0, len(text)
    for place in range(len(text) - 1, -1, -1):
        width = _columns(text[place])
        used += width
        if used > columns:
            break
        if width:
            start = place
    return text[start:]


def shortened(text: str, columns: int, *, keep_end: bool = False) -> str:
    """Return a text that fits into some columns; ``...`` stands for what is left out.

    Parameters
    ----------
    keep_end : bool
        Leave out the beginning instead of the end, as for paths.
    """
    if columns_of(text) <= columns:
        return text
    if columns <= len(CUT):
        return CUT[: max(columns, 0)]
    room = columns - len(CUT)
    return f"{CUT}{tail(text, room)}" if keep_end else f"{head(text, room)}{CUT}"


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """Return a text followed by spaces, or with `right` after spaces, up to some columns."""
    blank = " " * (columns - columns_of(text))
    return f"{blank}{text}" if right else f"{text}{blank}"


def wrapped(text: str, columns: int) -> list[str]:
    """Return a text as lines of at most some columns, broken at spaces, or inside of longer words.

    Nothing is left out but the spaces at which lines are broken.
    """
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if columns_of(joined) <= columns:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while columns_of(word) > columns:
            part = head(word, max(columns, 2))
            lines[-1], word = part, word[len(part) :]
            lines.append("")
        lines[-1] = word
    return lines if len(lines) == 1 or lines[-1] else lines[:-1]


__all__ = ["columns_of", "head", "padded", "shortened", "tail", "wrapped"]

"""Escape untrusted text for the place where it is shown: terminal, shell, Markdown, Python and YAML.

There is one function per place. HTML has a template engine instead, see :mod:`w2w_hub.common.pages`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

# printable by Unicode's categories, yet invisible: fillers, joiners and variation selectors, which can carry data
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
)
# anything that CommonMark, GitHub's dialect or a renderer's extensions (mathematics, mentions, bare links) could act on
_LIVE = re.compile(
    r"[`\\|*~\[\]${}^#@]|<[A-Za-z/!?]|&[#\w]|://|www\.|\w\.[^\W\d_]|:[\w+-]+:|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE
)
LONGEST_NAME = 1000  # characters of a name in a card


# ---------------------------------------------------------------- terminal
def terminal(text: object, keep: str = "") -> str:
    """Return a text with each invisible character replaced by its escape, such as ``\\x1b`` or ``\\u202e``.

    Terminal and bidirectional controls (C0, C1, ESC), line separators, zero-width and tag characters, lone surrogates
    and all spaces but the ordinary one are escaped; letters, marks and symbols of every script stay.

    Parameters
    ----------
    keep : str
        Characters to leave, for instance a newline in a text of several lines.
    """
    text = str(text)
    if text.isprintable() and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(c if c in keep or _is_visible(c) else c.encode("unicode_escape").decode() for c in text)


def _is_visible(character: str) -> bool:
    return character.isprintable() and not _INVISIBLE.match(character)


def one_line(text: str, limit: int) -> str:
    """Return a text as :func:`terminal` does, shortened to `limit` characters."""
    shown = terminal(text[: limit + 1])  # escape no more than is shown
    return shown if len(text) <= limit and len(shown) <= limit else f"{shown[:limit]}..."


# ---------------------------------------------------------------- English
def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun in the singular or plural, for messages.

    Parameters
    ----------
    many : str
        The plural, if it is not formed by the usual rule, or if a verb follows.

    Examples
    --------
    >>> counted(1, "row"), counted(1056, "identity"), counted(1, "row has", "rows have")
    ('1 row', '1,056 identities', '1 row has')
    """
    return f"{number:,} {one if number == 1 else many or plural(one)}"


def plural(noun: str) -> str:
    """Return the plural of an English noun by the usual rule; of several words, that of the last one."""
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"


def an(noun: str) -> str:
    """Return a noun, such as the name of a class, with its indefinite article."""
    return f"{'an' if noun[:1].lower() in tuple('aeio') else 'a'} {noun}"


def nearest(name: str, names: Sequence[str], most: int = 3) -> list[str]:
    """Return the names that resemble a mistyped one, the nearest first."""
    lowered = {other.lower().strip(): other for other in names}
    return [lowered[key] for key in difflib.get_close_matches(name.lower().strip(), lowered, most)]


def enumeration(words: Sequence[str]) -> str:
    """Return words as an English list.

    Examples
    --------
    >>> enumeration(["source", "license", "consent"])
    'source, license and consent'
    """
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def few(names: Sequence[str], shown: int = 5) -> str:
    """Return the first names of a list, and the number of the others.

    Examples
    --------
    >>> few(["ann", "bob", "cat"], 2)
    'ann, bob and 1 more'
    """
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def available(name: object, names: Sequence[str], see: str = "", shown: int = 6) -> str:
    """Return which names there are where another was given: similar ones first, then a few of all, and how many.

    Parameters
    ----------
    see : str
        What lists all of them, a command or an attribute; named if some are left out.

    Examples
    --------
    >>> available("Berd", ["Beard", "Hat"])
    "did you mean 'Beard'? available: Beard, Hat"
    """
    close = nearest(name, names) if isinstance(name, str) else []
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    rest = f", listed by: {see}" if see and len(names) > shown else ""
    return f"{hint}available: {few(names, shown) or 'none'}{rest}"


def file_size(size: int) -> str:
    """Return a number of bytes in words: ``48.7 MB``, ``1,234 bytes``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit / 10:
            return f"{size / unit:,.1f} {name}"
    return counted(size, "byte")


def duration(seconds: float) -> str:
    """Return a time in words: ``42 s``, ``3 min 20 s``, ``5 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


# ---------------------------------------------------------------- shell
class ShellText(str):
    """Text that is already quoted for a shell."""


def command(name: str, *arguments: object, options: Sequence[object] = ()) -> str:
    """Return a command line that a shell splits into these words.

    Paths that begin with a hyphen get ``./`` in front; other arguments that do follow ``--``.

    Examples
    --------
    >>> command("w2w build", "my people #2", options=("--out", "SPACE"))
    "w2w build 'my people #2' --out SPACE"
    """
    given, chosen = [quote(word) for word in arguments], [quote(word) for word in options]
    if any(not isinstance(word, (PurePath, ShellText)) and str(word).startswith("-") for word in arguments):
        return " ".join([name, *chosen, "--", *given])
    return " ".join([name, *given, *chosen])


def quote(word: object) -> str:
    """Return one word quoted for a shell; invisible characters as ``$'\\x1b'``, which bash and zsh read."""
    if isinstance(word, ShellText):
        return word
    text = str(word)
    if isinstance(word, PurePath) and text.startswith("-"):
        text = f"./{text}"
    if terminal(text) == text:
        return shlex.quote(text)
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in raw) + "'"


def files_of(folder: object, pattern: str) -> ShellText:
    """Return a glob pattern for files in a folder; only the folder is quoted."""
    return ShellText(f"{quote(folder)}/{pattern}")


# ---------------------------------------------------------------- Markdown
class Markdown(str):
    """Text that is Markdown already; anything else is escaped by :func:`markdown`."""


def markdown(text: object) -> Markdown:
    """Return one line of text that no Markdown renderer interprets: unchanged, or as inline code where needed.

    Inline code is the only construct in which HTML, links, images, emphasis and entities have no effect. The result is
    shortened and fits into a line or a table cell.
    """
    if isinstance(text, Markdown):
        return text
    shown = one_line(str(text), LONGEST_NAME)
    return code(shown) if _LIVE.search(shown) else Markdown(shown)


def code(text: object) -> Markdown:
    """Return a text as inline code in one line; characters that would end the code or its table cell are escaped."""
    shown = _inert(one_line(str(text), LONGEST_NAME)).replace("`", "\\x60").replace("|", "\\x7c")
    return Markdown(f"`{shown or ' '}`")


def _inert(text: str) -> str:
    """Escape the start of a tag or a link address, which some renderers interpret inside code, too."""
    return re.sub(r"<(?=[A-Za-z/!?])|(?<=\])\(", lambda match: f"\\x{ord(match[0]):02x}", text)


def table_row(*cells: object) -> Markdown:
    """Return a row of a Markdown table."""
    return Markdown(f"| {' | '.join(map(markdown, cells))} |")


# ---------------------------------------------------------------- Python and YAML
def python_string(text: str) -> Markdown:
    """Return a text as a double-quoted, one-line Python literal, for examples in a code block."""
    return Markdown(_inert(terminal(json.dumps(text, ensure_ascii=False))))


def yaml_text(data: Mapping[str, Any]) -> str:
    """Return a mapping as YAML in its own order, without invisible characters."""
    import yaml

    dumped = str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120))
    if terminal(dumped, keep="\n") == dumped:
        return dumped
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=False, width=10**9))  # one value per line

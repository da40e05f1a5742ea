"""Text that a file or another person chose, made safe where it is shown: terminal, shell, Markdown, Python and YAML.

Each function is the only one for its place. HTML has a template engine instead, see :mod:`w2w_hub.common.pages`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

# printable by Unicode's categories, yet without any ink: fillers, joiners and variation selectors, which can carry data
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
    """Return a text with every character that is not visible written as its escape, such as ``\\x1b`` or ``\\u202e``.

    Controls of terminals (C0, C1, ESC), of writing direction, line separators, zero-width and tag characters, lone
    surrogates and all spaces but the ordinary one are escaped; letters, marks and symbols of every script stay.

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
    shown = terminal(text[: limit + 1])  # no more than is shown is looked at
    return shown if len(text) <= limit and len(shown) <= limit else f"{shown[:limit]}..."


# ---------------------------------------------------------------- shell
class ShellText(str):
    """Text that a shell may read as it is."""


def command(name: str, *arguments: object, options: Sequence[object] = ()) -> str:
    """Return a command line that a shell reads as these words, whatever a user's names hold.

    Paths that begin with a hyphen get ``./`` in front; any other argument that does stands behind ``--``.

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
    """Return one word as a shell reads it; characters that cannot be seen as ``$'\\x1b'``, as bash and zsh read it."""
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
    """Return a pattern for files of a folder, of which only the folder is quoted."""
    return ShellText(f"{quote(folder)}/{pattern}")


# ---------------------------------------------------------------- Markdown
class Markdown(str):
    """Text that is Markdown already; anything else is escaped by :func:`markdown`."""


def markdown(text: object) -> Markdown:
    """Return a text so that no Markdown renderer makes anything of it: as it is, or as inline code where it could be.

    Inline code is the one construct in which neither HTML nor links, images, emphasis or entities mean anything. Of
    one line, shortened, for the middle of a line or the cell of a table.
    """
    if isinstance(text, Markdown):
        return text
    shown = one_line(str(text), LONGEST_NAME)
    return code(shown) if _LIVE.search(shown) else Markdown(shown)


def code(text: object) -> Markdown:
    """Return a text as inline code of one line; what would end it, its cell or its rendering as code, as escapes."""
    shown = _inert(one_line(str(text), LONGEST_NAME)).replace("`", "\\x60").replace("|", "\\x7c")
    return Markdown(f"`{shown or ' '}`")


def _inert(text: str) -> str:
    """Escape what begins a tag or a link's address: code shows it, but not every renderer knows what is code."""
    return re.sub(r"<(?=[A-Za-z/!?])|(?<=\])\(", lambda match: f"\\x{ord(match[0]):02x}", text)


def table_row(*cells: object) -> Markdown:
    """Return a row of a Markdown table."""
    return Markdown(f"| {' | '.join(map(markdown, cells))} |")


# ---------------------------------------------------------------- Python and YAML
def python_string(text: str) -> Markdown:
    """Return a text as a double-quoted Python literal of one line, for examples in a block of code."""
    return Markdown(_inert(terminal(json.dumps(text, ensure_ascii=False))))


def yaml_text(data: Mapping[str, Any]) -> str:
    """Return a mapping as YAML in its own order, in which every character can be seen."""
    import yaml

    dumped = str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120))
    if terminal(dumped, keep="\n") == dumped:
        return dumped
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=False, width=10**9))  # a value a line

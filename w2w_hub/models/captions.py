"""Draws captions in any script, with fonts of the system; characters without a glyph are drawn as escapes.

Pillow's own font has ASCII only. Other characters are drawn with the first font that has them: the one that fontconfig
names, then the usual fonts of Linux, macOS and Windows. Where no font has a letter, its base letter is drawn if it has
one (``e`` for an accented e), else its escape, such as ``\\u6f22``; never the box that stands for a missing glyph.
"""

from __future__ import annotations

import subprocess
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..common.extras import optional_imports
from ..common.text import one_line

with optional_imports("diffusers"):
    from PIL import ImageFont

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SIZE, LINE = 12, 15  # of the letters, and from one line to the next, in pixels
LONGEST = 300  # characters of a caption
# found by name in the system's folders, also where there is no fontconfig
USUAL_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc",
    "arial.ttf", "segoeui.ttf", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "Nirmala.ttc", "seguisym.ttf",
)  # fmt: skip
QUERIES = 64  # of fontconfig in one process: captions may come from a stranger's labels
# choose how a symbol before them looks, and have no glyph
VARIATIONS = {0xFE0E: None, 0xFE0F: None}
NO_CHARACTER = "\U0010ffff"


@dataclass
class Face:
    """A font, and which characters it has."""

    font: Any
    known: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # with complex layout, a missing glyph may come with a dotted circle and look like another one
        self.plain = self.font.font_variant(layout_engine=ImageFont.Layout.BASIC)
        self.missing = self._glyph(NO_CHARACTER)

    def _glyph(self, character: str) -> tuple[Any, bytes]:
        mask = self.plain.getmask(character)
        return mask.size, bytes(mask)

    def has(self, text: str) -> bool:
        """Return whether there is a glyph for each character."""
        for character in set(text) - self.known.keys():
            self.known[character] = character == " " or self._glyph(character) != self.missing
        return all(self.known[character] for character in text)


Run = tuple[str, Face]


@lru_cache(1)
def default_face() -> Face:
    return Face(ImageFont.load_default(SIZE))


@lru_cache(256)
def runs_of(text: str) -> tuple[Run, ...]:
    """Return a caption as parts of one font each; the whole in one font where one has all of it."""
    shown = one_line(text.translate(VARIATIONS), LONGEST)
    default = default_face()
    if default.has(shown):
        return ((shown, default),)
    faces = [face for face in map(face_for, sorted(set(shown))) if face is not None]
    for face in faces:
        if face.has(shown):
            return ((shown, face),)
    runs: list[Run] = []
    for cluster in clusters(shown):
        part, face = _substituted(cluster, [runs[-1][1], default, *faces] if runs else [default, *faces])
        if runs and runs[-1][1] is face:
            runs[-1] = (runs[-1][0] + part, face)
        else:
            runs.append((part, face))
    return tuple(runs)


def clusters(text: str) -> list[str]:
    """Return the letters of a text, each with the marks on it."""
    found: list[str] = []
    for character in text:
        if found and unicodedata.category(character).startswith("M"):
            found[-1] += character
        else:
            found.append(character)
    return found


def _substituted(cluster: str, faces: list[Face]) -> Run:
    """Return a letter with the first font that has it, or what stands for it."""
    base = "".join(c for c in unicodedata.normalize("NFKD", cluster) if not unicodedata.category(c).startswith("M"))
    escape = cluster.encode("unicode_escape").decode()
    for text in (cluster, unicodedata.normalize("NFC", cluster), base, escape):
        for face in faces:
            if text and face.has(text):
                return text, face
    return escape, default_face()


@lru_cache(4096)
def face_for(character: str) -> Face | None:
    """Return a font that has a character; None if there is none on this machine."""
    if default_face().has(character):
        return default_face()
    for face in _opened.values():
        if face is not None and face.has(character):
            return face
    for name, index in (_from_fontconfig(character), *((name, 0) for name in USUAL_FONTS)):
        found = _open(name, index)
        if found is not None and found.has(character):
            return found
    return None


_opened: dict[tuple[str, int], Face | None] = {}
_queries = iter(range(QUERIES))
_without_font: set[str] = set()  # scripts


def _open(name: str, index: int) -> Face | None:
    """Return the font in a file; None if it is not there or has no outlines, as fonts of colored symbols."""
    if (name, index) not in _opened:
        try:
            face = Face(ImageFont.truetype(name, SIZE, index)) if name else None
        except (OSError, ValueError):
            face = None
        _opened[name, index] = face
    return _opened[name, index]


def _from_fontconfig(character: str) -> tuple[str, int]:
    """Return the file and index of the font that fontconfig proposes; an empty name if there is none."""
    script = unicodedata.name(character, "").partition(" ")[0]  # for instance CJK, HIRAGANA
    if script in _without_font or next(_queries, None) is None:
        return "", 0
    words = ["fc-match", "--format=%{file}\n%{index}", f"sans:charset={ord(character):x}"]
    try:
        answer = subprocess.run(words, capture_output=True, timeout=5, check=True, stdin=subprocess.DEVNULL).stdout
        file, _, index = answer.decode().rpartition("\n")
        face = _open(file, int(index))
    except (OSError, ValueError, subprocess.SubprocessError):
        file, index, face = "", "0", None
    if face is None or not face.has(character):
        _without_font.add(script)
    return file, int(index)


# ---------------------------------------------------------------- lines
def width_of(text: str) -> int:
    """Return the width of a caption in pixels."""
    return int(sum(face.font.getlength(part) for part, face in runs_of(text)))


def lines_of(text: str, width: int, most: int | None = None) -> list[str]:
    """Return a caption wrapped to a width in pixels, in at least one line and at most `most`, the last then cut."""
    lines = [""]
    for word in one_line(text, LONGEST).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for cluster in clusters(word):
            if lines[-1] and width_of(lines[-1] + cluster) > width:
                lines.append("")
            lines[-1] += cluster
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip() + "..."]
    return lines


def draw_line(draw: ImageDraw, position: tuple[int, int], text: str, ink: str) -> None:
    """Draw one line of a caption; `position` is its upper left corner."""
    x, y = position
    base = y + default_face().font.getmetrics()[0]
    for part, face in runs_of(text):
        draw.text((x, base), part, fill=ink, font=face.font, anchor="ls")
        x += int(face.font.getlength(part))

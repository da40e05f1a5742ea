"""Command lines as the report shows them: for a shell in the folder above the demo's, with no path of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.text import quote
from .assets import FOLDER

# the shell variable with the folder of the shipped population
SET_ASSETS = 'ASSETS=$(python -c "from w2w_hub.demo.assets import FOLDER; print(FOLDER)")'


class ReportLines:
    """Formats commands of the demo in the folder `out` on the population in the folder `assets`."""

    def __init__(self, out: Path, assets: Path):
        self.out, self.assets = out.absolute(), assets.absolute()

    def first(self) -> str:
        """Return the line that sets the variable which other lines use."""
        return SET_ASSETS if self.assets == FOLDER else f"ASSETS={quote(Path(self.assets.name))}"

    def line(self, *words: Any) -> str:
        """Return one `w2w` command, given as its words; a list among them is all files of a folder."""
        return " ".join(["w2w", *map(self.word, words)])

    def word(self, word: Any) -> str:
        """Return one word, quoted for a shell."""
        if isinstance(word, list):
            return f"{self.word(word[0].parent)}/*"
        if isinstance(word, Path):
            path = word.absolute()
            for folder, name in ((self.out, quote(Path(self.out.name))), (self.assets, '"$ASSETS"')):
                if path.is_relative_to(folder):
                    below = path.relative_to(folder)
                    return name if below == Path() else f"{name}/{quote(below)}"
        return quote(word)

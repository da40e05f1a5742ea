"""Locates the shipped population: drawn avatars, which resemble no real person."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import MissingPathError
from ..models.pictures import open_picture

FOLDER = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Assets:
    """Paths and contents of the demo's assets (made by ``scripts/avatars/recipe.py``)."""

    folder: Path = FOLDER

    def __post_init__(self) -> None:
        for path in (self.rows, self.base, self.judge, self.labels, self.folder / "adapters"):
            if not path.exists():
                raise MissingPathError(f"the demo's assets lack {path}; make them with scripts/avatars/recipe.py")

    @property
    def base(self) -> Path:
        """The base model, a diffusers folder."""
        return self.folder / "base"

    @property
    def rows(self) -> Path:
        """A dataset of 1,024 rows."""
        return self.folder / "rows"

    @property
    def judge(self) -> Path:
        return self.folder / "judge.safetensors"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.csv"

    @property
    def adapters(self) -> list[Path]:
        """PEFT folders."""
        return sorted(p for p in (self.folder / "adapters").iterdir() if p.is_dir())

    @property
    def evaluation(self) -> dict[str, object]:
        """The recipe's measurements on held-out people."""
        path = self.folder / "evaluation.json"
        return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}

    def pictures(self, person: str) -> np.ndarray:
        """Return real pictures of a held-out person, float32 ``(pictures, h, w, 3)`` in [0, 1]."""
        strip = np.asarray(open_picture(self.folder / "heldout" / f"{person}.png"), np.float32) / 255
        height = strip.shape[0]
        return np.stack(np.split(strip, strip.shape[1] // height, axis=1))

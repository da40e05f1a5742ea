"""Draw the picture at the top of README.md: people of a finished demo, edited, and under other prompts.

w2w demo --out w2w-demo
python scripts/readme_picture.py w2w-demo docs/images/people.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from w2w_hub import AutoW2WPipeline
from w2w_hub.demo.settings import CASES, PROMPT
from w2w_hub.models.pictures import contact_sheet, save_picture

PEOPLE = ("person-0001", "person-0007", "person-0010")
SETS: tuple[dict[str, Any], ...] = ({"Full_Beard": True}, {"hair_color": "BLACK"}, {"Sunglasses": True})
SEED, SCALE, COLORS = 0, 2, 128


def draw(demo: Path) -> Any:
    """Return the sheet: one row per person; as they are, one column per attribute, and two other prompts."""
    pipe = AutoW2WPipeline.from_pretrained(demo / "space")
    pipe.set_progress_bar_config(disable=True)
    edited = [list(PEOPLE), *([pipe.space.edit(person, set=wanted) for person in PEOPLE] for wanted in SETS)]
    columns = [pipe.render(people, [(PROMPT, SEED)]) for people in edited]
    others = [(prompt, SEED) for prompt, _ in CASES[1:]]
    pictures = np.concatenate([*columns, pipe.render(list(PEOPLE), others)], axis=1)
    names = [PROMPT, *(f"{name} = {value}" for wanted in SETS for name, value in wanted.items())]
    return contact_sheet(pictures, list(PEOPLE), [*names, *(prompt for prompt, _ in others)], scale=SCALE)


def main() -> None:
    demo, out = map(Path, sys.argv[1:])
    out.parent.mkdir(parents=True, exist_ok=True)
    save_picture(draw(demo).quantize(COLORS), out, overwrite=True)


if __name__ == "__main__":
    main()

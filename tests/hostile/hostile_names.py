"""Names as a stranger could choose them, a dataset and a weight space full of them, and what may never be shown."""

from __future__ import annotations

import hashlib
import json
import shutil
import unicodedata
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from w2w_hub import build_space
from w2w_hub.dataset.manifest import Compatibility

from ..space.population import dataset_of, decaying

MARK = "owned"
# a title and colors for the terminal, 8-bit controls, writing direction, nothing to see, new lines; HTML; Markdown; TeX
HOSTILE = (
    f"\x1b]0;{MARK}\x07\x1b[31m\x9b31m\x85\x7f\u202e\u2066\u200b\u200f\u061c\ufeff\u2028\u2029\U000e0041\u3164"
    "\r\nforged: ok\n\n# forged section\n---\nlicense: forged\n---\n```\n<script>alert(1)</script><!-- "
    "<img src=x onerror=alert(1)> </td></style></title></svg> ' onload='x' \" onclick=\"x\" --> &lt;b&gt; "
    "[link](javascript:alert(1)) ![image](http://example.org/x.png) <http://example.org> www.example.org a@example.org "
    "| forged | *bold* `code` $x$ }\n@misc{forged, \\input{x} é漢🙂"
)
FILE_NAME = HOSTILE.replace("/", "").encode()[:120].decode(errors="ignore")  # what a file system takes


@dataclass(frozen=True)
class World:
    people: Path
    numbered: Path  # the same, with ids as they should be
    later: Path
    space: Path
    id: str
    attribute: str


def make_world(folder: Path) -> World:
    """Write a dataset, a later version of it and its weight space, all below a folder with a hostile name.

    Our own writer refuses such names of columns, a stranger's does not.
    """
    with patch("w2w_hub.dataset.labels.table.clean_columns", lambda table, *_: table):
        return _make_world(folder)


def _make_world(folder: Path) -> World:
    place = folder / FILE_NAME
    rows, rng = decaying(40, 80), np.random.default_rng(0)
    rows[1] = rows[0]
    rows[3] = rows[2] * np.float32(1.0001)
    attribute = f"Beard{HOSTILE}"
    columns = {
        attribute: rows[:, 0] + 0.001 * rng.normal(size=40) > np.median(rows[:, 0]),
        "Hair": [f"red{HOSTILE}" if value else "grey" for value in rng.random(40) < 0.5],
        "source": f"web{HOSTILE}",
        "licence": f"mit{HOSTILE}",
        "consent": f"given{HOSTILE}",
    }
    options = {
        "held_out": 10,
        "name": f"people{HOSTILE}\0",
        "licence": f"mit{HOSTILE}",
        "compatibility": Compatibility(f"org/base{HOSTILE}", None, f"seed{HOSTILE}"),
    }
    about = {attribute: {"unit": f"cm{HOSTILE}", "source": f"web{HOSTILE}"}}
    people = dataset_of(place / "people", rows, columns=columns, column_info=about, **options)
    space = build_space(people, 4, name=f"space{HOSTILE}", version="1.0.0").save(place / "space")
    columns = columns | {"Hair": [f"blue{HOSTILE}"] * 40}
    dataset_of(place / "later", rows[4:], columns={k: v if isinstance(v, str) else v[4:] for k, v in columns.items()},
               **options | {"name": f"renamed{HOSTILE}"})  # fmt: skip
    shutil.copytree(place / "people", place / "numbered")
    for path in (place / "people", place / "later", space):
        poison(path)
    (place / "people" / f"not listed {FILE_NAME}").write_text("")
    return World(place / "people", place / "numbered", place / "later", space, f"p00000{HOSTILE}", attribute)


def poison(folder: Path) -> None:
    """Give rows ids that no writer of ours would take, and make the manifest right again."""
    for file in [*folder.glob("labels/*.parquet"), *folder.glob("coefficients/*.parquet")]:
        table = pq.read_table(file)
        ids = pa.array([f"{name}{HOSTILE}" for name in table["id"].to_pylist()], table.schema.field("id").type)
        pq.write_table(table.set_column(table.schema.get_field_index("id"), "id", ids), file)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for name in manifest["files"]:
        raw = (folder / name).read_bytes()
        manifest["files"][name] |= {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    text = json.dumps(manifest | ({"checksum": "0" * 64} if "checksum" in manifest else {}), indent=1) + "\n"
    seal = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(text.replace(f'"checksum": "{"0" * 64}"', f'"checksum": "{seal}"'), "utf-8")


def require_shown_safely(text: str) -> None:
    """Nothing that a terminal acts on, and no line that begins as the names would have it."""
    for character in set(text) - {"\n", "\t"}:
        category = unicodedata.category(character)
        assert category not in ("Cc", "Cf", "Cs", "Zl", "Zp"), f"{character!r} in {text!r}"
        assert character != "\u3164", text
    for line in text.splitlines():
        assert not line.lstrip(" '\"{").startswith(("forged", "license: forged", "# forged", "@misc{forged", "---")), (
            text
        )


class Page(HTMLParser):
    """The elements of a page of HTML, and their attributes."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.comments = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "action", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments += 1

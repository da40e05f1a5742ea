"""Reprs of one line and tables for notebooks: no array is printed, and no name acts on what shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from w2w_hub.common.display import LONGEST, Displayed, brief, listed, percent

from ..hostile.hostile_names import HOSTILE, MARK, Page, require_shown_safely


@dataclass(repr=False)
class Shown(Displayed):
    name: str = "face"
    values: Any = field(default_factory=lambda: np.zeros((5000, 3), np.float32))
    many: Any = field(default_factory=lambda: {str(i): i for i in range(5000)})


def test_arrays_and_long_collections_are_their_size() -> None:
    assert repr(Shown()) == "Shown(name face, values float32 (5000, 3), many 5,000 entries)"
    assert len(repr(Shown("x" * 10_000, list(range(10**6))))) <= LONGEST + 3
    assert brief({"a": 1}) == "{'a': 1}"
    assert brief(10**400)
    assert listed([]) == "none"
    assert listed(range(1000)) == "0, 1, 2, 3, 4, 5 and 994 more"


def test_a_share_is_never_all_unless_it_is() -> None:
    assert [percent(ratio) for ratio in (0.0, 0.8634, 0.99999, 1.0)] == ["0 %", "86.3 %", "99.9 %", "100 %"]


@pytest.mark.parametrize("value", [HOSTILE, [HOSTILE], {HOSTILE: HOSTILE}])
def test_hostile_text_is_escaped_on_a_terminal_and_in_a_notebook(value: Any) -> None:
    shown = Shown(HOSTILE, value)
    require_shown_safely(repr(shown))
    page = Page(shown._repr_html_())
    assert page.tags == {"table", "caption", "tr", "th", "td"}
    assert page.attributes <= {"style"}
    assert not page.links
    assert MARK in page.text

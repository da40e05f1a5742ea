"""Captions in any script: each letter is drawn as itself or as what stands for it, never as the box of no glyph."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from w2w_hub.models.pictures import contact_sheet

# Latin with marks, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Thai, CJK, kana, Hangul, symbols and emoji
LETTERS = "eéñøßŁαΩжяשמعمहिไทย漢字かナ한글☺→★🙂👩‍🚀"  # noqa: RUF001
ONE = np.zeros((1, 1, 64, 64, 3))


def sheet(row: str = "x", column: str = "x", title: str = "") -> Image.Image:
    return contact_sheet(ONE, [row], [column], title=title)


@pytest.mark.parametrize("place", ["row", "column", "title"])
def test_any_two_letters_of_any_script_look_different(place: str) -> None:
    drawn = {letter: sheet(**{place: letter}).tobytes() for letter in dict.fromkeys(LETTERS)}
    assert not [pair for pair in combinations(drawn, 2) if drawn[pair[0]] == drawn[pair[1]]]


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_no_caption_has_the_box_that_stands_for_a_missing_glyph(text: str) -> None:
    font = ImageFont.load_default(12)
    mask = font.getmask("\U0010ffff")
    box = Image.new("RGB", mask.size, "#ffffff")
    ImageDraw.Draw(box).text((0, 0), "\U0010ffff", fill="#222222", font=font, anchor="lt")
    found, wanted = np.asarray(sheet(row=text)), np.asarray(box)
    height, width = wanted.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(found[:, :300], (height, width), axis=(0, 1))
    assert not (windows == wanted.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()


def test_what_cannot_be_seen_or_would_change_the_line_is_shown_as_its_escape() -> None:
    for hidden, shown in (("a\u202eb", r"a\u202eb"), ("a\nb", r"a\nb"), ("\x1b", r"\x1b"), ("\u200b", r"\u200b")):
        assert sheet(row=hidden).tobytes() == sheet(row=shown).tobytes()
        assert sheet(column=hidden).tobytes() == sheet(column=shown).tobytes()


@pytest.mark.parametrize("text", ["x" * 5000, "漢" * 5000, "word " * 1000, "e\u0301" * 3000])
def test_a_long_caption_is_cut_and_stays_beside_its_picture(text: str) -> None:
    beside, above = sheet(row=text), sheet(column=text)
    assert beside.width < 500
    assert beside.height == sheet().height
    assert above.width == sheet().width
    assert above.height < 3000
    for made in (beside, above):
        corner = np.asarray(made)[made.height - 132 :, made.width - 132 :]
        assert (corner[:128, :128] == 0).all()  # no letter on the picture

"""Text of strangers at its limits, construct by construct: lines, shells, Markdown, YAML, and elements of pages."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

import w2w_hub
from w2w_hub.common.pages import element, render
from w2w_hub.common.text import (
    LONGEST_NAME,
    Markdown,
    ShellText,
    an,
    code,
    command,
    counted,
    duration,
    few,
    files_of,
    markdown,
    nearest,
    one_line,
    python_string,
    quote,
    table_row,
    terminal,
    yaml_text,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (4e6, "1,111 h 6 min")],
)
def test_a_time_is_said_in_the_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text("ab\x1b\u200bé", max_size=12), st.integers(0, 12))
def test_a_line_is_cut_just_where_it_is_longer_than_its_limit(text: str, limit: int) -> None:
    shown = terminal(text)
    if len(shown) <= limit:
        assert one_line(text, limit) == shown
    else:
        assert one_line(text, limit) == f"{shown[:limit]}..."


FILLERS = "\u034f\u115f\u1160\u17b4\u180b\u180f\u2800\u3164\ufe00\ufe0d\uffa0\U000e0100\U000e01ef"


@pytest.mark.parametrize("character", [*FILLERS, "\x00", "\x7f", "\u00a0", "\u2029"])
def test_every_invisible_character_is_escaped_unless_it_is_to_be_kept(character: str) -> None:
    assert terminal(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"
    assert terminal(f"a{character}b\x1b", keep=character) == f"a{character}b\\x1b"
    assert terminal("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert terminal(3) == "3"


def test_a_command_puts_what_begins_with_a_hyphen_where_it_is_no_option() -> None:
    assert command("w2w do", "a", Path("-b"), options=("-o", "c d")) == "w2w do a ./-b -o 'c d'"
    assert command("w2w do", "-a", "b", options=("-o", Path("-c"))) == "w2w do -o ./-c -- -a b"
    assert command("w2w do") == "w2w do"
    assert command("w2w do", ShellText("-*"), "x y") == "w2w do -* 'x y'"
    assert quote("-b") == "-b"
    assert quote(PurePosixPath("-b")) == "./-b"
    assert quote(ShellText("$HOME")) == "$HOME"
    assert files_of(Path("my folder"), "*.json") == "'my folder'/*.json"
    assert isinstance(files_of("a", "*"), ShellText)
    assert quote("a'\\\x1bé") == "$'a\\x27\\x5c\\x1b\\xc3\\xa9'"
    assert quote("\udc80") == "$'\\x80'"
    assert shlex.split(quote("a b;$c'd")) == ["a b;$c'd"]


@pytest.mark.parametrize(
    "text",
    [
        "`x`", "a\\b", "a|b", "*a*", "~a~", "[a](b)", "$x$", "a{b}", "^a", "a # b", "@ann", "<b>", "</b>", "<!--",
        "<?x",
        "&amp;", "&#38;", "https://x", "www.1", "WWW.1", "example.org", ":smile:", "_a_", "a _b", "a_ b", "v2.x",
    ],
)  # fmt: skip
def test_what_markdown_acts_on_is_shown_as_code(text: str) -> None:
    shown = markdown(text)
    assert isinstance(shown, Markdown)
    assert shown.startswith("`")
    assert shown.endswith("`")
    assert "`" not in shown[1:-1]
    assert "|" not in shown
    assert not any(f"<{letter}" in shown for letter in "b/!?")
    assert "](" not in shown
    assert markdown(shown) is shown


def test_what_it_does_not_act_on_stays() -> None:
    for text in ("a < b", "a & b", "1.5", "a_b_c", "a: b:", "5 > 3", "a. b", "a - b", "(a)", "é"):
        assert markdown(text) == text
    assert code("") == "` `"
    assert code("a|b`c") == "`a\\x7cb\\x60c`"
    assert code("[x](y) <b> a<1") == "`[x]\\x28y) \\x3cb> a<1`"
    assert len(markdown("x" * (LONGEST_NAME + 1))) == LONGEST_NAME + 3
    assert markdown("x" * LONGEST_NAME) == "x" * LONGEST_NAME
    assert table_row("a", 1, Markdown("**b**"), "c|d") == "| a | 1 | **b** | `c\\x7cd` |"
    assert python_string('a"b\n<b> [x](y) é') == '"a\\"b\\n\\x3cb> [x]\\x28y) é"'


def test_yaml_keeps_its_order_and_every_script_and_shows_what_cannot_be_seen() -> None:
    assert yaml_text({"b": 1, "a": ["é", "漢"]}) == "b: 1\na:\n- é\n- 漢\n"
    hidden = yaml_text({"b": "\u200bx", "a": "y " * 200})
    assert "\\u200B" in hidden
    assert len(hidden.splitlines()) == 2
    assert hidden.startswith("b:")


# ---------------------------------------------------------------- pages
def test_an_element_escapes_all_that_is_not_markup_and_leaves_out_what_is_none() -> None:
    assert element("g") == "<g/>"
    assert element("g", "") == "<g></g>"
    assert element("g", "a<b", Markup("<i>c</i>"), 3) == "<g>a&lt;b<i>c</i>3</g>"
    made = element("line", x1=0, stroke_width=1.5, class_="a\"'b", fill=None, title="")
    assert made == '<line x1="0" stroke-width="1.5" class="a&quot;&#x27;b" title=""/>'
    assert isinstance(made, Markup)
    assert element("g", element("b", "x")) == "<g><b>x</b></g>"
    assert element("g", "a\u202eb", title="\x1b") == '<g title="\\x1b">a\\u202eb</g>'


def test_a_page_is_not_made_without_its_values() -> None:
    from jinja2 import UndefinedError

    for page in ("report.html", Path(w2w_hub.__file__).parent / "demo" / "report.html"):
        with pytest.raises(UndefinedError):
            render(page)


def test_numbers_articles_and_lists_are_english() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 1056)] == ["0 rows", "1 row", "2 rows", "1,056 rows"]
    words = ("identity", "day", "pass", "batch", "redundant equal row")
    assert [counted(2, word) for word in words] == [
        "2 identities", "2 days", "2 passes", "2 batches", "2 redundant equal rows",
    ]  # fmt: skip
    assert [counted(n, "row has", "rows have") for n in (1, 2)] == ["1 row has", "2 rows have"]
    assert [an(word) for word in ("Inversion", "str", "Adapter", "")] == ["an Inversion", "a str", "an Adapter", "a "]
    assert [few(list("abc"), n) for n in (1, 2, 3)] == ["a and 2 more", "a, b and 1 more", "a, b, c"]
    assert nearest(" BROWN ", ["Brown", "black"]) == ["Brown"]
    assert nearest("zzz", ["Brown"]) == []

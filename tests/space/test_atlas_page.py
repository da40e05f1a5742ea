"""The page of an atlas in a real browser: pictures, colors, keys, search; nothing is requested from anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2w_hub import WeightSpace
from w2w_hub.space.atlas import Atlas

from .atlases import crowd, small_world

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MOST_BYTES_PER_PERSON = 2500


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> WeightSpace:
    return small_world(tmp_path_factory.mktemp("atlas"))[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open the page of an atlas; at the end, nothing may have failed or been requested but the file itself."""
    contexts, problems, requests = [], list[str](), list[str]()

    def open_page(atlas: Atlas, **options: Any) -> Any:
        path = tmp_path / "a.html"
        atlas.save_page(path, overwrite=True)
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: problems.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems
    assert {url for url in requests if not url.startswith("data:")} == {(tmp_path / "a.html").as_uri()}


def spot(page: Any, person: int) -> tuple[float, float]:
    """Where a person is, in the window."""
    box = page.locator("#canvas").bounding_box()
    x, y = page.evaluate(f"onScreen({person}, unit())")
    return box["x"] + x, box["y"] + y


def test_ten_thousand_people_open_and_hover_shows_a_picture(space: WeightSpace, show: Callable[..., Any]) -> None:
    page = show(crowd(space, 10_000))
    assert float(page.locator("html").get_attribute("data-drawn")) < 5000  # 0.5 s on an idle machine
    assert len(page.content()) < MOST_BYTES_PER_PERSON * 10_000
    page.mouse.move(*spot(page, 17))
    name = page.locator("#tip div").first.text_content()
    assert name.startswith("person-")
    assert (
        page.locator("#tip img").evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") == 64
    )


def test_colors_legend_and_filters_follow_the_label(space: WeightSpace, show: Callable[..., Any]) -> None:
    atlas = crowd(space, 300)
    atlas.labels["Wide"] = np.resize([-1e308, 1e308, np.inf, np.nan, 0.0], 300)
    page = show(atlas)
    shot = page.locator("#canvas").screenshot()
    assert page.locator("#legend h2").text_content() == "Beard"
    counts = [int(text) for text in page.locator("#legend button b").all_text_contents()]
    assert sum(counts) == 300
    assert counts[-1] == 1  # missing
    page.locator("#legend button").first.click()
    assert page.locator("#legend button").first.get_attribute("aria-pressed") == "false"
    page.wait_for_timeout(100)
    filtered = page.locator("#canvas").screenshot()
    page.select_option("#color", label="Age")
    assert page.locator("#legend .scale").count() == 1
    page.wait_for_timeout(100)
    aged = page.locator("#canvas").screenshot()
    page.select_option("#color", label="Town")
    assert page.locator("#legend button").count() == 12  # eleven and the others
    page.select_option("#color", label="Wide")  # the range is no finite number
    assert page.locator("#legend button b").all_text_contents() == ["180", "120"]
    assert len({shot, filtered, aged}) == 3


def test_search_keys_zoom_and_neighbors_lead_to_people(space: WeightSpace, show: Callable[..., Any]) -> None:
    page = show(crowd(space, 300))
    page.fill("#search", "PERSON-00123")
    page.press("#search", "Enter")
    assert page.locator("#card h2").text_content() == "person-00123"
    assert page.locator("#card tr").count() == 4
    assert page.evaluate("document.activeElement.id") == "canvas"
    page.keyboard.press("ArrowRight")
    assert page.locator("#card h2").text_content() != "person-00123"
    page.locator("#card .near button").first.click()
    before = page.evaluate("state.zoom")
    page.locator("#canvas").focus()
    for key in ("+", "+", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("state.zoom") > before
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -4000)
    page.wait_for_timeout(300)
    assert page.evaluate("pictures.size") > 0  # pictures replace dots
    page.mouse.down()
    page.mouse.move(500, 300)
    page.mouse.up()
    page.keyboard.press("0")
    assert page.evaluate("[state.zoom, state.x, state.y]") == [1, 0.5, 0.5]
    page.mouse.click(*spot(page, 5))
    assert page.locator("#card h2").text_content().startswith("person-")
    page.keyboard.press("Escape")
    assert page.locator("#card h2").count() == 0
    page.fill("#search", "nobody at all")
    assert "nobody" in page.locator("#found").text_content()


def test_names_of_strangers_do_nothing_and_a_phone_has_no_sideways_scroll(
    space: WeightSpace, show: Callable[..., Any]
) -> None:
    evil = "</script><img src=x onerror=alert(1)>" + "w" * 300
    atlas = crowd(space, 40, ids=[f"{i}{evil}" for i in range(40)])
    atlas.labels.columns = [f"{name}{evil}" for name in atlas.labels]
    atlas.labels.iloc[:, 2] = evil
    page = show(atlas, is_mobile=True, has_touch=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.fill("#search", "3<")
    page.press("#search", "Enter")
    page.touchscreen.tap(*spot(page, 7))
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("img[src=x]").count() == 0

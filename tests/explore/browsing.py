"""A browser that looks at the explorer on the demo's space, and the space itself."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")  # Debian's; no browser is downloaded
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 60_000  # milliseconds, for machines that do other things, too
# set these to look at the pages, or to make README's picture
LOOK, README_PICTURE = os.environ.get("W2W_EXPLORE_LOOK"), os.environ.get("W2W_EXPLORE_PICTURE")
SPACE = os.environ.get("W2W_EXPLORE_SPACE")  # a demo's space that is there already


def make_demo_space(folder: Path) -> None:
    """Make the dataset and the weight space of `w2w demo` with the commands that it shows."""
    from click.testing import CliRunner

    from w2w_hub import WeightDataset
    from w2w_hub.cli import main
    from w2w_hub.demo.assets import Assets

    assets, people, space = Assets(), folder / "dataset", folder / "space"
    start = WeightDataset.open(assets.rows).manifest.compatibility.initialisation
    for words in (
        [
            "pack", *assets.adapters, "--labels", assets.labels, "--base", assets.base, "--initialization", start,
            "--out", people,
        ],
        ["add", people, assets.rows],
        [
            "build", people, "--k", 400, "--base", assets.base, "--num-inference-steps", 15, "--guidance-scale", 2.0,
            "--out", space,
        ],
    ):  # fmt: skip
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 0, result.output


@pytest.fixture(scope="session")
def demo_space(made_once: Callable[..., Path]) -> Path:
    if SPACE:
        return Path(SPACE)
    return made_once("explored-demo", make_demo_space) / "space"


@contextmanager
def served(app: Any) -> Iterator[str]:
    address = app.serve("127.0.0.1", 0, block=False)
    try:
        yield address
    finally:
        app.close(verbose=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


class Visitor:
    """One visitor's page, which records what leaves the machine and what goes wrong in it."""

    def __init__(self, browser: Any, size: dict[str, int]):
        self.context = browser.new_context(viewport=size, accept_downloads=True)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.outside: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", self._requested)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))

    def _requested(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.outside.append(request.url)

    def open(self, address: str) -> Visitor:
        self.page.goto(address)
        self.page.wait_for_selector("#w2w-stage img")
        self.page.wait_for_selector("#w2w-edit .control, #w2w-components .slider", state="attached")
        return self

    def tab(self, name: str) -> Any:
        self.page.get_by_role("tab", name=name).click()
        panel = self.page.locator(f"#w2w-{name.lower()}")
        panel.wait_for()
        return panel

    def pictures(self) -> list[str]:
        """Return the addresses of the pictures before and after, which hold their pixels."""
        return [picture.get_attribute("src") for picture in self.page.locator("#w2w-stage img").all()]

    def until(self, condition: str, argument: Any = None) -> None:
        self.page.wait_for_function(condition, arg=argument)

    def until_changed(self, before: list[str]) -> list[str]:
        """Wait for other pictures than these, and return them."""
        self.until(
            "(old) => JSON.stringify([...document.querySelectorAll('#w2w-stage img')].map((i) => i.src)) !== old",
            _compact(before),
        )
        return self.pictures()

    def message(self) -> str:
        self.page.locator("#w2w-message [role=alert]").wait_for()
        return str(self.page.locator("#w2w-message").inner_text())

    def link(self) -> str:
        return str(self.page.evaluate("location.search"))

    def look(self, name: str) -> None:
        """Keep a picture of the window, to be looked at."""
        if LOOK:
            self.page.wait_for_timeout(300)
            self.page.screenshot(path=Path(LOOK) / f"{name}.png")

    def close(self) -> None:
        self.context.close()
        assert not self.outside
        assert not self.faults


def _compact(values: list[str]) -> str:
    import json

    return json.dumps(values, separators=(",", ":"))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visitor]]:
    """Open pages; at the end no request has left the machine, and no script has failed."""
    visitors: list[Visitor] = []

    def make(address: str, size: dict[str, int] = WIDE) -> Visitor:
        visitors.append(Visitor(browser, size))
        return visitors[-1].open(address)

    yield make
    for visitor in visitors:
        visitor.close()


def axe_script() -> str:
    """Return axe-core's source, which the package axe-playwright-python holds."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        pytest.skip("axe_playwright_python is not installed")
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")

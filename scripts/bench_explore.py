"""Measure the explorer on the demo's space: the first page, an edit, a strip of nine, and an idle server's memory.

    python scripts/bench_explore.py --space w2w-demo/space

The server is a process of its own, as `w2w explore` starts it. A browser that is not counted (Debian's Chromium, driven
by playwright) opens the page. Times end when the browser shows the pictures. Medians over the repeats; what is drawn is
new each time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = "/usr/bin/chromium"
LIMITS = {"first page": 3.0, "an edit's picture": 1.0, "a strip of nine": 4.0}  # seconds, on two cores
MEMORY = 1200  # MB, of an idle server
FIRST = "#w2w-stage img"
ATTRIBUTES = ("Full_Beard", "Wearing_Hat", "Bald", "Dark_Skin", "Eyeglasses", "Long_Hair", "Mohawk", "Gray_Hair")


@contextmanager
def server(space: Path) -> Iterator[tuple[str, int]]:
    """Start `w2w explore` on a free port; give its address and process id."""
    words = [sys.executable, "-m", "w2w_hub", "explore", str(space), "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0].rstrip("/"), process.pid
                return
        raise SystemExit("the server did not start")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def memory_of(process: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_page(browser: Any, address: str) -> tuple[Any, float]:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(FIRST)
    page.wait_for_selector("#w2w-edit .control")
    return page, time.perf_counter() - began


def time_edit(page: Any, attribute: str) -> float:
    before = page.locator(FIRST).last.get_attribute("src")
    control = page.locator(f"#w2w-edit .control:has([title={attribute}])")
    value = "no" if "now: yes" in control.inner_text() else "yes"  # what changes the picture
    radio = control.locator(f"input[value={value}]")
    radio.scroll_into_view_if_needed()
    began = time.perf_counter()
    radio.check()
    page.wait_for_function("(old) => [...document.querySelectorAll('#w2w-stage img')].at(-1).src !== old", arg=before)
    return time.perf_counter() - began


def time_strip(page: Any, attribute: str) -> float:
    control = page.locator(f"#w2w-edit .control:has([title={attribute}])")
    control.locator("summary").click()
    page.evaluate("document.querySelector('#w2w-edit-strip .w2w')?.remove()")
    button = control.get_by_role("button", name="Low to high")
    button.scroll_into_view_if_needed()
    label = attribute.replace("_", " ").capitalize()
    began = time.perf_counter()
    button.click()
    page.locator(f"#w2w-edit-strip [aria-label^='{label}'] figure").nth(8).wait_for()
    return time.perf_counter() - began


def measure(space: Path, repeats: int) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {name: [] for name in LIMITS}
    with server(space) as (address, process), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        browser.new_page().goto("about:blank")
        for i in range(repeats):
            link = f"{address}/?person=%7B%22sample%22%3A{i + 20}%7D"
            page, first = open_page(browser, link)
            times["first page"].append(first)
            times["an edit's picture"].append(time_edit(page, ATTRIBUTES[i % len(ATTRIBUTES)]))
            times["a strip of nine"].append(time_strip(page, ATTRIBUTES[(i + 1) % len(ATTRIBUTES)]))
            page.context.close()
        browser.close()
        time.sleep(2)
        idle = memory_of(process)
    return {name: round(statistics.median(each), 2) for name, each in times.items()} | {"an idle server": round(idle)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", type=Path, default=Path("w2w-demo/space"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    found = measure(options.space, options.repeats)
    for name, limit in LIMITS.items():
        print(f"{name}: {found[name]:.2f} s (asked: at most {limit:g} s)")
    print(f"an idle server: {found['an idle server']:,.0f} MB (asked: at most {MEMORY:,} MB)")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

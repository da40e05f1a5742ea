"""Measure the atlas: nearest neighbors of a large population, and the page of 10,000 people in Chromium.

    python scripts/bench_atlas.py                         # 65,000 people of 1,000 components; minutes
    python scripts/bench_atlas.py --people 20000 --k 400

Pictures are 64 x 64 pixels of flat areas and noise, each different. The page is opened from its file, five times.
"""

from __future__ import annotations

import io
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import click
import numpy as np
from PIL import Image

from w2w_hub import ParameterLayout, Population, WeightSpace, make_atlas
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.lora.adapter import Target
from w2w_hub.space import Coordinates
from w2w_hub.space.atlas.atlas import ON_A_PAGE


def make_space(people: int, k: int) -> WeightSpace:
    """Return a space of random people."""
    rng = np.random.default_rng(0)
    layout = ParameterLayout({Target("unet", "a.to_q"): (1, k, k)}, 1.0)
    basis = np.eye(k, layout.size, dtype=np.float32)
    coordinates = Coordinates(
        layout, np.zeros(layout.size, np.float32), np.ones(layout.size, np.float32), basis, np.linspace(2, 1, k)
    )
    population = Population(
        tuple(f"person-{i:05d}" for i in range(people)), np.full(people, "train"),
        rng.standard_normal((people, k), np.float32), "train",
    )  # fmt: skip
    return WeightSpace(
        coordinates=coordinates, population=population, recipe={"rows": people}, compatibility=Compatibility(),
        name="bench",
    )  # fmt: skip


def picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    areas = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((11, 11, 1)))[:64, :64]
    data = io.BytesIO()
    Image.fromarray(np.clip(areas + rng.normal(0, 3, areas.shape), 0, 255).astype(np.uint8)).save(
        data, "WEBP", quality=82
    )
    return data.getvalue()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@click.command(help=__doc__)
@click.option("--people", default=65_000)
@click.option("--k", default=1_000)
@click.option("--chromium", default=shutil.which("chromium") or "")
def main(people: int, k: int, chromium: str) -> None:
    space = make_space(people, k)
    before, begun = peak(), time.perf_counter()
    atlas = make_atlas(space)
    seconds = time.perf_counter() - begun
    print(
        f"{people:,} people x {k:,}: {seconds:.1f} s, peak {peak():.2f} GiB, of which {before:.2f} GiB the population",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        path = atlas.save(Path(folder) / "a.parquet")
        print(f"Parquet without pictures: {path.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - begun:.1f} s")
        few = make_atlas(space, limit=min(people, ON_A_PAGE))
        few = replace(few, thumbnails=tuple(map(picture, range(len(few)))))
        begun = time.perf_counter()
        path = few.save_page(Path(folder) / "a.html")
        size = path.stat().st_size
        print(
            f"page of {len(few):,} people: {size / 1e6:.1f} MB, {size / len(few):,.0f} bytes each, of which pictures "
            f"{sum(map(len, few.thumbnails or ())) / len(few) * 4 / 3:,.0f}; written in "
            f"{time.perf_counter() - begun:.1f} s",
            flush=True,
        )
        if chromium:
            drawn, redrawn = in_browser(path, chromium)
            print(f"first draw {drawn:.0f} ms after opening, a frame while zooming {redrawn:.1f} ms (medians of 5)")


def in_browser(path: Path, chromium: str) -> tuple[float, float]:
    """Return milliseconds to the first draw, and of one drawing of all people."""
    from playwright.sync_api import sync_playwright

    first, again = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-drawn]")
            first.append(float(page.locator("html").get_attribute("data-drawn") or "nan"))
            again.append(
                page.evaluate(
                    "() => { const begun = performance.now(); for (let i = 0; i < 10; i++) draw(); "
                    "pen.getImageData(0, 0, 1, 1); return (performance.now() - begun) / 10; }"
                )
            )
            page.close()
        browser.close()
    return median(first), median(again)


if __name__ == "__main__":
    main()

"""Samples of every method beside held-out people: `python scripts/avatars/measure_samples.py`.

For each method of `space.sample` and for the held-out people's own adapters: the cosine of one person's pictures under
the three prompts, that of different people's, and the cosine to the nearest fitted row by coefficients and by pictures,
each with a 95 % interval over people. A method copies rows if its nearest rows are nearer than held-out people's.
Nothing is chosen by pictures. ``--count 8 --rows 16`` is a quick look: a minute on a CPU after the build.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from measure_sets import DRAWN, interval  # noqa: E402
from resume import machine  # noqa: E402
from shipped_edits import population, split_anew  # noqa: E402

from w2w_hub import W2WPipeline, WeightSpace, build_space  # noqa: E402
from w2w_hub.demo.assets import Assets  # noqa: E402
from w2w_hub.demo.judge import Judge  # noqa: E402
from w2w_hub.demo.measure import tensor  # noqa: E402
from w2w_hub.demo.settings import CASES, COMPONENTS  # noqa: E402
from w2w_hub.space.identity import resolve  # noqa: E402
from w2w_hub.space.population import unit_rows  # noqa: E402
from w2w_hub.space.sampling import METHODS  # noqa: E402


class Pictures:
    """Embeddings of people's pictures under all cases, by the judge."""

    def __init__(self, pipe: Any, judge: Judge):
        self.pipe, self.judge = pipe, judge

    def of(self, people: list[Any]) -> np.ndarray:
        """Return unit vectors ``(people, cases, e)``."""
        drawn = self.pipe.render(people, CASES, **DRAWN)
        return np.asarray(self.judge.embed(tensor(drawn)).numpy().reshape(*drawn.shape[:2], -1))


def figures(found: np.ndarray, nearest: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Return the figures of some people.

    Parameters
    ----------
    found : ndarray
        ``(people, cases, e)``.
    nearest : ndarray
        ``(people,)``, the cosine to the nearest fitted row by coefficients.
    rows : ndarray
        Mean pictures of fitted rows, unit vectors ``(rows, e)``.
    """
    pairs = [(a, b) for a in range(len(CASES)) for b in range(a)]
    between = found[:, 0] @ found[:, 0].T
    np.fill_diagonal(between, np.nan)
    return {
        "same_person": interval(np.mean([(found[:, a] * found[:, b]).sum(1) for a, b in pairs], 0)),
        "others": interval(np.nanmean(between, 1)) if len(found) > 1 else None,
        "nearest_row": interval(nearest),
        "nearest_picture": interval((unit_rows(found.mean(1)) @ rows.T).max(1)),
    }


@click.command()
@click.option("--count", default=128, show_default=True, help="People of each method; 64 to 256 for figures.")
@click.option("--rows", "most", default=864, show_default=True, help="Fitted rows whose pictures are compared with.")
@click.option("--space", "folder", type=click.Path(path_type=Path), help="A built space of the 864 rows.")
@click.option("--method", "chosen", multiple=True, type=click.Choice(list(METHODS)), help="Methods; all by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures here, as JSON.")
def main(count: int, most: int, folder: Path | None, chosen: tuple[str, ...], out: Path | None) -> None:
    """Measure samples of all methods, and held-out people's own adapters."""
    started, assets = time.monotonic(), Assets()
    with tempfile.TemporaryDirectory() as scratch:
        people = split_anew(population(assets, Path(scratch) / "people"), Path(scratch) / "split")
        space = build_space(people, COMPONENTS) if folder is None else WeightSpace.open(folder)
        pipe = W2WPipeline.from_base(assets.base, space)
        pipe.set_progress_bar_config(disable=True)
        pictures = Pictures(pipe, Judge.load(assets.judge))
        fitted = space.require_population("row").fitted_ids[:most]
        rows = unit_rows(pictures.of([resolve(space, people.adapter(name)) for name in fitted]).mean(1))
        held_out = [people.ids[i] for i in people.where(split="test")][:count]
        found: dict[str, Any] = {
            "machine": machine(), "fitted": space.recipe["rows"], "rows_with_pictures": len(fitted), "k": space.k,
        }  # fmt: skip

        def report(name: str, identities: list[Any], coefficients: list[np.ndarray]) -> None:
            nearest = np.array([space.nearest(c)[0][1] for c in coefficients])
            found[name] = figures(pictures.of(identities), nearest, rows)
            click.echo(f"{time.monotonic() - started:6.0f} s  {name}: {json.dumps(found[name])}")
            if out is not None:
                out.write_text(json.dumps(found, indent=1) + "\n")

        click.echo(json.dumps(found))
        own = [resolve(space, people.adapter(name)) for name in held_out]
        report("held-out people", own, [one.point.coefficients for one in own])
        report("held-out people, their points", [o.point for o in own], [o.point.coefficients for o in own])
        for method in chosen or METHODS:
            drawn = space.sample(count, seed=0, method=method)
            report(method, list(drawn), [point.coefficients for point in drawn])


if __name__ == "__main__":
    main()

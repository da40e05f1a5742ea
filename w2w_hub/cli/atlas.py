"""Command `w2w atlas`."""

from __future__ import annotations

from pathlib import Path

import click

from ..common.text import command, counted
from .common import (
    PROMPT,
    SEED,
    examples,
    generation_options,
    given_settings,
    no_loading_bars,
    out_option,
    space_argument,
)
from .output import say

PLACINGS = ("components", "directions", "umap")  # space.atlas.placing.PLACINGS, without importing NumPy for --help


@click.command(
    epilog=examples(
        "w2w atlas space --no-pictures --dataset people --out people.parquet --html people.html",
        "w2w atlas space --axes Full_Beard,Dark_Skin --limit 40 --html beards.html",
    )
)
@space_argument
@out_option("The Parquet file to write, for embedding-atlas, the Hub's viewer or pandas.", required=False)
@click.option(
    "--html", "page", type=click.Path(path_type=Path),
    help="Also write a page for a browser, with everything inside; at most 10,000 people.",
)  # fmt: skip
@click.option(
    "--dataset", type=click.Path(path_type=Path),
    help="Dataset that SPACE was built from, for its labels.  [default: what SPACE reads from the weights]",
)  # fmt: skip
@click.option(
    "--by", type=click.Choice(PLACINGS), help="How people are placed; umap needs umap-learn.  [default: by --axes]"
)
@click.option("--axes", metavar="X,Y", help="Two components or directions.  [default: PC1,PC2]")
@click.option(
    "--neighbors", default=10, show_default=True, type=click.IntRange(0, 1000), help="Nearest neighbors of each person."
)
@click.option("--limit", type=click.IntRange(2), help="Take a random sample of so many people.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of sample and umap."
)
@click.option("--no-pictures", is_flag=True, help="Draw nobody, also where SPACE has its base model.")
@click.option("--base", type=click.Path(path_type=Path), help="Base model to draw with.  [default: that of SPACE]")
@click.option("--size", default=64, show_default=True, type=click.IntRange(16, 512), help="Pixels of a picture's side.")
@click.option("--prompt", default="sks person", show_default=True, type=PROMPT, help="Prompt of the pictures.")
@click.option("--picture-seed", default=0, show_default=True, type=SEED, help="Seed of the pictures' noise.")
@generation_options(".  [default: what SPACE states, or else its pipeline's]")
def atlas(
    space: Path, out: Path | None, force: bool, page: Path | None, dataset: Path | None, by: str | None,
    axes: str | None, neighbors: int, limit: int | None, seed: int, no_pictures: bool, base: Path | None, size: int,
    prompt: str, picture_seed: int, num_inference_steps: int | None, guidance_scale: float | None,
) -> None:  # fmt: skip
    """Write a map of the people of SPACE: a Parquet file for viewers, a page for a browser, or both.

    Each person has a position, labels, nearest neighbors, and a picture if SPACE has its base model or --base names it.
    """
    from ..dataset import WeightDataset
    from ..dialects.base_model import MODEL_INDEX
    from ..space import WeightSpace
    from ..space.atlas import make_atlas
    from ..space.atlas.atlas import require_few
    from ..space.card import dataset_repository
    from ..store.atomic import require_output
    from ..store.paths import has_file

    if out is None and page is None:
        raise click.UsageError("give --out FILE.parquet, --html FILE.html, or both")
    if no_pictures and base is not None:
        raise click.UsageError("--base is for pictures; leave out --no-pictures")
    if out is not None and page is not None and out.absolute() == page.absolute():
        raise click.UsageError("--out and --html are two files; give them different names")
    for path in (out, page):
        if path is not None:
            require_output(path, overwrite=force)
    opened = WeightSpace.from_pretrained(space)
    if page is not None and opened.population is not None:  # before anything is computed
        require_few(min(len(opened.population), limit or len(opened.population)))
    labels = None if dataset is None else WeightDataset.open(dataset)
    named = None if axes is None else [name.strip() for name in axes.split(",")]
    found = make_atlas(opened, labels, by=by, axes=named, neighbors=neighbors, limit=limit, seed=seed)
    source = opened.source
    embedded = source is not None and (MODEL_INDEX in source.files or has_file(source.folder, MODEL_INDEX))
    if base is not None or (embedded and not no_pictures):
        from ..models.atlas_pictures import draw_atlas
        from ..models.pipelines import AutoW2WPipeline, best_device

        no_loading_bars()
        pipe = AutoW2WPipeline.from_pretrained(space) if base is None else AutoW2WPipeline.from_base(base, opened)
        pipe.set_progress_bar_config(disable=True)
        settings = given_settings(num_inference_steps, guidance_scale)
        found = draw_atlas(pipe.to(best_device()), found, prompt=prompt, seed=picture_seed, size=size, **settings)
    if out is not None:
        found.save(out, overwrite=force)
    if page is not None:
        found.save_page(page, overwrite=force)
    drawn = "without pictures" if found.thumbnails is None else "with pictures"
    what = f"{counted(len(found), 'person', 'people')} along {' and '.join(found.axes)}, {drawn}"
    say(*(f"{path}: {what}" for path in (out, page) if path is not None))
    if out is not None:
        image = "" if found.thumbnails is None else " --image thumbnail"
        say(f"next: embedding-atlas {out} --x x --y y --neighbors neighbors{image}")
    if dataset is None:
        known = dataset_repository(opened.recipe)
        name = "DATASET" if known is None else known[0]
        say(f"labels are what the weight space reads; for the dataset's own add: {command('--dataset', name)}")

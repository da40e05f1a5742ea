"""The commands `w2w train` and `train-many`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..common.progress import notice
from ..common.text import command, counted, few
from .common import FINITE, SEED, examples, json_option, no_loading_bars, out_option
from .datasets import LICENSE, build_command
from .output import print_json, say

if TYPE_CHECKING:
    from ..training import TrainingRecipe


F = TypeVar("F", bound=Callable[..., Any])


def recipe_options(function: F) -> F:
    """Add the options of a training recipe and of where it runs."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


OPTIONS = (
    click.option(
        "--base", required=True, help="The base model: a diffusers folder, a weight space with one, or org/name."
    ),
    click.option(
        "--for",
        "for_",
        type=click.Path(path_type=Path),
        help="Dataset or weight space that the adapter is for: its layout, scale and initialization are used.",
    ),
    click.option(
        "--start",
        type=click.Path(path_type=Path),
        help="Adapter to start from.  [default: the initialization that --for publishes, else PEFT's with seed 0]",
    ),
    click.option("--prompt", help="Prompt of pictures without a caption.  [default: sks person]"),
    click.option("--caption-dropout", type=FINITE, help="Probability of leaving out each later part of a caption."),
    click.option("--class-prompt", help="Prompt of the class pictures, drawn once.  [default: person]"),
    click.option("--class-pictures", type=click.IntRange(1), help="Number of class pictures.  [default: 200]"),
    click.option("--no-class-pictures", is_flag=True, help="Train without class pictures (no prior preservation)."),
    click.option("--rank", type=click.IntRange(1), help="Rank of the adapter.  [default: 1, or that of --for]"),
    click.option("--alpha", type=FINITE, help="Scale times the rank.  [default: 27, or that of --for]"),
    click.option("--target", "targets", multiple=True, help="Suffix of adapted modules.  [default: to_q and to_v]"),
    click.option("--steps", type=click.IntRange(1), help="Optimizer steps.  [default: 800]"),
    click.option("--batch-size", type=click.IntRange(1), help="Pictures per step.  [default: 1]"),
    click.option("--learning-rate", type=FINITE, help="Learning rate of AdamW.  [default: 0.0001]"),
    click.option(
        "--schedule",
        type=click.Choice(["constant", "cosine"]),
        help="Learning rate over the steps.  [default: constant]",
    ),
    click.option("--average-last", type=FINITE, help="Fraction of the steps whose weights are averaged.  [default: 0]"),
    click.option("--seed", type=SEED, help="Seed of noise, timesteps and picture order.  [default: 0]"),
    click.option(
        "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), help="Dtype of computation.  [default: auto]"
    ),
    click.option(
        "--device",
        "devices",
        multiple=True,
        help="For example cuda; train-many takes several.  [default: the fastest]",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "eager", "compiled", "captured", "compiled+captured"]),
        default="auto",
        show_default=True,
        help="How steps run: captured is one CUDA graph; compiled takes minutes to start.",
    ),
    click.option("--resume", is_flag=True, help="Go on with an unfinished run of the same command."),
)


@click.command(
    epilog=examples(
        "w2w train photos --base my-base-model --out trained",
        "w2w train photos --base space --for people --no-class-pictures --steps 300 --out fitting",
        "w2w train photos --base my-base-model --caption-dropout 0.3 --out captioned --resume",
        "w2w train photos --base space --no-class-pictures --steps 40 --validate 20 --out watched",
    )
)
@click.argument("pictures", type=click.Path(path_type=Path))
@recipe_options
@click.option("--caption", help="Caption of pictures without one, instead of the prompt.")
@click.option("--validate", type=click.IntRange(1), help="Draw pictures into OUT-validation every so many steps.")
@click.option(
    "--validate-prompt", multiple=True, help="Prompt of these pictures. May be repeated.  [default: --prompt]"
)
@out_option("The new folder of the adapter, in the PEFT and diffusers dialects.")
@json_option
def train(
    pictures: Path, base: str, for_: Path | None, start: Path | None, caption: str | None, no_class_pictures: bool,
    devices: tuple[str, ...], engine: str, validate: int | None, validate_prompt: tuple[str, ...], resume: bool,
    out: Path, force: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train a LoRA of one person from PICTURES: one picture, or a folder of them (DreamBooth).

    The caption of 1.png is the text of 1.txt beside it, or of its line in metadata.jsonl or metadata.csv (columns
    file_name and text). Other formats than PNG, JPEG, WebP, TIFF, BMP and GIF are left out.
    """
    if len(devices) > 1:
        raise click.UsageError("one identity trains on one --device")
    if validate_prompt and not validate:
        raise click.UsageError("--validate-prompt needs --validate STEPS")
    require_inputs(pictures, "a folder of pictures of one person", base, start, for_)
    with notice("loading torch and diffusers", logged=False):
        from ..training import Validation, train_identity

        no_loading_bars()
    recipe = recipe_of(for_, no_class_pictures, settings)
    losses: list[float] = []
    with resumable():
        adapter = train_identity(
            pictures, base, out, recipe=recipe, reference=for_, start=start, caption=caption,
            device=devices[0] if devices else None, engine=engine, resume=resume, overwrite=force,
            validate=None if validate is None else Validation(validate, validate_prompt),
            on_step=lambda _, loss: losses.append(loss),
        )  # fmt: skip
    if as_json:
        print_json({"path": str(out), "modules": len(adapter.factors), "steps": recipe.steps, "losses": losses})
        return
    if losses:
        some = max(1, len(losses) // 10)
        first, last = sum(losses[:some]) / some, sum(losses[-some:]) / some
        begun = "first" if len(losses) == recipe.steps else "resumed run's first"
        step = "step" if some == 1 else f"{some:,} steps"
        say(f"{out}: mean loss {first:.4f} in the {begun} {step}, {last:.4f} in the last")
    if validate is not None:
        say(f"pictures of the steps: {out.with_name(f'{out.name}-validation') / 'sheet.png'}")
    then = command("w2w pack", out, options=("--out", "people"))
    say(f"next: {then if for_ is None else _next_with(out, for_)}")


def _next_with(out: Path, for_: Path) -> str:
    """Return the command that makes an adapter a row of a dataset, or compares it with a weight space."""
    from ..store.manifest import DATASET, stated_format

    if stated_format(for_) == DATASET:
        return command("w2w add", for_, out)
    return command("w2w inspect", out, options=("--against", for_))


def require_inputs(people: Path, what: str, base: str, start: Path | None, for_: Path | None) -> None:
    """Raise `MissingPathError` for a path that does not exist, before torch is imported, which takes seconds.

    Parameters
    ----------
    what : str
        What PEOPLE should be, for the message.
    """
    from ..store.paths import exists, missing

    advice = {
        people: f"give {what}", start: "--start is the adapter that training starts from",
        for_: "--for is the folder of a dataset or weight space",
        None if _is_repository(base) else Path(base):
            "--base is a diffusers folder, a weight space with a base model, or a repository, org/name",
    }  # fmt: skip
    for path, text in advice.items():
        if path is not None and not exists(path):
            raise missing(path, text)


def _is_repository(base: str) -> bool:
    """Return whether a base model may be a repository and not a folder: ``org/name``."""
    return base.count("/") == 1 and not base.startswith((".", "/", "~"))


def recipe_of(for_: Path | None, no_class_pictures: bool, settings: dict[str, Any]) -> TrainingRecipe:
    """Return the recipe of the options."""
    from ..training import TrainingRecipe

    if for_ is not None and (settings["rank"] or settings["alpha"] or settings["targets"]):
        raise click.UsageError("--for gives the rank, the scale and the target modules; leave out those options")
    recipe = TrainingRecipe().with_(**settings | {"targets": settings["targets"] or None})
    return replace(recipe, class_prompt=None) if no_class_pictures else recipe


@contextmanager
def resumable() -> Iterator[None]:
    """Add ``--resume`` to the command that is advised after an interrupt that kept something."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if getattr(interrupt, "__notes__", None):
            interrupt.more_words = ("--resume",)  # type: ignore[attr-defined]
        raise


@click.command(
    "train-many",
    epilog=examples(
        "w2w train-many photo-folders --base my-base-model --out trained-people",
        "w2w train-many photo-folders --base space --for people --no-class-pictures --out more-people --resume",
    ),
)
@click.argument("people", type=click.Path(path_type=Path))
@recipe_options
@click.option("--at-once", type=click.IntRange(1), default=8, show_default=True, help="Identities per batch.")
@click.option(*LICENSE, default="unknown", help="License identifier of the weights, as on the Hub.")
@out_option("The new dataset.")
@json_option
def train_many(
    people: Path, for_: Path | None, base: str, start: Path | None, no_class_pictures: bool, devices: tuple[str, ...],
    engine: str, resume: bool, at_once: int, license: str, out: Path, force: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train a LoRA for each of PEOPLE and pack them: a folder of folders of pictures, or a table.

    A table (CSV, Parquet or JSON Lines) has the columns id and pictures, a folder beside it, and may have captions of
    pictures without one in the column caption; its other columns are labels. Identities train several at once, each
    with the result of training alone.
    """
    require_inputs(people, "a folder with one folder of pictures per identity, or a table", base, start, for_)
    with notice("loading torch and diffusers", logged=False):
        from ..training import train_many as train_all

        no_loading_bars()
    recipe = recipe_of(for_, no_class_pictures, settings)
    with resumable():
        found = train_all(
            people, base, out, recipe=recipe, reference=for_, start=start, at_once=at_once, devices=devices or None,
            engine=engine, resume=resume, overwrite=force, license=license,
        )  # fmt: skip
    if as_json:
        print_json({"path": str(out), "rows": len(found.dataset), "lost": found.lost, "at_once": found.batch_sizes})
        return
    say(f"{out}: {counted(len(found.dataset), 'row')} of {found.dataset.layout.size:,} numbers")
    if found.lost:
        say(f"without a row, since their training diverged: {few(found.lost)}")
    say(f"next: {build_command(found.dataset, out, Path(base) if Path(base).is_dir() else None)}")

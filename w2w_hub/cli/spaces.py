"""`w2w build`, `rebuild`, `compare`, `report`, `nearest` and `read`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.text import command, counted, few
from .common import LaterChoice, examples, generation_options, given_settings, json_option, out_option, space_argument
from .directions import DIRECTIONS, direction_rows
from .output import print_json, say, say_table, table
from .rows import find_identity, people_option
from .tables import Cell, Column

if TYPE_CHECKING:
    from ..space import Engine, PopulationModel


def _solver_names() -> list[str]:
    from ..space.fit.solvers import AUTO, SOLVERS

    return [AUTO, *SOLVERS]


def _engine_names() -> list[str]:
    from ..space.fit.engines import ENGINES

    return list(ENGINES)


engine_options = (
    click.option(
        "--engine",
        type=LaterChoice(_engine_names),
        help="Library that does the computation.  [default: numpy; for rebuild, the engine in the recipe]",
    ),
    click.option("--device", "devices", multiple=True, help="For torch: cpu, cuda, or cuda:0 and cuda:1 for two GPUs."),
    click.option("--scheduler", help="For dask: address of a running scheduler; by default a local cluster starts."),
)


def with_engine(function: Any) -> Any:
    for option in reversed(engine_options):
        function = option(function)
    return function


def engine_from(name: str, devices: tuple[str, ...], scheduler: str | None) -> Engine:
    """Return the engine that the options describe."""
    from ..space.fit.engines import get_engine

    return get_engine(name, devices=list(devices) or None, scheduler=scheduler)


@click.command(
    epilog=examples(
        "w2w build people --k 200 --out space --base ./my-base-model",
        "w2w build people --k 400 --out space --engine torch --device cuda",
        "w2w build mixed --k 100 --out space --canonical svd",
    )
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--k", type=click.IntRange(1), help="Principal components; by default as many as the rows allow.")
@out_option("The weight-space folder to make.")
@click.option(
    "--base", type=click.Path(path_type=Path), help="Base-model folder, copied into the space so that it opens offline."
)
@generation_options(", where pipelines of this weight space are given no other; needs --base.")
@click.option("--split", default="train", show_default=True, help="The split that is fitted.")
@click.option("--version", "version", default="0.1.0", show_default=True, help="Version of the weight space.")
@with_engine
@click.option(
    "--solver",
    type=LaterChoice(_solver_names),
    default="auto",
    show_default=True,
    help="PCA algorithm; auto chooses the one with the lowest estimated cost.",
)
@click.option(
    "--tolerance",
    default=1e-6,
    show_default=True,
    help="Fraction of the components' variance that an iterative solver may miss.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Random seed of the krylov solver.")
@click.option(
    "--canonical",
    type=click.Choice(["svd"]),
    help="First replace each module's A and B by the SVD factors of its dW; needed for mixed initializations.",
)
@click.option("--standardize/--no-standardize", default=True, show_default=True, help="Scale features to unit std.")
@click.option("--directions/--no-directions", default=True, show_default=True, help="Fit a direction per attribute.")
@click.option(
    "--population-model/--no-population-model", default=True, show_default=True,
    help="Fit the model of the population by which attributes are set.",
)  # fmt: skip
@click.option(
    "--groups", type=click.Path(path_type=Path),
    help="JSON file of attributes that exclude each other, by group; by default they are found from the labels.",
)  # fmt: skip
@click.option(
    "--without-population", is_flag=True,
    help="Leave out ids and coefficients of the rows, to publish a basis without people's data.",
)  # fmt: skip
@json_option
def build(
    dataset: Path, k: int | None, out: Path, force: bool, base: Path | None, num_inference_steps: int | None,
    guidance_scale: float | None, split: str, version: str, engine: str | None, devices: tuple[str, ...],
    scheduler: str | None, solver: str, tolerance: float, seed: int, canonical: str | None, standardize: bool,
    directions: bool, population_model: bool, groups: Path | None, without_population: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build a weight space: PCA of the training split and a direction for each attribute.

    A build that was interrupted continues when the same command is repeated.
    """
    from ..dataset import WeightDataset
    from ..space.directions import missing_lines
    from ..space.fit.build_and_save import build_and_save, unfinished
    from ..space.fit.solvers import get_solvers
    from ..space.population_model import summary_lines
    from ..store.manifest import read_json

    opened = WeightDataset.open(dataset)
    if unfinished(out).is_dir():
        say(f"continuing the unfinished build in {unfinished(out)}, if it has the same options")
    space = build_and_save(
        opened, out, k, base=base, overwrite=force, population=not without_population, split=split, version=version,
        directions=directions, population_model=population_model,
        groups=None if groups is None else read_json(groups), standardize=standardize, canonical=canonical,
        generation=given_settings(num_inference_steps, guidance_scale),
        solver=get_solvers(solver, tolerance=tolerance, seed=seed),
        engine=engine_from(engine or "numpy", devices, scheduler),
    )  # fmt: skip
    if as_json:
        print_json(
            {"path": str(out), "k": space.k, "digest": space.digest, "recipe": space.recipe,
             "diagnostics": space.diagnostics,
             "directions": {name: d.evidence() for name, d in space.directions.items()},
             "population_model": model_json(space.population_model)}
        )  # fmt: skip
        return
    explained = list(space.diagnostics["explained_variance"].values())[-1]
    noise = list(space.diagnostics["nulls"]["gaussian_spectrum"].values())[-1]
    held_out = space.diagnostics["held_out"]
    say(f"{space.recipe['algorithm']} ({space.recipe['engine']})")
    say(
        f"{out}: {counted(space.k, 'component explains', 'components explain')} {explained:.1%} of the variance of "
        f"{counted(space.recipe['rows'], 'row')} "
        f"(of Gaussian noise: {noise:.1%})"
    )
    if held_out["rows"]:
        there = list(held_out["explained_variance"].values())[-1]
        say(f"and {there:.1%} of the variance of {counted(held_out['rows'], 'held-out row')} (the mean alone: 0 %)")
    rows = direction_rows(space)
    say_table(DIRECTIONS, rows)
    if rows:
        say("what the columns mean: w2w directions --help")
    say(*missing_lines(space.diagnostics.get("no_direction", {})))
    for line in () if space.population_model is None else summary_lines(space.population_model):
        say(line)
    then = command("w2w report", out, options=("--out", "report", "--dataset", dataset))
    say(f"digest {space.digest[:16]}; next: {then}")
    say(f"or: {command('w2w sample', out, options=('--count', 8, '--out', 'points'))}")
    if base is None:
        say("without --base nothing can be drawn from this weight space on the command line")


def model_json(model: PopulationModel | None) -> dict[str, Any] | None:
    """Return the factors, typical strength and evidence of a population model."""
    if model is None:
        return None
    factors = {factor.name: {"columns": factor.columns, "levels": factor.levels} for factor in model.factors}
    return {"factors": factors, "strength": model.strength, "gain": model.gain, "evidence": model.evidence}


@click.command(
    epilog=examples(
        "w2w rebuild space --check --dataset people",
        "w2w rebuild space --check --dataset people --engine torch --device cuda",
        "w2w rebuild space --dataset people --out again",
    )
)
@space_argument
@click.option("--dataset", type=click.Path(path_type=Path), required=True, help="The dataset it was built from.")
@click.option("--check", is_flag=True, help="Compare with SPACE; exit status 1 if they differ.")
@out_option("Also write the rebuilt weight space here.", required=False)
@with_engine
@json_option
def rebuild(
    space: Path, dataset: Path, check: bool, out: Path | None, force: bool, engine: str | None,
    devices: tuple[str, ...], scheduler: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Rebuild SPACE from its recipe and report whether the result is identical."""
    from ..dataset import WeightDataset
    from ..errors import InvalidInputError
    from ..space import WeightSpace
    from ..space.fit.rebuild import compare_spaces
    from ..space.fit.rebuild import rebuild as build_again
    from ..space.storage import space_files
    from ..store.atomic import require_output

    if not check and out is None:
        raise InvalidInputError("rebuild needs --check, --out SPACE, or both")
    if out is not None:
        if out.resolve() == space.resolve():  # what is rebuilt has no base model
            raise InvalidInputError(f"--out {out} is SPACE itself; name another folder", path=out)
        require_output(out, overwrite=force, own=space_files)
    published, opened = WeightSpace.from_pretrained(space), WeightDataset.open(dataset)
    chosen = engine_from(engine or published.recipe.get("engine", "numpy"), devices, scheduler)
    again = build_again(published, opened, engine=chosen, directions=out is not None)
    found = compare_spaces(published, again)
    if not found.identical and opened.revision is None:  # rows from the Hub are checked as they come
        opened.verify()  # before an engine is named as the cause
    if out is not None:
        again.save(out, overwrite=force)
    if as_json:
        print_json({"path": str(space), "digest": published.digest, "rebuilt_digest": again.digest, **found.to_json()})
    elif found.identical:
        say(f"{space}: mean, deviations and basis are the same, bit for bit ({published.digest[:16]})")
        if found.model_error:
            say(f"population models differ by {found.model_error:.1e} of what they predict")
        fitted = {name for name, direction in published.directions.items() if direction.slider is None}
        differing = sorted(fitted ^ set(again.directions)) if out is not None else []
        if differing:
            say(f"directions of one of them only: {few(differing)}; the labels of {dataset} are not those of the build")
    else:
        say(f"{space} has digest {published.digest[:16]}, the rebuilt one {again.digest[:16]}")
        say(
            f"largest relative difference of a singular value {found.singular_value_error:.1e}, of a mean or deviation "
            f"{found.mean_error:.1e}; largest angle of {found.separated} separated components {found.angle:.1e}"
        )
        verdict = "equivalent, within the variation between engines and threads" if found.within_bound else (
            "NOT the same space: rebuilding from its recipe gives a different result"
        )  # fmt: skip
        say(verdict)
    if check and not found.within_bound:
        click.get_current_context().exit(1)


@click.command(epilog=examples("w2w report space --out report", "w2w report space --out report --dataset people"))
@space_argument
@out_option("The folder to make: report.html, with everything inside, and report.json.")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="Dataset that SPACE was built from; adds scatter plots and the overlap of directions by number of rows.",
)
@json_option
def report(space: Path, out: Path, force: bool, dataset: Path | None, as_json: bool) -> None:
    """Write a quality report of SPACE (HTML, JSON): spectrum, held-out rows, directions, null models."""
    from ..dataset import WeightDataset
    from ..space import WeightSpace
    from ..space.report import REPORT_FILES, write_report
    from ..store.atomic import require_output

    require_output(out, overwrite=force, own=REPORT_FILES)
    opened = WeightSpace.from_pretrained(space)
    data = write_report(opened, out, None if dataset is None else WeightDataset.open(dataset), overwrite=force)
    if as_json:
        print_json(data)
        return
    say(f"{out / 'report.html'}: open it in a browser; the same figures are in {out / 'report.json'}")
    if dataset is None:
        say("add --dataset DATASET for components by attribute and entanglement by population size")


@click.command(epilog=examples("w2w compare imported/space space-of-imported", "w2w compare space space --k 10 --json"))
@space_argument
@click.argument("other", type=click.Path(path_type=Path))
@click.option("--k", type=click.IntRange(1), help="Compare only so many components of each.")
@json_option
def compare(space: Path, other: Path, k: int | None, as_json: bool) -> None:
    """Compare the components of two weight spaces: cosines one by one, and principal angles of what they span.

    For spaces of different origin, such as an imported one and one that was built from its rows; whether a space is
    what its recipe gives is checked by w2w rebuild --check.
    """
    import numpy as np

    from ..space import WeightSpace, compare_components

    found = compare_components(*(WeightSpace.from_pretrained(each, k) for each in (space, other)))
    if as_json:
        print_json(found.to_json())
        return
    titles = ("components", "median angle", "largest", "median cosine")
    table(
        [Column(title, right=True) for title in titles],
        [
            (f"{count:,}", f"{np.median(angles):.3f}°", f"{angles.max():.3f}°",
             f"{np.median(found.cosines[:count]):.4f}")
            for count, angles in found.angles.items()
        ],
    )  # fmt: skip
    for name, shares, kind in zip((space, other), found.explained_variance, found.components_of, strict=True):
        curve = ", ".join(f"{share:.3f} by {count:,}" for count, share in shares.items())
        of = "unknown data" if kind is None else "the rows as they are" if kind == "as they are" else f"{kind} rows"
        say(f"{name}: components of {of}; explained variance {curve or 'not stated'}")


@click.command(epilog=examples("w2w nearest space points/sample-000.json", "w2w nearest space my-lora --count 5"))
@space_argument
@click.argument("identity")
@click.option("--count", "-n", type=click.IntRange(1), default=3, show_default=True, help="Rows to list.")
@people_option
@json_option
def nearest(space: Path, identity: str, count: int, people: Path | None, as_json: bool) -> None:
    """List the fitted rows nearest to IDENTITY (a saved point, a row's id, or an adapter).

    A row that is named by its id is not among them.
    """
    from ..space import WeightSpace

    opened = WeightSpace.from_pretrained(space)
    near = opened.nearest(find_identity(opened, identity, people).point, count + 1)
    found = [(name, cosine) for name, cosine in near if name != identity][:count]
    if as_json:
        print_json([{"row": name, "cosine": round(cosine, 6)} for name, cosine in found])
        return
    table((Column(least=12), Column(right=True)), [(name, f"{cosine:.4f}") for name, cosine in found], head=False)


@click.command(epilog=examples("w2w read space my-lora", "w2w read space person-0001 --json"))
@space_argument
@click.argument("identity")
@people_option
@json_option
def read(space: Path, identity: str, people: Path | None, as_json: bool) -> None:
    """Show the attributes that SPACE reads from IDENTITY (a saved point, a row's id, or an adapter).

    Beside each is the probability of it, or the value of a continuous attribute.
    """
    from ..dialects.loading import provenance_in
    from ..dialects.thumbnails import FIELD as THUMBNAIL
    from ..dialects.thumbnails import shown_header
    from ..space import WeightSpace
    from ..space.directions import synonyms

    opened = WeightSpace.from_pretrained(space)
    found = find_identity(opened, identity, people)
    inside = opened.coordinates.explained(found.vector)
    attributes = opened.read_all(found.point)
    distance, farthest = opened.distance(found.point), opened.largest_distance
    if as_json:
        print_json(
            {"attributes": {n: round(v, 6) for n, v in attributes.items()}, "explained": inside.explained_ratio,
             "distance": distance,
             "mahalanobis": None if opened.population is None else opened.mahalanobis(found.point),
             "largest_distance": farthest, "note": found.note, "own_weights": found.exact,
             "kept": found.explained_ratio, "provenance": shown_header(provenance_in(identity)) or None}
        )  # fmt: skip
        return
    distinct = list(synonyms(opened.directions))
    rows = []
    for name in distinct:
        direction = opened.direction(name)
        mark = Cell("unreliable" if direction.unreliable else "", "warning")
        rows.append((name, direction.read_out.show(attributes[name]), mark))
    table((Column(least=12), Column(), Column()), rows, head=False)
    say(found.note)
    if told := shown_header(provenance_in(identity)):
        stated = {name: told[f"modelspec.{name}"] for name in ("title", "license") if f"modelspec.{name}" in told}
        says = ", ".join(f"{name} {value}" for name, value in stated.items()) or "no title and no license"
        say(f"its header states {says}")
        for field, words in (("modelspec.trigger_phrase", "trigger phrase"), (THUMBNAIL, "thumbnail")):
            if field in told:
                say(f"{words}: {told[field]}")
    known = "" if farthest is None else f", the farthest fitted row has {farthest:.2f}"
    say(f"{distance:.2f} standard deviations from the mean; 1 is typical{known}")

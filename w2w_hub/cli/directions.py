"""Commands `w2w directions`, `calibrate` and `slider`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.text import ShellText, command, counted, few
from .common import (
    FINITE,
    PROMPT,
    SEED,
    case_options,
    complete_attributes,
    drawing_cases,
    examples,
    finite_numbers,
    generation_options,
    given_settings,
    json_option,
    open_pipeline,
    out_option,
    space_argument,
)
from .output import data, print_json, say, table
from .tables import Cell, Column

if TYPE_CHECKING:
    from ..space import PopulationModel, WeightSpace

base_option = click.option(
    "--base", type=click.Path(path_type=Path), help="Base model, for a SPACE that has none: a folder or org/name."
)


def require_other_folder(space: Path, out: Path, force: bool) -> None:
    """Raise an error unless the output can be written, before anything takes time."""
    from ..errors import InvalidInputError
    from ..space.storage import space_files
    from ..store.atomic import require_output

    if out.resolve() == space.resolve():
        raise InvalidInputError(f"--out {out} is SPACE itself; name another folder", path=out)
    require_output(out, overwrite=force, own=space_files)


@click.command(
    epilog=examples(
        "w2w directions space",
        "w2w directions space --json",
        "w2w directions space --entanglement",
        "w2w directions space --entanglement --out side-effects.png",
    )
)
@space_argument
@click.option("--entanglement", is_flag=True, help="Also list the strongest side effects of edits on other attributes.")
@click.option("--count", "-n", type=click.IntRange(1), default=10, show_default=True, help="Side effects to list.")
@out_option("With --entanglement: a picture of all side effects (.png, .jpg or .webp).", required=False)
@json_option
def directions(space: Path, entanglement: bool, count: int, out: Path | None, force: bool, as_json: bool) -> None:
    """List the directions of SPACE with their held-out scores; those that say the same are one row.

    The columns: how well held-out rows are scored, its 95 % interval, and their number; the length of one standard
    deviation in coefficients; and the strength of a push that is recommended. Below are the attributes that
    `w2w edit --set` takes.
    """
    from ..space import WeightSpace
    from ..space.directions import synonyms
    from ..store.atomic import require_output

    if out is not None:
        if not entanglement:
            raise click.UsageError("--out is the picture of --entanglement; give both")
        from ..models.pictures import picture_kind

        picture_kind(out)
        require_output(out, overwrite=force)
    opened = WeightSpace.from_pretrained(space)
    found = opened.entanglement() if entanglement else None
    if out is not None and found is not None:
        if not found.names:
            raise click.UsageError(f"{space} has no attribute with a direction, so there is nothing to draw")
        from ..models.heat_map import heat_map
        from ..models.pictures import save_picture

        save_picture(heat_map(found.among(synonyms(opened.directions))), out, overwrite=force)
        say(f"{out}: side effects of every attribute on every other")
    if as_json:
        evidence = {name: d.evidence() for name, d in opened.directions.items()}
        print_json({"directions": evidence, **({} if found is None else {"entanglement": found.to_json()})})
        return
    if not opened.directions:
        say(f"no attribute has a direction; PC1 to PC{opened.k} are sliders too")
    table(DIRECTIONS, direction_rows(opened))
    if opened.population_model is not None:
        say(f"to set, with w2w edit --set: {few(list(opened.population_model.attributes), 60)}")
    if found is None:
        return
    pairs = found.among(synonyms(opened.directions)).strongest(count)
    if pairs:
        data("", "strongest side effects: +1 sd of the first moves the second by so many sd")
        columns = (Column(least=12), Column(right=True))
        table(columns, [(f"{a} -> {b}", f"{spill:+.2f}") for a, b, spill in pairs], head=False)
        say("all of them: --json, or a picture: --out side-effects.png")


@click.command(
    epilog=examples(
        "w2w calibrate space --judge w2w_hub.demo.measure:read_avatars --attribute Full_Beard "
        "--people 8 --out calibrated",
        "w2w calibrate space --sets --judge w2w_hub.demo.measure:read_avatars --attribute Full_Beard "
        "--people 4 --out calibrated-sets",
    )
)
@space_argument
@base_option
@click.option(
    "--judge", "judge_name", required=True, metavar="MODULE:CALLABLE",
    help="Function from pictures (n, h, w, 3) to a mapping by attribute. Its module is imported: name your own.",
)  # fmt: skip
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    shell_complete=complete_attributes,
    help="Direction to calibrate.  [default: all the judge knows]",
)
@click.option("--sets", is_flag=True, help="Calibrate the strength of `--set` in place of pushes.")
@click.option(
    "--strengths",
    help="Comma-separated; of pushes in standard deviations.  [default: 1.5,3,4.5,6,8; of sets 1,1.2,1.4,1.6,1.8,2]",
)
@click.option("--people", type=click.IntRange(1, 10_000), default=24, show_default=True, help="People per attribute.")
@case_options
@generation_options(".  [default: what SPACE states, or else its pipeline's]")
@out_option("The weight-space folder to make: SPACE with the measured curves.")
@json_option
def calibrate(
    space: Path, base: Path | None, judge_name: str, attributes: tuple[str, ...], sets: bool, strengths: str | None,
    people: int, prompts: tuple[str, ...], seeds: tuple[int, ...], num_inference_steps: int | None,
    guidance_scale: float | None, out: Path, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure on pictures how strong pushes or sets of SPACE must be, with a judge of attributes.

    People without an attribute are drawn before and after edits of each strength. With --sets, the strength that works
    best becomes the default of `w2w edit --set`; only people that SPACE was fitted to are drawn then.
    """
    from ..common.callables import find_callable
    from ..models import calibration, set_calibration
    from ..space.resaving import resave

    require_other_folder(space, out, force)
    judge = find_callable(judge_name, "judge")
    usual = set_calibration.STRENGTHS if sets else calibration.STRENGTHS
    wanted = usual if strengths is None else finite_numbers(strengths, "--strengths")
    pipe = open_pipeline(space, base)
    cases = drawing_cases(prompts, seeds)
    measure = set_calibration.calibrate_sets if sets else calibration.calibrate
    found = measure(
        pipe, judge, list(attributes) or None, people=people, cases=cases, strengths=wanted,
        **given_settings(num_inference_steps, guidance_scale),
    )  # fmt: skip
    resave(found, out, overwrite=force)
    if sets:
        _tell_sets(found.population_model, out, as_json)
        return
    measured = {n: d.picture_curve for n, d in found.directions.items() if d.picture_curve is not None}
    if as_json:
        print_json({"path": str(out), "curves": {name: curve.to_json() for name, curve in measured.items()}})
        return
    say(f"{out}: strength curves of {counted(len(measured), 'attribute')}")
    table(DIRECTIONS, direction_rows(found))


def _tell_sets(model: PopulationModel | None, out: Path, as_json: bool) -> None:
    assert model is not None
    evidence = model.evidence["pictures"]
    if as_json:
        print_json({"path": str(out), "strength": model.strength, "pictures": evidence})
        return
    say(f"{out}: sets have strength {model.strength:g}, by pictures of {counted(evidence['attributes'], 'attribute')}")
    data("strength  shown  others kept")
    for strength, shown, kept in zip(evidence["strengths"], evidence["shown"], evidence["kept"], strict=True):
        data(f"{strength:8g}  {shown:5.0%}  {kept:11.0%}")


@click.command(
    epilog=examples(
        'w2w slider space --name glasses --positive "sks person glasses" --negative "sks person" --out with-glasses',
        "w2w slider space --name smile --before plain --after smiling --out with-smile",
    )
)
@space_argument
@base_option
@click.option("--name", required=True, help="Name of the new direction.")
@click.option("--positive", type=PROMPT, help="Prompt that the slider moves towards.")
@click.option("--negative", type=PROMPT, help="Prompt that it moves away from.")
@click.option("--before", type=click.Path(path_type=Path), help="Folder of pictures without the attribute.")
@click.option("--after", type=click.Path(path_type=Path), help="The same with it, in the same order of their names.")
@click.option(
    "--prompt", default="sks person", show_default=True, type=PROMPT, help="What the slider is to work under."
)
@click.option(
    "--num-steps", "--steps", "steps", default=300, show_default=True, type=click.IntRange(1), help="Descent steps."
)
@click.option("--learning-rate", default=0.05, show_default=True, type=FINITE, help="Size of a step.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1), help="People or pairs per step.")
@click.option("--eta", default=2.0, show_default=True, type=FINITE, help="Factor of the contrast of the prompts.")
@click.option("--prior", default=0.0, show_default=True, type=FINITE, help="Pull towards the population.")
@click.option("--k", type=click.IntRange(1), help="Components to use; all by default.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of people, noises and timesteps.")
@out_option("The weight-space folder to make: SPACE with the new direction.")
@json_option
def slider(
    space: Path, base: Path | None, name: str, positive: str | None, negative: str | None, before: Path | None,
    after: Path | None, prompt: str, steps: int, learning_rate: float, batch_size: int, eta: float, prior: float,
    k: int | None, seed: int, out: Path, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train a direction of SPACE for an attribute that nobody labeled, from two prompts or pairs of pictures."""
    if all(given is None for given in (positive, negative, before, after)):
        raise click.UsageError("give --positive and --negative prompts, or folders of pictures: --before and --after")
    from ..models.pipelines.inputs import picture_size
    from ..models.sliders import fit_slider
    from ..space import WeightSpace
    from ..space.resaving import resave

    require_other_folder(space, out, force)
    opened = WeightSpace.from_pretrained(space)
    opened.require_new_direction(name)
    pipe = open_pipeline(opened, base)
    pictures = {}
    if before is not None or after is not None:
        from ..training.pictures import read_pictures

        size = picture_size(pipe)
        for side, folder in (("before", before), ("after", after)):
            pictures[side] = None if folder is None else [p.image for p in read_pictures(folder, size)]
    found = fit_slider(
        pipe, positive=positive, negative=negative, prompt=prompt, num_steps=steps, learning_rate=learning_rate,
        batch_size=batch_size, eta=eta, prior=prior, k=k, seed=seed, **pictures,
    )  # fmt: skip
    resave(pipe.space.with_direction(name, found), out, overwrite=force)
    if as_json:
        print_json({"path": str(out), "name": name, "direction": found.evidence()})
        return
    assert found.r2 is not None
    assert found.null is not None
    say(
        f"{out}: {name} explains {found.r2:.1%} of the contrast on held-out examples (95 % of random directions stay "
        f"below {found.null[1]:.1%}); trained strength {found.typical:.1f} sd"
    )
    if found.unreliable:
        say(f"unreliable: {found.unreliable}")
    strength = f"{name}={found.typical:+.1f}"
    say(f"next: {command('w2w edit', out, ShellText('IDENTITY'), strength, options=('--out', 'edited.json'))}")


DIRECTIONS = (
    Column("direction", least=12), Column("held out"), Column("95 % interval", drops=2),
    Column("rows", right=True, drops=3), Column("1 sd", right=True, drops=1), Column("typical", right=True),
    Column(wraps=True),
)  # fmt: skip


def direction_rows(space: WeightSpace) -> list[tuple[Any, ...]]:
    """Return the directions of a weight space as rows of `DIRECTIONS`; those that say the same are one row."""
    from ..space.directions import synonyms, synonyms_text

    distinct = synonyms(space.directions)
    rows = []
    for name in distinct:
        d = space.directions[name]
        score = "-" if d.score is None else f"{d.read_out.score.name} {d.score:.3f}"
        interval = "" if d.interval is None else f"{d.interval[0]:.3f} to {d.interval[1]:.3f}"
        more = " ".join([*(["unreliable"] if d.unreliable else []), synonyms_text(distinct[name])]).strip()
        typical = "-" if d.typical is None else f"{d.typical:.1f} sd"
        remark = Cell(more, "warning" if d.unreliable else "")
        rows.append((Cell(name, "name"), score, interval, d.held_out_rows, f"{d.sd:.2f}", typical, remark))
    return rows

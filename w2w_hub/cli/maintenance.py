"""`w2w review`, `merge`, `release` and `withdraw`: what the maintainers of a dataset on the Hub do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.text import command, counted, few, file_size, one_line
from .common import (
    case_options,
    drawing_cases,
    examples,
    generation_options,
    given_settings,
    json_option,
    no_loading_bars,
    out_option,
)
from .output import data, print_json, say, table
from .tables import Cell, Column, good_or_bad

if TYPE_CHECKING:
    from ..release import Review

MOST_DRAWN = 64  # adapters of one contribution
REASONS = ("consent", "rights", "license", "content", "error", "other")  # as in store/hub/withdrawals.py


@click.command(
    epilog=examples(
        "w2w review org/people",
        "w2w review org/people#12 --json",
        "w2w review org/people#12 --base ./my-base-model --out pictures.png",
    )
)
@click.argument("request")
@click.option("--commit", help="The commit of the pull request to review.  [default: its newest]")
@click.option("--comment", is_flag=True, help="Post the verdict in the pull request, once for each commit.")
@click.option(
    "--base", type=click.Path(path_type=Path), help="Base-model folder: also draw the adapters, on the sheet --out."
)
@case_options
@generation_options(".  [default: the pipeline's]")
@click.option("--scale", default=2, show_default=True, type=click.IntRange(1, 8), help="Enlargement factor.")
@out_option("The sheet of pictures to write (.png, .jpg or .webp); needs --base.", required=False)
@json_option
@click.pass_context
def review(
    ctx: click.Context, request: str, commit: str | None, comment: bool, base: Path | None, prompts: tuple[str, ...],
    seeds: tuple[int, ...], num_inference_steps: int | None, guidance_scale: float | None, scale: int,
    out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Check the contribution in a pull request again, trusting nothing that its author says.

    REQUEST is org/name#12, with the number that the Hub shows; org/name lists the open ones. Nothing is changed. With
    exit status 1, the contribution is refused.
    """
    from ..release import review as review_request
    from ..release.contribution.requests import split_number
    from ..store.atomic import require_output

    if "#" not in request:
        _list_requests(request, as_json)
        return
    if (base is None) != (out is None):
        raise click.UsageError("pictures need both --base FOLDER and --out FILE")
    repo, number = split_number(request)
    if out is not None:
        require_output(out, overwrite=force)
    found = review_request(repo, number, commit=commit, comment=comment)
    if as_json:
        print_json(found.to_json())
    else:
        _show_review(found)
    if base is not None and out is not None:
        cases = drawing_cases(prompts, seeds)
        _draw(found, base, cases, given_settings(num_inference_steps, guidance_scale), scale, out, force)
    if found.outcome == "refuse":
        ctx.exit(1)


def _list_requests(repo: str, as_json: bool) -> None:
    from ..release import contributions

    found = contributions(repo)
    if as_json:
        print_json([each.to_json() for each in found])
        return
    rows = [
        (Cell(f"#{each.number}", "name"), each.created, one_line(each.author, 40),
         f"{one_line(each.title, 100)}{' (draft)' if each.status == 'draft' else ''}")
        for each in found
    ]  # fmt: skip
    table((Column(), Column(), Column(least=12), Column(wraps=True)), rows, head=False)
    if found:
        say(f"{counted(len(found), 'open pull request')}; next: {command('w2w review', f'{repo}#{found[0].number}')}")
    else:
        say(f"{repo} has no open pull request; merged ones are released with: {command('w2w release', repo)}")


def _show_review(found: Review) -> None:
    say(f"{found.repo}#{found.number} by {found.contributor}: {found.title}")
    say(f"commit {found.commit}, checked against main at {found.base[:12]}")
    rows: list[tuple[Cell | str, str]] = []
    for row in found.rows:
        rows.append((good_or_bad(row.ok, no="REFUSE"), row.id))
        rows += [("", f"{problem.check}: {problem.message}") for problem in row.problems]
        rows += [("", f"note: {note}") for note in row.notes]
    rows += [(good_or_bad(False, no="REFUSE"), f"{problem.check}: {problem.message}") for problem in found.problems]
    table((Column(), Column(wraps=True)), rows, head=False)
    for note in found.notes:
        say(f"note: {note}")
    say(f"{found.headline}; next: {found.next}")


def _draw(
    found: Review, base: Path, cases: list[tuple[str, int]], settings: dict[str, Any], scale: int, out: Path,
    force: bool,
) -> None:  # fmt: skip
    """Draw the adapters of a contribution, whatever the verdict: what is finite can be looked at."""
    import numpy as np

    from ..models.pictures import contact_sheet, save_picture

    if found.weights is None or found.dataset is None:
        say("no pictures: the pull request has no batch that could be read")
        return
    drawn = np.flatnonzero(np.isfinite(found.weights).all(1))[:MOST_DRAWN]
    from ..models.row_pictures import draw_rows  # imports torch

    no_loading_bars()
    manifest = found.dataset.manifest
    pictures = draw_rows(base, manifest.layout, found.weights[drawn], manifest.compatibility, cases, **settings)
    names = ["base model", *(found.rows[i].id + ("" if found.rows[i].ok else " (refused)") for i in drawn)]
    columns = [f"{prompt} #{seed}" for prompt, seed in cases]
    save_picture(contact_sheet(pictures, names, columns, scale=scale), out, overwrite=force)
    say(f"{out}: {len(drawn):,} of {counted(len(found.rows), 'adapter')}, below the base model")


@click.command(epilog=examples("w2w merge org/people#12", "w2w merge org/people#12 --json"))
@click.argument("request")
@click.option("--commit", help="The commit that the verdict of w2w review names; by default the newest is reviewed.")
@json_option
def merge(request: str, commit: str | None, as_json: bool) -> None:
    """Merge the reviewed contribution REQUEST (org/name#12) into main, and close its pull request.

    Makes a commit with the two files that were reviewed. Do not use the Hub's own merge button: it takes whatever the
    pull request holds at that moment.
    """
    from ..release import merge as merge_request
    from ..release.contribution.requests import split_number

    repo, number = split_number(request)
    done = merge_request(repo, number, commit=commit)
    if as_json:
        print_json(done.to_json())
        return
    if done.outcome == "merged":
        say(f"{repo}#{number}: {counted(done.rows, 'adapter')} merged, as reviewed at {done.reviewed[:12]}")
    else:
        say(f"{repo}#{number} was merged before; nothing was changed")
    say(f"next: {command('w2w release', repo)}, now or after further merges")


@click.command(epilog=examples("w2w release org/people --dry-run", "w2w release org/people 1.1.0"))
@click.argument("repo")
@click.argument("version", required=False)
@click.option(
    "--sign", type=click.Path(path_type=Path), metavar="KEY", help="Private key (PEM) to sign the version with."
)
@click.option("--dry-run", is_flag=True, help="Show what the version would be; change nothing.")
@json_option
def release(repo: str, version: str | None, sign: Path | None, dry_run: bool, as_json: bool) -> None:
    """Publish the next version of the dataset REPO, with all merged contributions and without withdrawn rows.

    Without VERSION, it is the next one that the changes require: a major one if a row goes, else a minor one.
    """
    from ..release import release as release_next

    done = release_next(repo, version, sign=sign, dry_run=dry_run)
    if as_json:
        print_json(done.to_json())
        return
    for reason in done.skipped:
        say(f"w2w: note: not released: {reason}")
    for name, contributor in done.added.items():
        data(f"+ {name}  by {contributor}")
    for name in done.dropped:
        data(f"- {name}  withdrawn")
    for line in done.changes:
        say(f"  {line}")
    if done.outcome == "unchanged":
        say(f"{done.repo}: nothing to release; open pull requests are listed by: {command('w2w review', done.repo)}")
    elif done.outcome == "planned":
        fetched = f", which fetches {file_size(done.to_download)} first" if done.to_download else ""
        then = command("w2w release", done.repo, done.version)
        say(f"{done.tag} would be a {done.level} change; next: {then}{fetched}")
    else:
        made = "is complete now, after an interrupted release" if done.outcome == "tagged" else "is published"
        then = command("w2w verify", f"{done.repo}@{done.tag}", options=("--deep",))
        say(f"{done.repo} {done.tag} {made}: commit {done.commit}; next: {then}")


@click.command(
    epilog=examples(
        "w2w withdraw org/people person-0001 --reason consent",
        "w2w withdraw org/people person-0001 person-0002 --reason rights --dry-run",
    )
)
@click.argument("repo")
@click.argument("ids", nargs=-1, required=True)
@click.option(
    "--reason", required=True, type=click.Choice(REASONS), help="The reason that the public list states, in one word."
)
@click.option("--message", "-m", help="Title of the commit.")
@click.option("--dry-run", is_flag=True, help="Show what would be withdrawn; change nothing.")
@json_option
def withdraw(
    repo: str, ids: tuple[str, ...], reason: str, message: str | None, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    """Withdraw rows of the dataset REPO, which w2w_hub then reads at no revision.

    The list of withdrawn rows is withdrawn.json on the branch main. Versions and their files stay as they are: stock
    datasets, and copies that others have, do not know of the list.
    """
    from ..release import withdraw as withdraw_rows

    done = withdraw_rows(repo, list(ids), reason=reason, message=message, dry_run=dry_run)
    if as_json:
        print_json(done.to_json())
        return
    table((Column(least=12), Column(), Column()), [(row.id, row.date, row.reason) for row in done.rows], head=False)
    many = counted(len(done.rows), "row")
    if done.outcome == "unchanged":
        say(f"{many} of {done.repo} withdrawn already; nothing was changed")
        return
    if dry_run:
        options: list[object] = ["--reason", reason, *(["--message", message] if message else [])]
        say(f"{many} would be withdrawn; next: {command('w2w withdraw', repo, *ids, options=options)}")
        return
    them = "it" if len(done.rows) == 1 else "them"
    say(f"{many} of {done.repo} withdrawn: w2w_hub reads {them} at no revision any more")
    if done.versions:
        say(
            f"the files of {few([f'v{version}' for version in done.versions])} still hold {them}, for stock datasets "
            f"and for copies; next, a version without {them}: {command('w2w release', done.repo)}"
        )

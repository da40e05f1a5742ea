"""`w2w review`, `merge`, `release` and `withdraw`: what the maintainers of a dataset on the Hub do."""

from __future__ import annotations

import click

from ..common.text import command, counted, few
from .common import examples, json_option
from .output import data, print_json, say

REASONS = ("consent", "rights", "license", "content", "error", "other")  # as in store/hub/withdrawals.py


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
    for row in done.rows:
        data(f"{row.id}  {row.date}  {row.reason}")
    many = counted(len(done.rows), "row")
    if dry_run:
        options: list[object] = ["--reason", reason, *(["--message", message] if message else [])]
        say(f"{many} would be withdrawn; next: {command('w2w withdraw', repo, *ids, options=options)}")
        return
    if done.outcome == "unchanged":
        say(f"{many} of {done.repo} withdrawn already; nothing was changed")
        return
    say(f"{many} of {done.repo} withdrawn: w2w_hub reads them at no revision any more")
    if done.versions:
        say(
            f"the files of {few([f'v{version}' for version in done.versions])} still hold them, for stock datasets and "
            f"for copies; next, a version without them: {command('w2w release', done.repo)}"
        )

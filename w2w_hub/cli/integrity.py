"""`w2w verify`, `repair`, `diff` and `dedupe`: check and compare datasets and weight spaces."""

from __future__ import annotations

from pathlib import Path

import click

from ..common.text import command, counted
from .common import examples, json_option
from .hub import verify_lock_file
from .output import data, print_json, say, table
from .tables import Column

SHOWN = 10


@click.command(
    epilog=examples(
        "w2w verify people",
        "w2w verify space --deep",
        "w2w verify org/people@v1.0.0 --json",
        "w2w verify w2w.lock --rebuild",
    )
)
@click.argument("what", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Hash every shard, every row and the basis; by default only small files.")
@click.option("--rebuild", is_flag=True, help="For a lock file: also build its weight spaces again and compare.")
@click.option(
    "--identity", type=click.Path(path_type=Path), metavar="KEY",
    help="Public key (PEM) with whose private key the manifest must be signed.",
)  # fmt: skip
@json_option
@click.pass_context
def verify(
    ctx: click.Context, what: Path, deep: bool, rebuild: bool, identity: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Check a dataset, a weight space, or everything that a lock file pins against its digests.

    WHAT is a folder, org/name@version or a lock file. With exit status 2, the messages name what differs.
    For a lock file, every file is always hashed.
    """
    from ..errors import InvalidInputError
    from ..release import verify as check
    from ..store.hub.pins import is_lock

    if is_lock(what):
        if identity is not None:
            raise InvalidInputError(f"{what} is a lock file; --identity is for one of its pins: {what}#org/name")
        verify_lock_file(what, rebuild, as_json)
        return
    if rebuild:
        raise InvalidInputError(f"{what} is not a lock file; --rebuild needs one: w2w pin org/space@v1.0.0 -o w2w.lock")
    found = check(what, deep=deep, identity=identity)
    if as_json:
        print_json(found.to_json())
    else:
        for problem in found.problems:
            say(f"w2w: error: {problem.message}")
        for note in found.notes:
            say(f"w2w: note: {note}")
        for name in found.unlisted:
            say(f"not part of the {found.kind}: {found.path / name}")
        for rule in found.not_checked:
            say(f"not checked: {rule}")
        if found.ok:
            rows = f"of {counted(found.rows, 'row')}" if found.rows else "without its population,"
            size = f"{rows} in {counted(found.files, 'file')}"
            say(f"{what}: {found.kind} {size} matches its manifest")
            say(f"digest {found.digest}")
    if not found.ok:
        ctx.exit(2)


@click.command(epilog=examples("w2w repair people"))
@click.argument("folder", type=click.Path(path_type=Path))
def repair(folder: Path) -> None:
    """Complete a dataset change that was committed before its process was killed.

    w2w_hub already reads the new state; other readers, such as stock `datasets`, see it only after this command.
    """
    from ..store.commit import repair as finish

    if finish(folder):
        say(f"{folder}: the change is in place; next: {command('w2w verify', folder)}")
    else:
        say(f"{folder}: no unfinished change; for damage see: {command('w2w verify', folder, options=('--deep',))}")


@click.command(
    epilog=examples(
        "w2w diff people-1.0 people", "w2w diff org/people@v1.0.0 org/people@v1.1.0", "w2w diff space org/space@v1.0.0"
    )
)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Show the changes between two datasets or weight spaces, each a folder or org/name@version."""
    from ..release import diff as compare

    versions = compare(first, second)
    found = versions.rows
    if as_json:
        print_json(versions.to_json())
        return
    if not versions.changes and not found:
        data("no difference")
        return
    table((Column(), Column(wraps=True)), [(change.level, change.text) for change in versions.changes], head=False)
    if versions.changes:
        say(f"a {versions.level} change")
    if found is None:
        return
    for fact, (before, after) in found.facts.items():
        if isinstance(before, dict) and isinstance(after, dict):
            changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
            for name in changed:
                data(f"{fact}, {name}: {before.get(name)} -> {after.get(name)}")
        else:
            data(f"{fact}: {before} -> {after}")
    for column, kinds in found.columns.items():
        data(f"column {column}: {kinds[0] or 'missing'} -> {kinds[1] or 'missing'}")
    for text, ids in (("added", found.added), ("removed", found.removed), ("with other weights", found.changed)):
        if ids:
            data(f"{len(ids):,} {text}: {', '.join(ids[:SHOWN])}{' ...' if len(ids) > SHOWN else ''}")
    if found.relabelled:
        data(f"{len(found.relabelled):,} relabeled:")
        for name, changes in list(found.relabelled.items())[:SHOWN]:
            shown = ", ".join(f"{column} {_text(a)} -> {_text(b)}" for column, (a, b) in changes.items())
            data(f"  {name}: {shown}")
        if len(found.relabelled) > SHOWN:
            data("  ...; --json lists all")


def _text(value: object) -> str:
    return "missing" if value is None else str(value)


@click.command(
    epilog=examples("w2w dedupe people", "w2w dedupe people --cosine 0.95 --json", "w2w dedupe people --remove")
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--cosine", default=0.99, show_default=True, help="Smallest cosine similarity of listed rows.")
@click.option("--exact-only", is_flag=True, help="Find only exact duplicates, by digest, without reading weights.")
@click.option(
    "--not-centered",
    "--not-centred",
    "not_centered",
    is_flag=True,
    help="Compute cosines without subtracting the dataset's mean.",
)
@click.option("--remove", is_flag=True, help="Remove all but the first of equal rows; near duplicates are only listed.")
@json_option
def dedupe(dataset: Path, cosine: float, exact_only: bool, not_centered: bool, remove: bool, as_json: bool) -> None:
    """Find rows that are exact or near duplicates."""
    from ..dataset import WeightDataset, find_duplicates, remove_rows

    opened = WeightDataset.open(dataset)
    found = find_duplicates(opened, None if exact_only else cosine, centered=not not_centered)
    gone = found.redundant_ids()
    if remove and gone:
        remove_rows(dataset, gone)
    if as_json:
        print_json(
            {"exact": found.exact, "near": [{"ids": [a, b], "cosine": value} for a, b, value in found.near],
             "removed": gone if remove else []}
        )  # fmt: skip
        return
    table((Column(), Column(wraps=True)), [("equal", "  ".join(group)) for group in found.exact], head=False)
    pairs = [(f"{value:.4f}", a, b) for a, b, value in found.near]
    table((Column(right=True), Column(least=12), Column(least=12)), pairs, head=False)
    near = "" if exact_only else f", {counted(len(found.near), 'pair')} of cosine {cosine:g} or more"
    say(f"{counted(len(gone), 'redundant equal row')}{near} among {counted(len(opened), 'row')}")
    if remove and gone:
        say(f"removed {len(gone):,}; next: {command('w2w verify', dataset, options=('--deep',))}")
    elif gone:
        say(f"next: {command('w2w dedupe', dataset, options=('--remove',))}")
    elif found.near:
        say(f"inspect them, then: {command('w2w remove', dataset, found.near[0][1])}")

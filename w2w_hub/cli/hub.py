"""`w2w push`, `log`, `pin`, `restore`, `archive`, `cite`, and `verify` for a lock file."""

from __future__ import annotations

from pathlib import Path

import click

from ..common.text import command, counted, file_size
from .common import examples, json_option, out_option
from .output import data, data_text, print_json, say, table
from .tables import Cell, Column, good_or_bad

lock_argument = click.argument("lock", type=click.Path(path_type=Path))


@click.command(
    epilog=examples(
        "w2w push people org/people --version 1.0.0 --private",
        "w2w push space org/space --version 1.0.0 --dry-run",
        "w2w push space org/space --version 1.0.0 --without-population --without-population-model --dry-run",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--version", "version", help="Version to publish; by default the one in the manifest.")
@click.option("--private", is_flag=True, help="Make a new repository private; refuse an existing public one.")
@click.option(
    "--gated", type=click.Choice(["auto", "manual"]), help="Require readers of a new repository to request access."
)
@click.option("--message", "-m", help="Title of the commit.")
@click.option(
    "--dataset", type=click.Path(path_type=Path), metavar="REPO@VERSION",
    help="Where the Hub has the dataset of a weight space, or a lock file that pins it; linked on the card.",
)  # fmt: skip
@click.option(
    "--sign", type=click.Path(path_type=Path), metavar="KEY",
    help="Private key (PEM) to sign the manifest with; w2w verify --identity checks it.",
)  # fmt: skip
@click.option("--without-population", is_flag=True, help="Leave out ids and coefficients of a weight space's rows.")
@click.option(
    "--without-population-model", is_flag=True,
    help="Leave out the model of the population, from which some rows can be estimated. What is published cannot set "
    "attributes.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be sent; send nothing.")
@json_option
def push(
    folder: Path, repo: str, version: str | None, private: bool, gated: str | None, message: str | None,
    dataset: Path | None, sign: Path | None, without_population: bool, without_population_model: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Publish a dataset or weight space as a version of the Hub repository REPO (org/name)."""
    from ..release import push as publish

    done = publish(
        folder,
        repo,
        version=version,
        private=private,
        gated=gated,
        message=message,
        dataset=dataset,
        sign=sign,
        dry_run=dry_run,
        population=not without_population,
        population_model=not without_population_model,
    )
    if as_json:
        print_json(done.to_json())
        return
    if done.outcome == "unchanged":
        say(f"{repo} has {done.tag} already, with the same content; nothing was changed")
    elif done.outcome == "tagged":
        say(f"{repo}: the files are there from an earlier push; {done.tag} {'would be' if dry_run else 'is'} set")
    else:
        verb = "would send" if dry_run else "sent"
        new = " (a new repository)" if done.created else ""
        files, reused = counted(len(done.sent), "file"), counted(len(done.reused), "other is", "others are")
        say(f"{repo}{new}: {verb} {files}, {file_size(done.bytes_sent)}; {reused} there already")
        for change in done.changes:
            say(f"  {change}")
        if done.changes:
            say(f"a {done.level} change")
        if done.kind == "space" and done.dataset is None:
            say("the card links no dataset; to link it, push the next version with --dataset ORG/NAME@VERSION")
        elif done.dataset is not None:
            say(f"the card links its dataset {done.dataset}")
    if dry_run:
        again: list[object] = ["--version", done.version, *(["--private"] if private else [])]
        again += ["--without-population"] if without_population else []
        again += ["--without-population-model"] if without_population_model else []
        for name, value in {"--gated": gated, "--message": message, "--dataset": dataset, "--sign": sign}.items():
            again += [] if value is None else [name, value]
        say(f"next: {command('w2w push', folder, repo, options=again)}")
    else:
        then = command("w2w pin", f"{repo}@{done.tag}", options=("-o", "w2w.lock"))
        say(f"{done.tag} is commit {done.commit}; next: {then}")


@click.command(epilog=examples("w2w log org/people", "w2w log org/people --json"))
@click.argument("repo")
@json_option
def log(repo: str, as_json: bool) -> None:
    """List the versions of a Hub repository, newest first."""
    from ..release import log as versions_of

    releases = versions_of(repo)
    if as_json:
        print_json([release.to_json() for release in releases])
        return
    if not releases:
        then = command("w2w push", "FOLDER", repo, options=("--version", "1.0.0"))
        say(f"{repo} has no version yet; publish one with: {then}")
    columns = (Column(), Column(), Column(), Column(), Column(wraps=True))
    rows = [
        (Cell(release.tag or f"({release.version})", "name"), release.date, release.commit[:12], release.contents,
         release.title)
        for release in releases
    ]  # fmt: skip
    table(columns, rows, head=False)
    if any(release.tag is None for release in releases):
        say("(version): on main, not tagged")


@click.command(
    epilog=examples("w2w pin org/space@v1.0.0 org/people@v1.0.0 -o w2w.lock", "w2w pin org/space@v1.0.0 -o w2w.lock")
)
@click.argument("names", nargs=-1, required=True)
@out_option("The lock file to write.", "--replace")
def pin(names: tuple[str, ...], out: Path, force: bool) -> None:
    """Pin versions (org/name@version) in a lock file: commits, digests, base models, packages and recipes."""
    from ..release import pin as pin_them

    lock = pin_them(list(names), out, overwrite=force)
    for each in lock.pins:
        say(f"{each.name}  {each.kind}  commit {each.commit[:12]}  digest {each.digest[:12]}")
        wanted = each.recipe.get("dataset_digest")
        if wanted and not any(p.digest == wanted for p in lock.pins):
            say(f"  its dataset {each.recipe.get('dataset')} is not pinned; pin it, too, for --rebuild")
    say(f"next: {command('w2w verify', out)}, or {command('w2w archive', out, options=('-o', 'bundle'))}")


@click.command(epilog=examples("w2w restore w2w.lock", "w2w restore w2w.lock --from bundle"))
@lock_argument
@click.option("--from", "source", help="Folder or URL of an archive or mirror to copy from.  [default: the Hub]")
def restore(lock: Path, source: str | None) -> None:
    """Fetch everything that LOCK pins into the local cache and verify it, for offline use."""
    from ..release import restore as restore_all

    for folder in restore_all(lock, source):
        data(folder)
    say(f"ready offline; next: {command('w2w verify', lock)}")


@click.command(epilog=examples("w2w archive w2w.lock -o bundle"))
@lock_argument
@out_option("The folder to write: a BagIt bag.")
def archive(lock: Path, out: Path, force: bool) -> None:
    """Write everything that LOCK pins to a folder for long-term archives."""
    from ..release import archive as write

    write(lock, out, overwrite=force)
    then = command("w2w restore", lock, options=("--from", out))
    say(f"{out}: check it with sha256sum -c manifest-sha256.txt; next: {then}")


@click.command(epilog=examples("w2w cite org/people@v1.0.0", "w2w cite w2w.lock --format cff > CITATION.cff"))
@click.argument("what")
@click.option(
    "--format", "style", type=click.Choice(["bibtex", "cff"]), default="bibtex", show_default=True,
    help="BibTeX entries, or a CITATION.cff.",
)  # fmt: skip
def cite(what: str, style: str) -> None:
    """Print citations of org/name@version, or of everything in a lock file.

    Use datasets/org/name or models/org/name if a dataset and a weight space share the name.
    """
    from .. import release

    pins = release.cite(what)
    data_text(release.bibtex(pins) if style == "bibtex" else release.citation_file(pins))


def verify_lock_file(lock: Path, rebuild: bool, as_json: bool) -> None:
    """Run `w2w verify` for a lock file."""
    from ..errors import CorruptFileError
    from ..release import verify_lock

    checks = verify_lock(lock, rebuild=rebuild)
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        rows = [(good_or_bad(check.ok), f"{check.name}: {check.detail}") for check in checks]
        table((Column(), Column(wraps=True)), rows, head=False)
        say(*(f"w2w: note: {note}" for check in checks for note in check.notes))
    bad = sum(not check.ok for check in checks)
    if bad:
        see = command("w2w restore", lock, options=("--from", "FOLDER"))
        raise CorruptFileError(
            f"{lock}: {bad} of {counted(len(checks), 'check')} failed; restore with: {see}", path=lock
        )

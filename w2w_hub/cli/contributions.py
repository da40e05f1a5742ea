"""The commands `w2w init` and `contribute`: train adapters that fit a published dataset, and offer them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.text import command, counted, file_size
from .common import LaterChoice, adapter_options, examples, json_option, out_option
from .datasets import LICENSE, NamedText, extra_labels_option
from .output import data, print_json, say, table
from .tables import Cell, Column, good_or_bad

if TYPE_CHECKING:
    from ..release.contribution.checks import Verdict
    from ..release.contribution.contribute import Contribution


def _trainers() -> list[str]:
    from ..release.contribution.trainers import TRAINERS

    return list(TRAINERS)


@click.command(
    epilog=examples(
        "w2w init people --trainer kohya --out start",
        "w2w init org/people --trainer peft --out start",
    )
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--trainer", type=LaterChoice(_trainers), default="w2w", show_default=True, help="What you train with.")
@out_option("The new folder: start file, settings and what to do next.")
@json_option
def init(dataset: Path, trainer: str, out: Path, force: bool, as_json: bool) -> None:
    """Write what a trainer needs to train LoRAs that fit DATASET: start file, settings, and what to check.

    DATASET is a folder or org/name on the Hub. Only a dataset that publishes its initialization has a start file.
    """
    from ..release.contribution.trainers import write_start

    made = write_start(dataset.as_posix(), out, trainer, overwrite=force)
    if as_json:
        print_json(made.to_json())
        return
    say(f"{out}: {', '.join(made.files)}")
    for number, step in enumerate(made.steps[:-1], 1):
        data(f"{number}. {step}")
    say(f"note: {made.steps[-1]}")


@click.command(
    epilog=examples(
        "w2w contribute people my-lora --source drawn --license cc0-1.0 --consent given --dry-run",
        "w2w contribute people lora-a lora-b --labels offered.csv --dry-run",
        "w2w contribute org/people my-lora --label Beard=true --source drawn --license mit --consent given --dry-run",
    )
)
@click.argument("repo")
@click.argument("adapters", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="CSV, Parquet or JSON Lines file with an id column.")
@extra_labels_option
@click.option("--label", "label", type=NamedText(), multiple=True, help="A label of all adapters. May be repeated.")
@click.option("--source", help="Where the adapters are from, if the labels do not state it.")
@click.option(*LICENSE, help="License identifier (SPDX or the Hub's), if the labels do not state it.")
@click.option("--consent", help="Who agreed to the publication, if the labels do not state it.")
@click.option("--accept-rest", is_flag=True, help="Send the good adapters, although others were refused.")
@click.option("--dry-run", is_flag=True, help="Check and show the plan; send nothing.")
@adapter_options
@json_option
def contribute(
    repo: str, adapters: tuple[Path, ...], labels: Path | None, extra_labels: str, label: Any, source: str | None,
    license: str | None, consent: str | None, accept_rest: bool, dry_run: bool, allow_torch: bool, trust: str | None,
    alpha: float | None, component: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Check ADAPTERS against the dataset REPO (org/name), and offer them in one pull request.

    You need an account on the Hub, but no access to the dataset's repository. The exit status is 1 if an adapter was
    refused. With --dry-run, REPO may also be a folder.
    """
    from ..dataset import read_labels
    from ..release.contribution.contribute import contribute as offer

    done = offer(
        repo, adapters, labels=None if labels is None else read_labels(labels), extra_labels=extra_labels,
        label=dict(label), source=source, license=license, consent=consent, accept_rest=accept_rest, dry_run=dry_run,
        allow_torch=allow_torch, trust=trust, alpha=alpha, component=component,
    )  # fmt: skip
    if as_json:
        print_json(done.to_json())
    else:
        print_verdicts(done.verdicts)
        _say_outcome(done, dry_run)
    if len(done.accepted) < len(done.verdicts):
        click.get_current_context().exit(1)


def print_verdicts(verdicts: tuple[Verdict, ...]) -> None:
    """Print one line per row, and its problems and notes below."""
    known = (("initialisation_cosine", "cosine of A {:.2f}"), ("norm", "norm {:.3g}"))
    rows: list[tuple[Cell | str, str]] = []
    for verdict in verdicts:
        facts = [shown.format(verdict.facts[name]) for name, shown in known if name in verdict.facts]
        rows.append((good_or_bad(verdict.ok, no="REFUSED"), "  ".join([verdict.id, *facts])))
        rows += [("", f"{problem.check}: {problem.message}") for problem in verdict.problems]
        rows += [("", f"note: {note}") for note in verdict.notes]
    table((Column(), Column(wraps=True)), rows, head=False)


def _say_outcome(done: Contribution, dry_run: bool) -> None:
    good, bad = len(done.accepted), len(done.verdicts) - len(done.accepted)
    if done.outcome == "refused":
        say(f"nothing was sent: {counted(bad, 'adapter was', 'adapters were')} refused")
        if good:
            say(f"next: correct {'it' if bad == 1 else 'them'}, or send the other {good} with --accept-rest")
        else:
            say("next: correct what is named above, then run the same command again")
    elif done.outcome == "planned":
        size = file_size(sum(done.files.values()))
        say(f"would open a pull request to {done.repo} with {counted(good, 'adapter')}, {size}:")
        for path in done.files:
            say(f"  {path}")
        say("next: the same command without --dry-run")
    elif done.outcome == "merged":
        say(f"{done.repo} has this batch already; it is in its next version")
    else:
        there = "opened" if done.outcome == "opened" else "is open already:"
        say(f"{there} pull request #{done.number} to {done.repo}: {done.url}")
        say(f"its maintainers review it with: {command('w2w review', f'{done.repo}#{done.number}')}")
        say("to change the contribution, close it and contribute again")


__all__ = ["contribute", "init", "print_verdicts"]

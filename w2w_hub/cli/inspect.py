"""The command `w2w inspect`, which describes files and folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..common.text import one_line
from .common import adapter_options, examples, json_option
from .output import data, print_json, say

_JSON_ONLY = ("passengers", "misfit", "strength curves", "removal curves")  # the first two are deprecated, until 0.3
_TABLE = ("path", "dialect", "components", "rank", "scale", "modules", "params", "base_guess", "note")


@click.command(
    epilog=examples(
        "w2w inspect my-lora",
        "w2w inspect lora.safetensors --json",
        "w2w inspect downloads            # every checkpoint below it",
        "w2w inspect *.safetensors --json # one JSON object per line",
        "w2w inspect my-lora --against people",
        "w2w inspect people space edited.json",
    )
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Compare with a dataset, space, layout (.json) or adapter.",
)
@adapter_options
@json_option
def inspect(
    paths: tuple[Path, ...],
    against: Path | None,
    allow_torch: bool,
    trust: str | None,
    alpha: float | None,
    component: str | None,
    as_json: bool,
) -> None:
    """Describe PATHS: adapters, datasets, weight spaces or saved points.

    A folder of several checkpoints is scanned, and its other files are skipped. With --json, a single path that is not
    such a folder prints one JSON object; otherwise, one object per line is printed. The exit status is 2 if a given
    path cannot be read, and 1 if an adapter does not fit --against.
    """
    from ..dataset.reference import ReferenceLayout
    from ..dialects.checkpoint import ReadOptions
    from ..dialects.scan import is_tree
    from ..release.describe import describe

    ReadOptions(trust, alpha, component)  # raises once instead of for every path
    options: dict[str, Any] = {"trust": trust, "alpha": alpha, "component": component}
    if against is not None:
        options["against"] = ReferenceLayout(against)
    if len(paths) == 1 and not is_tree(paths[0]):
        facts = describe(paths[0], allow_torch=allow_torch, **options)
        print_json(facts) if as_json else _print_facts(facts)
        _finish([_named(facts)] if facts.get("refused") else [], facts.get("fits") is False)
        return
    refused, misfit, rows = [], False, 0
    for facts, named in _scanned(paths, allow_torch, options):
        if named and facts.get("refused"):
            refused.append(_named(facts))
        misfit = misfit or facts.get("fits") is False
        print_json(facts, indent=None) if as_json else _print_row(facts, rows == 0)
        rows += 1
    if not rows:
        say(f"no checkpoint below {', '.join(map(str, paths))}")
    _finish(refused, misfit)


def _named(facts: dict[str, Any]) -> str:
    """Return why a checkpoint was refused, prefixed by its path."""
    path, reason = one_line(str(facts["path"]), 1000), str(facts["refused"])
    return reason if reason.startswith(path) else f"{path}: {reason}"


def _finish(refused: list[str], misfit: bool) -> None:
    for reason in refused:
        say(f"w2w: error: {reason}")
    if refused or misfit:
        click.get_current_context().exit(2 if refused else 1)


def _scanned(
    paths: tuple[Path, ...], allow_torch: bool, options: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the facts of each path, and True; for a scanned folder, those of each checkpoint, and False."""
    from ..common.progress import progress
    from ..dialects.initialization import InitializationTracker
    from ..dialects.scan import NO_CHECKPOINT, Skipped, expanded
    from ..errors import NotACheckpointError, W2WError
    from ..release.describe import describe
    from ..store.manifest import POINT, stated_format

    skipped, tracker = Skipped(), InitializationTracker()

    def is_point(path: Path) -> bool:
        return path.suffix == ".json" and stated_format(path) == POINT

    for path, named in progress(expanded(paths, skipped, is_point), "inspecting"):
        try:
            facts = describe(path, allow_torch=allow_torch and named, tracker=tracker, **options)
        except NotACheckpointError as error:
            if not named:
                skipped.add(path, NO_CHECKPOINT)
                continue
            facts = {"path": str(path), "kind": None, "refused": str(error)}
        except W2WError as error:
            facts = {"path": str(path), "kind": None, "refused": str(error)}
        yield facts, named
    if skipped.counts:
        say(f"skipped {skipped}")


def _print_facts(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if value is not None and name not in _JSON_ONLY:
            data(f"{name.replace('_', ' '):<{width}}  {_text(value)}")


def _print_row(facts: dict[str, Any], first: bool) -> None:
    """Print one row of the table of a scan; columns have fixed widths, since rows are streamed."""
    widths = (40, 24, 20, 6, 8, 7, 11, 22, 0)
    if first:
        data(" ".join(f"{n.replace('_', ' '):<{w}}" for n, w in zip(_TABLE, widths, strict=True)).rstrip())
    note = facts.get("refused") or facts.get("incompatibility") or facts.get("note") or _passing(facts)
    shown = {**facts, "dialect": facts.get("dialect") or facts.get("kind") or "unreadable", "note": note}
    cells = ["-" if shown.get(n) in (None, []) else _text(shown[n]) for n in _TABLE[:-1]]
    cells[0] = cells[0] if len(cells[0]) <= widths[0] else f"...{cells[0][3 - widths[0] :]}"
    line = " ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=False))
    data(f"{line} {note}".rstrip())


def _passing(facts: dict[str, Any]) -> str:
    """Return short remarks on a readable adapter, for the table."""
    notes = []
    if facts.get("ignored_keys"):
        notes.append(f"{len(facts['ignored_keys'])} ignored keys")
    if facts.get("zero_tensors"):
        notes.append(f"{facts['zero_tensors']} zero tensors")
    if facts.get("initialisation_cosine") is not None:
        first = one_line(str(facts.get("initialisation_of") or facts.get("against"))[-40:], 100)
        notes.append(f"A is {facts['initialisation_cosine']:.2f} like that of {first} (near 1: one initialization)")
    return ", ".join(notes)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return one_line(str(value), 1000)  # untrusted text of a file, safe for a terminal

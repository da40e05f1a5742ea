"""The command `w2w inspect`, which describes files and folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..common.text import one_line
from .common import adapter_options, examples, json_option
from .output import facts as write_facts
from .output import print_json, say, table
from .tables import Cell, Column, as_text

_JSON_ONLY = ("passengers", "misfit", "strength curves", "removal curves")  # the first two are deprecated, until 0.3
LONGEST_FIELD = 40  # characters of the name of a header field
# facts in the table of a scan, and their columns
_TABLE = {
    "path": Column("path", least=32, keep_end=True), "dialect": Column("dialect"),
    "components": Column("components", least=10), "rank": Column("rank", right=True, least=5),
    "scale": Column("scale", right=True, least=5), "modules": Column("modules", right=True, drops=2),
    "params": Column("params", right=True, drops=1), "base_guess": Column("base guess", least=10, drops=3),
    "note": Column("note", wraps=True),
}  # fmt: skip


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
        print_json(facts) if as_json else write_facts(_shown(facts))
        _finish([_named(facts)] if facts.get("refused") else [], facts.get("fits") is False)
        return
    refused: list[str] = []
    outcome = {"rows": 0, "misfits": 0}

    def found() -> Iterator[dict[str, Any]]:
        for facts, named in _scanned(paths, allow_torch, options):
            if named and facts.get("refused"):
                refused.append(_named(facts))
            outcome["misfits"] += facts.get("fits") is False
            outcome["rows"] += 1
            yield facts

    if as_json:
        for facts in found():
            print_json(facts, indent=None)
    else:
        table(tuple(_TABLE.values()), map(_row, found()))
    if not outcome["rows"]:
        say(f"no checkpoint below {', '.join(map(str, paths))}")
    _finish(refused, outcome["misfits"] > 0)


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


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    """Return the facts to print, as text; each header field of where it comes from has a line."""
    fields = facts.get("provenance") or {}
    rest = {name: value for name, value in facts.items() if name not in ("provenance", *_JSON_ONLY)}
    shown = {name.replace("_", " "): as_text(value) for name, value in rest.items() if value is not None}
    return shown | {one_line(name, LONGEST_FIELD): as_text(value) for name, value in sorted(fields.items())}


def _row(facts: dict[str, Any]) -> list[Cell]:
    """Return one row of the table of a scan."""
    refused = facts.get("refused")
    note = refused or facts.get("incompatibility") or facts.get("note") or _passing(facts)
    shown = {**facts, "dialect": facts.get("dialect") or facts.get("kind") or "unreadable", "note": note}
    cells = [Cell("-" if shown.get(name) in (None, []) else as_text(shown[name])) for name in _TABLE]
    cells[-1] = Cell(str(note), "bad" if refused else "warning" if facts.get("incompatibility") else "")
    return cells


def _passing(facts: dict[str, Any]) -> str:
    """Return short remarks on a readable adapter, for the table."""
    notes = []
    if facts.get("ignored_keys"):
        notes.append(f"{len(facts['ignored_keys'])} ignored keys")
    if facts.get("zero_tensors"):
        notes.append(f"{facts['zero_tensors']} zero tensors")
    if facts.get("initialisation_cosine") is not None:
        first = one_line(str(facts.get("initialisation_of") or facts.get("against"))[-40:], 100)
        cosine = facts["initialisation_cosine"]
        notes.append(f"A has cosine {cosine:.2f} to A of {first} (near 1: one initialization)")
    return ", ".join(notes)

"""`w2w inspect`: what files and folders are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..common.text import one_line
from .common import adapter_options, examples, json_option
from .output import data, print_json, say

_TABLE = ("path", "dialect", "components", "rank", "scale", "modules", "params", "base_guess", "note")


@click.command(
    epilog=examples(
        "w2w inspect my-lora",
        "w2w inspect lora.safetensors --json",
        "w2w inspect downloads            # every checkpoint below it",
        "w2w inspect *.safetensors --json # one JSON object a line",
        "w2w inspect my-lora --against people",
        "w2w inspect people space edited.json",
    )
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), help="A dataset, weight space, layout (.json) or adapter to fit."
)
@adapter_options
@json_option
def inspect(
    paths: tuple[Path, ...],
    against: Path | None,
    allow_torch: bool,
    believe: str | None,
    alpha: float | None,
    component: str | None,
    as_json: bool,
) -> None:
    """Tell what PATHS are: adapters, datasets, weight spaces or saved points.

    A folder of several checkpoints is scanned, and what is none is skipped. One path that is no such folder prints one
    JSON object with --json, anything else one object a line. Exit status 2: a named path cannot be read; 1: an
    adapter does not fit --against.
    """
    from ..dialects.checkpoint import ReadOptions
    from ..dialects.inspection import Against
    from ..dialects.scan import is_tree

    options = ReadOptions(believe, alpha, component)
    wanted = None if against is None else Against(against)
    if len(paths) == 1 and not is_tree(paths[0]):
        facts = describe(paths[0], allow_torch, options, wanted)
        print_json(facts) if as_json else _print_facts(facts)
        _finish([_named(facts)] if facts.get("refused") else [], facts.get("fits") is False)
        return
    refused, misfits, rows = [], False, 0
    for facts, named in _scanned(paths, allow_torch, options, wanted):
        if named and facts.get("refused"):
            refused.append(_named(facts))
        misfits = misfits or facts.get("fits") is False
        print_json(facts, indent=None) if as_json else _print_row(facts, rows == 0)
        rows += 1
    if not rows:
        say(f"no checkpoint below {', '.join(map(str, paths))}")
    _finish(refused, misfits)


def _named(facts: dict[str, Any]) -> str:
    """Why a checkpoint was refused, with its name in front where the reason does not start with it."""
    path, reason = one_line(str(facts["path"]), 1000), str(facts["refused"])
    return reason if reason.startswith(path) else f"{path}: {reason}"


def _finish(refused: list[str], misfits: bool) -> None:
    for reason in refused:
        say(f"w2w: error: {reason}")
    if refused or misfits:
        click.get_current_context().exit(2 if refused else 1)


def _scanned(
    paths: tuple[Path, ...], allow_torch: bool, options: Any, against: Any
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The facts of every path, and of every checkpoint below the folders among them; True for the former."""
    from ..common.progress import progress
    from ..dialects.inspection import SharedStart
    from ..dialects.scan import Skipped, find_checkpoints, is_tree
    from ..errors import NotACheckpointError, W2WError

    skipped, start = Skipped(), SharedStart()

    def found() -> Iterator[tuple[Path, bool]]:
        for path in paths:
            if path.exists() and is_tree(path):
                yield from ((inner, False) for inner in find_checkpoints(path, skipped))
            else:
                yield path, True

    for path, named in progress(found(), "inspecting"):
        try:
            facts = describe(path, allow_torch and named, options, against, start)
        except NotACheckpointError as error:
            if not named:
                skipped.add(path, "that are no checkpoint")
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
        if value is not None:
            data(f"{name.replace('_', ' '):<{width}}  {_text(value)}")


def _print_row(facts: dict[str, Any], first: bool) -> None:
    """One line of the table of a scan; streamed, so its columns have fixed widths."""
    widths = (40, 24, 20, 6, 8, 7, 11, 22, 0)
    if first:
        data(" ".join(f"{n.replace('_', ' '):<{w}}" for n, w in zip(_TABLE, widths, strict=True)).rstrip())
    note = facts.get("refused") or facts.get("misfit") or facts.get("note") or _passing(facts)
    shown = {**facts, "dialect": facts.get("dialect") or facts.get("kind") or "unreadable", "note": note}
    cells = ["-" if shown.get(n) in (None, []) else _text(shown[n]) for n in _TABLE[:-1]]
    cells[0] = cells[0] if len(cells[0]) <= widths[0] else f"...{cells[0][3 - widths[0] :]}"
    line = " ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=False))
    data(f"{line} {note}".rstrip())


def _passing(facts: dict[str, Any]) -> str:
    """What of a readable adapter deserves a word in a table."""
    notes = []
    if facts.get("passengers"):
        notes.append(f"{len(facts['passengers'])} passengers")
    if facts.get("zero_tensors"):
        notes.append(f"{facts['zero_tensors']} zero tensors")
    if facts.get("initialisation_cosine") is not None:
        notes.append(f"cosine of A with the first's {facts['initialisation_cosine']:.2f}")
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
    return one_line(str(value), 1000)  # names and hints that a file chose, on a terminal


def describe(path: Path, allow_torch: bool, options: Any, against: Any, start: Any = None) -> dict[str, Any]:
    """The facts of a dataset, weight space, point or adapter."""
    from ..dataset import WeightDataset
    from ..dataset.manifest import FILENAME, FORMAT
    from ..dialects.inspection import inspect_adapter
    from ..errors import MissingPathError
    from ..space import WeightSpace
    from ..space.points import is_point, load_point
    from ..store.hub.locate import REPOSITORY, locate_either, split_kind
    from ..store.hub.pins import is_lock, read_lock
    from ..store.manifest import read_json_in
    from ..store.paths import has_file

    folder, commit = path, {}
    if not path.exists():
        if not REPOSITORY.match(split_kind(path.as_posix())[1]):
            raise MissingPathError(f"{path} is not there", path=path)
        found = locate_either(path)
        folder, commit = found.folder, {"commit": found.revision.commit} if found.revision else {}
    elif is_lock(path):
        return {"kind": "lock", "path": str(path), "pins": [f"{p.name} ({p.kind})" for p in read_lock(path).pins]}
    if is_point(path):
        point = load_point(path)
        return {
            "kind": "point",
            "path": str(path),
            "coefficients": len(point.coefficients),
            "basis digest": point.basis_digest,
            "history": dict(point.history),
        }
    if folder.is_dir() and has_file(folder, FILENAME):
        if read_json_in(folder, FILENAME).get("format") == FORMAT:
            dataset = WeightDataset.open(path)
            m = dataset.manifest
            return {
                "kind": "dataset",
                "path": str(path),
                "name": m.name,
                "version": m.version,
                "rows": m.rows,
                "numbers": m.layout.size,
                "dtype": m.dtype,
                "splits": m.splits,
                "modules": len(m.layout.slots),
                "scale": m.layout.scale,
                "attributes": list(m.columns),
                "initialisation": m.compatibility.initialisation,
                "base model": m.compatibility.base_model or "not stated",
                "digest": m.digest,
                **commit,
            }
        space = WeightSpace.from_pretrained(path)
        return {
            "kind": "weight space",
            "path": str(path),
            "name": space.name,
            "version": space.version,
            "components": space.k,
            "numbers": space.layout.size,
            "dataset": space.recipe["dataset"],
            "rows fitted": space.recipe["rows"],
            "held-out AUC": {n: "-" if d.auc is None else round(d.auc, 3) for n, d in space.directions.items()},
            "base model": space.compatibility.base_model or "not stated",
            "digest": space.digest,
            **commit,
        }
    return inspect_adapter(path, allow_torch=allow_torch, options=options, against=against, start=start)

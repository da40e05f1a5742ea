"""Adapters, points and encoders: what their headers say, without reading a tensor of an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ..common.text import ShellText, command, counted, one_line, quote
from ..dialects.dialect import DenseDialect
from ..dialects.header_labels import LONGEST, labels_of_header
from ..dialects.loading import open_checkpoint, weights_file
from ..dialects.registry import dialect_of
from ..errors import NotACheckpointError, W2WError
from ..space.encoder.encoder import Encoder
from ..space.notes import describe_history
from ..space.points import load_point
from ..space.withdrawn import file_notice, withdrawn_row_of
from ..store.manifest import FILENAME, SPACE, read_json_in, stated_format
from .looking import entries, free_name
from .result import UNKNOWN, Info, Step

SLIDER = "w2w.slider"  # header field of a slider LoRA: the name of its attribute
MOST_SPACES = 50  # manifests that are read to find the weight space of a point
MOST_FOLDERS = 200  # that are looked into on the way
OTHER = ("diffusers", "peft")  # dialects to convert to


def adapter_info(path: Path) -> Info:
    """Return what a checkpoint is by its header; one that no dialect recognizes is unknown, with the reason.

    Raises
    ------
    W2WError
        If the file is damaged or unsafe.
    """
    checkpoint = open_checkpoint(path)
    try:
        dialect = dialect_of(checkpoint)
    except NotACheckpointError as error:
        reason = str(error).removeprefix(f"{checkpoint.where} is ")
        return Info(str(path), UNKNOWN, "a file of tensors that is no adapter", {"reason": reason})
    told = checkpoint.metadata
    ranks = {rank for key, shape in checkpoint.shapes.items() if (rank := dialect.rank_of(key, shape)) is not None}
    facts: dict[str, Any] = {"dialect": dialect.name, "rank": sorted(ranks), "tensors": len(checkpoint.keys)}
    with suppress(W2WError):
        labels = labels_of_header(told, str(path))
        facts |= {name.replace("_", " ").replace("licence", "license"): value for name, value in labels.items()}
    base = (checkpoint.config or {}).get("base_model_name_or_path")
    if isinstance(base, str) and base:
        facts["base model"] = base
    facts |= {
        name.removeprefix("w2w.").replace("_", " "): told[name] for name in ("w2w.space", "w2w.row") if name in told
    }
    approximate = isinstance(dialect, DenseDialect)
    summary = f"LoRA adapter in the dialect {dialect.name}"
    kind = "adapter"
    if SLIDER in told:
        kind, summary = "slider", f"slider LoRA of {one_line(told[SLIDER], 100)}, in the dialect {dialect.name}"
        if "modelspec.usage_hint" in told:
            facts["use"] = one_line(told["modelspec.usage_hint"], LONGEST)
    if "w2w.space" in told:
        facts.pop("trained with", None)  # it is exported: the field names what loads it
    steps = [Step(command("w2w inspect", path), "read all of it: scale, norms, base model, whether it is usable")]
    to = next((name for name in OTHER if name != dialect.name), OTHER[0])
    weights = weights_file(path) if path.is_dir() else path
    if weights is not None and weights.suffix != ".npz":  # whose tensors are not read
        out = free_name(f"{path.stem}-{to}")
        options = ("--to", to, *(("--rank", 16) if approximate else ()), "--out", out)
        purpose = f"approximate it in the dialect {to}" if approximate else f"write it in the dialect {to}"
        steps.append(Step(command("w2w convert", path, options=options), purpose))
    draw = command("w2w render", ShellText("SPACE"), path, options=("--out", free_name(f"{path.stem}.png")))
    hints = (f"as a person of a weight space: {draw}; w2w edit, w2w read and w2w nearest take it, too",)
    found = Info(str(path), kind, summary, facts, (), () if kind == "slider" else hints, tuple(steps))
    gone = withdrawn_row_of(told)
    return found if gone is None else found.with_warnings(file_notice(gone))


def point_info(path: Path) -> Info:
    """Return what a saved point is, and the weight space near it that it belongs to."""
    point = load_point(path)
    facts: dict[str, Any] = {
        "coefficients": len(point.coefficients),
        "made": describe_history(point.history, point.explained_ratio),
        "basis digest": point.basis_digest,
    }
    named = point.history.get("space")
    home: object = named if isinstance(named, str) else space_of(path, point.basis_digest)
    summary = f"saved point of a weight space: {counted(len(point.coefficients), 'coefficient')}"
    if home is None:
        hint = "its weight space is not in a folder near it: find the one with its basis digest, then w2w render SPACE"
        return Info(str(path), "point", summary, facts, (), (hint,))
    facts["weight space"] = str(home)
    return Info(str(path), "point", summary, facts, (), (), tuple(_point_steps(home, path)))


def _point_steps(home: object, path: Path) -> Iterator[Step]:
    if not isinstance(home, Path) or (home / "model_index.json").is_file():
        draw = command("w2w render", home, path, options=("--out", free_name(f"{path.stem}.png")))
        yield Step(draw, "draw the person")
    yield Step(command("w2w read", home, path), "read attributes from it")
    yield Step(command("w2w nearest", home, path), "list the rows most like it")
    out = free_name(f"{path.stem}-lora")
    yield Step(command("w2w export", home, path, options=("--out", out)), "write it as a LoRA for stock diffusers")


def space_of(path: Path, digest: str) -> Path | None:
    """Return a weight space with this digest in folders around a file, in the working folder, or one level deeper."""
    around = [path.parent, *islice(path.absolute().parents, 1, 3), Path()]
    around += list(islice((inner for place in (path.parent, Path()) for inner in _inside(place)), MOST_FOLDERS))
    return next((folder for folder in _spaces(around) if _digest(folder) == digest), None)


def _spaces(around: list[Path]) -> Iterator[Path]:
    seen: set[Path] = set()

    def found() -> Iterator[Path]:
        for folder in around:
            for each in (folder, *_inside(folder)):
                with suppress(OSError):
                    if each.absolute() not in seen and (each / FILENAME).is_file():
                        seen.add(each.absolute())
                        yield _shortest(each)

    yield from islice(found(), MOST_SPACES)


def _inside(folder: Path) -> list[Path]:
    """Return the folders in a folder; none of one that cannot be listed."""
    with suppress(OSError):
        return [folder / entry.name for entry in entries(folder) if entry.is_folder]
    return []


def _shortest(folder: Path) -> Path:
    """Return a path relative to the working folder if it is below it."""
    here = Path.cwd()
    whole = folder.absolute()
    return whole.relative_to(here) if whole.is_relative_to(here) and whole != here else folder


def _digest(folder: Path) -> object:
    try:
        return read_json_in(folder, FILENAME).get("digest") if stated_format(folder) == SPACE else None
    except (W2WError, OSError):
        return None


def encoder_info(path: Path) -> Info:
    """Return what an encoder is, and the weight space near it that it belongs to."""
    encoder = Encoder.load(path)
    facts: Mapping[str, Any] = {
        "pictures": f"{encoder.size[1]}x{encoder.size[0]} pixels", "coefficients": encoder.k,
        "basis digest": encoder.basis_digest, "digest": encoder.digest,
    }  # fmt: skip
    home = space_of(path, encoder.basis_digest)
    where = "SPACE" if home is None else quote(home)
    hint = f"to start inversions of pictures: w2w invert {where} PICTURE --start encoded --encoder and this path"
    summary = "encoder: guesses a point of a weight space from a picture"
    return Info(str(path), "encoder", summary, facts, (), (hint,))

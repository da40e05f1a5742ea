"""Folders: each function returns what a folder is, or None if it is of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..common.text import command, counted, few, files_of, one_line, quote
from ..dialects.checkpoint import CONFIG
from ..dialects.loading import CHECKPOINTS, PICKLES, escapes
from ..dialects.registry import weights_names
from ..errors import MissingPathError, NotACheckpointError, W2WError
from ..release.bag import LOCK
from ..release.contribution.batch import FORMAT as BATCH
from ..release.contribution.batch import LABELS, ROWS
from ..release.contribution.trainers import NEXT, START
from ..release.explorer_app import APP
from ..space.points import SUFFIXES, is_point
from ..store.cards import read_card, split_card
from ..store.commit import COMMIT
from ..store.hub.locate import is_ours
from ..store.hub.source import Source
from ..store.manifest import CARD, FILENAME, FORMAT_NAMES, POINT, parse_json, read_json_in, stated_format
from ..store.paths import has_file, read_file, read_regular
from ..store.tensorfile import read_header
from ..upstream.found import PLACES
from ..upstream.published import PROJECT
from .adapters import adapter_info, point_info
from .files import NOT_OPENED, batch_info, lock_info
from .looking import MOST_ENTRIES, PICTURES, Entry, below, entries, free_name, is_file_in
from .ours import MODEL_INDEX, info_of
from .result import UNKNOWN, Info, Step

ADAPTER = "adapter"
MOST_INSIDE = 200  # entries that are looked into
PARTS = ("weights.zarr", "space.safetensors", "coefficients")  # of datasets and weight spaces
MOST_DRAWN = 64  # points on one sheet
CAPTIONS = (".txt", ".csv", ".jsonl", ".parquet")  # of pictures that adapters are trained from
BAGIT, PLAN, DEMO, REPORT = "bagit.txt", "plan.json", "demo.json", "report.html"
DEMO_FORMAT = "w2w-demo"
MAX_HEAD = 2**20  # bytes of a small JSON file
# suffixes of the hidden folders in which work goes on after an interruption, and what makes it go on
WORK = {
    ".w2w-training": ("training run", "repeat its command with --resume"),
    ".w2w-import": ("import", "repeat its command"),
    ".w2w-encoder": ("fit of an encoder", "repeat its command"),
    ".build": ("build of a weight space", "repeat its command"),
}
Recognize = Callable[[Path, list[Entry]], Info | None]


def folder_info(folder: Path) -> Info:
    """Return what a folder is.

    Raises
    ------
    W2WError
        If it is one of this package's and damaged, or cannot be read.
    """
    try:
        inside = entries(folder)
    except OSError as error:
        raise MissingPathError(f"{folder} cannot be read: {error.strerror}", path=folder) from error
    for recognize in _FOLDERS:
        found = recognize(folder, inside)
        if found is not None:
            return found
    return _unknown(folder, inside)


def _has(inside: list[Entry], *names: str) -> bool:
    files = {entry.name for entry in inside if entry.is_file or entry.is_link}  # links to blobs in the Hub's cache
    return all(name in files for name in names)


def _ours(folder: Path, inside: list[Entry]) -> Info | None:
    if not (has_file(folder, FILENAME) or any(e.name == COMMIT and e.is_folder for e in inside)):
        return None
    if is_ours(folder) or any(e.name == COMMIT for e in inside):
        return info_of(Source(folder), str(folder))
    if any(entry.name in PARTS for entry in inside) or stated_format(folder) is not None:
        return info_of(Source(folder), str(folder))  # which says what is wrong
    return None  # the manifest of something else


def _archive(folder: Path, inside: list[Entry]) -> Info | None:
    lock = folder / "data" / LOCK
    if not _has(inside, BAGIT) or not has_file(folder, f"data/{LOCK}"):
        return None
    found = lock_info(lock)
    steps = (
        Step(command("w2w restore", lock, options=("--from", folder)), "put its files into the cache, for use offline"),
        Step(command("w2w verify", lock), "verify them"),
        Step(command("w2w cite", lock), "print citations"),
    )
    summary = f"archive of {few(found.facts['pins'], 2)}"
    return Info(str(folder), "archive", summary, found.facts, (), (), steps)


def _work(folder: Path, inside: list[Entry]) -> Info | None:
    """Recognize the folder of work that was interrupted."""
    suffix = next((suffix for suffix in WORK if folder.name.startswith(".") and folder.name.endswith(suffix)), None)
    if suffix is None:
        return None
    what, then = WORK[suffix]
    target = folder.with_name(folder.name.removeprefix(".").removesuffix(suffix))
    facts: dict[str, Any] = {"result": str(target), "finished parts": sum(e.name.startswith("rows-") for e in inside)}
    if suffix == ".w2w-training" and _has(inside, PLAN):
        with suppress(W2WError):
            plan = read_json_in(folder, PLAN)
            facts |= {name: value for name, value in plan.items() if isinstance(value, (str, int, float))}
    return Info(str(folder), "unfinished work", f"unfinished {what}", facts, (), (f"to finish it: {then}",))


def _demo(folder: Path, inside: list[Entry]) -> Info | None:
    if not _has(inside, DEMO):
        return None
    try:
        if parse_json(read_file(folder, DEMO, MAX_HEAD * 64), folder / DEMO).get("format") != DEMO_FORMAT:
            return None
    except W2WError:
        return None
    steps = [
        Step(command("w2w info", folder / name), f"say more about its {kind}")
        for name, kind in (("dataset", "dataset"), ("space", "weight space"))
        if is_ours(folder / name)
    ]
    hints: tuple[str, ...] = (
        (f"open {folder / REPORT} in a browser",)
        if _has(inside, REPORT)
        else (f"to go on: w2w demo --out {quote(folder)} --resume",)
    )
    if is_ours(folder / "space"):
        hints += (f"to edit its people in a browser: {command('w2w explore', folder / 'space')}",)
    return Info(str(folder), "demo", "what w2w demo makes", {}, (), hints, tuple(steps))


def _base_model(folder: Path, inside: list[Entry]) -> Info | None:
    if not _has(inside, MODEL_INDEX):
        return None
    name: object = None
    with suppress(W2WError):
        name = parse_json(read_file(folder, MODEL_INDEX, MAX_HEAD), folder / MODEL_INDEX).get("_class_name")
    parts = [entry.name for entry in inside if entry.is_folder and not entry.name.startswith(".")]
    facts = {"pipeline": one_line(name, 100) if isinstance(name, str) else "not stated", "components": parts}
    option = f"--base {quote(folder)}"
    hints = (f"to draw people of a weight space: w2w build DATASET --out space {option}",
             f"to train adapters: w2w train PICTURES {option} --out person")  # fmt: skip
    return Info(str(folder), "base model", "base model in diffusers' layout", facts, (), hints)


def _batch(folder: Path, inside: list[Entry]) -> Info | None:
    if not _has(inside, ROWS) or read_header(folder / ROWS).metadata.get("format") != BATCH:
        return None
    found = batch_info(folder / ROWS)
    missing = () if _has(inside, LABELS) else (f"{LABELS} is missing beside the rows",)
    return Info(str(folder), "contribution", found.summary, found.facts, missing, found.hints)


def _start(folder: Path, inside: list[Entry]) -> Info | None:
    if not _has(inside, START, NEXT):
        return None
    hint = f"what to do with them is in {folder / NEXT}"
    summary = "start file and settings with which a trainer makes adapters for a dataset"
    return Info(str(folder), "training start", summary, {"files": [e.name for e in inside]}, (), (hint,))


def _upstream(folder: Path, inside: list[Entry]) -> Info | None:
    there = {
        role: place
        for role, places in PLACES.items()
        for place in places
        if place.endswith(".pt") and is_file_in(folder, place)
    }
    if not there.keys() - {"dimensions"}:
        return None
    summary = f"files that {PROJECT} published"
    out = command("w2w import-w2w", folder, options=("--out", free_name("imported")))
    steps = (Step(out, "read them as data and make a dataset and a weight space of them"),)
    return Info(str(folder), f"{PROJECT} files", summary, {"files": sorted(there.values())}, (NOT_OPENED,), (), steps)


def _adapter(folder: Path, inside: list[Entry]) -> Info | None:
    if _has(inside, CONFIG) or _has_weights(inside):
        return adapter_info(folder)
    tensors = [e for e in inside if e.suffix == ".safetensors" and not e.is_folder]
    folders = [e for e in inside if e.is_folder and not e.name.startswith(".")]
    if len(tensors) == 1 and not folders and not is_point(folder / tensors[0].name):
        with suppress(NotACheckpointError):
            return adapter_info(folder)
    return None


def _has_weights(inside: list[Entry]) -> bool:
    return any(entry.name in weights_names(with_config=False) and not entry.is_folder for entry in inside)


def _points(folder: Path, inside: list[Entry]) -> Info | None:
    points = [folder / e.name for e in inside if e.is_file and e.suffix in SUFFIXES and _is_point(folder / e.name)]
    if not points:
        return None
    first = point_info(points[0])
    summary = f"{counted(len(points), 'saved point')} of a weight space"
    facts = {"first": str(points[0]), **{name: first.facts[name] for name in ("coefficients", "basis digest")}}
    home = first.facts.get("weight space")
    if home is None:
        return Info(str(folder), "points", summary, facts, (), first.hints)
    same = {path.suffix for path in points}
    every = sum(e.suffix in same for e in inside) == len(points) <= MOST_DRAWN and len(same) == 1
    drawn: object = files_of(folder, f"*{points[0].suffix}") if every else points[0]
    draw = command("w2w render", _home(home), drawn, options=("--out", free_name("people.png")))
    steps = (
        *([Step(draw, "draw them")] if any(step.command.startswith("w2w render") for step in first.steps) else []),
        Step(command("w2w info", points[0]), "say more about the first of them"),
    )
    return Info(str(folder), "points", summary, {**facts, "weight space": home}, (), (), steps)


def _home(space: str) -> object:
    """Return the weight space of a point as an argument: a folder, or a name on the Hub as it is."""
    return Path(space) if is_ours(Path(space)) else space


def _is_point(path: Path) -> bool:
    with suppress(W2WError):
        return stated_format(path) == POINT if path.suffix == ".json" else is_point(path)
    return False


def _checkpoints(folder: Path, inside: list[Entry]) -> Info | None:
    """Recognize a folder of adapters, in files of their own or in folders of their own."""
    adapters, pickles, more = 0, 0, False
    first: str | None = None
    for place, found in below(folder):
        if place != folder and any(e.name == FILENAME for e in found):
            continue
        names = [
            e for e in found if e.suffix in CHECKPOINTS and not escapes(place / e.name, folder) and not e.is_folder
        ]
        pickles += sum(e.suffix in PICKLES for e in names)
        tensors = [e.name for e in names if e.suffix not in PICKLES]
        several = place == folder or not any(e.name == CONFIG for e in found)
        adapters += len(tensors) if several else min(len(tensors), 1)
        first = first or next((d for name in tensors[:5] if (d := _dialect(place / name if several else place))), None)
        more = more or len(found) >= MOST_ENTRIES
    if first is None:
        return None
    number = f"{'more than ' if more else ''}{counted(adapters, 'adapter')}"
    facts = {"adapters": adapters, "dialect of the first": first, **({"pickles": pickles} if pickles else {})}
    warnings = (f"{counted(pickles, 'pickle')} in it: {NOT_OPENED}",) if pickles else ()
    steps = (
        Step(command("w2w inspect", folder), "describe each of them: dialect, rank, scale, what is wrong"),
        Step(command("w2w pack", folder, options=("--out", free_name("people"))), "make a dataset of them"),
    )
    return Info(str(folder), "adapters", f"folder of {number}", facts, warnings, (), steps)


def _dialect(path: Path) -> str | None:
    with suppress(W2WError, OSError):
        found = adapter_info(path)
        return found.facts.get("dialect") if found.kind != UNKNOWN else None
    return None


def _report(folder: Path, inside: list[Entry]) -> Info | None:
    if not _has(inside, REPORT, "report.json"):
        return None
    return Info(str(folder), "report", "report on a weight space", {}, (), (f"open {folder / REPORT} in a browser",))


def _app(folder: Path, inside: list[Entry]) -> Info | None:
    """Recognize a Hugging Face Space, such as w2w space-app writes."""
    if not _has(inside, APP, CARD):
        return None
    settings: dict[str, Any] = {}
    with suppress(W2WError):
        settings = split_card(read_card(folder))[0]
    if not isinstance(settings.get("sdk"), str):
        return None
    facts = {
        name.replace("_", " "): settings[name] for name in ("title", "sdk", "models", "datasets") if name in settings
    }
    hints = (f"to run it here, if you trust it: python {quote(folder / APP)}",)
    return Info(str(folder), "Hugging Face Space", "app of a Hugging Face Space", facts, (), hints)


def _pictures(folder: Path, inside: list[Entry]) -> Info | None:
    count, people, others = 0, 0, 0
    for place, found in below(folder):
        here = sum(e.is_file and e.suffix in PICTURES for e in found)
        count, people = count + here, people + (place != folder and here > 0)
        others += sum(e.suffix not in (*PICTURES, *CAPTIONS) for e in found if not e.is_folder)
    if not count or others > count:  # a folder of anything may have some pictures
        return None
    word = quote(folder)
    verb = "train-many" if people else "train"
    hints = (f"to train {'LoRAs' if people else 'a LoRA'} of them: w2w {verb} {word} --base MODEL --out trained",)
    facts = {"pictures": count, **({"folders": people} if people else {})}
    where = f" in {counted(people, 'folder')}" if people else ""
    return Info(str(folder), "pictures", f"folder of {counted(count, 'picture')}{where}", facts, (), hints)


def _collection(folder: Path, inside: list[Entry]) -> Info | None:
    """Recognize a folder by what else it holds that this package knows."""
    known = list(_known_inside(folder, inside))
    if not any(kind != ADAPTER for _, kind in known):
        return None
    steps = tuple(Step(command("w2w info", path), f"say more about this {kind}") for path, kind in known[:5])
    counts = Counter(kind for _, kind in known)
    summary = f"folder that holds {few([counted(count, kind) for kind, count in counts.items()], 4)}"
    facts = {"holds": [f"{path.name} ({kind})" for path, kind in known]}
    return Info(str(folder), "folder", summary, facts, (), (), steps)


def _unknown(folder: Path, inside: list[Entry]) -> Info:
    if not inside:
        return Info(str(folder), UNKNOWN, "an empty folder")
    summary = f"a folder that w2w does not know ({few([one_line(e.name, 60) for e in inside], 3)})"
    return Info(str(folder), UNKNOWN, summary)


def _known_inside(folder: Path, inside: list[Entry]) -> Iterator[tuple[Path, str]]:
    for entry in inside[:MOST_INSIDE]:
        path = folder / entry.name
        if entry.is_link or not (entry.is_folder or entry.suffix == ".lock"):
            continue
        with suppress(W2WError, OSError):
            if entry.is_folder and (stated := stated_format(path)) is not None:
                yield path, FORMAT_NAMES[stated]
            elif entry.is_folder and (path / MODEL_INDEX).is_file():
                yield path, "base model"
            elif entry.is_folder and (path / CONFIG).is_file():
                yield path, ADAPTER
            elif entry.is_file and len(read_regular(path, MAX_HEAD)) and stated_format(path) == "w2w-lock":
                yield path, "lock"


_FOLDERS: tuple[Recognize, ...] = (
    _ours, _archive, _work, _demo, _base_model, _batch, _start, _upstream, _adapter, _collection, _points,
    _checkpoints, _report, _app, _pictures,
)  # fmt: skip

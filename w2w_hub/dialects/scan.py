"""Find the checkpoints below a folder, lazily and in name order, without following links out or opening pickles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.progress import progress
from ..common.text import ShellText, command, counted, one_line
from ..errors import MissingPathError, NotACheckpointError, W2WError
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import missing
from .checkpoint import CONFIG
from .loading import CHECKPOINTS, PICKLES, escapes, open_checkpoint, weights_file
from .registry import dialect_of, dialects, weights_names

Reason = tuple[str, str]  # in the singular and in the plural, to follow a number
NO_CHECKPOINT = ("that is not a checkpoint", "that are not checkpoints")
UNREADABLE = ("that cannot be read", "that cannot be read")
LINK = ("link out of the tree", "links out of the tree")
HIDDEN = ("hidden folder", "hidden folders")
PICKLE = ("pickle, never opened in a scan", "pickles, never opened in a scan")
REPEATED = ("that repeats a PEFT folder in another dialect", "that repeat a PEFT folder in another dialect")
DATASET = ("dataset or weight space", "datasets or weight spaces")


@dataclass
class Skipped:
    """Counts of the entries that a scan skipped, by reason, with the first names of each."""

    counts: dict[Reason, int] = field(default_factory=dict)
    names: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, path: Path | str, reason: Reason) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(names := self.names.setdefault(reason, [])) < 3:
            names.append(one_line(str(path), 1000))

    def __str__(self) -> str:
        return "; ".join(
            f"{counted(count, *reason)} ({', '.join(self.names[reason])}{', ...' if count > 3 else ''})"
            for reason, count in self.counts.items()
        )


def is_tree(path: Path) -> bool:
    """Return True for a folder to scan, False for one that is itself a checkpoint, dataset or weight space."""
    if not path.is_dir() or (path / MANIFEST).is_file() or (path / CONFIG).is_file():
        return False
    try:
        found = weights_file(path)
        if found is None:
            names = [p.name for p in path.iterdir()]
            # a single pickle or archive is a checkpoint, which reading refuses by name
            return not (len(names) == 1 and names[0].endswith(CHECKPOINTS))
        if found.name in weights_names(with_config=False):
            return False
        return any(p.suffix == ".safetensors" for sub in path.iterdir() if sub.is_dir() for p in sub.iterdir())
    except OSError as error:
        raise MissingPathError(f"{path} cannot be read: {error.strerror}", path=path) from error


def expanded(
    paths: Sequence[Path], skipped: Skipped, also: Callable[[Path], bool] | None = None
) -> Iterator[tuple[Path, bool]]:
    """Yield each path, and True; for a folder to scan, what :func:`find_checkpoints` finds below it, and False."""
    for path in paths:
        if os.path.exists(path) and is_tree(path):
            yield from ((inner, False) for inner in find_checkpoints(path, skipped, also))
        else:
            yield path, True


def adapters_of(paths: Sequence[Path], skipped: Skipped) -> list[Path]:
    """Return the paths of adapters; a folder of several is replaced by those below it, in name order.

    What is not an adapter below such a folder is skipped; a path that is named is returned as it is.

    Raises
    ------
    MissingPathError
        If a path does not exist.
    NotACheckpointError
        If there is no adapter below a folder.
    """
    absent = [path for path in paths if not os.path.lexists(path)]
    if absent:
        if any(sign in str(absent[0]) for sign in "*?["):
            raise MissingPathError(f"{absent[0]} matches no file", path=absent[0])
        if absent[1:]:
            others = counted(len(absent) - 1, "other path", "other paths")
            raise MissingPathError(f"{absent[0]} and {others} do not exist", path=absent[0])
        raise missing(absent[0])
    found: list[Path] = []
    for path in paths:
        if (path / MANIFEST).is_file():
            raise NotACheckpointError(
                f"{path} is a dataset or weight space, not an adapter; the rows of a dataset are added to another by: "
                f"{command('w2w add', ShellText('DATASET'), path)}",
                path=path,
            )
    for root in paths:
        inside = [
            path
            for path, named in progress(expanded([root], skipped), "finding adapters")
            if named or _is_adapter(path, skipped)
        ]
        if not inside:
            others = f"; skipped {skipped}" if skipped.counts else ""
            raise NotACheckpointError(f"{root} is not an adapter, and there is none below it{others}", path=root)
        found += inside
    return found


def _is_adapter(path: Path, skipped: Skipped) -> bool:
    """Return whether a path of a scan is an adapter, also one that cannot be read; count it as skipped if not."""
    if path.is_dir() and (path / MANIFEST).is_file():
        skipped.add(path, DATASET)
        return False
    try:
        if not path.is_dir():
            dialect_of(open_checkpoint(path))
    except NotACheckpointError:
        skipped.add(path, NO_CHECKPOINT)
        return False
    except W2WError:
        pass  # reading it raises
    return True


def find_checkpoints(root: Path, skipped: Skipped, also: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield files and folders below `root` that may be checkpoints, datasets or weight spaces, in name order.

    A folder with ``adapter_config.json`` or a manifest is yielded as a whole. Linked folders, files that are links out
    of `root`, and pickles are skipped.

    Parameters
    ----------
    also : callable, optional
        Returns True for other files to yield.
    """
    own = {CONFIG, *weights_names(with_config=True)}
    repeated = {dialect.weights_name for dialect in dialects().values()} - own
    folders = [root]
    while folders:
        folder = folders.pop()
        if folder != root and (folder / MANIFEST).is_file():
            yield folder
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError:
            skipped.add(folder, UNREADABLE)
            continue
        whole = any(entry.name == CONFIG for entry in entries)
        if whole:
            yield folder
        inner = []
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink() and (entry.is_dir() or escapes(path, root)):
                skipped.add(path, LINK)
            elif entry.is_dir(follow_symlinks=False):
                if entry.name.startswith("."):
                    skipped.add(path, HIDDEN)
                else:
                    inner.append(path)
            elif path.suffix in PICKLES:
                skipped.add(path, PICKLE)
            elif whole and path.name in own:
                continue
            elif whole and path.name in repeated:
                skipped.add(path, REPEATED)
            elif path.suffix in CHECKPOINTS or (also is not None and also(path)):
                yield path
            else:
                skipped.add(path, NO_CHECKPOINT)
        folders += reversed(inner)

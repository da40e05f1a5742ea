"""Records which stages of a demo are finished, so that a stopped or killed run is continued.

``demo.json`` in the demo's folder holds what each finished stage measured, wrote and ran. It is replaced as a whole
after each stage; the files of an unfinished stage are removed before the stage runs again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AlreadyExistsError, CorruptFileError, InvalidInputError
from ..store.atomic import new_folder, remove_output, require_output, write_json
from ..store.locks import lock_folder
from ..store.manifest import read_json_in
from ..store.paths import require_name
from ..store.replacing import OwnFiles, files_named

FILE, FORMAT, VERSION = "demo.json", "w2w-demo", 1


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes
    ----------
    picture : str
        Name of a PNG file in the demo's folder.
    command : str
        Command that draws such a picture.
    header, rows
        A table; its rows have as many cells as the header.
    """

    title: str
    text: str = ""
    picture: str = ""
    command: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


@dataclass
class Record:
    """Results of one stage.

    Attributes
    ----------
    files : list of str
        Files and folders that it left, relative to the demo's folder.
    """

    seconds: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def require_place(folder: Path, *, resume: bool, force: bool = False) -> None:
    """Check, before slow imports, that a demo may be made in a folder.

    Raises
    ------
    AlreadyExistsError
        If it exists and is not the folder of a demo, or neither `resume` nor `force` is given.
    DiskError
        If it cannot be written.
    """
    if not os.path.lexists(folder):
        require_output(folder, own=files_named())
        return
    if not (folder / FILE).is_file():
        advice = f"it was not made by w2w demo (it has no {FILE}); choose another output"
    elif resume or force:
        return
    else:
        advice = "go on with --resume, do all stages again with --force, or choose another output"
    raise AlreadyExistsError(f"{folder} already exists; {advice}", path=folder)


class Journal:
    """The finished stages of one demo.

    Parameters
    ----------
    made_with : dict
        Everything that the results depend on; a demo is only continued with the same.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any], records: Mapping[str, Record]):
        self.folder, self.made_with, self.records = folder, dict(made_with), dict(records)

    @classmethod
    def begin(cls, folder: Path, made_with: Mapping[str, Any], *, resume: bool) -> Journal:
        """Return the journal of a new demo, or of the one in the folder; see :func:`require_place`."""
        require_place(folder, resume=resume)
        if os.path.lexists(folder):
            return cls.open(folder, made_with)
        with new_folder(folder) as partial:
            cls(partial, made_with, {}).write()
        return cls(folder, made_with, {})

    @classmethod
    def open(cls, folder: Path, made_with: Mapping[str, Any]) -> Journal:
        """Return the journal of a stopped or finished demo.

        Raises
        ------
        InvalidInputError
            If the demo was made by another version, or with other settings or data.
        CorruptFileError
        """
        path = folder / FILE
        found = read_json_in(folder, FILE)
        try:
            if (found["format"], found["version"]) != (FORMAT, VERSION):
                raise ValueError("another format")
            records = {
                name: Record(**{**record, "sections": [Section(**section) for section in record["sections"]]})
                for name, record in found["stages"].items()
            }
            for name in (file for record in records.values() for file in record.files):
                require_name(name, path)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptFileError(
                f"{path} is not the journal of a demo ({error}); choose another output", path=path
            ) from error
        if found["made_with"] != json.loads(json.dumps(made_with)):
            raise InvalidInputError(
                f"{folder} was made by another version of w2w-hub, or with other settings or data; "
                "do all stages again with --force, or choose another output",
                path=folder,
            )
        return cls(folder, made_with, records)

    def write(self) -> None:
        """Write ``demo.json`` as a whole."""
        stages = {name: asdict(record) for name, record in self.records.items()}
        value = {"format": FORMAT, "version": VERSION, "made_with": self.made_with, "stages": stages}
        write_json(self.folder / FILE, value, replace=True)

    def finished(self, name: str) -> bool:
        """Return whether a stage is finished and all that it left is still there."""
        record = self.records.get(name)
        return record is not None and all(os.path.lexists(self.folder / file) for file in record.files)

    def prepare(self, name: str, patterns: Sequence[str]) -> None:
        """Remove what an earlier run of a stage left: all that matches these glob patterns."""
        if self.records.pop(name, None) is not None:
            self.write()
        for path in self._matching(patterns):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def finish(self, name: str, record: Record, patterns: Sequence[str]) -> None:
        """Record that a stage is finished."""
        record.files = [path.relative_to(self.folder).as_posix() for path in self._matching(patterns)]
        self.records[name] = record
        self.write()

    def _matching(self, patterns: Sequence[str]) -> list[Path]:
        found = sorted(path for pattern in patterns for path in self.folder.glob(pattern))
        for path in found:
            above = [f for f in path.parents if f.is_relative_to(self.folder) and f != self.folder]
            linked = next((folder for folder in above if folder.is_symlink()), None)
            if linked is not None:
                raise AlreadyExistsError(f"{linked} is a link, which is not followed; remove it", path=linked)
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder's lock, where the file system has any.

        Raises
        ------
        BusyError
            If another process holds it.
        """
        descriptor = lock_folder(self.folder.resolve(), "another w2w demo")
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


def remove_demo(folder: Path, own: OwnFiles) -> None:
    """Remove the folder of an earlier demo.

    Raises
    ------
    BusyError
        If a demo is running there.
    """
    if os.path.lexists(folder):
        with Journal(folder, {}, {}).alone():
            remove_output(folder, own)

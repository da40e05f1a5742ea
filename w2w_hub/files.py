"""Reading and writing files so that a bad one is a clear error and a killed write leaves nothing half-done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import AlreadyExistsError, CorruptFileError, MissingPathError
from .tensorfile import read_safetensors as read_safetensors

PREVIOUS, PARTIAL = ".previous", ".partial"


def require_new(path: Path | str) -> Path:
    """The path, if nothing is there yet."""
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise AlreadyExistsError(f"{path} already exists; choose another output or remove it first")
    return path


@contextmanager
def new_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends without an error.

    With `replace`, the folder that is there stands until then; a process killed between the two
    renames leaves it as ``.NAME.previous``, which :func:`recover` puts back.
    """
    path = recover(path)
    if not replace:
        require_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    partial.mkdir()
    try:
        yield partial
        readable = partial.stat().st_mode & 0o666  # as the umask has it
        for file in partial.rglob("*.safetensors"):  # which their writer makes for its owner alone
            file.chmod(readable)
        if replace and path.exists():
            previous = path.with_name(f".{path.name}{PREVIOUS}")
            shutil.rmtree(previous, ignore_errors=True)  # left by a process killed after both renames
            os.rename(path, previous)
            try:
                os.rename(partial, path)
            except OSError:
                os.rename(previous, path)
                raise
            shutil.rmtree(previous, ignore_errors=True)
        else:
            require_new(path)
            os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def recover(path: Path | str) -> Path:
    """The path; if a killed replacement left only its previous state, that state is put back first."""
    path = Path(path)
    if not path.name:  # "." and "/": they are there
        return path
    previous = path.with_name(f".{path.name}{PREVIOUS}")
    if not path.exists() and previous.is_dir():
        os.rename(previous, path)
    return path


def write_bytes(path: Path | str, data: bytes, *, replace: bool = False) -> None:
    """Write one file atomically; parent folders are made."""
    path = Path(path)
    if not replace:
        require_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any, *, replace: bool = False) -> None:
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), replace=replace)


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON object, or an error that names the file."""
    path = Path(path)
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingPathError(f"{path} is not there") from None
    except OSError as error:
        raise MissingPathError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def sha256_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> list[str]:
    """Every file below a folder, as sorted POSIX paths relative to it."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

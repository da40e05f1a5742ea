"""Read lock files: the commits, digests and base models that a paper used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...common.checks import require_path
from ...common.limits import MAX_FILES, MAX_JSON_BYTES
from ...common.text import command
from ...errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError, UnsupportedFormatError
from ..manifest import LOCK as FORMAT
from ..manifest import read_json, require_files, upgraded
from ..paths import is_name, missing, short
from .cache import REPO, SHA

FORMAT_VERSION = 1  # of new lock files
KINDS = ("dataset", "space")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BasePin:
    """The base model of a pinned space, if it is not embedded.

    Attributes
    ----------
    repo, commit : str
        Where to look first; the digests decide.
    digest : str or None
        Digest of the target modules' base weights.
    files : dict
        Path to ``{"sha256", "size"}``.
    """

    repo: str
    commit: str
    digest: str | None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pin:
    """One dataset or weight space at one commit.

    Attributes
    ----------
    repo : str
        ``org/name``.
    kind : {"dataset", "space"}
    revision, commit : str
        The requested tag, branch or commit, and the commit that it resolved to.
    version, digest, licence : str
        Fields of the manifest.
    manifest_sha256 : str
        Digest of the manifest's bytes.
    published : str or None
        Date of the commit.
    recipe : dict
        The manifest's recipe; empty for a dataset.
    base : BasePin or None
    contributors : tuple of str
        Accounts on the Hub that offered rows of a dataset.
    sources : tuple of str
        Main sources of a dataset's rows, with their numbers.
    """

    repo: str
    kind: str
    revision: str
    commit: str
    version: str
    digest: str
    manifest_sha256: str
    published: str | None = None
    licence: str = "unknown"
    recipe: dict[str, Any] = field(default_factory=dict)
    base: BasePin | None = None
    contributors: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class Lock:
    """The pins of a lock file, and the package versions at the time."""

    pins: tuple[Pin, ...]
    packages: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        pins = sorted(self.pins, key=lambda pin: (pin.kind, pin.repo, pin.revision))
        listed = [
            {key: value for key, value in asdict(pin).items() if value not in (None, {}, ()) or key == "commit"}
            for pin in pins
        ]
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "packages": dict(sorted(self.packages.items())),
            "pins": listed,
        }

    def find(self, kind: str, name: str | None, path: Path) -> Pin:
        """Return the pin of this kind named ``org/name`` or ``org/name@revision``; the only one if no name is given."""
        fitting = [p for p in self.pins if p.kind == kind and name in (None, p.repo, p.name)]
        if len(fitting) == 1:
            return fitting[0]
        pinned = ", ".join(f"{p.name} ({p.kind})" for p in self.pins) or "nothing"
        if not fitting:
            raise UnknownNameError(
                f"{path} pins no {kind}{f' {name}' if name else ''}; it pins {pinned}", path=path, name=name, what=kind
            )
        raise InvalidInputError(f"{path} pins several of kind {kind}; say which: {path}#{fitting[0].name}", path=path)


def read_lock(path: Path | str) -> Lock:
    """Read a lock file; unknown fields are ignored.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError
    """
    path = require_path(path, "the lock")
    if not path.is_file():
        if path.is_dir():
            raise MissingPathError(f"{path} is a folder, not a lock file, which w2w pin writes", path=path)
        make = command("w2w pin", "org/name@v1.0.0", options=("-o", path))
        raise missing(path, f"create it with: {make}")
    data = read_json(path)
    if data.get("format") != FORMAT:
        raise UnsupportedFormatError(
            f"{path} is not a lock file (format {short(data.get('format'))}, expected {FORMAT!r})", path=path
        )
    data = upgraded(data, path, FORMAT)
    try:
        pins, packages = data["pins"], data["packages"]
        if not isinstance(pins, list) or len(pins) > MAX_FILES or not isinstance(packages, dict):
            raise ValueError("pins or packages")
        if not all(isinstance(version, str) for version in packages.values()):
            raise ValueError("packages")
        return Lock(tuple(_read_pin(item) for item in pins), packages)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(
            f"{path} has a missing or invalid field ({error}); create it again with w2w pin", path=path
        ) from error


def _read_pin(item: Mapping[str, Any]) -> Pin:
    pin = Pin(**_known(Pin, item))
    if pin.base is not None:
        pin = replace(pin, base=BasePin(**{"digest": None, **_known(BasePin, pin.base)}))
    if pin.kind not in KINDS:
        raise ValueError(f"kind {short(pin.kind)}")
    _require_text(pin, "repo", "revision", "commit", "version", "digest", "licence")
    if not is_name(pin.revision):  # a file name in the cache
        raise ValueError(f"revision {short(pin.revision)}")
    if not isinstance(pin.recipe, dict) or not isinstance(pin.published, (str, type(None))):
        raise ValueError("recipe or published")
    pin = replace(pin, contributors=_texts(pin, "contributors"), sources=_texts(pin, "sources"))
    for owner in (pin, pin.base) if pin.base else (pin,):
        _require_text(owner, "repo", "commit")
        if not SHA.fullmatch(owner.commit) or not REPO.fullmatch(owner.repo) or ".." in owner.repo:
            raise ValueError(f"{short(owner.repo)} at {short(owner.commit)}")
    if not isinstance(pin.manifest_sha256, str) or not _SHA256.fullmatch(pin.manifest_sha256):
        raise ValueError(f"manifest_sha256 {short(pin.manifest_sha256)}")
    if pin.base is not None:
        if not isinstance(pin.base.digest, (str, type(None))):
            raise ValueError("digest of the base model")
        require_files(pin.base.files, f"the lock's base model {pin.base.repo}")
    return pin


def _known(kind: type[Any], item: Any) -> dict[str, Any]:
    """Return the fields of a JSON object that a dataclass has, without those of later versions."""
    if not isinstance(item, Mapping):
        raise ValueError(f"{short(item)} instead of a {kind.__name__}")
    return {key: item[key] for key in kind.__dataclass_fields__ if key in item}


def _texts(pin: Pin, name: str) -> tuple[str, ...]:
    """Return a field of a pin that is a list of texts."""
    listed: Any = getattr(pin, name)
    if not isinstance(listed, (list, tuple)) or not all(isinstance(each, str) for each in listed):
        raise ValueError(f"{name} {short(listed)}")
    return tuple(listed)


def _require_text(owner: Any, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, str):
            raise ValueError(f"{name} {short(value)}")


def is_lock(path: Path) -> bool:
    """Return whether a path is a lock file, whatever its name."""
    if not path.is_file() or (path.suffix != ".lock" and path.stat().st_size > MAX_JSON_BYTES):
        return False
    try:
        return read_json(path).get("format") == FORMAT
    except (MissingPathError, CorruptFileError):
        return path.suffix == ".lock"  # so that a damaged lock is refused and not looked up on the Hub

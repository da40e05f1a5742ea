"""Lock files: which commits, digests and base models a paper used; see `lock` for making and verifying them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError, UnsupportedFormatError
from ..files import read_json
from ..text import command
from .cache import SHA, leaves

FORMAT, FORMAT_VERSION = "w2w-lock", 1
KINDS = ("dataset", "space")
REPO = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
LARGEST = 64 << 20  # bytes of a file that is looked into to see whether it is a lock


@dataclass(frozen=True)
class BasePin:
    """The base model of a pinned space, if it is not embedded.

    Attributes
    ----------
    repo, commit : str
        A hint where to look; the digests decide.
    digest : str or None
        Base digest of the adapters' target modules.
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
    repo, kind, revision, commit : str
        ``org/name``; ``dataset`` or ``space``; what was asked for; its commit then.
    version, digest, manifest_sha256 : str
        From the manifest, and of it.
    published : str or None
        Date of the commit.
    licence : str
    recipe : dict
        Of a space, as its manifest has it.
    base : BasePin or None
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

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class Lock:
    """What `read_lock` gives; `packages` are the versions that the lock was made with."""

    pins: tuple[Pin, ...]
    packages: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        pins = sorted(self.pins, key=lambda pin: (pin.kind, pin.repo, pin.revision))
        listed = [
            {key: value for key, value in asdict(pin).items() if value not in (None, {}) or key == "commit"}
            for pin in pins
        ]
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "packages": dict(sorted(self.packages.items())),
            "pins": listed,
        }

    def find(self, kind: str, name: str | None, path: Path) -> Pin:
        """The pin of this kind that `name` (``org/name`` or ``org/name@revision``) means; the only one without it."""
        fitting = [p for p in self.pins if p.kind == kind and name in (None, p.repo, p.name)]
        if len(fitting) == 1:
            return fitting[0]
        there = ", ".join(f"{p.name} ({p.kind})" for p in self.pins) or "nothing"
        if not fitting:
            raise UnknownNameError(f"{path} pins no {kind}{f' {name}' if name else ''}; it pins {there}")
        raise InvalidInputError(f"{path} pins several of kind {kind}; say which: {path}#{fitting[0].name}")


def read_lock(path: Path | str) -> Lock:
    """Read a lock file.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError
    """
    path = Path(path)
    if not path.is_file():
        make = command("w2w pin", "org/name@v1.0.0", options=("-o", path))
        raise MissingPathError(f"{path} is not there; make a lock with: {make}")
    data = read_json(path)
    if data.get("format") != FORMAT:
        raise UnsupportedFormatError(f"{path} is no lock file (format {data.get('format')!r}, expected {FORMAT!r})")
    found = data.get("format_version")
    if not isinstance(found, int) or not 1 <= found <= FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{path} has format version {found}, this w2w_hub reads up to {FORMAT_VERSION}: pip install -U w2w-hub"
        )
    try:
        return Lock(tuple(_read_pin(item) for item in data["pins"]), dict(data["packages"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(f"{path} lacks or misstates a field ({error}); make it again with w2w pin") from error


def _read_pin(item: Mapping[str, Any]) -> Pin:
    known = {key: item[key] for key in Pin.__dataclass_fields__ if key in item}
    if known.get("base") is not None:
        known["base"] = BasePin(**{"digest": None, **known["base"]})
    pin = Pin(**known)
    if pin.kind not in KINDS:
        raise ValueError(f"kind {pin.kind!r}")
    for name in ("revision", "version", "digest", "licence"):
        if not isinstance(getattr(pin, name), str):
            raise ValueError(f"{name} {getattr(pin, name)!r}")
    if not pin.revision or leaves(pin.revision):  # it becomes a file name in the cache
        raise ValueError(f"revision {pin.revision!r}")
    if not isinstance(pin.recipe, dict) or not isinstance(pin.published, (str, type(None))):
        raise ValueError("recipe or published")
    for owner in (pin, pin.base) if pin.base else (pin,):
        if not SHA.fullmatch(owner.commit) or not REPO.fullmatch(owner.repo) or ".." in owner.repo:
            raise ValueError(f"{owner.repo!r} at {owner.commit!r}")
    _require_digest("manifest_sha256", pin.manifest_sha256)
    for name, entry in pin.base.files.items() if pin.base else ():
        if leaves(name) or not isinstance(entry["size"], int):
            raise ValueError(f"file {name!r}")
        _require_digest(name, entry["sha256"])
    return pin


def _require_digest(name: str, digest: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"{name} has sha256 {digest!r}")


def is_lock(path: Path) -> bool:
    """Whether a path is a lock file, whatever it is called; a folder or another file is not."""
    if not path.is_file() or (path.suffix != ".lock" and path.stat().st_size > LARGEST):
        return False
    try:
        return read_json(path).get("format") == FORMAT
    except (MissingPathError, CorruptFileError):
        return path.suffix == ".lock"  # to be refused as a damaged lock, not looked up on the Hub

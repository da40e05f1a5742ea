"""Archive everything that a lock pins as a BagIt bag."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.arguments import checked, place
from ..common.limits import MAX_JSON_BYTES
from ..common.progress import progress
from ..errors import CorruptFileError, W2WError
from ..store.atomic import new_folder, require_output
from ..store.cards import template
from ..store.hashing import sha256_file
from ..store.hub.cache import is_own_blob
from ..store.hub.client import Token
from ..store.hub.options import HubOptions
from ..store.hub.pins import Lock, read_lock
from ..store.hub.resolve import open_base, open_pin
from ..store.manifest import CARD
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import has_file, opened, read_file, walk
from .citation import citation_file
from .copies import Wanted
from .restoration import restore

LOCK = "w2w.lock"  # its name in the bag
INFO, LISTED, AGENT = "bag-info.txt", "manifest-sha256.txt", "Bagging-Software-Agent: w2w_hub"
TAGS = ["README.txt", INFO, "bagit.txt", LISTED]
GUIDE = """\
An archive of {names}
{line}

It is a BagIt bag (RFC 8493): `data/` holds the files, `manifest-sha256.txt` their digests. Check it with
`sha256sum -c manifest-sha256.txt`.

data/w2w.lock      commits, digests, package versions and recipes
data/FORMAT.md     how the files are to be read, for anyone who has to do it without w2w_hub
data/CITATION.cff  how to cite it
{folders}

With w2w_hub (in a clone of it, pip install -e .), on a machine that never saw the Hub:

    w2w restore data/w2w.lock --from .
    w2w verify data/w2w.lock
"""


@checked(lock=place())
def archive(
    lock: Path | str, out: Path | str, *, token: Token = None, cache_dir: Path | str | None = None,
    overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write everything that a lock pins as a BagIt folder (`w2w archive`), for archives and for `restore`.

    Parameters
    ----------
    overwrite : bool
        Replace an earlier archive, if its folder holds nothing else.

    Raises
    ------
    AlreadyExistsError, DiskError
    HubError, CorruptFileError
    """
    out = require_output(out, overwrite=overwrite, own=bag_files)
    read = read_lock(lock)
    options = HubOptions(token, cache_dir, local_files_only=True)
    with new_folder(out, overwrite=overwrite, own=bag_files) as bag:
        restore(lock, token=token, cache_dir=cache_dir)
        data = bag / "data"
        for pin in read.pins:
            source = open_pin(pin, options)
            listed = {**source.files, MANIFEST: {"sha256": pin.manifest_sha256}}
            place = Wanted(pin.repo, pin.kind, pin.commit).folder
            _copy_files(source.folder, listed, data / place, card=True)
            if pin.base is not None:
                base = open_base(pin.base, options)
                place = Wanted(pin.base.repo, "model", pin.base.commit).folder
                _copy_files(base.folder, base.files, data / place, card=False)
        shutil.copyfile(lock, data / LOCK)
        (data / "FORMAT.md").write_text(template("FORMAT.md").template, "utf-8")
        (data / "CITATION.cff").write_text(citation_file(read.pins), "utf-8")
        _make_bag(bag, read)
    return out


def bag_files(folder: Path) -> list[str]:
    """Return the files of an archive that this module wrote; none for another bag."""
    try:
        if AGENT not in read_file(folder, INFO, MAX_JSON_BYTES).decode().splitlines():
            return []
        lines = read_file(folder, LISTED, MAX_JSON_BYTES).decode().splitlines()
    except (W2WError, UnicodeDecodeError):
        return []
    names = [line.partition("  ")[2] for line in lines]
    return [name.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") for name in names] + [
        *TAGS, f"tag{LISTED}",
    ]  # fmt: skip


def _copy_files(source: Path, files: Mapping[str, Mapping[str, Any]], target: Path, *, card: bool) -> None:
    for name, entry in progress(list(files.items()), f"archiving {target.parent.name}"):
        _copy_file(source, name, target)
        if sha256_file(target / name) != entry["sha256"]:
            raise CorruptFileError(
                f"{source / name} has changed on disk; load it again, then archive", path=source / name
            )
    if card and has_file(source, CARD) and is_own_blob(source, CARD) is not False:
        _copy_file(source, CARD, target)


def _copy_file(source: Path, name: str, target: Path) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    with opened(source, name) as file, open(target / name, "xb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


def _make_bag(bag: Path, lock: Lock) -> None:
    data = bag / "data"
    names = ", ".join(pin.name for pin in lock.pins)
    folders = "\n".join(f"data/{Wanted(p.repo, p.kind, p.commit).folder}" for p in lock.pins)
    (bag / "README.txt").write_text(GUIDE.format(names=names, line="=" * (14 + len(names)), folders=folders), "utf-8")
    (bag / "bagit.txt").write_text("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n", "utf-8")
    files = sorted(found.name for found in walk(data))
    size = sum((data / name).stat().st_size for name in files)
    info = f"External-Description: {names}\nPayload-Oxum: {size}.{len(files)}\n{AGENT}\n"
    (bag / INFO).write_text(info, "utf-8")
    _list_digests(bag, [f"data/{name}" for name in files], LISTED)
    _list_digests(bag, TAGS, f"tag{LISTED}")


def _list_digests(bag: Path, names: list[str], into: str) -> None:
    lines = []
    for name in names:
        escaped = name.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")  # as RFC 8493 requires
        lines.append(f"{sha256_file(bag / name)}  {escaped}\n")
    (bag / into).write_text("".join(lines), "utf-8")


__all__ = ["archive"]

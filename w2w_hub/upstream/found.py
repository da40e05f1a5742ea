"""Find the published files in a folder: a download of the whole repository, or of one of its folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..common.text import few
from ..errors import InvalidInputError, MissingPathError
from ..store.paths import find_file, has_file, walk
from .published import REPOSITORY
from .torch_files import hash_file

# role -> the paths that it may have, the usual one first
PLACES = {
    "basis": ("files/V.pt", "V.pt"),
    "mean": ("files/mean.pt", "mean.pt"),
    "std": ("files/std.pt", "std.pt"),
    "projections": ("files/proj_1000pc.pt", "proj_1000pc.pt"),
    "pseudo_inverse": ("files/pinverse_1000pc.pt", "files/pinverse.pt", "pinverse_1000pc.pt", "pinverse.pt"),
    "labels": (
        "files/identity_df.pt", "weights_datasets/identities/identity_df.pt", "identities/identity_df.pt",
        "identity_df.pt",
    ),
    "dimensions": ("files/weight_dimensions.pt", "weights_datasets/weight_dimensions.pt", "weight_dimensions.pt"),
    "config": ("files/adapter_config.json", "weights_datasets/adapter_config.json", "adapter_config.json"),
    "rows": ("weights_datasets/identities/all_weights.pt", "identities/all_weights.pt", "all_weights.pt"),
    "dogs": ("weights_datasets/dogs/dog_weights.pt", "dogs/dog_weights.pt", "dog_weights.pt"),
    "dog_labels": ("weights_datasets/dogs/dog_labels.pt", "dogs/dog_labels.pt", "dog_labels.pt"),
}  # fmt: skip
LICENSES = ("LICENSE", "license.md", "LICENSE.md", "license", "files/LICENSE")
ADAPTER = "adapter_model.safetensors"
NAMES = {path.rpartition("/")[2] for paths in PLACES.values() for path in paths}


@dataclass
class Files:
    """The published files that a folder has.

    Attributes
    ----------
    folder : Path
    by_role : dict of str to Path
        Keys of :data:`PLACES`.
    points : list of str
        Other ``.pt`` files, which may be saved points.
    adapters : list of str
        Files of adapters that were saved for diffusers.
    license : Path or None
    """

    folder: Path
    by_role: dict[str, Path] = field(default_factory=dict)
    points: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    license: Path | None = None

    def get(self, role: str) -> Path | None:
        return self.by_role.get(role)

    @property
    def all(self) -> dict[str, Path]:
        """All files that are imported, by their path in the folder."""
        paths = [*self.by_role.values(), *(self.folder / name for name in (*self.points, *self.adapters))]
        return {path.relative_to(self.folder).as_posix(): path for path in sorted(set(paths))}


def find_files(folder: Path) -> Files:
    """Return the published files in a folder.

    Raises
    ------
    MissingPathError
        If it has none of them.
    InvalidInputError
        If it has two different files of one kind.
    UnsafePathError
        If one of them is a link out of the folder.
    """
    if not folder.is_dir():
        raise MissingPathError(f"{folder} is not a folder; download {REPOSITORY} and name it", path=folder)
    found = Files(folder)
    for role, places in PLACES.items():
        there = [place for place in places if has_file(folder, place)]
        if len(there) > 1 and len({hash_file(folder / place)["sha256"] for place in there}) > 1:
            raise InvalidInputError(f"{folder} has different files {few(there)}; remove the wrong one", path=folder)
        if there:
            found.by_role[role] = folder / there[0]
    for entry in walk(folder):
        name = entry.name.rpartition("/")[2]
        if name.startswith(".") or entry.name.startswith("."):
            continue
        if name == ADAPTER or (name.endswith(".pt") and name not in NAMES):
            find_file(folder, entry.name)  # a link out of the folder is refused
            (found.adapters if name == ADAPTER else found.points).append(entry.name)
    found.license = next((folder / name for name in LICENSES if has_file(folder, name)), None)
    if not (found.by_role.keys() - {"config", "dimensions"} or found.adapters):
        wanted = few([paths[0] for role, paths in PLACES.items() if role in ("basis", "rows", "dogs")])
        raise MissingPathError(
            f"{folder} has no file of {REPOSITORY} (such as {wanted}); download it first", path=folder
        )
    return found

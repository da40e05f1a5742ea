"""Weight spaces on disk: manifest, safetensors and Parquet, written all or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import digest_of_folder, embed_base
from ..cards import space_card
from ..checks import is_whole
from ..dataset.manifest import FILENAME, Compatibility, require_format
from ..errors import (
    BaseModelMismatchError,
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    W2WError,
)
from ..files import list_files, new_folder, read_json, read_safetensors, recover, sha256_file, write_json
from ..hub.resolve import Source, locate
from ..layout import ParameterLayout
from .directions import Direction
from .space import WeightSpace

if TYPE_CHECKING:
    import pandas as pd

FORMAT, FORMAT_VERSION = "w2w-space", 1
COMPONENTS_A_FILE = 1000
BASIS_KEY = "basis_digest"  # in the metadata of what means nothing without that basis


def save_space(space: WeightSpace, path: Path | str, *, extend: Callable[[Path], None] | None = None) -> Path:
    """Write a new space folder.

    Parameters
    ----------
    extend : callable, optional
        Called with the unfinished folder, to add files (an embedded base model) before the manifest.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if space.whole_digest is not None:
        raise InvalidInputError(f"this weight space was opened with k={space.k}; open the whole of it to save it")
    recipe = space.recipe | ({"saved_from": space.revision.to_json()} if space.revision else {})
    with new_folder(path) as folder:
        tensors = {"mean": space.mean, "std": space.std, "singular_values": space.singular_values}
        if space.residuals is not None:
            tensors["residuals"] = space.residuals
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "space.safetensors")
        for start in range(0, space.k, COMPONENTS_A_FILE):
            part = np.ascontiguousarray(space.basis[start : start + COMPONENTS_A_FILE])
            save_file({"basis": part}, folder / f"basis-{start // COMPONENTS_A_FILE:05d}.safetensors")
        if space.directions:
            arrays = {
                f"{n}.{kind}": getattr(d, kind) for n, d in space.directions.items() for kind in ("editing", "reading")
            }
            save_file(arrays, folder / "directions.safetensors", metadata={BASIS_KEY: space.digest})
            write_json(folder / "directions.json", {n: d.evidence() for n, d in space.directions.items()})
        splits = np.asarray(space.splits)
        for split in dict.fromkeys(splits.tolist()):
            _save_coefficients(space, np.flatnonzero(splits == split), folder / "coefficients" / f"{split}.parquet")
        if extend is not None:
            extend(folder)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": space.name,
            "version": space.version,
            "licence": space.licence,
            "digest": space.digest,
            "k": space.k,
            "fitted_split": space.fitted_split,
            "splits": list(dict.fromkeys(splits.tolist())),
            "recipe": recipe,
            "diagnostics": space.diagnostics,
            "compatibility": asdict(space.compatibility),
            "layout": {"digest": space.layout.digest, "size": space.layout.size, **space.layout.to_json()},
            "directions": list(space.directions),
        }
        manifest["files"] = {
            file: {"sha256": sha256_file(folder / file), "size": (folder / file).stat().st_size}
            for file in list_files(folder)
        }
        write_json(folder / FILENAME, manifest)
        (folder / "README.md").write_text(space_card(manifest, list(space.directions.items())))
    space.mark_saved(path)
    return path


def _save_coefficients(space: WeightSpace, chosen: np.ndarray, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(space.coefficients[chosen].ravel())
    offsets = pa.array(np.arange(len(chosen) + 1) * space.k, pa.int64())
    columns = {
        "id": pa.array([space.ids[i] for i in chosen], pa.string()),
        "row": pa.array(chosen, pa.int64()),
        "fitted": pa.array(space.fitted[chosen]),
        "coefficients": pa.LargeListArray.from_arrays(offsets, flat),
    }
    if space.squared_norms is not None:
        columns["squared_norm"] = pa.array(space.squared_norms[chosen])
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata({BASIS_KEY: space.digest}), path)


def publish_space(space: WeightSpace, path: Path | str, base: Path | str | None = None) -> Path:
    """Write a space folder, with a base model (a diffusers folder) embedded if one is given.

    Raises
    ------
    BaseModelMismatchError
        If the base model's target modules are not those of the dataset's adapters.
    """
    if base is None:
        return save_space(space, path)
    found = require_base(base, space.layout, space.compatibility)
    space.compatibility = replace(space.compatibility, base_digest=found)
    return save_space(space, path, extend=lambda folder: embed_base(base, folder))


def require_base(base: Path | str, layout: ParameterLayout, compatibility: Compatibility) -> str:
    """Return the digest of a base model's target weights, or raise if the adapters were trained on others."""
    found, stated = digest_of_folder(base, layout), compatibility.base_digest
    if stated is not None and stated != found:
        raise BaseModelMismatchError(
            f"the target weights of {base} have digest {found[:12]}, the dataset's adapters were trained on "
            f"{stated[:12]}"
        )
    return found


def load_space(path: Path | str, k: int | None = None, **options: Any) -> WeightSpace:
    """Open a space folder, a Hub repository (``org/name``) at a revision, or what a lock file pins.

    Parameters
    ----------
    k : int, optional
        Components to read: fewer files are fetched. The space keeps its digest, so that its points stay its own.
    **options
        `revision`, `token`, `cache_dir` and `local_files_only`, see :func:`w2w_hub.hub.resolve.locate`.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
    """
    import pandas as pd

    if k is not None and not is_whole(k):
        raise InvalidInputError(f"k is a number of components, not {k!r}")
    source = locate(path, "space", **options)
    path = recover(source.need(_needed(source, k)))
    if not path.is_dir():
        raise MissingPathError(f"{path} is not a weight space; make one with: w2w build DATASET --k K --out {path}")
    data = read_json(path / FILENAME)
    require_format(data, FORMAT, FORMAT_VERSION, path / FILENAME)
    try:
        whole, k = data["k"], data["k"] if k is None else k
        if not 1 <= k <= whole:
            raise InvalidInputError(f"{path} has {whole} components; k is 1 to {whole}, not {k}")
        layout = ParameterLayout.from_json(data["layout"])
        tensors, _ = read_safetensors(path / "space.safetensors")
        parts = [
            read_safetensors(path / f"basis-{i:05d}.safetensors")[0]["basis"] for i in range(-(-k // COMPONENTS_A_FILE))
        ]
        table = pd.concat([_load_coefficients(path, split, data["digest"]) for split in data["splits"]])
        table = table.sort_values("row")
        inside = (table["split"] == data["fitted_split"]).to_numpy(bool)
        fitted = table["fitted"].to_numpy(bool) if "fitted" in table else inside
        ids = tuple(table["id"])
        space = WeightSpace(
            layout=layout,
            mean=tensors["mean"],
            std=tensors["std"],
            basis=np.concatenate(parts)[:k],
            singular_values=tensors["singular_values"][:k],
            residuals=None if "residuals" not in tensors else tensors["residuals"][:k],
            ids=ids,
            splits=table["split"].to_numpy(str),
            coefficients=np.stack(list(table["coefficients"])).astype(np.float32),
            squared_norms=table["squared_norm"].to_numpy(float) if "squared_norm" in table else None,
            fitted_split=data["fitted_split"],
            left_out=tuple(ids[i] for i in np.flatnonzero(inside & ~fitted)),
            recipe=data["recipe"],
            diagnostics=data["diagnostics"],
            compatibility=Compatibility(**data["compatibility"]),
            directions=_load_directions(path, data["digest"], k) if data["directions"] else {},
            name=data["name"],
            version=data["version"],
            licence=data["licence"],
            path=path,
            source=source,
            whole_digest=data["digest"] if k < whole else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, W2WError):
            raise
        raise CorruptFileError(f"{path} lacks or misstates {error}; fetch the weight space again") from error
    if space.basis.shape != (k, layout.size) or {space.mean.shape, space.std.shape} != {(layout.size,)}:
        raise CorruptFileError(f"{path}: the basis is {space.basis.shape}, the manifest states ({k}, {layout.size})")
    if space.coefficients.shape[1:] != (whole,):
        raise CorruptFileError(f"{path}: rows have {space.coefficients.shape[1:]} coefficients, the basis {whole}")
    space.coefficients = space.coefficients[:, :k]
    if space.digest != data["digest"]:
        raise CorruptFileError(f"{path}: mean, std and basis do not give the digest in the manifest; fetch them again")
    return space


def _needed(source: Source, k: int | None) -> list[str]:
    """The files that a space of the first `k` components is made of; all for None, and no base model."""
    last = float("inf") if k is None else -(-k // COMPONENTS_A_FILE)
    basis = re.compile(r"basis-(\d+)\.safetensors")
    return [
        name
        for name in source.files
        if name == "space.safetensors"
        or name.startswith(("coefficients/", "directions."))
        or ((match := basis.fullmatch(name)) and int(match[1]) < last)
    ]


def _load_coefficients(path: Path, split: str, digest: str) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / "coefficients" / f"{split}.parquet"
    if not file.is_file():
        raise MissingPathError(f"{file} is not there; fetch the weight space again")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(f"{file} cannot be read ({error}); fetch the weight space again") from error
    stated = (table.schema.metadata or {}).get(BASIS_KEY.encode(), digest.encode()).decode()
    if stated != digest:
        raise CorruptFileError(f"{file} holds coefficients of the basis {stated[:12]}, not of {digest[:12]}")
    return table.to_pandas().assign(split=split)


def _load_directions(path: Path, digest: str, k: int | None = None) -> dict[str, Direction]:
    """Directions, along the first `k` components only if that is given."""
    tensors, metadata = read_safetensors(path / "directions.safetensors")
    if metadata.get(BASIS_KEY, digest) != digest:
        raise CorruptFileError(f"{path}/directions.safetensors belongs to another basis than {digest[:12]}")
    return {
        name: Direction.from_evidence(tensors[f"{name}.editing"][:k], tensors[f"{name}.reading"][:k], entry, name)
        for name, entry in read_json(path / "directions.json").items()
    }

"""Weight spaces on disk: manifest, safetensors and Parquet, written all or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.checks import is_whole
from ..common.text import ShellText, command, one_line
from ..dataset.manifest import Compatibility, is_split_name
from ..dialects.base_model import CONFIG, digest_of_folder, embed_base
from ..dialects.generation import checked_settings, read_settings
from ..errors import (
    BaseModelMismatchError,
    CorruptFileError,
    DiskError,
    InvalidInputError,
    MissingPathError,
    W2WError,
)
from ..lora.layout import ParameterLayout
from ..store.atomic import new_folder, require_output, write_bytes, write_json
from ..store.cards import is_rendered, read_card
from ..store.commit import State, read_state
from ..store.hashing import entry_of
from ..store.hub.locate import locate
from ..store.hub.options import HubOptions
from ..store.hub.source import Source
from ..store.manifest import CARD, FILENAME, SPACE, no_manifest, read_json, seal
from ..store.parquet import read_table
from ..store.paths import has_file, short, walk
from ..store.replacing import files_listed
from ..store.tensorfile import read_safetensors
from .card import space_card
from .contents import SpaceContents
from .coordinates import Coordinates
from .directions.direction import Direction
from .encoder.encoder import FILE as ENCODER
from .encoder.encoder import Encoder, EncoderFile
from .manifest import require_facts
from .population import Population, Spread
from .population_model.model import PopulationModel
from .population_model.storage import FILES as MODEL_FILES
from .population_model.storage import from_json as model_from_json
from .population_model.storage import tensors_of
from .population_model.storage import to_json as model_to_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMAT, FORMAT_VERSION = SPACE, 1
space_files = files_listed(SPACE)
WITHOUT_POPULATION = {"format_version": 2, "population": False}
COMPONENTS_A_FILE = 1000
MODEL_JSON, MODEL_TENSORS = MODEL_FILES
BASIS_KEY = "basis_digest"  # metadata key of files that belong to one basis
_KINDS = {
    "name": str, "version": str, "licence": str, "digest": str, "k": int, "population": bool, "fitted_split": str,
    "splits": list, "recipe": dict, "diagnostics": dict, "layout": dict, "compatibility": dict, "directions": list,
}  # fmt: skip
FIELDS = {"format", "format_version", "files", *_KINDS}


# ------------------------------------------------------------------ writing
def save_space(
    space: SpaceContents, path: Path | str, base: Path | str | None = None, *,
    generation: Mapping[str, Any] | None = None, overwrite: bool = False,
    extend: Callable[[Path], object] | None = None,
) -> Path:  # fmt: skip
    """Write a space folder and return its path.

    Parameters
    ----------
    base : path, optional
        A diffusers folder to embed.
    generation : mapping, optional
        Generation settings to store with `base`; by default the space's own.
    overwrite : bool
        Replace an existing weight space, if its folder holds nothing else; its previews are not kept.
    extend : callable, optional
        Called with the unfinished folder to add files before the manifest, instead of `base`.

    Raises
    ------
    BaseModelMismatchError
        If the target modules of `base` are not those of the dataset's adapters.
    """
    path = require_output(path, overwrite=overwrite, own=space_files)
    own_base = space.path is not None and path.resolve() == space.path.resolve() and (path / CONFIG).is_file()
    if own_base and extend is None:
        raise InvalidInputError(
            f"{path} is the folder that this weight space was opened from, and holds its base model, which would be "
            "lost; choose another folder, or save a pipeline: pipe.save_pretrained",
            path=path,
        )
    if base is not None:
        found = require_base(base, space.layout, space.compatibility)
        space = replace(space, compatibility=replace(space.compatibility, base_digest=found))
        settings = space.generation if generation is None else checked_settings(generation)
        extend = partial(embed_base, base, generation=settings)
    elif checked_settings(generation):
        raise InvalidInputError("generation settings are stored with a base model; give base, too", name="generation")
    if space.coordinates.full_digest is not None:
        raise InvalidInputError(f"this weight space was opened with k={space.k}; open it without k to save it")
    written = _written_card(path)
    population, revision = space.population, None if space.source is None else space.source.revision
    with new_folder(path, overwrite=overwrite, own=space_files) as folder:
        _save_coordinates(space, folder)
        if space.directions:
            arrays = {
                f"{n}.{kind}": getattr(d, kind) for n, d in space.directions.items() for kind in ("editing", "reading")
            }
            save_tensors(arrays, folder / "directions.safetensors", {BASIS_KEY: space.digest})
            write_json(folder / "directions.json", {n: d.evidence() for n, d in space.directions.items()})
        if space.population_model is not None:
            write_json(folder / MODEL_JSON, model_to_json(space.population_model))
            save_tensors(tensors_of(space.population_model), folder / MODEL_TENSORS, {BASIS_KEY: space.digest})
        splits = [] if population is None else list(dict.fromkeys(np.asarray(population.splits).tolist()))
        for split in splits:
            assert population is not None
            _save_coefficients(population, split, space.digest, folder / "coefficients" / f"{split}.parquet")
        if space.stored_encoder is not None:
            write_bytes(folder / ENCODER, _opened(space.stored_encoder).to_bytes())
        if extend is not None:
            extend(folder)
        facts = {
            "name": space.name,
            "version": space.version,
            "licence": space.licence,
            "digest": space.digest,
            "k": space.k,
            "fitted_split": space.recipe["split"] if population is None else population.fitted_split,
            "splits": splits,
            "recipe": space.recipe | ({"saved_from": revision.to_json()} if revision else {}),
            "diagnostics": space.diagnostics,
            "compatibility": asdict(space.compatibility),
        }
        write_manifest(folder, facts, space.layout, space.directions, card=written)
    return path


def write_manifest(
    folder: Path, facts: Mapping[str, Any], layout: ParameterLayout, directions: Mapping[str, Direction],
    card: str | None = None,
) -> None:  # fmt: skip
    """Write the manifest and the card of a weight-space folder in which all other files are.

    Parameters
    ----------
    facts : mapping
        The fields of the manifest besides the formats, layout, directions and files; a space without splits has no
        population.
    card : str, optional
        A card that somebody wrote.
    """
    manifest: dict[str, Any] = {
        "format": FORMAT,
        **({"format_version": FORMAT_VERSION} if facts["splits"] else WITHOUT_POPULATION),
        **facts,
        "layout": {"digest": layout.digest, "size": layout.size, **layout.to_json()},
        "directions": list(directions),
    }
    manifest["files"] = {found.name: entry_of(folder / found.name) for found in walk(folder) if found.is_file}
    write_bytes(folder / FILENAME, seal(manifest))
    text = card or space_card(manifest, list(directions.items()), folder)
    (folder / CARD).write_text(text, "utf-8")


def _opened(encoder: Encoder | EncoderFile) -> Encoder:
    return encoder.open() if isinstance(encoder, EncoderFile) else encoder


def _written_card(path: Path) -> str | None:
    """Return the card of a weight space that is replaced, if somebody wrote it by hand."""
    if not path.is_dir() or not has_file(path, CARD):
        return None
    card = read_card(path)
    return None if is_rendered(card) else card


def require_folder(path: Path) -> None:
    """Raise `MissingPathError` unless there is a folder."""
    if not path.is_dir():
        make = command("w2w build", ShellText("DATASET"), options=("--k", ShellText("K"), "--out", path))
        raise MissingPathError(f"{path} is not a weight space; make one with: {make}", path=path)


def require_base(base: Path | str, layout: ParameterLayout, compatibility: Compatibility) -> str:
    """Return the digest of a base model's target weights, or raise if the adapters were trained on others."""
    found, stated = digest_of_folder(base, layout), compatibility.base_digest
    if stated is not None and stated != found:
        raise BaseModelMismatchError(
            f"the target weights of {base} have digest {found[:12]}, the dataset's adapters were trained on "
            f"{stated[:12]}"
        )
    return found


def _save_coordinates(space: SpaceContents, folder: Path) -> None:
    found = space.coordinates
    tensors = {"mean": found.mean, "std": found.std, "singular_values": found.singular_values}
    if found.residuals is not None:
        tensors["residuals"] = found.residuals
    if space.population is None:
        tensors |= {"coefficient_mean": space.spread.mean, "coefficient_std": space.spread.std}
    save_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "space.safetensors")
    for start in range(0, space.k, COMPONENTS_A_FILE):
        part = np.ascontiguousarray(found.basis[start : start + COMPONENTS_A_FILE])
        save_tensors({"basis": part}, folder / f"basis-{start // COMPONENTS_A_FILE:05d}.safetensors")


def save_tensors(arrays: dict[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path, metadata=metadata)
    except SafetensorError as error:  # its own, also for a full disk
        raise DiskError(f"writing {path} failed: {error}; free some space, nothing else was changed") from error


def _save_coefficients(population: Population, split: str, digest: str, path: Path) -> None:
    import pyarrow.parquet as pq

    chosen = np.flatnonzero(np.asarray(population.splits) == split)
    norms = population.squared_norms
    table = coefficients_table(
        [population.ids[i] for i in chosen], chosen, population.fitted[chosen], population.coefficients[chosen], digest,
        None if norms is None else norms[chosen],
    )  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def coefficients_table(
    ids: Sequence[str], rows: np.ndarray, fitted: np.ndarray, coefficients: np.ndarray, digest: str,
    squared_norms: np.ndarray | None = None,
) -> pa.Table:  # fmt: skip
    """Return rows of ``coefficients/<split>.parquet`` as a table of Arrow; `digest` is that of the basis."""
    import pyarrow as pa

    offsets = pa.array(np.arange(len(ids) + 1) * coefficients.shape[1], pa.int64())
    columns = {
        "id": pa.array(ids, pa.string()),
        "row": pa.array(rows, pa.int64()),
        "fitted": pa.array(fitted),
        "coefficients": pa.LargeListArray.from_arrays(offsets, pa.array(coefficients.ravel())),
    }
    if squared_norms is not None:
        columns["squared_norm"] = pa.array(squared_norms)
    return pa.table(columns).replace_schema_metadata({BASIS_KEY: digest})


# ------------------------------------------------------------------ reading
def open_contents(
    path: Path | str, k: int | None = None, *, revision: str | None = None, **options: Any
) -> SpaceContents:
    """Open a space folder, a Hub repository (``org/name``) at a revision, or what a lock file pins.

    Parameters
    ----------
    k : int, optional
        Components to read, see :meth:`WeightSpace.from_pretrained`.
    **options
        The fields of :class:`w2w_hub.store.hub.options.HubOptions`.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError, HubError
    """
    if k is not None and not is_whole(k):
        raise InvalidInputError(f"k is a number of components, not {k!r}")
    return open_located(locate(path, "space", revision=revision, options=HubOptions(**options)), k)


def open_located(source: Source, k: int | None = None) -> SpaceContents:
    """Open the weight space that :func:`w2w_hub.store.hub.locate.locate` found."""
    path = source.need(_needed(source, k))
    require_folder(path)
    try:
        space = read_state(path, lambda state: read_contents(state, k), FORMAT)
    except MissingPathError as error:
        if error.path != path / FILENAME:
            raise
        raise no_manifest(path, SPACE) from error
    space.source = source
    if space.stored_encoder is not None:
        space.stored_encoder = EncoderFile(source)  # which fetches it when it is used
    return space


def read_contents(state: State, k: int | None = None) -> SpaceContents:
    """Return the contents of one state of a folder, see :func:`open_contents`."""
    path, data = state.root, state.data
    where = state.manifest_path
    _require_fields(data, where)
    whole, k = data["k"], data["k"] if k is None else int(k)
    if not 1 <= k <= whole:
        raise InvalidInputError(f"{path} has {whole} components; k is 1 to {whole}, not {k}", path=path)
    try:
        tensors, _ = read_safetensors(state.find("space.safetensors"))
        coordinates = _read_coordinates(state, tensors, k)
        population = _read_population(state, k) if data["population"] else None
        space = SpaceContents(
            coordinates=coordinates,
            population=population,
            stored_spread=None if data["population"] else _read_spread(tensors, k, data["recipe"]["rows"], path),
            recipe=data["recipe"],
            diagnostics=data["diagnostics"],
            compatibility=Compatibility.from_json(data["compatibility"], where),
            directions=_load_directions(state, k) if data["directions"] else {},
            name=data["name"],
            version=data["version"],
            licence=data["licence"],
            population_model=_load_population_model(state, k),
            generation=_read_generation(state),
            stored_encoder=EncoderFile(Source(path)) if ENCODER in data["files"] else None,
            path=path,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, W2WError):
            raise
        raise _corrupt(path, f"{error} is missing or invalid") from error
    if space.digest != data["digest"]:
        raise _corrupt(path, "mean, std and basis do not have the digest in the manifest")
    return space


def _read_generation(state: State) -> dict[str, Any]:
    if CONFIG not in state.data["files"]:
        return {}
    path = state.find(CONFIG)
    return read_settings(read_json(path), path)


def _corrupt(path: Path | str, reason: str) -> CorruptFileError:
    return CorruptFileError(f"{path}: {reason}; fetch the weight space again", path=path)


def _require_fields(data: dict[str, Any], where: Path) -> None:
    """Raise an error unless a manifest's fields have the right types and values."""
    for name, kind in _KINDS.items():
        value = data.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise _corrupt(where, f"{name!r} is missing or invalid")
    for split in (*data["splits"], data["fitted_split"]):
        if not is_split_name(split):
            raise _corrupt(where, f"{short(split)} is not a split's name")
    if data["population"] and data["fitted_split"] not in data["splits"]:
        raise _corrupt(where, f"fitted_split {short(data['fitted_split'])} is not one of its splits")
    if not data["population"] and data["splits"]:
        raise _corrupt(where, "it lists splits although it states that it has no population")
    require_facts(data, where)


def _read_coordinates(state: State, tensors: dict[str, np.ndarray], k: int) -> Coordinates:
    path, data, where, whole = state.root, state.data, state.manifest_path, state.data["k"]
    layout = ParameterLayout.from_json(data["layout"])
    if (layout.digest, layout.size) != (data["layout"].get("digest"), data["layout"].get("size")):
        raise _corrupt(where, "the layout does not have the digest or size that is stated beside it")
    if data["recipe"]["constant_numbers"] > layout.size:
        raise _corrupt(where, "recipe.constant_numbers is larger than the layout")
    for name in ("mean", "std"):
        _require_tensor(tensors[name], name, (layout.size,), np.float32, path)
    for name in ("singular_values", *(["residuals"] if "residuals" in tensors else [])):
        _require_tensor(tensors[name], name, (whole,), np.float64, path)
    parts = [
        read_safetensors(state.find(f"basis-{i:05d}.safetensors"))[0]["basis"]
        for i in range(-(-k // COMPONENTS_A_FILE))
    ]
    for i, part in enumerate(parts):
        rows = min(COMPONENTS_A_FILE, whole - i * COMPONENTS_A_FILE)
        _require_tensor(part, f"basis-{i:05d}", (rows, layout.size), np.float32, path)
    return Coordinates(
        layout=layout,
        mean=tensors["mean"],
        std=tensors["std"],
        basis=np.concatenate(parts)[:k],
        singular_values=tensors["singular_values"][:k],
        residuals=None if "residuals" not in tensors else tensors["residuals"][:k],
        canonical=bool(data["recipe"].get("canonical")),
        full_digest=data["digest"] if k < whole else None,
    )


def _require_tensor(found: np.ndarray, name: str, shape: tuple[int, ...], dtype: type, path: Path) -> None:
    if found.shape != shape or found.dtype != dtype:
        raise _corrupt(path, f"{name} is {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}")


def _read_spread(tensors: dict[str, np.ndarray], k: int, rows: int, path: Path) -> Spread | None:
    """Return the stored spread of a population that is not included; None if there is none."""
    stated = [name for name in ("coefficient_mean", "coefficient_std") if name in tensors]
    if not stated:
        return None
    whole = len(tensors["singular_values"])
    for name in ("coefficient_mean", "coefficient_std"):
        _require_tensor(tensors[name], name, (whole,), np.float64, path)
        if not np.isfinite(tensors[name]).all() or (name == "coefficient_std" and (tensors[name] < 0).any()):
            raise _corrupt(path, f"{name} has values that are not finite, or negative")
    return Spread(tensors["coefficient_mean"][:k], tensors["coefficient_std"][:k], rows)


def _read_population(state: State, k: int) -> Population:
    data = state.data
    table = _load_all_coefficients(state, data["k"])
    inside = (table["split"] == data["fitted_split"]).to_numpy(bool)
    fitted = table["fitted"].to_numpy(bool) if "fitted" in table else inside
    if not fitted.any():
        raise _corrupt(state.root / "coefficients", "no row is marked as fitted")
    ids = tuple(table["id"])
    return Population(
        ids=ids,
        splits=table["split"].to_numpy(str),
        coefficients=np.stack(list(table["coefficients"]))[:, :k],
        fitted_split=data["fitted_split"],
        squared_norms=table["squared_norm"].to_numpy(float) if "squared_norm" in table else None,
        left_out=tuple(ids[i] for i in np.flatnonzero(inside & ~fitted)),
    )


def _needed(source: Source, k: int | None) -> list[str]:
    """Return the files that the first `k` components (all for None) need; none of the base model."""
    last = float("inf") if k is None else -(-k // COMPONENTS_A_FILE)
    basis = re.compile(r"basis-(\d+)\.safetensors")
    return [
        name
        for name in source.files
        if name in ("space.safetensors", CONFIG)
        or name.startswith(("coefficients/", "directions."))
        or name in MODEL_FILES
        or ((match := basis.fullmatch(name)) and int(match[1]) < last)
    ]


def _load_all_coefficients(state: State, k: int) -> pd.DataFrame:
    """Return the rows of all splits, in row order, with `coefficients` ``(k,)`` float32 each."""
    import pandas as pd

    splits = state.data["splits"]
    if not splits or len(set(splits)) != len(splits):
        raise _corrupt(state.manifest_path, "'splits' is missing or invalid")
    parts = [_load_coefficients(state, split, k) for split in splits]
    for column in ("fitted", "squared_norm"):
        if 0 < sum(column in part for part in parts) < len(parts):
            raise _corrupt(state.root / "coefficients", f"only some splits have a column {column!r}")
    table = pd.concat(parts).sort_values("row")
    for column in ("id", "row"):
        if table[column].duplicated().any():
            twice = table[column][table[column].duplicated()].iloc[0]
            raise _corrupt(state.root / "coefficients", f"{column} {twice!r} occurs twice")
    return table


def _load_coefficients(state: State, split: str, k: int) -> pd.DataFrame:
    import pyarrow as pa

    name, digest = f"coefficients/{split}.parquet", state.data["digest"]
    file = state.find(name)
    wanted = {"id": pa.types.is_string, "row": pa.types.is_integer, "coefficients": pa.types.is_large_list}
    wanted |= {"fitted": pa.types.is_boolean, "squared_norm": pa.types.is_floating}
    columns, optional = ("id", "row", "coefficients"), ("fitted", "squared_norm")
    table = read_table(file, columns, None, "weight space", optional=optional)
    stated = (table.schema.metadata or {}).get(BASIS_KEY.encode(), digest.encode()).decode(errors="replace")
    if stated != digest:
        raise _corrupt(file, f"it belongs to the basis {one_line(stated, 12)}, not to {digest[:12]}")
    for column, fits in wanted.items():
        if column not in table.column_names:
            continue
        values = table.column(column)
        plain = fits(values.type) or (column == "coefficients" and pa.types.is_list(values.type))
        plain |= column == "id" and pa.types.is_large_string(values.type)
        if not plain or values.null_count:
            raise _corrupt(file, f"column {column!r} is {values.type} or has missing values")
    lists = table.column("coefficients").combine_chunks()
    flat = lists.flatten()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if not pa.types.is_float32(flat.type) or flat.null_count or (lengths != k).any():
        raise _corrupt(file, f"each row must have {k} float32 coefficients")
    coefficients = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), k)
    if not np.isfinite(coefficients).all():
        raise _corrupt(file, "coefficients are not finite")
    frame = table.drop_columns(["coefficients"]).to_pandas()
    return frame.assign(coefficients=list(coefficients), split=split)


def _load_directions(state: State, k: int | None = None) -> dict[str, Direction]:
    """Return the directions, cut to the first `k` components if that is given."""
    path, data = state.find("directions.safetensors"), state.data
    tensors, metadata = read_safetensors(path)
    if metadata.get(BASIS_KEY, data["digest"]) != data["digest"]:
        raise _corrupt(path, f"it belongs to another basis than {data['digest'][:12]}")
    entries = read_json(state.find("directions.json"))
    if sorted(entries) != sorted(map(str, data["directions"])):
        raise _corrupt(state.root, "directions.json and the manifest list different directions")
    found = {}
    for name, entry in entries.items():
        editing, reading = (tensors.get(f"{name}.{kind}", np.empty(0)) for kind in ("editing", "reading"))
        if any(t.shape != (data["k"],) or not np.isfinite(t).all() for t in (editing, reading)):
            raise _corrupt(path, f"the direction {short(name)} is missing or invalid")
        try:
            found[name] = Direction.from_evidence(editing[:k], reading[:k], entry, name)
        except CorruptFileError as error:
            raise CorruptFileError(f"{state.root}/directions.json: {error}") from error
    return found


def _load_population_model(state: State, k: int | None = None) -> PopulationModel | None:
    """Return the model of the population, cut to the first `k` components if that is given; None if there is none."""
    stated = [name for name in MODEL_FILES if name in state.data["files"]]
    if not stated:
        return None
    if len(stated) == 1:
        raise _corrupt(state.manifest_path, f"it lists {stated[0]} without the other of {', '.join(MODEL_FILES)}")
    path, data = state.find(MODEL_TENSORS), state.data
    tensors, metadata = read_safetensors(path)
    if metadata.get(BASIS_KEY, data["digest"]) != data["digest"]:
        raise _corrupt(path, f"it belongs to another basis than {data['digest'][:12]}")
    return model_from_json(read_json(state.find(MODEL_JSON)), tensors, data["k"], k, f"{state.root}/{MODEL_JSON}")


def load_directions(folder: Path) -> dict[str, Direction]:
    """Return the directions of a weight-space folder."""
    return read_state(folder, lambda state: _load_directions(state) if state.data["directions"] else {}, FORMAT)

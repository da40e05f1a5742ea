"""Weight spaces on disk: manifest, safetensors and Parquet, written all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checks import is_whole
from ..common.text import ShellText, command
from ..dataset.manifest import Compatibility
from ..dialects.base_model import CONFIG, digest_of_folder, embed_base
from ..dialects.generation import checked_settings, read_settings
from ..errors import (
    BaseModelMismatchError,
    CorruptFileError,
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
from ..store.paths import has_file, missing, short, walk
from ..store.replacing import files_listed
from ..store.tensorfile import read_safetensors, save_tensors
from .card import space_card
from .contents import SpaceContents
from .coordinate_files import coordinate_files, read_coordinates, save_coordinates
from .directions.direction import Direction
from .encoder.encoder import FILE as ENCODER
from .encoder.encoder import Encoder, EncoderFile
from .manifest import BASIS_KEY, corrupt, require_fields
from .population_files import read_population, save_population
from .population_model.model import PopulationModel
from .population_model.storage import FILES as MODEL_FILES
from .population_model.storage import from_json as model_from_json
from .population_model.storage import tensors_of
from .population_model.storage import to_json as model_to_json

FORMAT, FORMAT_VERSION = SPACE, 1
space_files = files_listed(SPACE)
WITHOUT_POPULATION = {"format_version": 2, "population": False}
MODEL_JSON, MODEL_TENSORS = MODEL_FILES


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
        raise InvalidInputError(
            "generation settings are stored with a base model: add --base (in Python: base=)", name="generation"
        )
    if space.coordinates.full_digest is not None:
        raise InvalidInputError(f"this weight space was opened with k={space.k}; open it without k to save it")
    written = _written_card(path)
    population, revision = space.population, None if space.source is None else space.source.revision
    with new_folder(path, overwrite=overwrite, own=space_files) as folder:
        save_coordinates(space, folder)
        if space.directions:
            arrays = {
                f"{n}.{kind}": getattr(d, kind) for n, d in space.directions.items() for kind in ("editing", "reading")
            }
            save_tensors(arrays, folder / "directions.safetensors", {BASIS_KEY: space.digest})
            write_json(folder / "directions.json", {n: d.evidence() for n, d in space.directions.items()})
        if space.population_model is not None:
            write_json(folder / MODEL_JSON, model_to_json(space.population_model))
            save_tensors(tensors_of(space.population_model), folder / MODEL_TENSORS, {BASIS_KEY: space.digest})
        splits = [] if population is None else save_population(population, space.digest, folder)
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
        make = command("w2w build", ShellText("DATASET"), options=("--out", ShellText("SPACE")))
        raise missing(path, f"a weight space is made by: {make}") if not path.exists() else no_manifest(path, SPACE)


def require_base(base: Path | str, layout: ParameterLayout, compatibility: Compatibility) -> str:
    """Return the digest of a base model's target weights, or raise if the adapters were trained on others."""
    found, stated = digest_of_folder(base, layout), compatibility.base_digest
    if stated is not None and stated != found:
        raise BaseModelMismatchError(
            f"the target weights of {base} have digest {found[:12]}, the dataset's adapters were trained on "
            f"{stated[:12]}"
        )
    return found


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
    path = source.need(_needed_files(source.files, k))
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


def _needed_files(names: Iterable[str], k: int | None) -> list[str]:
    """Return the files that the first `k` components (all for None) need; none of the base model."""
    listed = list(names)
    others = (n for n in listed if n in (CONFIG, *MODEL_FILES) or n.startswith(("coefficients/", "directions.")))
    return [*coordinate_files(listed, k), *others]


def read_contents(state: State, k: int | None = None) -> SpaceContents:
    """Return the contents of one state of a folder, see :func:`open_contents`."""
    path, data = state.root, state.data
    where = state.manifest_path
    require_fields(data, where)
    whole, k = data["k"], data["k"] if k is None else int(k)
    if not 1 <= k <= whole:
        raise InvalidInputError(f"{path} has {whole} components; k is 1 to {whole}, not {k}", path=path)
    try:
        coordinates, spread = read_coordinates(state, k)
        population = read_population(state, k) if data["population"] else None
        space = SpaceContents(
            coordinates=coordinates,
            population=population,
            stored_spread=spread,
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
        raise corrupt(path, f"{error} is missing or invalid") from error
    if space.digest != data["digest"]:
        raise corrupt(path, "mean, std and basis do not have the digest in the manifest")
    return space


def _read_generation(state: State) -> dict[str, Any]:
    if CONFIG not in state.data["files"]:
        return {}
    path = state.find(CONFIG)
    return read_settings(read_json(path), path)


def _load_directions(state: State, k: int | None = None) -> dict[str, Direction]:
    """Return the directions, cut to the first `k` components if that is given."""
    path, data = state.find("directions.safetensors"), state.data
    tensors, metadata = read_safetensors(path)
    if metadata.get(BASIS_KEY, data["digest"]) != data["digest"]:
        raise corrupt(path, f"it belongs to another basis than {data['digest'][:12]}")
    entries = read_json(state.find("directions.json"))
    if sorted(entries) != sorted(map(str, data["directions"])):
        raise corrupt(state.root, "directions.json and the manifest list different directions")
    found = {}
    for name, entry in entries.items():
        editing, reading = (tensors.get(f"{name}.{kind}", np.empty(0)) for kind in ("editing", "reading"))
        if any(t.shape != (data["k"],) or not np.isfinite(t).all() for t in (editing, reading)):
            raise corrupt(path, f"the direction {short(name)} is missing or invalid")
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
        raise corrupt(state.manifest_path, f"it lists {stated[0]} without the other of {', '.join(MODEL_FILES)}")
    path, data = state.find(MODEL_TENSORS), state.data
    tensors, metadata = read_safetensors(path)
    if metadata.get(BASIS_KEY, data["digest"]) != data["digest"]:
        raise corrupt(path, f"it belongs to another basis than {data['digest'][:12]}")
    return model_from_json(read_json(state.find(MODEL_JSON)), tensors, data["k"], k, f"{state.root}/{MODEL_JSON}")


def load_directions(folder: Path) -> dict[str, Direction]:
    """Return the directions of a weight-space folder."""
    return read_state(folder, lambda state: _load_directions(state) if state.data["directions"] else {}, FORMAT)

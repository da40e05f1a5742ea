"""Verify a weight space: its files, its digest and the rules of FORMAT.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.labels.table import ROW_ID
from ..dialects.base_model import (
    CONFIG,
    EMBEDDED,
    MODEL_INDEX,
    PICKLES,
    components,
    digest_of_folder,
    require_plain_components,
)
from ..errors import W2WError
from ..store.commit import State, read_state
from ..store.manifest import FILENAME, FORMAT_NAMES, SPACE, parse_json
from ..store.paths import has_file, is_name, read_file, short
from ..store.verify import Report, check_files, check_manifest, open_to_check
from .contents import SpaceContents
from .encoder.encoder import FILE as ENCODER
from .encoder.encoder import Encoder
from .manifest import FIELDS
from .population import Population
from .storage import read_contents, require_folder

UNIT_TOLERANCE = 1e-3  # of a direction's length and of the basis's products, float32
SETTINGS_BYTES = 2**20  # of w2w_pipeline.json and model_index.json
TILE = 256


def check_space(path: Path | str, *, deep: bool = True, vouched: bool = False) -> Report:
    """Compare a weight-space folder with its manifest, its digest and the rules of FORMAT.md.

    A shallow check covers the manifest's checksum, presence and size of every file, the hashes of all files but the
    basis and an embedded base model, the digest of mean, std and basis, and the contents. A deep one also hashes the
    rest, and checks that the basis is orthonormal and that an embedded base model is the one of the adapters.

    Parameters
    ----------
    vouched : bool
        True if a lock file or a commit states the sha256 of the manifest.

    Raises
    ------
    MissingPathError, UnsupportedFormatError
        If there is no weight space to check; everything else is in the report.
    """
    path = Path(path)
    report = Report(path, deep, kind=FORMAT_NAMES[SPACE])
    require_folder(path)
    state = open_to_check(report, SPACE, FIELDS)
    if state is None:
        return report
    check_manifest(report, state, FIELDS, vouched=vouched)
    report.digest = str(state.data.get("digest", ""))
    check_files(report, state, _is_bulk)
    wrong = report.broken - {FILENAME}
    try:
        space = read_state(path, read_contents, SPACE)
    except W2WError as error:
        if not wrong:  # otherwise the reason is already listed
            report.add("", str(error))
        return report
    _check_rows(report, state, space.population)
    _check_numbers(report, space, state.data["files"])
    _check_base(report, state, space)
    _check_encoder(report, state, space)
    return report


def _is_bulk(name: str) -> bool:
    return name.startswith("basis-") or ("/" in name and not name.startswith("coefficients/"))


def _check_rows(report: Report, state: State, population: Population | None) -> None:
    """Check the rows' ids and norms, and that no file is unexpected."""
    where = report.path
    for name in sorted(
        {name for name in state.data["files"] if name.startswith("coefficients/")}
        ^ {f"coefficients/{split}.parquet" for split in state.data["splits"]}
    ):
        report.add(name, f"{where}: {name} belongs to no split of the manifest")
    for name in state.data["files"]:
        report.check(name, not name.lower().endswith(PICKLES), f"{where}: {name} is a pickle file; remove it")
    if population is None:
        return
    report.rows = len(population)
    for name in [name for name in population.ids if not ROW_ID.fullmatch(str(name))][:5]:
        report.add("coefficients", f"{where}: row id {name!r} is not of letters, digits, '.', '-' and '_'", [str(name)])
    norms = population.squared_norms
    wrong = norms is not None and not (np.isfinite(norms) & (norms >= 0)).all()
    report.check("coefficients", not wrong, f"{where}: a squared norm is negative or not finite")


def _check_numbers(report: Report, space: SpaceContents, files: Iterable[str]) -> None:
    """Check mean, deviations, singular values, basis and directions."""
    where = report.path
    tensors, found = "space.safetensors", space.coordinates
    for name in ("mean", "std", "singular_values"):
        report.check(tensors, bool(np.isfinite(getattr(found, name)).all()), f"{where}: {name} is not finite")
    report.check(tensors, bool((found.std > 0).all()), f"{where}: a standard deviation is not positive")
    values = found.singular_values
    published = "as_published" in space.recipe  # by another project, whose values are kept
    falling = published or bool((np.diff(values) <= 1e-6 * max(float(values[0]), 1e-30)).all())
    report.check(tensors, falling, f"{where}: the singular values are not in descending order")
    stray = sorted(name for name in files if name.startswith("basis-"))
    wanted = [f"basis-{i:05d}.safetensors" for i in range(len(stray))]
    report.check("basis", stray == wanted, f"{where}: basis files are not numbered from 00000 without a gap")
    for name, direction in space.directions.items():
        length = float(np.linalg.norm(direction.editing.astype(np.float64)))
        if abs(length - 1) > UNIT_TOLERANCE:
            report.add("directions.safetensors", f"{where}: the direction {short(name)} has length {length:.4g}, not 1")
    if not report.deep:
        report.not_checked.append(
            "without --deep: the basis files' hashes, that the basis is orthonormal, an embedded base model"
        )
        return
    worst, turned = _basis_error(found.basis)
    stated = space.diagnostics.get("orthogonality_error", 0.0) if published else 0.0
    if worst > max(UNIT_TOLERANCE, 1.01 * stated):
        report.add("basis", f"{where}: the basis is not orthonormal (an error of {worst:.2g})")
    if turned:
        report.add("basis", f"{where}: components {turned[:5]} do not have the sign that FORMAT.md requires")


def _basis_error(basis: np.ndarray) -> tuple[float, list[int]]:
    """Return the largest deviation from orthonormality, and the components whose largest entry is negative."""
    worst, turned = 0.0, []
    for start in range(0, len(basis), TILE):
        part = basis[start : start + TILE]
        products = part.astype(np.float64) @ basis.astype(np.float64).T if len(basis) <= TILE else part @ basis.T
        products[np.arange(len(part)), start + np.arange(len(part))] -= 1
        worst = max(worst, float(np.abs(products).max(initial=0.0)))
        largest = np.take_along_axis(part, np.abs(part).argmax(1)[:, None], 1)[:, 0]
        turned += (start + np.flatnonzero(largest < 0)).tolist()
    return worst, turned


def _check_base(report: Report, state: State, space: SpaceContents) -> None:
    """Check what `w2w_pipeline.json` states about the base model, and an embedded one."""
    if CONFIG not in state.data["files"]:
        return
    where = report.path
    try:
        settings = parse_json(read_file(where, CONFIG, SETTINGS_BYTES), where / CONFIG)
        stated = settings.get("base_model")
        if stated != EMBEDDED:
            _check_reference(report, settings)
            return
        if not has_file(where, MODEL_INDEX):
            report.add(CONFIG, f"{where / CONFIG} states that the base model is embedded, but {MODEL_INDEX} is missing")
            return
        index = parse_json(read_file(where, MODEL_INDEX, SETTINGS_BYTES), where / MODEL_INDEX)
        name = index.get("_class_name")
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("W2W"):
            report.add(MODEL_INDEX, f"{where / MODEL_INDEX} names {short(name)}, not a class of diffusers")
        require_plain_components(where, components(where))
        stated = space.compatibility.base_digest
        if report.deep and stated is not None:
            found = digest_of_folder(where, space.layout)
            if found != stated:
                report.add(
                    MODEL_INDEX,
                    f"{where}: the embedded base model has digest {found[:12]}, the manifest states {stated[:12]}",
                )
    except W2WError as error:
        report.add(CONFIG, str(error))


def _check_encoder(report: Report, state: State, space: SpaceContents) -> None:
    """Check that an encoder is one, of this space and its base model."""
    if ENCODER not in state.data["files"] or ENCODER in report.broken:
        return
    try:
        Encoder.load(state.find(ENCODER)).require_space(space.digest, space.compatibility.base_digest)
    except W2WError as error:
        report.add(ENCODER, str(error))


def _check_reference(report: Report, settings: dict[str, Any]) -> None:
    """Check a reference to a base model: a repository with its commit, or a folder relative to the space's."""
    base, commit = settings.get("base_model"), settings.get("revision")
    where = report.path / CONFIG
    relative = isinstance(base, str) and all(is_name(part) or part == ".." for part in base.split("/"))
    if not relative or not isinstance(commit, (str, type(None))):
        report.add(CONFIG, f"{where} names {short(base)} at {short(commit)}, which is not a base model")
    elif commit is None and not (report.path / str(base)).is_dir():
        report.notes.append(f"{where} names the base model {short(base)} without a commit; it may change")

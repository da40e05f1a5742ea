"""Datasets and weight spaces, in a folder or on the Hub: only the manifest is read, and of a space's rows the ids."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..common.text import ShellText, command, counted, file_size
from ..dataset.initialization import FILE as START_FILE
from ..dataset.manifest import UNKNOWN, DatasetManifest
from ..dataset.weight_dataset import WeightDataset
from ..dataset.withdrawn import notice as rows_notice
from ..dialects.base_model import CONFIG
from ..errors import W2WError
from ..space.withdrawn import notice as space_notice
from ..space.withdrawn import withdrawn_in
from ..store.commit import open_state
from ..store.hub.source import Source
from ..store.hub.withdrawals import withdrawals_of
from ..store.manifest import DATASET, misstated
from ..store.parquet import parquet_file
from .looking import free_name
from .result import Info, Step

MODEL_INDEX = "model_index.json"
LONGEST_NAME = 200  # characters of a direction in a command


def info_of(source: Source, what: str) -> Info:
    """Return what a located dataset or weight space is; `what` is its name in commands."""
    data = source.manifest()
    local = source.revision is None
    name: object = Path(what) if local and "#" not in what else what
    found = _dataset(source, data, what, name) if data["format"] == DATASET else _space(source, data, what, name)
    if local and open_state(source.folder).unfinished:
        repair = Step(command("w2w repair", source.folder), "complete a change whose process was killed")
        found = Info(**{**vars(found), "steps": (repair, *found.steps)})
        return found.with_warnings("a change of it was committed and is not yet in place; w2w reads the new state")
    return found


def _where(source: Source) -> dict[str, Any]:
    if source.revision is None:
        return {}
    return {"revision": source.revision.asked, "commit": source.revision.commit}


def _pin(name: object) -> list[Step]:
    """Return the command that pins a repository; none for what a lock file pins already, ``w2w.lock#org/name``."""
    if "#" in str(name):
        return []
    return [Step(command("w2w pin", name, options=("-o", free_name("w2w.lock"))), "pin it for a paper")]


def _size(data: Mapping[str, Any]) -> str:
    return file_size(sum(entry["size"] for entry in data["files"].values()))


# ------------------------------------------------------------------ dataset
def _dataset(source: Source, data: Mapping[str, Any], what: str, name: object) -> Info:
    manifest = DatasetManifest.from_json(data, source.folder / "manifest.json")
    compatibility, layout = manifest.compatibility, manifest.layout
    shared = compatibility.initialisation != UNKNOWN
    facts = {
        "name": manifest.name, "version": manifest.version, **_where(source), "rows": manifest.rows,
        "splits": manifest.splits, "attributes": list(manifest.columns), "numbers per row": layout.size,
        "rank": sorted({slot.rank for slot in layout.slots}), "base model": compatibility.base_model or "not stated",
        "initialization": compatibility.initialisation if shared else "not stated",
        "license": _license(source, manifest), "size": _size(data), "digest": manifest.digest,
    }  # fmt: skip
    canonical = () if shared else ("--canonical", "svd")
    build = command("w2w build", name, options=("--out", free_name("space"), *canonical))
    steps = [
        Step(command("w2w verify", name), "check every file against its digest"),
        Step(build, "fit a weight space to its rows"),
    ]
    if source.revision is not None:
        steps += _pin(name)
        if START_FILE in manifest.files:
            start = command("w2w init", name, options=("--out", free_name("start")))
            steps.append(Step(start, "train an adapter that fits it, to offer it"))
        steps.append(Step(command("w2w log", source.revision.repo), "list its versions"))
    hint = command("w2w push", name, ShellText("ORG/NAME"), options=("--version", manifest.version))
    hints = (f"to publish it: {hint}",) if source.revision is None else ()
    summary = f"dataset of {counted(manifest.rows, 'LoRA')} with {counted(len(manifest.columns), 'attribute')}"
    found = Info(what, "dataset", summary, facts, (), hints, tuple(steps))
    return found.with_warnings(*_withdrawn_rows(source))


def _license(source: Source, manifest: DatasetManifest) -> str:
    """Return the license that a dataset's manifest states, or its rows where they are local."""
    if manifest.licence == UNKNOWN and source.revision is None:
        with suppress(W2WError):
            return WeightDataset.open(source.folder).license
    return manifest.licence


def _withdrawn_rows(source: Source) -> list[str]:
    """Return what to know of withdrawn rows; the labels are read only if the repository lists any."""
    if source.revision is None or not len(withdrawals_of(source.revision.repo, source.options)):
        return []
    dataset = WeightDataset.open(Path(f"datasets/{source.revision}"))
    if not dataset.withdrawn:
        return []
    return [f"{rows_notice(dataset.withdrawn, dataset.ids)}; w2w_hub reads them at no revision any more"]


# -------------------------------------------------------------------- space
def _space(source: Source, data: Mapping[str, Any], what: str, name: object) -> Info:
    where = source.folder / "manifest.json"
    recipe, k, names = data.get("recipe"), data.get("k"), data.get("directions")
    if not isinstance(recipe, dict) or not isinstance(k, int) or not isinstance(names, list):
        raise misstated(where, "'recipe', 'k' or 'directions'")
    pushed = next((name for name in names if isinstance(name, str) and len(name) <= LONGEST_NAME), None)
    layout, compatibility = data.get("layout"), data.get("compatibility")
    draws, inside = CONFIG in data["files"], MODEL_INDEX in data["files"]  # a base model may be named only
    facts = {
        "name": data.get("name"), "version": data.get("version"), **_where(source), "components": k,
        "fitted on": f"{recipe.get('rows')} rows of {recipe.get('dataset')} {recipe.get('dataset_version')}",
        "directions": [str(each) for each in names],
        "numbers per LoRA": layout.get("size") if isinstance(layout, dict) else None,
        "base model": "inside" if draws and inside else _stated(compatibility, "base_model"),
        "population": "ids and coefficients of the rows" if data.get("population") else "not included",
        "license": data.get("licence"), "size": _size(data), "digest": data.get("digest"),
    }  # fmt: skip
    rows = recipe.get("rows")
    fitted = f", fitted on {counted(rows, 'LoRA')}" if isinstance(rows, int) else ""
    summary = f"weight space of {counted(k, 'component')}{fitted}"
    hints = (
        [f"to look at it in a browser: {command('w2w explore', name)}"]
        if draws
        else ["pictures need its base model: w2w build --base, or in Python W2WPipeline.from_base"]
    )
    steps = tuple(_space_steps(source, data, name, draws, pushed))
    found = Info(what, "weight space", summary, facts, (), tuple(hints), steps)
    gone = withdrawn_in(source)
    return found.with_warnings(space_notice(gone)) if gone else found


def _stated(compatibility: object, name: str) -> str:
    value = compatibility.get(name) if isinstance(compatibility, dict) else None
    return value if isinstance(value, str) else "not stated"


def _space_steps(source: Source, data: Mapping[str, Any], name: object, draws: bool, pushed: str | None) -> list[Step]:
    steps = []
    person = _first_id(source, data)
    if person and draws:
        draw = command("w2w render", name, person, options=("--out", free_name("people.png")))
        steps.append(Step(draw, "draw a row of it"))
    sample = command("w2w sample", name, options=("--count", 8, "--out", free_name("points")))
    steps.append(Step(sample, "sample eight new people"))
    if person and pushed:
        edit = command("w2w edit", name, person, f"{pushed}=+2", options=("--out", free_name("edited.json")))
        steps.append(Step(edit, "move a row along a direction, by two standard deviations"))
    if data["directions"]:
        steps.append(Step(command("w2w directions", name), "list its attributes with their held-out scores"))
    steps.append(
        Step(command("w2w report", name, options=("--out", free_name("report"))), "write a page on its quality")
    )
    if source.revision is not None:
        steps += _pin(name)
        if draws:
            app = command("w2w space-app", name, options=("--out", free_name("app")))
            steps.append(Step(app, "write a Hugging Face Space that shows it"))
        steps.append(Step(command("w2w log", source.revision.repo), "list its versions"))
    return steps


def _first_id(source: Source, data: Mapping[str, Any]) -> str | None:
    """Return the id of a row of a local space's population; None if there is none or it cannot be read."""
    if source.revision is not None or not data.get("population"):
        return None
    with suppress(W2WError, OSError, KeyError):
        file = open_state(source.folder).find(f"coefficients/{data['fitted_split']}.parquet")
        with parquet_file(file, None, "weight space") as found:
            for batch in found.iter_batches(1, columns=["id"]):
                return str(batch.column("id")[0])
    return None

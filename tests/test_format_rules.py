# ruff: noqa: E501, one row of a table is one line
"""FORMAT.md, rule by rule: a folder that breaks each MUST, forged so that only this rule is broken, and what says so."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tests.space.encoders import forged, random_encoder
from tests.space.population import dataset_of, decaying
from w2w_hub import WeightDataset, WeightSpace, build_space, write_dataset
from w2w_hub.dataset import check
from w2w_hub.dataset.labels import table as label_table
from w2w_hub.dataset.manifest import dataset_digest
from w2w_hub.dataset.splits import SplitRule
from w2w_hub.errors import W2WError
from w2w_hub.lora.layout import ParameterLayout
from w2w_hub.space.integrity import check_space
from w2w_hub.space.points import load_point
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.manifest import seal

FORMAT = (Path(__file__).parents[1] / "cards" / "FORMAT.md").read_text("utf-8")
TRAIN, ZARR = "labels/train.parquet", "weights.zarr/weights/zarr.json"
Breaker = Callable[[Path], object]


# ------------------------------------------------------------------ forging
def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def state(folder: Path, **changes: Any) -> None:
    """Write a manifest with other fields and the right checksum."""
    data = {k: v for k, v in (manifest(folder) | changes).items() if v is not ...}
    (folder / "manifest.json").write_bytes(seal(data))


def restate(folder: Path, *more: str, without: tuple[str, ...] = ()) -> None:
    """List the files as they are now, and give the dataset digest that the labels give."""
    data = manifest(folder)
    names = [n for n in (*data["files"], *more) if n not in without]
    state(folder, files={n: entry_of(folder / n) for n in names})
    if data["format"] == "w2w-dataset":
        files = sorted((folder / "labels").glob("*.parquet"))
        table = pd.concat([pd.read_parquet(f, dtype_backend="numpy_nullable") for f in files], ignore_index=True)
        for name, kind in data["columns"].items():
            if kind == "float":
                table[name] = table[name].astype("Float64")
        layout = ParameterLayout.from_json(data["layout"])
        state(folder, digest=dataset_digest(layout, label_table.records(table)))


def relabelled(change: Callable[[pd.DataFrame], pd.DataFrame], file: str = TRAIN) -> Breaker:
    """Change a table of labels, and the view beside it."""

    def broken(folder: Path) -> None:
        path = folder / file
        schema = pq.read_schema(path)
        table = change(pd.read_parquet(path))
        fields = [schema.field(n) for n in schema.names if n in table.columns]
        pq.write_table(pa.Table.from_pandas(table, pa.schema(fields), preserve_index=False), path)
        shutil.rmtree(folder / "parquet")
        data = manifest(folder)
        state(folder, view=..., files={n: e for n, e in data["files"].items() if not n.startswith("parquet/")})
        restate(folder)

    return broken


def zarr(**changes: Any) -> Breaker:
    def broken(folder: Path) -> None:
        data = json.loads((folder / ZARR).read_text())
        (folder / ZARR).write_text(json.dumps(data | changes))
        restate(folder)

    return broken


def sharding(**changes: Any) -> Breaker:
    def broken(folder: Path) -> None:
        data = json.loads((folder / ZARR).read_text())
        data["codecs"][0]["configuration"] |= changes
        (folder / ZARR).write_text(json.dumps(data))
        restate(folder)

    return broken


def fields(**changes: Any) -> Breaker:
    return lambda folder: state(folder, **changes)


def kinds(**entries: Any) -> Breaker:
    return fields(label_kinds=entries)


def layout(change: Callable[[dict[str, Any]], object]) -> Breaker:
    def broken(folder: Path) -> None:
        data = manifest(folder)["layout"]
        change(data)
        state(folder, layout=data)

    return broken


def values(change: Callable[[np.ndarray], object]) -> Breaker:
    """Write other values into the matrix, with the digests that they have."""

    def broken(folder: Path) -> None:
        import zarr

        array = zarr.open_array(folder / "weights.zarr" / "weights", mode="r+")
        rows = array[:]
        change(rows)
        array[:] = rows
        from w2w_hub.dataset.manifest import row_digest

        for file in (folder / "labels").glob("*.parquet"):
            table = pd.read_parquet(file)
            table["row_sha256"] = [row_digest(rows[i]) for i in table["row"]]
            pq.write_table(pa.Table.from_pandas(table, pq.read_schema(file), preserve_index=False), file)
        shutil.rmtree(folder / "parquet")
        data = manifest(folder)
        state(folder, view=..., files={n: e for n, e in data["files"].items() if not n.startswith("parquet/")})
        restate(folder)

    return broken


def view(change: Callable[[pd.DataFrame], pd.DataFrame], group: int = 64) -> Breaker:
    def broken(folder: Path) -> None:
        path = folder / "parquet" / "train.parquet"
        schema = pq.read_schema(path)
        table = pa.Table.from_pandas(change(pd.read_parquet(path)), schema, preserve_index=False)
        pq.write_table(table, path, row_group_size=group)
        restate(folder)

    return broken


def other_weights(table: pd.DataFrame) -> pd.DataFrame:
    table["weights"] = [np.roll(w, 1) for w in table["weights"]]
    return table


def tensors(
    file: str, change: Callable[[dict[str, np.ndarray]], object], metadata: dict[str, str] | None = None
) -> Breaker:
    """Change a safetensors file of a space, and state the digest that mean, std and basis have then."""

    def broken(folder: Path) -> None:
        found = load_file(folder / file)
        change(found)
        save_file({k: np.ascontiguousarray(v) for k, v in found.items()}, folder / file, metadata=metadata)
        restate_space(folder)

    return broken


def restate_space(folder: Path) -> None:
    import hashlib

    data = manifest(folder)
    digest = hashlib.sha256(f"w2w-basis-v1\n{data['layout']['digest']}\n".encode())
    space = load_file(folder / "space.safetensors")
    parts = [load_file(p)["basis"] for p in sorted(folder.glob("basis-*"))]
    for array in (space["mean"], space["std"], *parts):
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    state(folder, digest=digest.hexdigest())
    for file in (folder / "coefficients").glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.replace_schema_metadata({}), file)
    if (folder / "directions.safetensors").exists():
        save_file(load_file(folder / "directions.safetensors"), folder / "directions.safetensors")
    restate(folder)


def coefficients(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Breaker:
    def broken(folder: Path) -> None:
        path = folder / "coefficients" / "train.parquet"
        table = pq.read_table(path)
        changed = pa.Table.from_pandas(change(table.to_pandas()), preserve_index=False)
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
        restate(folder)

    return broken


def directions(change: Callable[[dict[str, Any]], object]) -> Breaker:
    def broken(folder: Path) -> None:
        data = json.loads((folder / "directions.json").read_text())
        change(data)
        (folder / "directions.json").write_text(json.dumps(data))
        restate(folder)

    return broken


def turned(arrays: dict[str, np.ndarray]) -> None:
    arrays["basis"][0] *= -1


def bent(arrays: dict[str, np.ndarray]) -> None:
    arrays["basis"][1] = arrays["basis"][0]


def bare(folder: Path) -> None:
    """Take the population away, rightly."""
    shutil.rmtree(folder / "coefficients")
    data = manifest(folder)
    files = {name: entry for name, entry in data["files"].items() if not name.startswith("coefficients/")}
    state(folder, format_version=2, population=False, splits=[], files=files)


def text(name: str, raw: str) -> Breaker:
    def broken(folder: Path) -> None:
        (folder / name).write_text(raw)
        restate(folder, name)

    return broken


# -------------------------------------------------------------------- rules
# what FORMAT.md says, and what breaks it
DATASET_RULES: list[tuple[str, Breaker]] = [
    ("Every manifest is a JSON object that MUST hold `format` and `format_version`", fields(format=...)),
    ("Every manifest is a JSON object that MUST hold `format` and `format_version`", fields(format_version=...)),
    ("A reader MUST refuse a\nlater version than it knows", fields(format_version=2)),
    ("MUST refuse a JSON\nobject that holds a key twice", lambda f: (f / "manifest.json").write_text(
        (f / "manifest.json").read_text().replace("{", '{"name": "x",', 1))),
    ("which it MUST NOT list", lambda f: restate(f, "README.md")),
    ("A path MUST be relative", fields(files={"/x": {"sha256": "0" * 64, "size": 0}})),
    ("A part MUST NOT be empty, `.` or `..`", fields(files={"a/../x": {"sha256": "0" * 64, "size": 0}})),
    ("A\n  manifest MUST NOT list a path below `.w2w-...`", fields(files={".w2w-x/a": {"sha256": "0" * 64, "size": 0}})),
    ("`verify` MUST check it where it is stated", fields(checksum="1" * 64) and (lambda f: (f / "manifest.json").write_text(
        re.sub('"checksum": "[0-9a-f]{64}"', f'"checksum": "{"1" * 64}"', (f / "manifest.json").read_text())))),
    ("Slots MUST be ordered", layout(lambda data: data["slots"].reverse())),
    ("a positive number", layout(lambda data: data.update(scale=-1.0))),
    ("they MUST add up to `rows`", fields(splits={"train": 4, "test": 3})),
    ("attribute to `binary`, `categorical` or `float`", fields(columns={"Beard": "date", "Age": "float", "Hair": "categorical"})),
    ("An entry of `label_kinds` MUST be of an attribute in `columns`", kinds(Halo={"kind": "ordinal", "order": ["a"]})),
    ("There MUST be at least one grade, and each\n  once", kinds(Hair={"kind": "ordinal", "order": []})),
    ("There MUST be at least one grade, and each\n  once", kinds(Hair={"kind": "ordinal", "order": ["a", "a"]})),
    ("the column MUST be `categorical` in `columns`", kinds(Age={"kind": "ordinal", "order": ["1", "2"]})),
    ("each of its values MUST be a grade or null", kinds(Hair={"kind": "ordinal", "order": ["no such hair"]})),
    ("The array MUST be encoded by `sharding_indexed`", sharding(chunk_shape=[1, 61])),
    ("Chunks and shards MUST span whole rows", zarr(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, 61]}})),
    ("All values MUST be finite", values(lambda rows: rows.__setitem__((2, 5), np.nan))),
    ("so a reader MUST compare presence and size", lambda f: (shutil.rmtree(f / "weights.zarr" / "weights" / "c"))),
    ("separator of chunk keys MUST be `/` or `.`", zarr(chunk_key_encoding={"name": "default", "configuration": {"separator": "-"}})),
    ("the inner codecs", sharding(codecs=[{"name": "bytes", "configuration": {"endian": "big"}}])),
    ("Columns `id` (unique)", relabelled(lambda t: t.assign(id=t["id"].iloc[0]))),
    ("0 to `rows` - 1, each once", relabelled(lambda t: t.assign(row=t["row"].iloc[0]))),
    ("An attribute MUST NOT take one of the\nother names", fields(columns={"Beard": "binary", "source": "categorical"})),
    ("The column `split` MUST be\nthe file's split", relabelled(lambda t: t.assign(split="test"))),
    ("An id is letters, digits", relabelled(lambda t: t.replace({"id": {"p0": "../x"}}))),
    ("An id is letters, digits", relabelled(lambda t: t.replace({"id": {"p0": "a\x1b[2J"}}))),
    ("A split is words of letters", fields(splits={"../x": 4, "test": 2})),
    ("splits of a dataset MUST NOT differ in case alone", lambda f: two_cases(f)),
    ("Row digest: sha256", relabelled(lambda t: t.assign(row_sha256="0" * 64))),
    ("Dataset digest: sha256", fields(digest="0" * 64)),
    ("all rows with one value of `column` MUST be in one split", lambda f: state(
        f, split_rule={"column": "Hair", "holdout": 0.3, "seed": 0, "split": "test"})),
    ("every\nrow MUST have a value", lambda f: state(
        f, split_rule={"column": "Beard", "holdout": 0.3, "seed": 0, "split": "test"})),
    ("the columns of `labels/` and `weights`", view(other_weights)),
    ("the columns of `labels/` and `weights`", view(lambda t: t.assign(Hair="blue"))),
    ("the columns of `labels/` and `weights`", view(lambda t: t.iloc[::-1])),
    ("numbered from `00001`", lambda f: (shutil.copy(f / "parquet/train.parquet", f / "parquet/train-00002.parquet"),
                                         restate(f, "parquet/train-00002.parquet"))),
]  # fmt: skip


def two_cases(folder: Path) -> None:
    """Name the split `test` `TRAIN`."""
    (folder / "labels" / "test.parquet").rename(folder / "labels" / "TRAIN.parquet")
    path = folder / "labels" / "TRAIN.parquet"
    table = pd.read_parquet(path).assign(split="TRAIN")
    pq.write_table(pa.Table.from_pandas(table, pq.read_schema(path), preserve_index=False), path)
    shutil.rmtree(folder / "parquet")
    data = manifest(folder)
    names = [n for n in data["files"] if not n.startswith("parquet/") and n != "labels/test.parquet"]
    state(folder, view=..., splits={"train": 4, "TRAIN": 2}, files={n: data["files"][n] for n in names})
    restate(folder, "labels/TRAIN.parquet")


def encoder(
    facts: Callable[[dict[str, Any]], object] = len, values: Callable[[dict[str, np.ndarray]], object] = len
) -> Breaker:
    """Store an encoder in a space, and change what it states and holds."""

    def broken(folder: Path) -> None:
        space = WeightSpace.open(folder)
        space.add_encoder(random_encoder(space))
        forged(folder / "encoder.safetensors", facts, values)
        restate(folder)

    return broken


SPACE_RULES: list[tuple[str, Breaker]] = [
    ("A reader MUST refuse a\nlater version than it knows", fields(format_version=3)),
    ("`format` `\"w2w-space\"`, `format_version` 1 or 2", fields(licence=...)),
    ("version 2 only: `true` or `false`", fields(format_version=2)),
    ("its `splits` MUST be\nempty", fields(format_version=2, population=False)),
    ("and it MUST NOT list a file below `coefficients/`", fields(format_version=2, population=False, splits=[])),
    ("both or none: `coefficient_mean`", lambda f: (bare(f), tensors(
        "space.safetensors", lambda a: a.update(coefficient_std=a["singular_values"]))(f))),
    ("sha256 of `w2w-basis-v1", fields(digest="0" * 64)),
    ("all splits with known coefficients", fields(splits=["train", "test", "val"])),
    ("all splits with known coefficients", fields(splits=["../train"])),
    ("principal components", fields(k=3)),
    ("1 where a number never varies", tensors("space.safetensors", lambda a: a["std"].__setitem__(0, 0))),
    ("`singular_values` float64 `(k)`", tensors("space.safetensors", lambda a: a.update(singular_values=a["singular_values"][:1]))),
    ("numbered from `00000`", lambda f: (shutil.copy(f / "basis-00000.safetensors", f / "basis-00002.safetensors"),
                                        restate(f, "basis-00002.safetensors"))),
    ("orthonormal rows", tensors("basis-00000.safetensors", bent)),
    ("largest variance first", tensors("space.safetensors", lambda a: a.update(singular_values=a["singular_values"][::-1]))),
    ("in every component the entry of largest", tensors("basis-00000.safetensors", turned)),
    ("`coefficients` (list of\n  float32, k)", coefficients(lambda t: t.assign(coefficients=[c[:-1] for c in t["coefficients"]]))),
    ("`coefficients` (list of\n  float32, k)", coefficients(lambda t: t.assign(coefficients=[c * np.inf for c in t["coefficients"]]))),
    ("`id`, `row` (position", coefficients(lambda t: t.assign(id=t["id"].iloc[0]))),
    ("`id`, `row` (position", coefficients(lambda t: t.drop(columns="row"))),
    ("a reader MUST refuse another than the manifest's", lambda f: (
        pq.write_table(pq.read_table(f / "coefficients/train.parquet").replace_schema_metadata({"basis_digest": "0" * 64}),
                       f / "coefficients/train.parquet"), restate(f))),
    ("unit length, + means more", tensors("directions.safetensors", lambda a: a["Beard.editing"].__imul__(2))),
    ("MUST if there are directions", directions(lambda data: data.clear())),
    ("The names in both MUST be those of `directions`", directions(lambda data: data.update(Other=data["Beard"]))),
    ("`directions.json` — MUST if there are directions", directions(lambda data: data["Beard"].update(sd=-1))),
    ("MUST: `strengths` (standard deviations along", directions(lambda data: data["Beard"]["curve"].pop("strengths"))),
    ("MUST: `strengths` (standard deviations along", directions(lambda data: data["Beard"]["curve"]["strengths"].reverse())),
    ("as many of each of\n  `shown`, `kept`, `least_kept` and `inside`, between 0 and 1", directions(
        lambda data: data["Beard"]["curve"]["shown"].pop())),
    ("as many of each of\n  `shown`, `kept`, `least_kept` and `inside`, between 0 and 1", directions(
        lambda data: data["Beard"]["curve"]["kept"].__setitem__(1, 1.5))),
    ("and `rows`, the number of people", directions(lambda data: data["Beard"]["curve"].update(rows=0))),
    ("`curve` and `picture_curve`: what pushes", directions(lambda data: data["Beard"].update(picture_curve=[]))),
    ("`strength` (in standard\n  deviations) MUST be there", directions(lambda data: data["Beard"].update(slider={"positive": "a hat"}))),
    ("`label_kind` (the attribute's entry", directions(lambda data: data["Beard"].update(label_kind={"kind": "ordinal"}))),
    ("A writer MUST list both or\nnone", lambda f: (restate(f, without=("population_model.json",)), (f / "population_model.json").unlink())),
    ("a reader MUST refuse a model of another basis", lambda f: (
        save_file(load_file(f / "population_model.safetensors"), f / "population_model.safetensors", {"basis_digest": "0" * 64}),
        restate(f))),
    ("All but NaN in `codes` MUST be finite", tensors("population_model.safetensors", lambda a: a["weights"].__setitem__((0, 0), np.inf))),
    ("(at most 4,096)", tensors("population_model.safetensors", lambda a: a.update(codes=np.zeros((4097, 1))))),
    ("`counts` int64 `(m)`, positive", tensors("population_model.safetensors", lambda a: a["counts"].__setitem__(0, 0))),
    ("A reader MUST refuse\n  another value of these two", text("w2w_pipeline.json", json.dumps(
        {"base_model": "org/base", "revision": "0" * 40, "generation": {"num_inference_steps": 0}}))),
    ("A reader MUST refuse\n  another value of these two", text("w2w_pipeline.json", json.dumps(
        {"base_model": "org/base", "revision": "0" * 40, "generation": [15]}))),
    ("MUST name the stock pipeline class", lambda f: (
        text("model_index.json", '{"_class_name": "W2WPipeline"}')(f),
        text("w2w_pipeline.json", '{"base_model": "embedded"}')(f))),
    ('`"conv-5"`, below; a reader MUST refuse another', encoder(lambda data: data.update(network="conv-6"))),
    ("a reader MUST refuse to use an encoder with another", encoder(lambda data: data.update(basis_digest="0" * 64))),
    ("a reader MUST refuse another than the compatibility record's", lambda f: (
        state(f, compatibility=manifest(f)["compatibility"] | {"base_digest": "0" * 64}),
        encoder(lambda data: data.update(base_digest="1" * 64))(f))),
    ("so that `factor` divides both", encoder(lambda data: data.update(factor=5))),
    ("finite, float16 or\nfloat32 unless stated", encoder(values=lambda a: a["conv.3.bias"].fill(np.nan))),
    ("A reader MUST check all shapes against each other", encoder(values=lambda a: a.update({"dense.1.bias": a["dense.1.bias"][:-1]}))),
    ("A reader MUST check all shapes against each other", encoder(values=lambda a: a.pop("conv.2.weight"))),
    ("(at most 65,536 pixels after averaging)", encoder(lambda data: data.update(size=[514, 512]))),
]  # fmt: skip

# rules for writers, and for readers of what is not a folder: the test that breaks them
ELSEWHERE = {
    "A reader MUST ignore an entry of a `kind` that it does not": "dataset/test_ordinal.py::test_a_kind_that_is_not_known_is_ignored",
    "A writer that changes labels MUST keep it": "dataset/test_ordinal.py::test_every_change_keeps_the_order",
    "one of a `kind` that is\n  not known MUST be ignored": "space/test_ordinal_directions.py::test_evidence_keeps_the_order_and_reads_as_a_number",
    "A writer that removes rows MUST\nremove their ids": "training/test_runs.py::test_the_record_of_training_goes_with_the_rows",
    "Every row's A MUST have a cosine above\n0.3": "dataset/test_sketches.py::test_rows_of_another_initialization_are_refused_and_named",
    "A dataset whose `initialisation` is `unknown` MUST NOT have these files, and a\nwriter MUST drop them": "dataset/test_sketches.py::test_another_name_of_the_initialization_drops_its_files",
    "A reader MUST refuse to use a file that does not fit the layout": "dataset/test_sketches.py::test_a_start_file_that_does_not_fit_is_refused",
    "The metadata MUST hold `format` `w2w-sketches`": "dataset/test_sketches.py::test_forged_sketches_are_refused",
    "A reader MUST refuse to use a file whose `rows_sha256` is not that of the labels": "dataset/test_sketches.py::test_forged_sketches_are_refused",
    "MUST ignore one of a later version": "dataset/test_sketches.py::test_sketches_of_a_later_version_are_ignored",
    "A manifest MUST NOT list a file below `contributions/`": "dataset/test_sketches.py::test_a_manifest_that_lists_a_contribution_is_found",
    "A reader MUST refuse a batch whose files make another name": "hub/test_contribution_checks.py::test_a_batch_that_was_changed_after_its_name",
    "The metadata MUST hold\n  `format` `w2w-batch`": "hub/test_contribution_checks.py::test_a_hostile_batch_is_refused_as_a_file",
    "a reader MUST NOT trust them": "hub/test_contribution_checks.py::test_equal_contributions_have_equal_bytes_and_names",
    "`id`, `source`, `licence`\n  and `consent` MUST be there": "hub/test_contribution_checks.py::test_labels_are_held_to_the_datasets_names_and_kinds",
    "`split`, `row` and `row_sha256` MUST NOT": "hub/test_contribution_checks.py::test_what_the_dataset_decides_is_refused",
    "`licence` MUST be an identifier of SPDX or of the Hub": "hub/test_contribution_checks.py::test_license_identifiers_are_those_of_spdx",
    "The maintainers' side MUST check all of this again, and MUST take the files from the commit that it checked": "hub/test_contribution_checks.py::test_each_refused_adapter_has_its_own_verdict",
    "MUST read every earlier one": "dataset/test_archives.py::test_a_dataset_of_every_earlier_format_opens",
    "A reader MUST ignore fields it does not know": "test_format_rules.py::test_fields_that_are_not_known_are_ignored_at_every_level",
    "a reader MUST NOT follow a link": "hostile/test_hostile_folders.py::test_a_link_in_a_folder_is_never_followed",
    "A writer MUST NOT write or remove through a link": "hostile/test_hostile_folders.py::test_a_link_in_a_folder_is_never_followed",
    "A reader MUST refuse slots in another order": "lora/test_layout.py::test_json_with_slots_in_another_order_is_refused",
    "MUST have the ratio folded into B": "lora/test_layout.py::test_a_scale_other_than_the_reference_is_folded_into_B",
    "A raw weight\n  space MUST NOT be built over `unknown`": "space/test_build_space.py::test_a_raw_space_over_unknown_initialisations_is_refused",
    "bfloat16 MUST be widened to float32": "dataset/test_write_read.py::test_a_dtype_that_is_not_stored_is_refused",
    "shards MUST NOT exceed": "test_format_rules.py::test_a_shard_that_is_too_large_is_told",
    "MAY be there and MUST NOT be needed": "dataset/test_shards.py::test_zarr_and_tensorstore_read_what_we_write",
    "It MUST check a shard index's checksum": "dataset/test_integrity.py::test_a_shallow_check_reads_no_rows",
    "it MUST then\n  read through Zarr or refuse, and MUST NOT guess offsets": "dataset/test_shards.py::test_a_matrix_that_is_laid_out_in_another_way",
    "A compressed chunk MUST unpack to the size of a chunk, which a reader MUST hold it to": "hostile/test_small_files_large_memory.py::test_a_chunk",
    "It MUST be left out if a value does not fit its dtype": "hostile/test_bad_datasets.py::test_values_that_the_float16_view",
    "A second writer MUST be refused": "dataset/test_pack_scale.py::test_a_second_writer_is_told_who_writes",
    "A writer MUST refuse\n  one that is a link": "hostile/test_hostile_folders.py::test_a_lock_that_is_another_files_second_name",
    "readers MUST ignore it": "hostile/test_killed_writers.py::test_a_writer_killed_at_any_point",
    "A reader MUST read such a state so; MUST NOT make, move or remove anything": "hostile/test_hostile_folders.py::test_a_committed_state_is_read_where_it_lies",
    "MUST refuse it if `.w2w-commit` or a part of a\npath in it is a link": "hostile/test_hostile_folders.py::test_a_link_in_a_folder_is_never_followed",
    "and MUST start again if": "dataset/test_pack_scale.py::test_readers_always_find_a_whole_state",
    "The next writer MUST, holding the lock, first finish it": "hostile/test_hostile_folders.py::test_the_next_writer_finishes_a_committed_state_first",
    "A published repository MUST NOT hold": "hub/test_refusals.py::test_a_folder_with_an_unfinished_change_is_pushed_after",
    "A file that is listed MUST NOT be changed in place": "dataset/test_pack_scale.py::test_readers_always_find_a_whole_state",
    "With k' < k components a reader MUST\ntake the first k'": "space/test_population_model.py::test_a_model_is_stored_opened_cut",
    "a reader MUST\ndo the same with an adapter": "space/test_variants_rebuild_report.py::test_a_canonical_space_is_the_same_whatever_gauge",
    "it MUST have `format_version` 2": "space/test_population.py::test_version_2_may_hold_a_population_and_version_1_always_does",
    "A reader MUST refuse to name, compare or look up rows": "space/test_population.py::test_what_needs_rows_is_one_typed_line_without_them",
    "MUST project, decode,\nsample and edit as ever": "space/test_population.py::test_a_space_without_population_is_used_as_the_whole_one",
    "a reader MUST take 0 and s / √(`recipe.rows` - 1)": "space/test_population.py::test_a_spread_that_is_not_stored_follows_from_the_singular_values",
    "and a reader MUST NOT need it": "space/test_encoders.py::test_a_damaged_encoder_is_no_obstacle",
    "and MUST ignore other entries": "models/test_generation.py::test_settings_that_are_not_known_are_ignored",
    "and a writer MUST keep it": "store/test_cards.py::test_a_card_of_a_new_state_is_rendered_unless_somebody",
    "A reader MUST hold a base against": "models/test_loading.py::test_a_foreign_base_is_refused",
    "a reader MUST refuse them for another": "space/test_weight_space.py::test_a_point_of_another_basis_is_refused",
    "A writer MUST build a new folder or file beside its place": "store/test_atomic.py::test_what_a_killed_writer_left",
    "A publisher MUST make all of a version visible by one commit": "hub/test_publish.py::test_a_version_is_one_commit_and_a_tag",
    "MUST set the tag after it": "hub/test_publish.py::test_a_push_killed_before_its_tag",
    "A tag MUST NOT be moved or deleted, and history MUST NOT be squashed": "hub/test_publish.py::test_what_is_published_is_not_changed_in_place",
    "a publisher MUST refuse every repository\n  that is not private": "hub/test_imported.py::test_imported_people_are_pushed_to_private_repositories_only",
    "which MUST be that of a layout": "upstream/test_import.py::test_wrong_dimensions_are_refused",
    "A version MUST be greater than the last one, and MUST say what changed": "hub/test_publish.py::test_a_version_that_is_there_or_says_too_little",
    "It MUST NOT hold a token": "hub/test_lock.py::test_a_lock_says_what_was_used_and_nothing_about_who",
    "a writer MUST NOT make one called `coefficients`": "dataset/test_label_kinds.py::test_a_name_that_no_attribute_may_have_is_refused_everywhere",
    "a writer MUST NOT make one whose first part is the name of a Windows\n  device": "dataset/test_label_kinds.py::test_a_split_that_is_no_file_everywhere_is_refused",
    "A state in which that does not hold MUST NOT state the rule": "dataset/test_splitting.py::test_a_rule_that_cannot_hold_any_more_ends_with_a_word",
    "which in a published repository MUST NOT leave it": "hostile/test_bad_bases.py::test_a_repositorys_base_model_must_stay_inside_it",
    "their weights MUST be safetensors, and they MUST NOT hold code": "hostile/test_bad_bases.py::test_an_embedded_base_that_is_not_plain_is_refused",
    "A published manifest MUST state its own `checksum`": "hub/test_published.py::test_whatever_way_it_was_published_it_verifies",
    "A reader MUST refuse a tag": "hub/test_load.py::test_a_tag_that_somebody_moved_is_told_by",
    "From a copy it MUST NOT take": "hub/test_restore.py::test_the_card_of_a_copy_is_not_taken",
    "a reader MUST accept other words of at most 40": "hub/test_withdrawals.py::test_a_list_of_this_format_is_read_whatever_else_it_says",
    "A reader that opens a dataset from the Hub MUST refuse the weights of withdrawn rows at every revision, and MUST name the date.": "hub/test_withdrawals.py::test_a_withdrawn_row_is_refused_at_every_revision",
    "It MUST ask for the list at most once per process and repository (with the etag that it saw last), and MUST take the\n  last list that it saw": "hub/test_withdrawals.py::test_the_list_costs_one_conditional_request_per_process_and_none_offline",
    "If it never saw one, it MUST say so once": "hub/test_withdrawals.py::test_a_list_that_was_never_seen_is_one_warning",
    "A list that is not valid MUST NOT be taken: the last valid one counts. A reader MUST say so": "hub/test_withdrawals.py::test_a_damaged_list_stops_nobody_from_reading",
    "A writer MUST NOT remove or change an entry": "hub/test_withdrawals.py::test_withdrawing_again_changes_nothing",
    "MUST NOT publish a version with a withdrawn row": "hub/test_withdrawals.py::test_a_push_of_a_withdrawn_row_is_refused",
    "and MUST NOT accept a new row with\n  a withdrawn id": "hub/test_contributions.py::test_a_withdrawn_row_is_dropped_by_the_next_release_and_never_accepted_again",
    "which a pull request MUST NOT hold": "hub/test_contributions.py::test_hostile_contributions_are_refused_by_review_and_by_merge",
    "Whoever merges MUST commit the two files of the reviewed commit, and MUST NOT use the Hub's merge": "hub/test_contributions.py::test_what_is_pushed_after_the_review_is_not_merged",
    "A release MUST check the batch against its name and against `rows`, and MUST NOT make rows of a folder without a valid record": "hub/test_contributions.py::test_a_batch_on_main_that_is_not_what_was_merged_is_not_released",
    "The commit that makes the version MUST remove the folders whose rows it has": "hub/test_contributions.py::test_a_contribution_is_reviewed_merged_and_released",
    "A\n  writer that changes a dataset MUST keep the entries": "hub/test_contributions.py::test_a_stale_request_is_checked_against_what_is_released_by_then",
    "A publisher MUST remove the one of the last\n  version where it does not make its own": "hub/test_signing.py::test_a_signed_version_verifies_with_its_key_alone",
    "a reader MUST refuse a manifest or base file": "hub/test_lock.py::test_a_copy_that_is_not_what_was_pinned_is_refused",
}  # fmt: skip


@pytest.fixture(scope="module")
def space_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("space")
    beard = {"Beard": [bool(i % 2) for i in range(40)]}
    dataset = dataset_of(root / "people", decaying(40, 60), held_out=8, columns=beard)
    space = build_space(dataset, k=4)
    return space.save(root / "space")


def test_what_breaks_no_rule_verifies(make_dataset, space_folder):
    folder = make_dataset().path
    assert check(folder).ok
    restate(folder)
    assert check(folder).ok
    report = check_space(space_folder)
    assert report.ok
    assert report.not_checked == []


def test_a_forgery_that_breaks_no_rule_verifies(make_dataset, space_folder, tmp_path):
    """What the breakers below do beside breaking a rule is right: else they would prove nothing."""
    for breaker in (relabelled(lambda t: t), values(lambda rows: None), view(lambda t: t), zarr(), sharding()):
        folder = shutil.copytree(make_dataset().path, tmp_path / "copy")
        breaker(folder)
        assert check(folder).problems == []
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "people")
    for breaker in (
        tensors("space.safetensors", lambda a: None), coefficients(lambda t: t), directions(lambda data: None), bare, encoder(),
    ):  # fmt: skip
        folder = shutil.copytree(space_folder, tmp_path / "copy")
        breaker(folder)
        assert check_space(folder).problems == []
        shutil.rmtree(folder)


def assert_told(verify: Callable[[Path], Any], folder: Path) -> None:
    """Something is wrong, and each line says in which folder or file."""
    try:
        told = [(p.message, p.message + p.file) for p in verify(folder).problems]
    except W2WError as error:
        told = [(str(error), str(error))]
    assert told
    for line, place in told:
        assert "\n" not in line
        assert str(folder) in line or place != line


@pytest.mark.parametrize(("rule", "breaker"), DATASET_RULES, ids=[r[:50].replace("\n", " ") for r, _ in DATASET_RULES])
def test_a_dataset_that_breaks_a_rule_does_not_verify(make_dataset, rule, breaker):
    folder = make_dataset().path
    breaker(folder)
    assert_told(check, folder)


@pytest.mark.parametrize(("rule", "breaker"), SPACE_RULES, ids=[r[:50].replace("\n", " ") for r, _ in SPACE_RULES])
def test_a_weight_space_that_breaks_a_rule_does_not_verify(space_folder, tmp_path, rule, breaker):
    folder = shutil.copytree(space_folder, tmp_path / "space")
    breaker(folder)
    assert_told(check_space, folder)


def test_every_rule_of_the_format_is_broken_by_a_test():
    quotes = [rule for rule, _ in DATASET_RULES + SPACE_RULES if "MUST" in rule] + list(ELSEWHERE)
    for quote in quotes:
        assert quote in FORMAT, quote
    marks = [m.start() for m in re.finditer(r"MUST", FORMAT.partition("RFC 2119")[2])]
    body = FORMAT.partition("RFC 2119")[2]
    covered = {i for quote in quotes for m in re.finditer(re.escape(quote), body) for i in range(m.start(), m.end())}
    open_rules = [body[max(0, i - 40) : i + 60] for i in marks if i not in covered and not _is_heading(body, i)]
    assert open_rules == []


def _is_heading(body: str, at: int) -> bool:
    """Whether this MUST says that a file or a list of fields is required, which missing ones break below."""
    line = body[body.rfind("\n", 0, at) + 1 : body.find("\n", at)]
    return line.startswith("#") or "` — MUST" in line


def test_the_tests_that_are_named_are_there():
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}" in (Path(__file__).parent / file).read_text("utf-8"), place


@pytest.mark.parametrize("name", ["weights.zarr/zarr.json", ZARR, TRAIN, "weights.zarr/weights/c/0/0"])
def test_a_required_file_that_is_not_listed_is_told(make_dataset, name):
    folder = make_dataset().path
    restate(folder, without=(name,))
    (folder / name).rename(folder / "elsewhere")
    assert not check(folder).ok


@pytest.mark.parametrize(
    "name", ["space.safetensors", "basis-00000.safetensors", "coefficients/train.parquet", "directions.json"]
)
def test_a_required_file_of_a_space_that_is_not_listed_is_told(space_folder, tmp_path, name):
    folder = shutil.copytree(space_folder, tmp_path / "space")
    restate(folder, without=(name,))
    (folder / name).unlink()
    assert not check_space(folder).ok


def test_fields_that_are_not_known_are_ignored_at_every_level(make_dataset, space_folder, tmp_path):
    folder = make_dataset().path
    data = manifest(folder)
    data["compatibility"]["vae"] = "x"
    data["layout"]["note"] = {"a": 1}
    data["files"][TRAIN]["mtime"] = 3
    state(folder, **data, ordinal={"Age": [1, 2]})
    assert check(folder).ok
    WeightDataset.open(folder)
    space = shutil.copytree(space_folder, tmp_path / "space")
    data = manifest(space)
    data["compatibility"]["vae"] = "x"
    data["layout"]["note"] = {"a": 1}
    state(space, **data, population={"a": 1})
    directions(lambda d: d["Beard"].update(novel=1))(space)
    assert check_space(space).problems == []


def test_a_flipped_byte_in_any_file_of_a_space_is_found(space_folder, tmp_path):
    folder = shutil.copytree(space_folder, tmp_path / "space")
    for name in [*manifest(folder)["files"], "manifest.json"]:
        path = folder / name
        whole = path.read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 12)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
            report = check_space(folder)
            assert name in {p.file for p in report.problems}, (name, position, report.problems)
        path.write_bytes(whole)
    assert check_space(folder).ok


def test_a_split_rule_that_holds_verifies(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    from w2w_hub.lora.adapter import Target

    table = pd.DataFrame({"id": [f"p{i}" for i in range(6)], "person": ["a", "a", "b", "b", "c", "c"]})
    small = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)
    rule = SplitRule(column="person", holdout=0.3, seed=0, split="test")
    ds = write_dataset(rows, tmp_path / "d", layout=small, ids=list(table["id"]), labels=table, split_rule=rule)
    assert check(ds.path).ok


def test_a_flipped_byte_in_the_format_or_its_version_is_damage(make_dataset, space_folder, tmp_path):
    for verify, folder in ((check, make_dataset().path), (check_space, shutil.copytree(space_folder, tmp_path / "s"))):
        path = folder / "manifest.json"
        whole = path.read_text()
        for wrong in (
            whole.replace('"format": "w2w', '"format": "x2w', 1),
            whole.replace('version": 1', 'version": 9', 1),
        ):
            assert wrong != whole
            path.write_text(wrong)
            assert {problem.file for problem in verify(folder).problems} == {"manifest.json"}


def test_a_points_history_that_is_no_text_is_a_typed_error(tmp_path):
    header = {"__metadata__": {"format": "w2w-point", "basis_digest": "0", "history": "\ud800"}}
    header["coefficients"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    raw = json.dumps(header).encode()
    (tmp_path / "p.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
    with pytest.raises(W2WError):
        load_point(tmp_path / "p.safetensors")


def test_a_shard_that_is_too_large_is_told(make_dataset, monkeypatch):
    ds = make_dataset()
    monkeypatch.setattr("w2w_hub.dataset.integrity.SHARD_BYTES", 1000)
    assert [p.file for p in check(ds.path).problems] == ["weights.zarr/weights/c/0/0"]

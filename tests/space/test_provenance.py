"""Exported LoRAs say where they come from, and keep saying it in other dialects."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from w2w_hub import (
    ParameterLayout,
    WeightDataset,
    WeightSpace,
    build_space,
    convert_adapter,
    describe,
    read_adapter,
    write_dataset,
)
from w2w_hub.cli import main
from w2w_hub.space.identity import resolve
from w2w_hub.space.keeping import export_identity
from w2w_hub.space.provenance import license_of_exports
from w2w_hub.space.thumbnails import thumbnail_of


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, layout: ParameterLayout) -> WeightSpace:
    table = pd.DataFrame({"id": [f"p{i}" for i in range(40)], "Beard": [bool(i % 2) for i in range(40)]})
    rows = np.random.default_rng(0).normal(size=(40, layout.size)).astype(np.float32)
    folder = tmp_path_factory.mktemp("space") / "people"
    dataset = write_dataset(rows, folder, layout=layout, ids=list(table["id"]), labels=table, initialization="seed-0")
    return build_space(dataset, k=4, name="faces", version="1.2.0")


def test_an_export_names_space_dataset_row_and_edits_in_every_dialect(space: WeightSpace, tmp_path: Path) -> None:
    row = next(iter(space.population.ids))
    edited = space.edit(row, {"Beard": 2.0})
    folder = export_identity(space, resolve(space, edited), tmp_path / "lora", dialects=("peft", "diffusers"))
    for path in (folder / "adapter_model.safetensors", folder / "pytorch_lora_weights.safetensors"):
        told = describe(path)["provenance"]
        assert told["w2w.row"] == row
        assert told["w2w.space_digest"] == space.digest
        assert told["w2w.dataset_digest"] == space.recipe["dataset_digest"]
        assert json.loads(told["w2w.history"])["edits"] == {"Beard": 2.0}
        assert told["modelspec.title"] == f"{row} (edited) of faces 1.2.0"
    converted = tmp_path / "other.safetensors"
    convert_adapter(folder / "pytorch_lora_weights.safetensors", converted, "kohya")
    assert describe(converted)["provenance"] == told
    assert read_adapter(converted).metadata["modelspec.license"] == "unknown"
    saved = space.save(tmp_path / "space")
    shown = CliRunner().invoke(main, ["read", str(saved), str(folder)])
    assert f"title {row} (edited) of faces 1.2.0, license unknown" in shown.stderr
    plain = CliRunner().invoke(main, ["read", str(saved), row, "--json"])
    assert json.loads(plain.stdout)["provenance"] is None


def test_the_license_of_an_export_is_the_strictest_or_unknown() -> None:
    stable = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    for license in ("cc0-1.0", "CreativeML-OpenRAIL-M"):
        assert license_of_exports(license, stable) == "creativeml-openrail-m"
    for license, base in (("cc-by-nc-4.0", stable), ("mit", "somebody/base"), ("mit", None), ("unknown", stable)):
        assert license_of_exports(license, base) == "unknown"


def header_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), "np") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_an_export_carries_a_picture_and_the_phrase_that_shows_the_person(space: WeightSpace, tmp_path: Path) -> None:
    saved, picture = space.save(tmp_path / "space"), tmp_path / "face.png"
    Image.effect_noise((700, 500), 90).save(picture)
    words = [
        "--trigger",
        "sks person",
        "--thumbnail",
        str(picture),
        "--dialect",
        "kohya",
        "--out",
        str(tmp_path / "out"),
    ]
    assert CliRunner().invoke(main, ["export", str(saved), "p0", *words]).exit_code == 0
    [made] = (tmp_path / "out").iterdir()
    told = header_of(made)
    assert told["modelspec.trigger_phrase"] == "sks person"
    kind, data = told["modelspec.thumbnail"].split(",")
    drawn = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, drawn.format, max(drawn.size)) == ("data:image/jpeg;base64", "JPEG", 256)
    assert len(data) < 33_000
    convert_adapter(made, tmp_path / "diffusers", "diffusers")
    assert header_of(next((tmp_path / "diffusers").iterdir()))["modelspec.thumbnail"] == told["modelspec.thumbnail"]
    shown = CliRunner().invoke(main, ["read", str(saved), str(made)]).stderr
    assert "trigger phrase: sks person" in shown
    assert "thumbnail: JPEG, " in shown
    facts = CliRunner().invoke(main, ["inspect", str(made)]).stdout
    assert "JPEG, " in facts
    assert data not in facts
    refused = CliRunner().invoke(main, ["export", str(saved), "p0", "p1", *words[:-1], str(tmp_path / "two")])
    assert (refused.exit_code, (tmp_path / "two").exists()) == (2, False)


def test_a_small_picture_is_enlarged_and_any_picture_fits_into_a_header() -> None:
    for size in ((32, 32), (1, 1), (300, 2)):
        data = thumbnail_of(Image.new("RGB", size, "red")).split(",")[1]
        assert 128 < max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 256


@pytest.mark.parametrize(
    "value",
    ["https://example.org/a.png", "file:///etc/passwd", "data:image/svg+xml;base64,PHN2Zz4=",
     "data:image/png;base64,\x1b[2J", "data:text/html;base64,PGI+", "data:image/png;base64," + "A" * 2**18, ""],
)  # fmt: skip
def test_what_is_no_picture_in_the_header_is_neither_shown_nor_kept(
    space: WeightSpace, tmp_path: Path, value: str
) -> None:
    folder = export_identity(space, resolve(space, "p0"), tmp_path / "lora", dialects=("kohya",))
    [file] = folder.iterdir()
    save_file(load_file(file), file, metadata=header_of(file) | {"modelspec.thumbnail": value})
    assert "modelspec.thumbnail" not in describe(file)["provenance"]
    convert_adapter(file, tmp_path / "again", "diffusers")
    assert "modelspec.thumbnail" not in header_of(next((tmp_path / "again").iterdir()))


def test_a_space_of_rows_that_were_trained_with_one_prompt_states_it(layout: ParameterLayout, tmp_path: Path) -> None:
    ids = [f"p{i}" for i in range(6)]
    rows = np.random.default_rng(0).normal(size=(6, layout.size)).astype(np.float32)
    for number, (prompts, expected) in enumerate(
        ((("sks person",) * 2, "sks person"), (("sks person", "a cat"), None))
    ):
        folder = tmp_path / f"people-{number}"
        write_dataset(rows, folder, layout=layout, ids=ids, initialization="seed-0")
        records = [
            {"batches": [{"together": 3, "ids": ids[3 * i : 3 * i + 3]}], "recipe": {"prompt": prompt}}
            for i, prompt in enumerate(prompts)
        ]
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"training": records}))
        built = build_space(WeightDataset.open(folder), k=2)
        told = header_of(next(export_identity(built, resolve(built, "p0"), tmp_path / f"lora-{number}").iterdir()))
        assert told.get("modelspec.trigger_phrase") == expected

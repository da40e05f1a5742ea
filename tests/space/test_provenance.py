"""Exported LoRAs say where they come from, and keep saying it in other dialects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from w2w_hub import ParameterLayout, WeightSpace, build_space, convert_adapter, describe, read_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.space.identity import resolve
from w2w_hub.space.keeping import export_identity
from w2w_hub.space.provenance import license_of_exports


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
        assert row in told["modelspec.title"]
    converted = tmp_path / "other.safetensors"
    convert_adapter(folder / "pytorch_lora_weights.safetensors", converted, "kohya")
    assert describe(converted)["provenance"] == told
    assert read_adapter(converted).metadata["modelspec.license"] == "unknown"
    saved = space.save(tmp_path / "space")
    shown = CliRunner().invoke(main, ["read", str(saved), str(folder)])
    assert f"{row} of faces 1.2.0, license unknown" in shown.stderr
    plain = CliRunner().invoke(main, ["read", str(saved), row, "--json"])
    assert json.loads(plain.stdout)["provenance"] is None


def test_the_license_of_an_export_is_the_strictest_or_unknown() -> None:
    stable = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    for license in ("cc0-1.0", "CreativeML-OpenRAIL-M"):
        assert license_of_exports(license, stable) == "creativeml-openrail-m"
    for license, base in (("cc-by-nc-4.0", stable), ("mit", "somebody/base"), ("mit", None), ("unknown", stable)):
        assert license_of_exports(license, base) == "unknown"

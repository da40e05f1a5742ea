from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from w2w_hub import ParameterLayout, WeightDataset, read_adapter
from w2w_hub.demo.assets import FOLDER, Assets
from w2w_hub.demo.judge import Judge
from w2w_hub.demo.measure import IdentityScorer
from w2w_hub.demo.report import wished_beside_reached
from w2w_hub.dialects.base_model import digest_of_folder
from w2w_hub.errors import MissingPathError

from ..tiny_world import TinyWorld


@pytest.fixture(scope="module")
def assets() -> Assets:
    return Assets()


@pytest.fixture(scope="module")
def rows(assets: Assets) -> WeightDataset:
    return WeightDataset.open(assets.rows)


def test_the_shipped_rows_are_what_their_manifest_lists(rows: WeightDataset) -> None:
    rows.verify()
    assert rows.manifest.splits == {"train": 960, "test": 64}
    assert rows.manifest.dtype == "float16"


def test_rows_adapters_and_base_model_belong_together(assets: Assets, rows: WeightDataset) -> None:
    assert rows.manifest.compatibility.base_digest == digest_of_folder(assets.base, rows.layout)
    assert len(assets.adapters) == 32
    for path in assets.adapters:
        assert ParameterLayout.from_adapter(read_adapter(path)) == rows.layout


def test_no_adapter_is_a_row_and_every_one_has_labels_and_pictures(assets: Assets, rows: WeightDataset) -> None:
    ids = [path.name for path in assets.adapters]
    assert not set(ids) & set(rows.ids)
    table = pd.read_csv(assets.labels)
    assert sorted(table["id"]) == ids
    assert set(rows.attributes) <= set(table.columns)
    assert all((path / "pictures.png").is_file() for path in assets.adapters)


def test_no_two_shipped_people_look_the_same(assets: Assets, rows: WeightDataset) -> None:
    factors = [name for name, kind in rows.manifest.columns.items() if kind == "categorical"]
    everybody = pd.concat([rows.labels[factors], pd.read_csv(assets.labels)[factors]])
    assert len(factors) == 5
    assert not everybody.duplicated().any()


def test_at_least_twelve_attributes_have_five_to_fifty_percent_of_positives(rows: WeightDataset) -> None:
    binary = [name for name, kind in rows.manifest.columns.items() if kind == "binary"]
    shares = rows.labels[binary].astype(float).mean()
    assert ((shares >= 0.05) & (shares <= 0.5)).sum() >= 12


def test_the_judge_tells_people_apart_on_held_out_pictures(assets: Assets, rows: WeightDataset) -> None:
    held_out = [rows.ids[i] for i in rows.where(split="test")]
    scorer = IdentityScorer(Judge.load(assets.judge), {person: assets.pictures(person) for person in held_out})
    assert scorer.real_id_score >= 0.95
    assert scorer.cross_id_score <= 0.62


def test_a_persons_pictures_are_the_squares_of_its_strip_from_left_to_right(tiny_world: TinyWorld) -> None:
    found = Assets(tiny_world.assets)
    for path in sorted((tiny_world.assets / "heldout").iterdir()):
        strip = np.asarray(Image.open(path))
        pictures = found.pictures(path.stem)
        assert pictures.dtype == np.float32
        np.testing.assert_allclose(np.concatenate(pictures, axis=1) * 255, strip, atol=1e-4)
        assert pictures.shape == (4, 64, 64, 3)


@pytest.mark.parametrize("part", ["base", "rows", "judge.safetensors", "labels.csv", "adapters"])
def test_assets_that_lack_a_part_are_refused_by_its_name_and_the_evaluation_may_be_missing(
    part: str, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    for path in tiny_world.assets.iterdir():
        if path.name not in (part, "evaluation.json"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(MissingPathError, match=part):
        Assets(tmp_path)
    (tmp_path / part).mkdir()
    assert Assets(tmp_path).evaluation == {}


def test_shipped_files_are_small_and_none_unpickles() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    kinds = {path.suffix for path in files if "weights.zarr" not in path.parts}
    assert kinds <= {".json", ".safetensors", ".png", ".csv", ".parquet", ".md", ".txt"}


def test_the_evaluation_names_every_figure_that_the_report_holds_against_a_wish(assets: Assets) -> None:
    rows = wished_beside_reached(assets.evaluation)
    assert len(rows) >= 10
    assert all(np.isfinite(reached) for _, _, reached, _ in rows)


def test_no_shipped_text_names_a_folder_of_the_machine_that_made_it() -> None:
    for path in FOLDER.rglob("*.json"):
        assert '"_name_or_path"' not in path.read_text(), path
        assert not re.search(r'"/\w+/', path.read_text()), path


def test_the_recipe_replaces_the_packages_assets_only_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parents[2] / "scripts" / "avatars" / "recipe.py"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    main = runpy.run_path(str(script))["main"]
    work = ["--work", str(tmp_path / "work")]
    for words in (["assets"], ["all"], ["all", "--out", str(tmp_path / "new"), "--into-package"]):
        assert CliRunner().invoke(main, [*words, *work]).exit_code == 2
    found = CliRunner().invoke(main, ["assets", "--out", str(tmp_path), *work])
    assert (found.exit_code, str(tmp_path) in found.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []

"""The atlas: people with positions, labels, nearest neighbors and pictures, as Parquet and as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.test_outputs import w2w
from tests.hostile.hostile_names import HOSTILE, Page, require_shown_safely
from w2w_hub import WeightDataset, WeightSpace
from w2w_hub.errors import (
    AlreadyExistsError,
    DatasetChangedError,
    InvalidInputError,
    MissingExtraError,
    MissingPopulationError,
    UnknownNameError,
)
from w2w_hub.space.atlas import make_atlas
from w2w_hub.space.atlas import neighbors as neighbors_module
from w2w_hub.space.atlas.neighbors import nearest_neighbors

from .atlases import crowd, small_world
from .population import dataset_of, decaying

World = tuple[WeightSpace, WeightDataset]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small_world(tmp_path_factory.mktemp("atlas"))


def data_of(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)[0])
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 45), st.integers(0, 2**32 - 1), st.integers(1, 4000))
def test_neighbors_are_the_nearest_others_by_cosine(n: int, k: int, count: int, seed: int, block: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32)
    rows[0] = rows[-1]  # duplicates are neighbors, nobody is their own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors_module, "BLOCK_BYTES", block)
        ids, distances = nearest_neighbors(rows, count)
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    apart = 1 - unit @ unit.T
    np.fill_diagonal(apart, np.inf)
    wanted = np.sort(apart, 1)[:, : min(count, n - 1)]
    np.testing.assert_allclose(distances, wanted, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(apart, ids.astype(int), 1), wanted, atol=1e-5)
    assert all(len(set(row)) == len(row) and i not in row for i, row in enumerate(ids.tolist()))


def test_the_file_has_positions_labels_and_neighbors_of_all_people(world: World, tmp_path: Path) -> None:
    space, people = world
    population = space.require_population("row")
    make_atlas(space, people, neighbors=4).save(tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table) == ["id", "split", "Beard", "label_x", "Town", "Hair", "x", "y", "neighbors"]
    assert list(table["id"]) == list(population.ids)
    assert dict(table["split"].value_counts()) == {"train": 50, "test": 10}
    np.testing.assert_allclose(table[["x", "y"]], population.coefficients[:, :2], rtol=1e-6)
    given = people.labels.loc[list(population.ids)]
    assert table["Beard"].isna().tolist() == given["Beard"].isna().tolist()
    np.testing.assert_array_equal(table["label_x"], given["x"].to_numpy(float))
    assert list(table["Hair"]) == [str(value) for value in given["Hair"]]
    near = table["neighbors"][7]
    assert len(near["ids"]) == len(near["distances"]) == 4
    wanted = [name for name, _ in population.nearest(population.coefficients[7].astype(float), 60) if name != "p00007"]
    among = [name for name in (population.ids[i] for i in near["ids"]) if name in wanted]
    assert among == wanted[: len(among)]
    with pytest.raises(AlreadyExistsError):
        make_atlas(space).save(tmp_path / "a.parquet")


def test_stock_datasets_reads_the_types_and_pictures(world: World, tmp_path: Path) -> None:
    import datasets

    path = crowd(world[0], 30).save(tmp_path / "a.parquet")
    opened = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(opened.features["thumbnail"], datasets.Image)
    assert opened[3]["thumbnail"].size == (64, 64)
    assert opened[3]["neighbors"]["ids"] == [4, 5, 6, 7, 8, 9]
    assert opened.features["Beard"].dtype == "bool"
    told = json.loads(pq.read_schema(path).metadata[b"w2w.atlas"])
    assert told["space_digest"] == world[0].digest


def test_axes_are_components_or_what_directions_read(world: World) -> None:
    space, people = world
    population, beard = space.require_population("row"), space.direction("Beard")
    found = make_atlas(space, people, axes=["Beard", "PC3"])
    assert found.by == "directions"
    scores = population.coefficients.astype(float) @ beard.reading + beard.intercept
    np.testing.assert_allclose(found.positions, np.stack([scores, population.coefficients[:, 2]], 1), atol=1e-5)
    assert make_atlas(space, by="components", axes=["PC2", "PC5"]).axes == ("PC2", "PC5")
    for options in (
        {"by": "components", "axes": ["Beard", "PC1"]}, {"by": "directions"}, {"by": "umap", "axes": ["PC1", "PC2"]},
        {"axes": ["PC1"]}, {"axes": ["PC1", "PC1"]}, {"by": "tsne"}, {"neighbors": -1}, {"limit": 1}, {"axes": []},
    ):  # fmt: skip
        with pytest.raises(InvalidInputError):
            make_atlas(space, **options)
    with pytest.raises(UnknownNameError):
        make_atlas(space, axes=["Beerd", "PC1"])


def test_umap_that_is_not_installed_is_named_with_the_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError) as missing:
        make_atlas(world[0], by="umap")
    assert missing.value.name == "umap-learn"


@pytest.mark.slow  # numba compiles
def test_umap_places_people_who_are_alike_together(world: World) -> None:
    import umap  # noqa: F401

    one, same = (make_atlas(world[0], by="umap", neighbors=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.positions, same.positions)
    apart = np.linalg.norm(one.positions[:, None] - one.positions[one.neighbors], axis=2).mean()
    assert apart < 0.8 * np.linalg.norm(one.positions[:, None] - one.positions, axis=2).mean()


def test_a_limit_is_a_seeded_sample_whose_neighbors_are_in_it(world: World) -> None:
    space, people = world
    one, same, other = (make_atlas(space, people, limit=20, seed=seed) for seed in (1, 1, 2))
    assert one.ids == same.ids != other.ids
    assert len(one) == 20
    assert list(one.ids) == sorted(one.ids)
    assert one.neighbors.max() < 20
    assert list(one.labels.index) == list(one.ids)
    assert len(make_atlas(space, limit=1000)) == 60


def test_without_a_dataset_labels_are_what_the_space_reads(world: World) -> None:
    space = world[0]
    found = make_atlas(space)
    assert found.labeled_by == "space"
    assert found.labels["Beard"]["p00003"] == pytest.approx(space.read("p00003", "Beard"), abs=1e-5)


def test_what_has_no_map_is_refused(world: World, tmp_path: Path) -> None:
    space, _ = world
    with pytest.raises(MissingPopulationError):
        make_atlas(space.without_population())
    other = dataset_of(tmp_path / "other", decaying(20, 80, seed=3))
    with pytest.raises(DatasetChangedError):
        make_atlas(space, other)
    with pytest.raises(InvalidInputError) as many:
        crowd(space, 10_001, pictures=0).save_page(tmp_path / "a.html")
    assert many.value.name == "limit"
    assert not (tmp_path / "a.html").exists()


def test_names_of_strangers_are_text_on_the_page(world: World, tmp_path: Path) -> None:
    space = world[0]
    atlas = crowd(space, 20, ids=[f"{i}{HOSTILE}" for i in range(20)])
    atlas.labels.columns = pd.Index(["Beard", f"Age{HOSTILE}", f"Town{HOSTILE}"])
    atlas.labels.iloc[:, 2] = [f"</script><script>alert({i})</script>{HOSTILE}" for i in range(20)]
    page = atlas.save_page(tmp_path / "a.html").read_text("utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    seen, found = Page(page), data_of(page)
    assert not {"img", "iframe", "a"} & seen.tags
    assert not {"onerror", "onclick", "onload"} & seen.attributes
    assert not seen.links
    require_shown_safely(page)
    require_shown_safely(" ".join([*found["ids"], *(column["name"] for column in found["columns"])]))
    assert "</script>" in found["columns"][3]["levels"][0]
    atlas.save(tmp_path / "a.parquet")
    assert pd.read_parquet(tmp_path / "a.parquet")["id"][0] == f"0{HOSTILE}"


def test_the_command_writes_both_files_or_none(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, people = world
    space.save(tmp_path / "space")
    monkeypatch.chdir(tmp_path)
    w2w("atlas", "space", "--dataset", people.path, "--axes", "Beard,PC1", "--out", "a.parquet", "--html", "a.html")
    found = data_of(Path("a.html").read_text("utf-8"))
    assert found["columns"][found["first"]]["name"] == "Beard"
    assert found["pictures"] == []
    assert sum(level == "yes" for level in found["columns"][found["first"]]["levels"]) == 1
    assert -1 in found["columns"][found["first"]]["codes"]  # a person without a label
    w2w("atlas", "space", "--out", "a.parquet", status=2)
    w2w("atlas", "space", "--out", "b.parquet", "--html", "a.html", status=2)
    w2w("atlas", "space", "--html", "a.html", "--force")
    for bad in (
        [], ["--out", "c", "--html", "c"], ["--out", "c", "--by", "umap", "--axes", "PC1,PC2"],
        ["--out", "c", "--axes", "PC1"], ["--out", "c", "--base", "nowhere", "--no-pictures"],
        ["--out", "c", "--limit", "1"],
    ):  # fmt: skip
        w2w("atlas", "space", *bad, status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.parquet", "space"]

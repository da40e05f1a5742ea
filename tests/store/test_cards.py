"""What a card says: files by split, sizes, notes of others kept, figures in their own columns."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from w2w_hub import WeightDataset
from w2w_hub.common.limits import MAX_CARD_METADATA
from w2w_hub.dataset.card import dataset_card, dataset_configs, updated_card, view_files
from w2w_hub.dataset.manifest import DatasetManifest
from w2w_hub.space.card import HubFacts, related_repositories, space_card
from w2w_hub.space.directions.direction import read_out_of
from w2w_hub.store.cards import RENDERED, is_rendered, join_card, mark_rendered, size_category, split_card


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9_999, "1K<n<10K"), (10_000, "10K<n<100K"),
        (99_999, "10K<n<100K"), (100_000, "100K<n<1M"), (999_999, "100K<n<1M"), (1_000_000, "1M<n<10M"),
    ],
)  # fmt: skip
def test_a_size_is_the_hubs_category(rows: int, expected: str) -> None:
    assert size_category(rows) == expected


def test_a_splits_view_is_its_own_files_in_order() -> None:
    files = [
        "parquet/test.parquet", "parquet/train-00001.parquet", "parquet/train.parquet", "parquet/train-00000.parquet",
        "parquet/trained.parquet", "labels/train.parquet", "parquet/train2-00000.parquet",
    ]  # fmt: skip
    names = dict.fromkeys(files)
    expected = ["parquet/train.parquet", "parquet/train-00000.parquet", "parquet/train-00001.parquet"]
    assert view_files(names, "train") == expected
    del names["parquet/train.parquet"]
    assert view_files(names, "train") == expected[1:]
    assert view_files(names, "test") == ["parquet/test.parquet"]
    assert view_files(names, "none") == []


@pytest.fixture
def manifest(make_dataset: Callable[..., WeightDataset]) -> DatasetManifest:
    return make_dataset().manifest


def test_the_configurations_name_every_split_and_one_is_the_default(manifest: DatasetManifest) -> None:
    labels = [{"split": s, "path": f"labels/{s}.parquet"} for s in manifest.splits]
    several = {"parquet/train-00000.parquet": {}, "parquet/train-00001.parquet": {}, "parquet/test.parquet": {}}
    [weights, other] = dataset_configs(replace_files(manifest, several))
    assert weights["default"] is True
    assert {f["split"]: f["path"] for f in weights["data_files"]} == {
        "train": ["parquet/train-00000.parquet", "parquet/train-00001.parquet"], "test": "parquet/test.parquet",
    }  # fmt: skip
    assert other == {"config_name": "labels", "data_files": labels}
    [only] = dataset_configs(replace_files(manifest, {}))
    assert only == {"config_name": "labels", "data_files": labels, "default": True}


def replace_files(manifest: DatasetManifest, files: dict[str, Any]) -> Any:
    return SimpleNamespace(files=files, splits=manifest.splits)


def test_a_card_is_split_and_joined_and_compared_by_what_it_says() -> None:
    metadata, body = {"license": "mit", "tags": ["a", "b"]}, "# Name\n\n---\ntext\n"
    card = join_card(metadata, body)
    assert split_card(card) == (metadata, body)
    assert split_card(body) == ({}, body)
    assert split_card("---\n- a\n---\nx") == ({}, "x")
    assert split_card("---\na: [\n---\nx") == ({}, "x")
    rendered = mark_rendered(metadata, body)
    assert is_rendered(rendered)
    assert not is_rendered(card)
    marked = split_card(rendered)[0]
    respelled = f"---\ntags: [a, b]\n{RENDERED}: '{marked[RENDERED]}'\nlicense: 'mit'\n---\n{body}"
    assert is_rendered(respelled)
    assert not is_rendered(join_card(marked | {"license": "other"}, body))
    assert not is_rendered(join_card(marked | {"more": 1}, body))
    assert not is_rendered(join_card(marked, body + "more"))
    assert mark_rendered(marked, body) == rendered
    spelled = json.dumps({"license": "mit", "tags": ["a", "b"]}, sort_keys=True, separators=(",", ":"))
    assert marked[RENDERED] == hashlib.sha256(f"{spelled}\n{body}".encode()).hexdigest()  # in cards of every release
    large = f"---\na: {'x' * MAX_CARD_METADATA}\n---\nx"
    assert split_card(large) == ({}, "x")
    fits = f"---\na: {'x' * (MAX_CARD_METADATA - 4)}\n---\nx"
    assert split_card(fits)[0]["a"].startswith("xxx")


def test_a_card_of_a_new_state_is_rendered_unless_somebody_wrote_in_it(
    make_dataset: Callable[..., WeightDataset], tmp_path: Path
) -> None:
    old = make_dataset().manifest
    new = replace(old, rows=1006, splits={**old.splits, "train": old.splits["train"] + 1000}, version="2.0.0")
    new.splits["more"] = 0
    folder = tmp_path / "card"
    folder.mkdir()
    fresh = dataset_card(new)
    assert updated_card(folder, new) == fresh
    card = folder / "README.md"
    data, body = split_card(dataset_card(old))
    untouched = [dataset_card(old), f"---\n{yaml.safe_dump(data, sort_keys=True, default_flow_style=True)}---\n{body}"]
    for text in (*untouched, "no metadata at all\n"):
        card.write_text(text, encoding="utf-8")
        assert updated_card(folder, new) == fresh
    for text in (dataset_card(old) + "\nNotes.\n", join_card(data | {"license": "mine"}, body)):
        card.write_text(text, encoding="utf-8")
        found, kept = split_card(updated_card(folder, new))
        assert RENDERED not in found
        assert kept == split_card(text)[1]
        assert found["configs"] == dataset_configs(new) != dataset_configs(old)
        assert found["size_categories"] == ["1K<n<10K"]
        assert found["license"] == split_card(text)[0]["license"]


def test_a_datasets_card_states_its_manifest(manifest: DatasetManifest) -> None:
    base = replace(manifest.compatibility, base_model="some/model", base_digest="d" * 64)
    given = replace(
        manifest, licence="cc-by-4.0", float16_max_error=0.000123, compatibility=base,
        view={"dtype": "float16", "max_error": 0.00456},
    )  # fmt: skip
    card = dataset_card(given)
    data, body = split_card(card)
    assert data["license"] == "cc-by-4.0"
    assert data["pretty_name"] == given.name
    assert data["size_categories"] == ["n<1K"]
    lines = {cells[1].strip(): cells[2] for cells in (line.split("|") for line in body.splitlines()) if len(cells) == 4}
    assert "d" * 64 in lines["base digest"]
    assert "some/model" in lines["base model"]
    assert "0.00012" in lines["weights"]
    assert "0.0046" in lines["Parquet view"]
    assert given.digest in lines["dataset digest"]
    assert given.layout.digest in lines["layout digest"]
    assert f"{given.splits['train']}" in body
    assert "0.00012" not in dataset_card(manifest)
    if len(dataset_configs(given)) > 1:
        assert "0.0046" in body
        exact = dataset_card(replace(given, view={"dtype": "float32", "max_error": 0.0}))
        assert "exactly" in exact
        assert "exactly" not in body


def test_a_label_table_has_no_empty_column(make_dataset: Callable[..., WeightDataset]) -> None:
    bare = dataset_card(make_dataset().manifest)
    assert "| label | kind |\n" in bare
    with_unit = dataset_card(make_dataset("units", column_info={"Age": {"unit": "years"}}).manifest)
    assert "| label | kind | unit |\n" in with_unit
    assert "| `Age` | float | years |" in with_unit
    table = pd.DataFrame({"id": [f"p{i}" for i in range(6)]})
    assert "| label" not in dataset_card(make_dataset("none", labels=table).manifest)


@pytest.mark.parametrize(
    ("stated", "given", "license", "shown"),
    [
        ("unknown", ["mit"] * 6, "mit", ["mit"]),
        ("unknown", ["mit"] * 4 + ["cc-by-4.0", None], "other", ["mit 4", "cc-by-4.0 1", "not stated 1"]),
        ("unknown", [None] * 6, "unknown", ["not stated"]),
        ("mit", [None] * 6, "mit", ["mit"]),
        ("mit", ["mit"] * 6, "mit", ["mit"]),
        ("mit", ["cc0-1.0"] * 6, "mit", ["mit", "cc0-1.0"]),
    ],
)
def test_a_dataset_has_the_license_that_it_states_or_else_its_rows(
    stated: str, given: list[str | None], license: str, shown: list[str], make_dataset: Callable[..., WeightDataset]
) -> None:
    table = pd.DataFrame({"id": [f"p{i}" for i in range(6)], "licence": given})
    dataset = make_dataset(labels=table, license=stated)
    assert dataset.license == license
    data, body = split_card((dataset.path / "README.md").read_text("utf-8"))
    assert data["license"] == license
    assert ("license_name" in data) == (license == "other")
    row = cells(body, "license")[1]
    assert all(text in row for text in shown), row


NUMBERS = itertools.count()


def direction(**given: Any) -> SimpleNamespace:
    vector = np.eye(64)[next(NUMBERS) % 64]  # no two say the same
    plain = {
        "score": 0.75,
        "kind": "binary",
        "interval": (0.61, 0.89),
        "held_out_rows": 17,
        "sd": 1.25,
        "unreliable": "",
        "level": None,
        "editing": vector,
        "reading": vector,
        "curve": None,
        "picture_curve": None,
        "slider": None,
        "typical": None,
    }
    found = SimpleNamespace(**plain | given)
    found.read_out = read_out_of(found.kind, None)
    return found


def space(**given: Any) -> dict[str, Any]:
    return {
        "name": "space", "version": "1.0.0", "licence": "mit", "digest": "a" * 64, "k": 5, "layout": {"size": 1234},
        "format": "w2w-space",
        "files": {}, "compatibility": {"base_model": "org/base"},
        "recipe": {
            "dataset": "org/people", "dataset_version": "3.0.0", "dataset_digest": "b" * 64, "rows": 40,
            "algorithm": "gram", "standardised": True,
        },
        "diagnostics": {
            "explained_variance": {"1": 0.111, "5": 0.555}, "largest_residual": 1.5e-9, "orthogonality_error": 2.5e-7,
            "held_out": {"rows": 12, "explained_variance": {"1": 0.222, "5": 0.444}},
            "nulls": {"gaussian_spectrum": {"1": 0.033, "5": 0.066}},
        },
    } | given  # fmt: skip


def cells(card: str, first: str) -> list[str]:
    [line] = [line for line in card.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_spaces_card_has_every_figure_in_its_column(tmp_path: Path) -> None:
    card = space_card(
        space(),
        [
            ("Beard", direction(typical=4.5)), ("Age", direction(kind="float", score=0.5)),
            ("Odd", direction(unreliable="too few rows", score=None, interval=None)),
        ],
        tmp_path,
    )  # fmt: skip
    data, _ = split_card(card)
    assert (data["license"], data.get("base_model"), data.get("datasets")) == ("mit", None, None)
    assert cells(card, "dataset |")[1] == "org/people 3.0.0"
    assert cells(card, "1") == ["1", "0.111", "0.222", "0.033"]
    assert cells(card, "5") == ["5", "0.555", "0.444", "0.066"]
    assert cells(card, "Beard") == ["Beard", "0.750", "0.610 to 0.890", "17", "1.25", "4.5", "-"]
    assert cells(card, "Age")[1] == "R² 0.500"
    assert cells(card, "Odd") == ["Odd", "-", "-", "17", "1.25", "-", "-"]
    assert cells(card, "largest residual, orthogonality error")[1] == "1.5e-09, 2.5e-07"
    assert "12 held-out rows" in card
    assert card.count("too few rows") == 1
    assert card.count("unreliable") == 1
    assert cells(card, "rows before PCA")[1] == "standardised"
    assert "```python" not in card


def test_a_spaces_card_says_what_was_done_to_the_rows_and_what_is_missing(tmp_path: Path) -> None:
    recipe = space()["recipe"]
    card = space_card(space(recipe=recipe | {"standardised": False, "canonical": "svd"}), [], tmp_path)
    before = cells(card, "rows before PCA")[1]
    assert "centred only" in before
    assert "canonical" in before
    assert "unreliable" not in card
    diagnostics = {"no_direction": {"Hair": "one class only"}}
    card = space_card(space(diagnostics=diagnostics), [], tmp_path)
    assert "Hair" in card
    assert "one class only" in card
    assert cells(card, "largest residual, orthogonality error")[1] == "not stated, not stated"


def test_a_spaces_card_shows_how_to_draw_only_with_a_base_model(tmp_path: Path) -> None:
    files = {"w2w_pipeline.json": {}, "previews/b.png": {}, "previews/a.png": {}}
    card = space_card(space(files=files), [("Beard", direction()), ("Age", direction())], tmp_path)
    assert "W2WPipeline.from_pretrained" in card
    assert card.index("previews/a.png") < card.index("previews/b.png")
    assert 'pipe.edit({"Beard": 3.0})' in card
    assert cells(card, "base model")[1] == "org/base"
    assert "pipe.edit" not in space_card(space(files=files), [], tmp_path)
    embedded = space_card(space(files=files | {"model_index.json": {}}), [], tmp_path)
    assert cells(embedded, "base model")[1] == "embedded"


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("org/base", True), ("a1/b.c-d_e", True), ("base", False), ("a/b/c", False), ("/a/base", False),
        ("./a", False),
        ("a b/c", False), ("a/", False), ("ü/b", False), (None, False),
    ],
)  # fmt: skip
def test_only_names_of_repositories_that_are_known_to_be_there_are_related(
    name: str | None, fits: bool, tmp_path: Path
) -> None:
    (tmp_path / "w2w_pipeline.json").write_text(json.dumps({"base_model": name, "revision": "0" * 40}))
    opened = {"dataset_revision": {"repo": name, "revision": "v1.0.0", "commit": "0" * 40}}
    stated = space(recipe=opened, files={"w2w_pipeline.json": {"size": 1}})
    found = related_repositories(stated, tmp_path)
    assert found == ({"base_model": [name], "datasets": [name]} if fits else {})
    embedded = space(compatibility={"base_model": name})
    assert related_repositories(embedded, tmp_path) == {}
    assert related_repositories(embedded, tmp_path, HubFacts("a/b", base_model=name)) == (
        {"base_model": [name]} if fits else {}
    )


def test_a_published_card_links_the_dataset_and_a_local_one_names_it(tmp_path: Path) -> None:
    stated = space()
    stated["recipe"]["dataset_revision"] = {"repo": "org/people", "revision": "v3.0.0", "commit": "0" * 40}
    assert cells(space_card(stated, [], tmp_path), "dataset |")[1] == "org/people v3.0.0"
    links = HubFacts("lab/space", "faces", ("lab/crowd", "v1.2.0"))
    card = space_card(stated, [], tmp_path, links)
    assert cells(card, "dataset |")[1].endswith("/datasets/lab/crowd/tree/v1.2.0)")
    assert split_card(card)[0]["datasets"] == ["lab/crowd"]
    assert "# faces 1.0.0" in card
    odd = HubFacts("lab/space", None, ("lab/crowd", "](x) v"))
    assert "](x)" not in space_card(stated, [], tmp_path, odd)


def test_a_card_shows_the_settings_that_pipelines_use_and_how_stock_diffusers_draws(tmp_path: Path) -> None:
    (tmp_path / "w2w_pipeline.json").write_text(
        json.dumps({"base_model": "embedded", "generation": {"num_inference_steps": 15, "guidance_scale": 2.0}})
    )
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    files = {"w2w_pipeline.json": {"size": 3}, "model_index.json": {"size": 4}}
    card = space_card(space(files=files), [], tmp_path)
    assert card.count("num_inference_steps=15, guidance_scale=2.0") == 2
    assert "StableDiffusionPipeline.from_pretrained" in card
    assert cells(card, "files")[1] == "2 files, 7 bytes"
    for fence in card.split("```python")[1:]:
        compile(fence.split("```")[0], "card", "exec")


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_the_hubs_own_reader_of_cards_takes_ours(
    kind: str, make_dataset: Callable[..., WeightDataset], tmp_path: Path
) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    if kind == "dataset":
        text = dataset_card(make_dataset().manifest, {"mit": 3, None: 3}, title="faces", repo="org/faces")
        data = DatasetCard(text).data
        assert (data.pretty_name, data.license, data.license_name) == ("faces", "other", "mixed")
    else:
        links = HubFacts("org/space", None, ("org/people", "v1.0.0"), "org/base")
        text = space_card(space(), [("Beard", direction())], tmp_path, links)
        data = ModelCard(text).data
        assert (data.license, data.datasets, data.base_model) == ("mit", ["org/people"], ["org/base"])
        assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert data.to_dict() == split_card(text)[0]

"""Every option of a command reaches what it is for: with it and without it the result differs, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from w2w_hub import WeightDataset, WeightSpace, read_adapter, write_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.lora.adapter import Adapter
from w2w_hub.lora.layout import ParameterLayout
from w2w_hub.space.identity import resolve
from w2w_hub.space.points import load_point

SHARED = Compatibility("org/base", None, "seed-0")


def w2w(*words: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, (words, result.output, result.exception)
    return result


def told(*words: object) -> Any:
    return json.loads(w2w(*words, "--json").stdout)


@pytest.fixture
def people(make_dataset: Callable[..., WeightDataset]) -> Path:
    return Path(str(make_dataset(compatibility=SHARED).path))


@pytest.fixture
def crowd(layout: ParameterLayout, tmp_path: Path, saved: Callable[..., Path]) -> Path:
    """Forty rows that move along what their labels say, with noise."""

    def write(path: Path) -> None:
        rng = np.random.default_rng(0)
        age, beard = rng.uniform(20, 60, 40), rng.random(40) < 0.5
        ways = rng.normal(size=(2, layout.size))
        rows = (
            np.outer((age - 40) / 10, ways[0]) + np.outer(beard, 2 * ways[1]) + rng.normal(size=(40, layout.size)) + 5
        )
        table = pd.DataFrame({"id": [f"p{i}" for i in range(40)], "Age": age, "Beard": beard})
        table["Hair"] = ["red" if i % 3 == 0 else "grey" for i in range(40)]
        table["split"] = ["test" if i % 4 == 3 else "train" for i in range(40)]
        write_dataset(
            rows.astype(np.float32),
            path,
            layout=layout,
            ids=table["id"],
            labels=table,
            name="crowd",
            compatibility=SHARED,
        )

    return shutil.copytree(saved("crowd for options", write), tmp_path / "crowd")


@pytest.fixture
def space(crowd: Path, tmp_path: Path, saved: Callable[..., Path]) -> Path:
    written = saved("space for options", lambda path: w2w("build", crowd, "--k", 3, "--out", path))
    return shutil.copytree(written, tmp_path / "space")


# ---------------------------------------------------------------- pack, add, remove, relabel
@pytest.fixture
def loras(tmp_path: Path, layout: ParameterLayout) -> list[Path]:
    for i in range(4):
        vector = np.random.default_rng(i).normal(size=layout.size)
        write_adapter(layout.unflatten(vector), tmp_path / "loras" / f"l{i}", ("peft",))
    return sorted((tmp_path / "loras").iterdir())


def test_packing_records_what_was_stated(loras: list[Path], tmp_path: Path, layout: ParameterLayout) -> None:
    plain = told("pack", *loras, "--out", tmp_path / "plain")
    assert (plain["rows"], plain["dtype"], plain["version"], plain["rescaled"]) == (4, "float32", "0.1.0", 0)
    manifest = WeightDataset.open(tmp_path / "plain").manifest
    assert (manifest.licence, manifest.compatibility.initialisation) == ("unknown", "unknown")
    assert WeightDataset.open(tmp_path / "plain").has_view
    stated = told(
        "pack", *loras, "--out", tmp_path / "stated", "--version", "1.2.3", "--licence", "mit", "--initialisation", "s",
        "--view", "float32",
    )  # fmt: skip
    opened = WeightDataset.open(tmp_path / "stated")
    assert (stated["version"], opened.manifest.version) == ("1.2.3", "1.2.3")
    assert (opened.manifest.licence, opened.manifest.compatibility.initialisation) == ("mit", "s")
    assert opened.has_view
    views = [sum(f.stat().st_size for f in (tmp_path / n / "parquet").rglob("*")) for n in ("plain", "stated")]
    assert views[0] < views[1]
    assert stated["digest"] == opened.manifest.digest
    assert stated["size"] == layout.size
    step = w2w("pack", *loras, "--out", tmp_path / "again").stderr
    assert "--k 3" in step  # four rows, of which the mean takes one


def test_the_split_follows_its_column_share_and_seed(loras: list[Path], tmp_path: Path) -> None:
    labels = tmp_path / "l.csv"
    labels.write_text("id,person\n" + "".join(f"l{i},x{i}\n" for i in range(4)))
    found = {}
    for seed in range(6):
        found[seed] = told(
            "pack", *loras, "--out", tmp_path / f"s{seed}", "--labels", labels, "--split-by", "person", "--holdout",
            0.25, "--split-seed", seed, "--view", "none",
        )["splits"]  # fmt: skip
        assert found[seed] == {"train": 3, "test": 1}
    chosen = {tuple(WeightDataset.open(tmp_path / f"s{seed}").labels["split"]) for seed in range(6)}
    assert len(chosen) > 1
    half = told("relabel", tmp_path / "s0", "--split-by", "person", "--holdout", 0.5)["splits"]
    assert half == {"train": 2, "test": 2}
    assert w2w("relabel", tmp_path / "s0", "--holdout", 0.5, "--drop", "person", status=2).stdout == ""


def test_a_dataset_grows_and_shrinks_by_what_was_named_under_the_new_version(
    people: Path, make_dataset: Callable[..., WeightDataset], tmp_path: Path, layout: ParameterLayout
) -> None:
    other = make_dataset("other", prefix="q", seed=1, compatibility=SHARED)
    assert told("add", people, other.path, "--version", "0.3.0")["version"] == "0.3.0"
    (tmp_path / "gone.txt").write_text("q1\nq2\n")
    assert told("remove", people, "p0", "--ids", tmp_path / "gone.txt", "--version", "0.4.0")["version"] == "0.4.0"
    assert sorted(WeightDataset.open(people).ids) == ["p1", "p2", "p3", "p4", "p5", "q0", "q3", "q4", "q5"]
    assert told("remove", people, "q0")["version"] == "0.4.0"
    write_adapter(layout.unflatten(np.ones(layout.size)), tmp_path / "one", ("peft",))
    (tmp_path / "l.csv").write_text("id,Age,Size\none,33,3.5\n")
    told("add", people, tmp_path / "one", "--labels", tmp_path / "l.csv", "--initialisation", "seed-0", "--unit",
         "Size=m", "--column-source", "Size=a ruler", "--unit", "Age=years")  # fmt: skip
    opened = WeightDataset.open(people)
    assert opened.labels.loc["one", "Age"] == 33
    assert opened.manifest.column_info["Size"] == {"unit": "m", "source": "a ruler"}
    assert opened.manifest.column_info["Age"] == {"unit": "years"}
    assert w2w("remove", people, "p1", "--ids", tmp_path / "none.txt", status=2).stdout == ""
    assert "p1" in WeightDataset.open(people).ids


def test_labels_change_one_thing_at_a_time(people: Path, tmp_path: Path) -> None:
    assert told("relabel", people, "--drop", "Beard", "--drop", "Hair", "--version", "0.2.0")["version"] == "0.2.0"
    assert list(WeightDataset.open(people).manifest.columns) == ["Age"]
    w2w("relabel", people, "--column-source", "Age=asked")
    assert WeightDataset.open(people).manifest.column_info["Age"] == {"source": "asked"}
    (tmp_path / "l.csv").write_text("id,Age\np0,99\n")
    w2w("relabel", people, "--labels", tmp_path / "l.csv")
    assert WeightDataset.open(people).labels["Age"].tolist()[:2] == [99, 31.5]
    before = WeightDataset.open(people).labels["split"].tolist()
    w2w("relabel", people, "--split-by", "source")
    assert WeightDataset.open(people).labels["split"].tolist() != before
    for words in (("--unit", "Age"), ("--unit", "=x"), ("--unit", "Age= "), ()):
        w2w("relabel", people, *words, status=2)


# ---------------------------------------------------------------- verify, diff, dedupe
def test_verifying_is_deep_only_when_asked_and_tells_by_its_status(people: Path) -> None:
    manifest = json.loads((people / "manifest.json").read_text("utf-8"))
    shard = next(name for name in manifest["files"] if name.startswith("weights.zarr/weights/c/"))
    assert [told("verify", people, *deep)["deep"] for deep in ((), ("--deep",))] == [False, True]
    data = bytearray((people / shard).read_bytes())
    data[0] ^= 1
    (people / shard).write_bytes(data)
    w2w("verify", people)
    assert json.loads(w2w("verify", people, "--deep", "--json", status=2).stdout)["ok"] is False
    assert w2w("verify", people, "--deep", status=2).stdout == ""
    w2w("verify", people, "--rebuild", status=2)  # which is for locks


def test_a_difference_is_told_from_the_first_to_the_second(
    people: Path, make_dataset: Callable[..., WeightDataset], tmp_path: Path
) -> None:
    old = shutil.copytree(people, tmp_path / "old")
    other = make_dataset("other", prefix="q", seed=1, compatibility=SHARED)
    w2w("add", people, other.path)
    w2w("remove", people, "p0")
    found = told("diff", old, people)
    assert sorted(found["added"]) == [f"q{i}" for i in range(6)]
    assert (found["removed"], found["level"]) == (["p0"], "major")
    lines = w2w("diff", old, people).stdout.splitlines()
    assert any(line.startswith("6 added") and "q0" in line for line in lines)
    assert any(line.startswith("1 removed") and "p0" in line for line in lines)
    assert w2w("diff", old, old).stdout == "no difference\n"
    assert told("diff", old, old)["changes"] == []


def test_duplicates_are_found_by_the_cosine_and_about_the_centre_that_were_asked_for(
    tmp_path: Path, layout: ParameterLayout
) -> None:
    rng, folder = np.random.default_rng(1), tmp_path / "twins"
    rows = rng.normal(size=(40, layout.size)).astype(np.float32) + 5
    rows[1] = rows[0]
    rows[3] = rows[2] + 0.4 * rng.normal(size=layout.size).astype(np.float32)
    write_dataset(rows, folder, layout=layout, ids=[f"p{i}" for i in range(40)], name="twins")

    def pairs(*words: object) -> list[list[str]]:
        return [sorted(pair["ids"]) for pair in told("dedupe", folder, *words)["near"]]

    assert ["p2", "p3"] not in pairs("--cosine", 0.999)
    assert ["p2", "p3"] in pairs("--cosine", 0.8)
    assert len(pairs("--cosine", 0.8)) < 5
    assert len(pairs("--cosine", 0.8, "--not-centred")) > 100
    assert pairs("--cosine", 0.8, "--exact-only") == []
    found = told("dedupe", folder)
    assert (found["exact"], found["removed"]) == ([["p0", "p1"]], [])
    assert len(WeightDataset.open(folder)) == 40
    assert told("dedupe", folder, "--remove")["removed"] == ["p1"]
    assert sorted(WeightDataset.open(folder).ids) == sorted(f"p{i}" for i in range(40) if i != 1)


# ---------------------------------------------------------------- build and what is read of a space
def test_each_option_of_a_build_is_in_its_recipe_or_its_result(crowd: Path, tmp_path: Path) -> None:
    options: dict[str, tuple[object, ...]] = {
        "plain": (), "split": ("--split", "test"), "centred": ("--no-standardize",), "svd": ("--canonical", "svd"),
        "krylov": ("--solver", "krylov"), "seeded": ("--solver", "krylov", "--seed", 5),
        "loose": ("--solver", "krylov", "--tolerance", 0.5),
    }  # fmt: skip
    found = {
        name: told("build", crowd, "--k", 2, "--no-directions", *words, "--out", tmp_path / name)
        for name, words in options.items()
    }
    recipes = {json.dumps(built["recipe"], sort_keys=True) for built in found.values()}
    assert len(recipes) == len(found)
    assert len({found[name]["digest"] for name in ("plain", "split", "centred", "svd")}) == 4
    assert (found["plain"]["recipe"]["rows"], found["split"]["recipe"]["rows"]) == (30, 10)
    assert all(built["k"] == 2 and not built["directions"] for built in found.values())
    assert WeightSpace.from_pretrained(tmp_path / "plain").version == "0.1.0"
    full = told("build", crowd, "--version", "2.0.0", "--out", tmp_path / "full")
    assert set(full["directions"]) == {"Age", "Beard", "Hair=red", "Hair=grey"}
    assert full["k"] == 29
    assert WeightSpace.from_pretrained(tmp_path / "full").version == "2.0.0"
    for words in (("--seed", -1), ("--k", 0)):
        w2w("build", crowd, *words, "--out", tmp_path / "x", status=2)


def test_a_rebuild_is_compared_only_when_asked_and_written_where_asked(
    crowd: Path, space: Path, tmp_path: Path
) -> None:
    assert told("rebuild", space, "--dataset", crowd, "--check")["identical"] is True
    assert not list(tmp_path.glob("again*"))
    found = told("rebuild", space, "--dataset", crowd, "--out", tmp_path / "again")
    published, again = (WeightSpace.from_pretrained(path) for path in (space, tmp_path / "again"))
    assert again.digest == found["rebuilt_digest"] == found["digest"]
    assert {n: d.evidence() for n, d in again.directions.items()} == {
        n: d.evidence() for n, d in published.directions.items()
    }
    w2w("rebuild", space, "--dataset", crowd, status=2)
    w2w("rebuild", space, "--dataset", crowd, "--check", "--out", tmp_path / "again", status=2)


def test_a_space_is_rebuilt_by_the_engine_of_its_recipe_unless_another_is_named(crowd: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    w2w("build", crowd, "--k", 2, "--no-directions", "--engine", "torch", "--out", tmp_path / "torch")
    engines = {}
    for name, words in {"same": (), "other": ("--engine", "numpy")}.items():
        w2w("rebuild", tmp_path / "torch", "--dataset", crowd, "--out", tmp_path / name, *words)
        engines[name] = WeightSpace.from_pretrained(tmp_path / name).recipe["engine"]
    assert engines == {"same": "torch", "other": "numpy"}


def test_what_is_near_and_what_is_read_is_what_the_space_says(space: Path) -> None:
    opened = WeightSpace.from_pretrained(space)
    assert "p1" not in [row["row"] for row in told("nearest", space, "p1", "--count", 2)]
    assert [len(told("nearest", space, "p1", *words)) for words in ((), ("-n", 1), ("-n", 2))] == [3, 1, 2]
    point = resolve(opened, "p4").point
    found = told("read", space, "p4")
    assert set(found["attributes"]) == set(opened.directions)
    assert found["distance"] == pytest.approx(opened.distance(point))
    assert found["mahalanobis"] == pytest.approx(opened.mahalanobis(point))
    assert found["largest_distance"] == pytest.approx(opened.largest_distance)
    assert found["distance"] != found["mahalanobis"]
    assert "entanglement" not in told("directions", space)
    assert "entanglement" in told("directions", space, "--entanglement")


def test_a_report_shows_more_with_its_dataset(crowd: Path, space: Path, tmp_path: Path) -> None:
    w2w("report", space, "--out", tmp_path / "without")
    w2w("report", space, "--out", tmp_path / "with", "--dataset", crowd)
    pages = [(tmp_path / name / "report.html").stat().st_size for name in ("without", "with")]
    assert pages[1] > pages[0]


# ---------------------------------------------------------------- sample, edit, export, convert
def test_samples_differ_by_seed_and_spread_and_are_as_many_as_asked_for(space: Path, tmp_path: Path) -> None:
    def drawn(name: str, *words: object) -> list[np.ndarray]:
        w2w("sample", space, "--out", tmp_path / name, *words)
        return [load_point(file).coefficients for file in sorted((tmp_path / name).iterdir())]

    one, again, other = drawn("a", "-n", 2), drawn("b", "-n", 2, "--seed", 0), drawn("c", "-n", 2, "--seed", 1)
    assert len(one) == 2
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    mean = WeightSpace.from_pretrained(space).sample(1, 0, 0.0)[0].coefficients
    half = drawn("d", "-n", 2, "--truncation", 0.5)
    np.testing.assert_allclose(half - mean, (one - mean) / 2, rtol=1e-4, atol=1e-6)
    assert len(drawn("e")) == 1
    assert [file.suffix for file in (tmp_path / "a").iterdir()] == [".json"] * 2
    for words in (("--seed", -1), ("-n", 0), ("--truncation", "nan")):
        w2w("sample", space, "--out", tmp_path / "x", *words, status=2)


def test_an_edit_is_by_its_strengths_and_preserves_what_it_is_told_to(space: Path, tmp_path: Path) -> None:
    def edited(name: str, *words: object) -> np.ndarray:
        w2w("edit", space, "p1", *words, "--out", tmp_path / f"{name}.json")
        return load_point(tmp_path / f"{name}.json").coefficients

    none, one, two = edited("none", "Age=0"), edited("one", "Age=1"), edited("two", "Age=+2")
    np.testing.assert_allclose(two - none, 2 * (one - none), rtol=1e-4)
    np.testing.assert_allclose(edited("back", "Age=-1") - none, none - one, rtol=1e-4)
    kept = edited("kept", "Age=1", "--preserve", "Beard")
    assert not np.allclose(kept, one)
    assert not np.allclose(edited("both", "Age=1", "Beard=1"), one)
    assert not np.allclose(edited("level", "Hair=red=1"), none)
    near, far = (
        w2w("edit", space, "p1", "Age=0", "--out", tmp_path / "n.json"),
        w2w("edit", space, "p1", "Age=60", "--out", tmp_path / "f.json"),
    )
    assert "smaller strength" not in near.stderr
    assert "smaller strength" in far.stderr
    for words in (("Age=nan",), ("Age=inf",), ("=1",), ("Age",), ("Age=1", "Age=2")):
        w2w("edit", space, "p1", *words, "--out", tmp_path / "x.json", status=2)


def test_an_export_states_its_base_and_is_in_the_dialects_that_were_asked_for(space: Path, tmp_path: Path) -> None:
    w2w("export", space, "p1", "--out", tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    w2w("export", space, "p1", "--dialect", "kohya", "--dialect", "peft", "--out", tmp_path / "two")
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {"kohya_lora.safetensors", "adapter_config.json", "adapter_model.safetensors"}


def test_conversion_and_inspection_pass_on_what_is_stated_of_a_checkpoint(adapter: Adapter, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_adapter(adapter, tmp_path / "lora", ("peft",))
    w2w("convert", tmp_path / "lora", "--to", "kohya", "--rank", 1, "--out", tmp_path / "one.safetensors")
    assert {pair.A.shape[0] for pair in read_adapter(tmp_path / "one.safetensors").factors.values()} == {1}
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config | {"r": 4, "lora_alpha": 8}))
    w2w("inspect", tmp_path / "lora", status=2)
    w2w("convert", tmp_path / "lora", "--to", "kohya", "--out", tmp_path / "x.safetensors", status=2)
    believed = told("inspect", tmp_path / "lora", "--believe", "tensors")
    assert believed["rank"] == [2]
    w2w("convert", tmp_path / "lora", "--believe", "tensors", "--to", "kohya", "--out", tmp_path / "b.safetensors")
    tensors = {k: v for k, v in load_file(tmp_path / "one.safetensors").items() if not k.endswith("alpha")}
    save_file(tensors, tmp_path / "bare.safetensors")
    for alpha in (1.0, 5.0):
        assert told("inspect", tmp_path / "bare.safetensors", "--alpha", alpha)["scale"] == [alpha]
        out = tmp_path / f"alpha-{alpha}.safetensors"
        w2w("convert", tmp_path / "bare.safetensors", "--alpha", alpha, "--to", "kohya", "--out", out)
        assert {pair.scale for pair in read_adapter(out).factors.values()} == {alpha}


def test_a_misfit_is_status_1_and_what_cannot_be_read_status_2_wherever_it_stands(
    adapter: Adapter, people: Path, tmp_path: Path
) -> None:
    write_adapter(adapter, tmp_path / "fits", ("peft",))
    layout = ParameterLayout(dict.fromkeys(adapter.factors, (1, 6, 7)), 3.0)
    write_adapter(layout.unflatten(np.ones(layout.size)), tmp_path / "other", ("peft",))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "adapter_config.json").write_text("{")
    fits, other, bad = (tmp_path / name for name in ("fits", "other", "bad"))
    against = ("--against", people)
    w2w("inspect", fits, *against)
    w2w("inspect", other, *against, status=1)
    for words in ((fits, other), (other, fits), (other, other)):
        w2w("inspect", *words, *against, status=1)
    for words in ((bad, fits), (fits, bad), (other, bad), (bad, other)):
        w2w("inspect", *words, *against, status=2)
    w2w("inspect", bad, status=2)
    rows = [json.loads(line) for line in w2w("inspect", fits, other, "--json").stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(fits), str(other)]
    assert {row["kind"] for row in rows} == {"adapter"}
    assert rows[1].get("initialisation_cosine") is None or rows[0].get("initialisation_cosine") is None

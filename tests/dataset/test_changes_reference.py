"""Datasets as they are cut, grown, compared and shared out, held to plain references."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import ParameterLayout, WeightDataset, add_rows, pack_adapters, write_adapter, write_dataset
from w2w_hub.dataset import SplitRule, diff, find_duplicates, relabel_rows, remove_rows
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.dataset.matrix.geometry import CHUNK_BYTES, parse_size, plan_geometry
from w2w_hub.errors import InitialisationError, InvalidInputError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.attentions.0.proj_in"): (1, 3, 4)}, 2.0)


def people(folder, n: int = 6, prefix: str = "p", **options) -> WeightDataset:
    rows = np.random.default_rng(n + len(prefix)).normal(size=(n, 7)).astype(np.float32)
    ids = [f"{prefix}{i:02d}" for i in range(n)]
    table = pd.DataFrame({"id": ids, "Age": np.arange(n) + 20.5, "person": [f"x{i // 2}" for i in range(n)]})
    given = {"layout": SMALL, "ids": ids, "labels": table, "parquet_view": False, "name": "people"} | options
    return write_dataset(given.pop("rows", rows), folder, **given)


# -------------------------------------------------------------------- cutting
@pytest.mark.parametrize(
    ("size", "number"),
    [
        ("500MB", 500_000_000), ("0.5 GB", 500_000_000), ("1kB", 1000), ("1 KiB", 1024), ("64MiB", 64 * 2**20),
        ("1", 1), (1, 1), (500_000_000, 500_000_000), ("1.5k", 1500), ("0.25 MiB", 2**18), ("7B", 7),
    ],
)  # fmt: skip
def test_a_size_is_read_as_people_write_it(size, number):
    assert parse_size(size) == number


@pytest.mark.parametrize("size", ["500MiB", 500_000_001, "0", 0, -1, "x", "", "1 TB", True, None, "0.5"])
def test_a_size_that_no_shard_has_is_refused(size):
    with pytest.raises(InvalidInputError):
        parse_size(size)


@given(st.integers(1, 300_000), st.sampled_from(["float16", "float32"]), st.integers(1, 3_000_000))
def test_chunks_and_shards_are_as_many_whole_rows_as_fit(width, dtype, shard):
    g = plan_geometry(10, width, dtype, shard)
    row = width * np.dtype(dtype).itemsize
    room = min(CHUNK_BYTES, shard)
    assert g.chunk_rows == max(1, room // row)
    chunk = g.chunk_rows * row + 16
    assert g.chunks_per_shard * g.chunk_rows == g.shard_rows
    assert g.chunks_per_shard == 1 or g.chunks_per_shard * chunk + 4 <= shard
    assert (g.chunks_per_shard + 1) * chunk + 4 > shard


@pytest.mark.parametrize("shard", [270_000, 300_039, 300_040, 300_041, 400_052, 1_000_000])
def test_no_shard_on_disk_is_larger_than_asked(tmp_path, shard):
    layout = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 20_000, 5_003)}, 1.0)
    ds = people(tmp_path / "d", 12, layout=layout, rows=np.ones((12, layout.size), np.float32), shard_size=shard)
    sizes = [e["size"] for name, e in ds.manifest.files.items() if "/c/" in name]
    assert max(sizes) <= shard
    assert sum(sizes) >= 12 * 4 * layout.size


def test_shards_of_a_small_compressed_dataset_stay_as_they_were_cut_and_plain_ones_become_larger(tmp_path):
    for compression, stays in (("bitshuffle", True), ("none", False)):
        ds = people(tmp_path / compression, shard_size=200, compression=compression)
        cut = (ds.geometry.shard_rows, ds.geometry.compressor)
        grown = add_rows(ds.path, people(tmp_path / f"{compression}-more", prefix="q").path)
        assert ((grown.geometry.shard_rows, grown.geometry.compressor) == cut) is stays
        grown.verify()


# ------------------------------------------------------------------ rounding
def test_the_largest_change_by_rounding_is_that_of_numpy_in_whatever_row_sign_or_shard_it_is(tmp_path):
    for row, sign in itertools.product((0, 3, 7), (1, -1)):
        values = np.zeros((8, 7), np.float32)
        values[:, 0] = 1 + 2.0**-13
        values[row, 4] = sign * (1000 + 0.1)
        wanted = float(np.abs(values.astype(np.float16) - values).max())
        name = f"{row}{sign}"
        for dtype, size in itertools.product(("float16", "float32"), (60, "1MB")):
            ds = people(
                tmp_path / f"{name}{dtype}{size}", 8, rows=values, dtype=dtype, shard_size=size, parquet_view=True
            )
            assert ds.manifest.float16_max_error == (wanted if dtype == "float16" else None)
            assert ds.manifest.view == {"dtype": "float16", "max_error": 0.0 if dtype == "float16" else wanted}
    grown = add_rows(
        tmp_path / "01float1660", people(tmp_path / "more", 2, "q", rows=values[1:3], dtype="float16").path
    )
    assert grown.manifest.float16_max_error == wanted
    kept = add_rows(tmp_path / "01float321MB", people(tmp_path / "more2", 2, "q", rows=values[1:3]).path)
    assert kept.manifest.view["max_error"] == wanted


def test_a_value_at_the_end_of_float16_is_held_and_one_beyond_of_either_sign_is_not(tmp_path):
    for sign in (1, -1):
        values = np.full((1, 7), sign * 65504, np.float32)
        for dtype in ("float16", "float32"):
            people(tmp_path / f"{sign}{dtype}", 1, rows=values, dtype=dtype, parquet_view=True)
            with pytest.raises(InvalidInputError, match="p00"):
                people(tmp_path / "bad", 1, rows=values * 1.01, dtype=dtype, parquet_view=True)


def test_a_larger_error_of_added_rows_counts_and_a_smaller_one_does_not_hide_it(tmp_path):
    def rounded(name: str, change: float, prefix: str) -> WeightDataset:
        return people(tmp_path / name, 2, prefix, rows=np.full((2, 7), 1 + change, np.float32), dtype="float16")

    big, small = 2.0**-12, 2.0**-14
    for i, (mine, theirs) in enumerate(((big, small), (small, big))):
        ds, other = rounded(f"a{i}", mine, "p"), rounded(f"b{i}", theirs, "q")
        assert (ds.manifest.float16_max_error, other.manifest.float16_max_error) == (mine, theirs)
        assert add_rows(ds.path, other.path).manifest.float16_max_error == big


# ------------------------------------------------------------------- growing
def test_what_a_dataset_says_of_a_column_wins_over_what_is_added_and_new_columns_come_with_theirs(tmp_path):
    info = {"Age": {"unit": "years"}}
    ds = people(tmp_path / "d", column_info=info)
    ids = ["q0", "q1"]
    table = pd.DataFrame({"id": ids, "Age": ["20.5", "red"], "Size": [1.5, 2.5]})
    rows = np.ones((2, 7), np.float32)
    both = {"Age": {"unit": "other"}, "Size": {"unit": "m"}}
    other = people(tmp_path / "e", 2, rows=rows, ids=ids, labels=table, column_info=both)
    assert other.manifest.columns == {"Age": "categorical", "Size": "float"}
    with pytest.raises(InvalidInputError, match="Age"):
        add_rows(ds.path, other.path)
    fine = people(tmp_path / "f", 2, rows=rows, ids=ids, labels=table.assign(Age=["1.5", "2.5"]), column_info=both)
    grown = add_rows(ds.path, fine.path, column_info={"person": {"source": "seen"}}, version="2.0.0")
    assert grown.manifest.columns == {"Age": "float", "person": "categorical", "Size": "float"}
    assert grown.labels.loc["q0", "Age"] == 1.5
    assert grown.manifest.column_info == {**info, "Size": {"unit": "m"}, "person": {"source": "seen"}}
    assert grown.manifest.version == "2.0.0"
    assert relabel_rows(ds.path, column_info={"Age": {"unit": "days"}}).manifest.column_info["Age"] == {"unit": "days"}
    kept = relabel_rows(ds.path, drop_columns="Size").manifest
    assert kept.column_info == {"Age": {"unit": "days"}, "person": {"source": "seen"}}
    assert kept.version == "2.0.0"
    assert remove_rows(ds.path, "q0", version="3.0.0").manifest.version == "3.0.0"


UNSAID = Compatibility()
MIXED = [
    (Compatibility(None, None, "i"), Compatibility(None, None, "i"), True),
    (Compatibility(None, None, "i"), Compatibility(None, None, "j"), False),
    (Compatibility(None, None, "i"), UNSAID, False),
    (UNSAID, Compatibility(None, None, "i"), True),
    (Compatibility(None, "a"), Compatibility(None, "b"), False),
    (Compatibility(None, "a"), Compatibility(None, "a"), True),
    (Compatibility(None, "a"), UNSAID, True),
    (UNSAID, Compatibility(None, "a"), True),
]


@pytest.mark.parametrize(("mine", "theirs", "good"), MIXED)
def test_rows_mix_where_initialisation_and_base_agree(tmp_path, mine, theirs, good):
    ds = people(tmp_path / "d", compatibility=mine)
    other = people(tmp_path / "e", prefix="q", compatibility=theirs)
    if good:
        assert add_rows(ds.path, other.path).manifest.compatibility == mine
    else:
        with pytest.raises(InitialisationError):
            add_rows(ds.path, other.path)


@pytest.fixture
def lora(tmp_path):
    def write(name: str, scale: float = 2.0, seed: int = 0):
        layout = ParameterLayout({slot.target: slot.size for slot in SMALL.slots}, scale)
        write_adapter(layout.unflatten(np.random.default_rng(seed).normal(size=7)), tmp_path / name, ("peft",))
        return tmp_path / name

    return write


@pytest.mark.parametrize(("stated", "good"), [("i", True), ("j", False), (None, False)])
def test_checkpoints_need_the_initialisation_that_a_dataset_states(tmp_path, lora, stated, good):
    ds = people(tmp_path / "d", compatibility=Compatibility(None, None, "i"))
    if good:
        assert len(add_rows(ds.path, lora("x"), initialisation=stated)) == 7
    else:
        with pytest.raises(InitialisationError):
            add_rows(ds.path, lora("x"), initialisation=stated)


def test_rows_with_another_scale_are_told_through_every_change_until_they_are_gone(tmp_path, lora):
    ds = pack_adapters([lora("a"), lora("b", 4.0, 1), lora("c", 6.0, 2)], tmp_path / "d", parquet_view=False)
    told = {"b": {"4.0": 1}, "c": {"6.0": 1}}
    assert ds.manifest.rescaled == told
    target = SMALL.slots[0].target
    for name, scale, seed in (("a", 2.0, 0), ("b", 4.0, 1), ("c", 6.0, 2)):
        values = np.random.default_rng(seed).normal(size=7).astype(np.float32)
        wanted = scale * np.outer(values[3:], values[:3])
        np.testing.assert_allclose(ds.adapter(name).factors[target].delta(), wanted, rtol=1e-6)
    assert relabel_rows(ds.path, pd.DataFrame({"id": ["a"], "Age": [2.5]})).manifest.rescaled == told
    grown = add_rows(people(tmp_path / "e").path, ds.path)
    assert grown.manifest.rescaled == told
    assert remove_rows(ds.path, "b").manifest.rescaled == {"c": {"6.0": 1}}
    assert remove_rows(ds.path, "c").manifest.rescaled is None


def test_checkpoints_that_are_alike_but_for_one_thing_are_each_read_for_what_they_are(tmp_path, lora):
    """Files with equal headers are read by the ranges of the first: never where anything else could matter."""
    import json

    from safetensors.numpy import load_file, save_file

    paths = [lora(f"p{i}", seed=i) for i in range(6)]
    config = paths[3] / "adapter_config.json"
    data = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(data | {"lora_alpha": data["lora_alpha"] * 3}), "utf-8")
    weights = next(paths[4].glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({k: np.zeros_like(v) for k, v in tensors.items()}, weights, {"format": "pt"})
    ds = pack_adapters(paths, tmp_path / "d", parquet_view=False)
    alone = [pack_adapters([p], tmp_path / f"alone-{p.name}", parquet_view=False)[0] for p in paths]
    for i, row in enumerate(alone):
        np.testing.assert_allclose(ds[i], row * np.float64(3) ** np.repeat([0, int(i == 3)], [3, 4]), rtol=1e-6)
    save_file({k: np.full_like(v, np.nan) for k, v in tensors.items()}, weights, {"format": "pt"})
    with pytest.raises(InvalidInputError, match="p4"):
        pack_adapters(paths, tmp_path / "e")


def test_removing_rows_leaves_every_other_row_and_label_with_its_id(tmp_path):
    for gone in ([0], [5], [0, 5], [1, 2, 3], [2, 4, 5], [0, 1, 2, 3, 4]):
        ds = people(tmp_path / str(gone), shard_size=60)
        names = [ds.ids[i] for i in gone]
        kept = [name for name in ds.ids if name not in names]
        found = remove_rows(ds.path, [*names, names[0]])
        assert set(found.ids) == set(kept)
        assert len(found) == len(kept)
        for name in kept:
            np.testing.assert_array_equal(found[name], ds[name])
            assert found.labels.loc[name, "Age"] == ds.labels.loc[name, "Age"]
        found.verify()
    with pytest.raises(InvalidInputError):
        remove_rows(found.path, list(found.ids))


# ------------------------------------------------------------------ comparing
STATED = {
    "name": "other", "version": "0.2.0", "licence": "cc0", "dtype": "float16", "column_info": {"Age": {"unit": "y"}},
    "split_rule": SplitRule("person", 0.3), "compatibility": Compatibility("base"),
}  # fmt: skip


@pytest.mark.parametrize("fact", STATED)
def test_each_thing_that_a_manifest_states_is_a_difference_by_its_name(tmp_path, fact):
    a, b = people(tmp_path / "a"), people(tmp_path / "b", **{fact: STATED[fact]})
    more = {"split_rule": {"digest"}, "dtype": {"digest"}}.get(fact, set())
    for found, turn in ((diff(a, b), 1), (diff(b, a), -1)):
        assert set(found.facts) == {fact} | more
        first, second = found.facts[fact][::turn]
        assert first != second
        assert found.changed == (list(a.ids) if fact == "dtype" else [])
        assert (found.added, found.removed, found.columns) == ([], [], {})
    assert not diff(a, people(tmp_path / "c"))


def test_the_same_numbers_in_another_layout_are_other_rows(tmp_path):
    twice = ParameterLayout({slot.target: slot.size for slot in SMALL.slots}, 4.0)
    a, b = people(tmp_path / "a"), people(tmp_path / "b", layout=twice)
    found = diff(a, b)
    assert found.changed == list(a.ids)
    assert found.facts["layout"] == (SMALL.digest, twice.digest)


def test_differences_are_listed_in_the_order_of_rows_and_labels_of_either_side_count(tmp_path):
    a = people(tmp_path / "a")
    order = [4, 0, 3, 5, 2]
    table = a.labels.reset_index().drop(columns=["row", "row_sha256"]).iloc[order].drop(columns="Age").assign(Hat="x")
    rows = a[order].copy()
    rows[[0, 2]] += 1
    b = people(tmp_path / "b", rows=rows, ids=[a.ids[i] for i in order], labels=table)
    found = diff(a, b)
    assert (found.added, found.removed, found.changed) == ([], ["p01"], ["p03", "p04"])
    assert found.columns == {"Age": ("float", None), "Hat": (None, "categorical")}
    assert found.relabelled == {f"p{i:02d}": {"Age": (20.5 + i, None), "Hat": (None, "x")} for i in sorted(order)}
    assert diff(b, a).changed == ["p04", "p03"]
    assert diff(b, a).added == ["p01"]


# ---------------------------------------------------------------- duplicates
def near_pairs(rows: np.ndarray, ids, cosine: float, centred: bool) -> dict[tuple[str, str], float]:
    """Pairs by brute force; rows are all different."""
    values = rows.astype(np.float64)
    if centred and len(rows) >= 8:
        values = values - values.mean(0).astype(np.float32)
    sizes = np.linalg.norm(values, axis=1)
    cosines = values @ values.T / np.where(sizes > 0, sizes, 1)[:, None] / np.where(sizes > 0, sizes, 1)
    pairs = zip(*np.nonzero(np.triu(cosines >= cosine, 1)), strict=True)
    return {(ids[i], ids[j]): cosines[i, j] for i, j in pairs}


def test_near_duplicates_are_those_of_brute_force_also_across_blocks(tmp_path, layout):
    rng = np.random.default_rng(0)
    rows = (3 + rng.normal(size=(2_100, layout.size))).astype(np.float32)
    for i, j, noise in ((5, 2_090, 0.01), (2_060, 2_080, 0.2), (100, 101, 0.1), (63, 64, 0.02), (2_047, 2_048, 0.3)):
        rows[j] = rows[i] + noise * rng.normal(size=layout.size)
    labels = pd.DataFrame({"id": [f"r{i}" for i in range(len(rows))], "split": ["train", "test", "test"] * 700})
    ds = write_dataset(rows, tmp_path / "d", layout=layout, ids=list(labels["id"]), labels=labels, parquet_view=False)
    for centred, cosine in ((True, 0.9), (False, 0.99)):
        found = find_duplicates(ds, cosine, centred=centred)
        wanted = near_pairs(rows, ds.ids, cosine, centred)
        assert len(wanted) >= 4
        assert {pair[:2] for pair in found.near} == set(wanted)
        np.testing.assert_allclose([v for *_, v in found.near], sorted(wanted.values(), reverse=True), rtol=1e-9)
        assert [pair[2] for pair in found.near] == sorted((pair[2] for pair in found.near), reverse=True)
        assert found.exact == []


def test_a_cosine_at_the_threshold_counts_and_few_rows_are_not_centred(tmp_path):
    rows = np.zeros((4, 7), np.float32)
    rows[0, 0], rows[1, 0], rows[2, 1], rows[3, 0] = 1, 2, 1, -1
    found = find_duplicates(people(tmp_path / "d", 4, rows=rows), 1.0)
    assert found.near == [("p00", "p01", 1.0)]
    again = find_duplicates(people(tmp_path / "e", 4, rows=rows[[0, 2, 0, 2]]), None)
    assert (again.exact, again.near) == ([["p00", "p02"], ["p01", "p03"]], [])
    assert again.redundant_ids() == ["p02", "p03"]


# -------------------------------------------------------------------- splits
def held_out(sizes: dict[str, int], order: list[str], holdout: float, there: dict[str, bool]) -> set[str]:
    """The groups that are held out, by the rule as it is written."""
    wanted, chosen = holdout * sum(sizes.values()), {g for g, out in there.items() if out}
    held = sum(sizes[g] for g in chosen)
    for group in order:
        if group not in there and abs(held + sizes[group] - wanted) < abs(held - wanted):
            chosen.add(group)
            held += sizes[group]
    return chosen


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12), st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.integers(0, 3),
    st.lists(st.sampled_from(["train", "dev", None]), min_size=12, max_size=12), st.randoms(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_groups_are_held_out_in_the_order_of_a_hash_as_long_as_that_brings_the_share_nearer(
    counts, holdout, seed, standing, random
):
    import hashlib

    sizes = {f"g{i}": n for i, n in enumerate(counts)}
    there = {g: standing[i] == "dev" for i, g in enumerate(sizes) if standing[i] is not None}
    order = sorted(sizes, key=lambda g: hashlib.sha256(f"w2w-split-v1\n{seed}\n{g}".encode()).digest())
    names = [g for g, n in sizes.items() for _ in range(n)]
    random.shuffle(names)
    table = pd.DataFrame({"id": [f"r{i}" for i in range(len(names))], "g": pd.array(names, "string")})
    table["split"] = pd.array([{True: "dev", False: "train"}.get(there.get(g)) for g in names], "string")
    placed = table["split"].notna().tolist()
    found = SplitRule("g", holdout, seed, "dev").apply(table, placed=placed)
    chosen = held_out(sizes, order, holdout, there)
    assert found["split"].tolist() == ["dev" if g in chosen else "train" for g in names]
    fresh = SplitRule("g", holdout, seed, "dev").apply(table)
    assert set(fresh["g"][fresh["split"] == "dev"]) == held_out(sizes, order, holdout, {})


@pytest.mark.parametrize(
    "options", [{"holdout": 0}, {"holdout": 1}, {"holdout": 1.5}, {"holdout": True}, {"holdout": "0.1"}, {"seed": 0.5},
                {"seed": True}, {"split": "train"}, {"split": "Train"}, {"split": "all"}, {"split": "a/b"},
                {"column": "split"}, {"column": "row"}, {"column": 1}],
)  # fmt: skip
def test_a_rule_that_cannot_be_followed_is_refused(options):
    assert SplitRule("g", holdout=0.001, seed=-1, split="dev").holdout == 0.001
    with pytest.raises(InvalidInputError):
        SplitRule(**({"column": "g"} | options))


def test_a_written_rule_is_in_the_manifest_and_a_seed_changes_what_is_held_out(tmp_path):
    rules = [SplitRule("person", 0.4, seed, "dev") for seed in range(6)]
    made = [people(tmp_path / str(rule.seed), 20, split_rule=rule) for rule in rules]
    for rule, ds in zip(rules, made, strict=True):
        assert SplitRule.from_json(ds.manifest.split_rule) == rule
        assert ds.manifest.splits["dev"] == 8
    assert len({tuple(ds.where("dev")) for ds in made}) > 2


@pytest.mark.parametrize("row", [0, 63, 64, 129])
def test_a_whole_number_that_float32_would_round_is_refused_in_whatever_row_it_is(tmp_path, row):
    rows = np.full((130, 7), 2**24, np.int64)
    rows[row, 3] += 1
    with pytest.raises(InvalidInputError):
        people(tmp_path / "d", 130, rows=rows)
    rows[row, 3] += 1
    assert people(tmp_path / "d", 130, rows=rows)[row][3] == 2**24 + 2

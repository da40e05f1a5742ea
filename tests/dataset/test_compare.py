from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from w2w_hub import write_dataset
from w2w_hub.dataset import add_rows, diff, find_duplicates, relabel_rows, remove_rows
from w2w_hub.errors import InvalidInputError


def test_a_dataset_does_not_differ_from_itself_in_another_order(make_dataset, layout):
    a = make_dataset("a", name="same")
    table = a.labels.reset_index().drop(columns=["row", "row_sha256"])
    order = [3, 1, 5, 0, 2, 4]
    b = write_dataset(
        a[order], a.path.with_name("b"), layout=layout, ids=[a.ids[i] for i in order], labels=table, name="same",
        parquet_view=False, shard_size="1MB",
    )  # fmt: skip
    assert not diff(a, b)
    assert not diff(a.path, a.path)


def test_added_removed_changed_and_relabelled_rows_are_told_apart(make_dataset):
    a = make_dataset("a")
    b = make_dataset("b")
    remove_rows(b.path, ["p1"])
    relabel_rows(b.path, pd.DataFrame({"id": ["p0", "p3"], "Age": [None, 44.0], "Hat": ["top", None]}))
    add_rows(b.path, [make_dataset("more", prefix="q").path], version="0.2.0")
    found = diff(a, b.path)
    assert found.removed == ["p1"]
    assert found.added == [f"q{i}" for i in range(6)]
    assert found.changed == []
    assert found.relabelled == {"p0": {"Age": (20.0, None), "Hat": (None, "top")}}
    assert found.columns == {"Hat": (None, "categorical")}
    assert found.facts["version"] == ("0.1.0", "0.2.0")


def test_other_weights_under_the_same_id_are_a_change(make_dataset):
    found = diff(make_dataset("a", name="x"), make_dataset("b", name="x", seed=1))
    assert found.changed == [f"p{i}" for i in range(6)]
    assert found.relabelled == {}
    assert set(found.facts) == {"digest"}


# --------------------------------------------------------------- duplicates
@pytest.fixture
def population(tmp_path, layout):
    """Rows that share most of their direction, as those of one initialisation do, with planted duplicates."""

    def make(n: int = 40, **options):
        rng = np.random.default_rng(0)
        rows = (100 + rng.normal(size=(n, layout.size))).astype(np.float32)
        rows[7] = rows[3]
        rows[9] = rows[3]
        rows[20] = rows[11] + 0.02 * rng.normal(size=layout.size).astype(np.float32)
        return write_dataset(rows, tmp_path / "d", layout=layout, parquet_view=False, **options)

    return make


def test_equal_rows_and_nearly_equal_ones_are_found_and_others_are_not(population):
    ds = population()
    found = find_duplicates(ds)
    assert found.exact == [[ds.ids[3], ds.ids[7], ds.ids[9]]]
    assert found.redundant_ids() == [ds.ids[7], ds.ids[9]]
    assert [(a, b) for a, b, _ in found.near] == [(ds.ids[11], ds.ids[20])]
    assert 0.999 < found.near[0][2] < 1
    assert len(find_duplicates(ds, centred=False).near) == 37 * 38 // 2 + 0 * len(ds)  # all point the same way
    assert find_duplicates(ds, None).near == []


def test_projections_miss_no_pair_that_the_full_rows_have(tmp_path):
    from w2w_hub import ParameterLayout
    from w2w_hub.lora.adapter import Target

    wide = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 1500, 1500)}, 1.0)
    rng = np.random.default_rng(1)
    base = rng.normal(size=(30, 3000))
    rows = np.concatenate([base, base + rng.uniform(0.02, 0.4, (30, 1)) * rng.normal(size=base.shape)])
    ds = write_dataset(rows.astype(np.float32), tmp_path / "d", layout=wide, parquet_view=False)
    values = ds.to_numpy().astype(np.float64)
    values -= values.mean(0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    cosines = values @ values.T
    wanted = {(i, j) for i in range(60) for j in range(i + 1, 60) if cosines[i, j] >= 0.97}
    found = find_duplicates(ds, 0.97).near
    assert 5 < len(wanted) < 30
    assert {(ds.position(a), ds.position(b)) for a, b, _ in found} == wanted
    for a, b, value in found:
        assert value == pytest.approx(cosines[ds.position(a), ds.position(b)], abs=1e-5)


def test_two_rows_are_compared_as_they_are(tmp_path, layout):
    row = np.random.default_rng(0).normal(size=layout.size)
    ds = write_dataset(np.stack([row, row + 1e-3]), tmp_path / "d", layout=layout)
    assert len(find_duplicates(ds).near) == 1


@pytest.mark.parametrize("cosine", [0, -1, 1.1, float("nan")])
def test_a_cosine_that_is_none_is_refused(make_dataset, cosine):
    with pytest.raises(InvalidInputError, match="cosine"):
        find_duplicates(make_dataset(), cosine)

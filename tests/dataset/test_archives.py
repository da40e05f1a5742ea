from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from w2w_hub import WeightDataset, add_rows
from w2w_hub.dataset import relabel_rows, remove_rows

ARCHIVES = sorted((Path(__file__).parents[1] / "data" / "archives").glob("dataset-*"))
ROW_3 = [-1.107373, 0.19958453, -0.4667496]
DIGESTS = {
    "dataset-1-float32": "8905674b933a2c9d0458755901df30434233dec6fb9e63ed032076e2fb0dc810",
    "dataset-1-float16": "2669b486a9697ff669dbad69a7be4384469a70288ad8a17faffb5e0368368dbc",
}


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda p: p.name)
def test_a_dataset_of_every_earlier_format_opens_verifies_and_says_the_same(archive):
    ds = WeightDataset.open(archive)
    ds.verify()
    assert ds.manifest.digest == DIGESTS[archive.name]
    assert ds.ids == tuple(f"p{i}" for i in range(7))
    np.testing.assert_allclose(ds["p3"][:3], ROW_3, rtol=1e-3 if "float16" in archive.name else 1e-6)
    assert ds.labels.loc["p2", "Hair"] == "Zoë"
    assert ds.attribute("Beard").isna().sum() == 2
    assert ds.adapter("p0").factors
    np.testing.assert_array_equal(ds.to_numpy(), ds[list(ds.ids)])


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda p: p.name)
def test_a_dataset_of_every_earlier_format_grows_and_changes(archive, tmp_path):
    folder = shutil.copytree(archive, tmp_path / "people")
    before = WeightDataset.open(archive)
    kept = remove_rows(folder, ["p1", "p6"])
    assert set(kept.ids) == {"p0", "p2", "p3", "p4", "p5"}
    relabel_rows(folder, before.labels.reset_index().loc[:, ["id", "Age"]].iloc[[0]].assign(Age=99.0))
    other = shutil.copytree(archive, tmp_path / "other")
    remove_rows(other, ["p0", "p2", "p3", "p4", "p5"])
    joined = add_rows(folder, [other])
    joined.verify()
    for name in before.ids:
        np.testing.assert_array_equal(joined[name], before[name])
    assert joined.attribute("Age")["p0"] == 99

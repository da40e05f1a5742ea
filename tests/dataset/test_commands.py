"""The dataset's commands: what they print, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from w2w_hub import WeightDataset, write_adapter
from w2w_hub.cli import main


def w2w(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(result: Result, *says: str) -> None:
    """One line on standard error, exit status 2, nothing on standard output."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for text in says:
        assert text in result.stderr


@pytest.fixture
def loras(tmp_path, layout):
    for i in range(6):
        vector = np.random.default_rng(i).normal(size=layout.size)
        write_adapter(layout.unflatten(vector), tmp_path / "loras" / f"l{i}", ("peft",))
    return sorted((tmp_path / "loras").iterdir())


def test_pack_takes_json_lines_units_groups_sizes_and_compression(loras, tmp_path):
    lines = [{"id": f"l{i}", "Age": 20 + i, "person": f"x{i // 2}", "note": None if i else "Zoë"} for i in range(6)]
    (tmp_path / "l.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n")
    result = w2w(
        "pack", *loras, "--out", tmp_path / "d", "--labels", tmp_path / "l.jsonl", "--unit", "Age=years",
        "--column-source", "Age=asked them", "--split-by", "person", "--holdout", 0.3, "--dtype", "float16",
        "--compression", "bitshuffle", "--shard-size", "64 MiB", "--view", "none", "--workers", 1, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    ds = WeightDataset.open(tmp_path / "d")
    assert json.loads(result.stdout)["digest"] == ds.manifest.digest
    assert ds.manifest.column_info == {"Age": {"unit": "years", "source": "asked them"}}
    assert ds.manifest.splits == {"train": 4, "test": 2}
    assert ds.labels.loc["l0", "note"] == "Zoë"
    assert (ds.has_view, ds.manifest.dtype, ds.geometry.compressor["name"]) == (False, "float16", "blosc")
    told = w2w("pack", *loras, "--out", tmp_path / "e", "--dtype", "float16").stderr
    assert "float16" in told
    assert "next: w2w build" in told
    assert "--k 5 " in told  # six fitted rows span five dimensions about their mean


def test_a_build_of_one_fitted_row_is_proposed_with_one_component(loras, tmp_path):
    for count, then in ((1, "w2w add"), (2, "--k 1 "), (3, "--k 2 ")):  # one row has no components
        assert then in w2w("pack", *loras[:count], "--out", tmp_path / f"d{count}").stderr


def test_add_remove_relabel_diff_and_verify_run_one_after_the_other(loras, tmp_path):
    first, d = tmp_path / "first", tmp_path / "d"
    for out in (first, d):
        assert w2w("pack", *loras[:4], "--out", out, "--initialisation", "seed-0").exit_code == 0
    refused(w2w("add", d, *loras[4:]), "--initialization seed-0")
    assert w2w("add", d, *loras[4:], "--initialisation", "seed-0").exit_code == 0
    (tmp_path / "gone.txt").write_text("l1\n")
    assert w2w("remove", d, "l0", "--ids", tmp_path / "gone.txt", "--version", "0.2.0").exit_code == 0
    pd.DataFrame({"id": ["l2"], "Age": [7.5], "split": ["test"]}).to_csv(tmp_path / "l.csv", index=False)
    assert w2w("relabel", d, "--labels", tmp_path / "l.csv", "--unit", "Age=years").exit_code == 0
    told = w2w("diff", first, d).stdout
    for line in (
        "version: 0.1.0 -> 0.2.0", "column Age", "2 added: l5, l4", "2 removed: l0, l1",
        "  l2: split train -> test, Age missing -> 7.5",
    ):  # fmt: skip
        assert line in told or line.replace("l5, l4", "l4, l5") in told, told
    assert json.loads(w2w("diff", first, d, "--json").stdout)["removed"] == ["l0", "l1"]
    assert w2w("diff", d, d).stdout == "no difference\n"
    for words in (("verify", d), ("verify", d, "--deep")):
        result = w2w(*words)
        assert result.exit_code == 0
        assert "4 rows in" in result.stderr
    assert json.loads(w2w("verify", d, "--json").stdout)["ok"] is True


def test_add_and_relabel_report_new_attributes_and_facts_that_only_new_rows_lack(loras, tmp_path):
    facts = {"source": "drawn", "license": "mit", "consent": "not needed"}
    pd.DataFrame([{"id": f"l{i}", **facts} for i in range(5)]).to_csv(tmp_path / "l.csv", index=False)
    d, ignore = tmp_path / "d", ("--extra-labels", "ignore")
    assert w2w("pack", *loras[:4], "--out", d, "--labels", tmp_path / "l.csv", *ignore).exit_code == 0
    pd.DataFrame([{"id": "l4", **facts}]).to_csv(tmp_path / "l.csv", index=False)
    assert "does not state" not in w2w("add", d, loras[4], "--labels", tmp_path / "l.csv").stderr
    added = w2w("add", d, loras[5]).stderr
    assert "1 new row does not state the source, license and consent" in added
    pd.DataFrame([{"id": "l5", "Beerd": True, **facts}]).to_csv(tmp_path / "l.csv", index=False)
    changed = w2w("relabel", d, "--labels", tmp_path / "l.csv").stderr
    assert "new attribute: Beerd" in changed
    assert "license" not in changed
    assert WeightDataset.open(d).labels["licence"].eq("mit").all()


def test_verify_exits_with_2_and_names_the_row(loras, tmp_path):
    assert w2w("pack", *loras, "--out", tmp_path / "d", "--view", "none").exit_code == 0
    shard = tmp_path / "d" / "weights.zarr" / "weights" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[5 * 122 * 4] ^= 1
    shard.write_bytes(data)
    result = w2w("verify", tmp_path / "d", "--deep")
    assert result.exit_code == 2
    assert "'l5'" in result.stderr
    found = json.loads(w2w("verify", tmp_path / "d", "--deep", "--json").stdout)
    assert [p["rows"] for p in found["problems"]] == [[], ["l5"]]
    assert w2w("verify", tmp_path / "d").exit_code == 0  # a changed value takes --deep
    refused(w2w("verify", tmp_path / "nothing"), "nothing")


def test_dedupe_lists_pairs_and_removes_equal_rows_only_when_asked(loras, layout, tmp_path):
    write_adapter(layout.unflatten(np.random.default_rng(3).normal(size=layout.size)), tmp_path / "twin", ("peft",))
    assert w2w("pack", *loras, tmp_path / "twin", "--out", tmp_path / "d").exit_code == 0
    result = w2w("dedupe", tmp_path / "d")
    assert result.stdout == "equal  l3  twin\n"
    assert "w2w dedupe" in result.stderr
    assert len(WeightDataset.open(tmp_path / "d")) == 7
    found = json.loads(w2w("dedupe", tmp_path / "d", "--exact-only", "--remove", "--json").stdout)
    assert found == {"exact": [["l3", "twin"]], "near": [], "removed": ["twin"]}
    assert len(WeightDataset.open(tmp_path / "d")) == 6


def test_bad_input_is_one_line(loras, tmp_path):
    assert w2w("pack", *loras, "--out", tmp_path / "d").exit_code == 0
    before = WeightDataset.open(tmp_path / "d").manifest
    for words, says in (
        (("pack", *loras, "--out", tmp_path / "e", "--shard-size", "2GB"), "2GB"),
        (("pack", *loras, "--out", tmp_path / "e", "--shard-size", "big"), "'big'"),
        (("pack", *loras, "--out", tmp_path / "e", "--split-by", "person"), "'person'"),
        (("pack", *loras, "--out", tmp_path / "e", "--unit", "Age=years"), "'Age'"),
        (("pack", *loras, loras[0], "--out", tmp_path / "e"), "'l0'"),
        (("pack", *loras, "--out", "/proc/nowhere/d"), "/proc/nowhere/d"),
        (("remove", tmp_path / "d", "nobody"), "'nobody'"),
        (("remove", tmp_path / "d"), "no row"),
        (("remove", tmp_path / "d", "--ids", tmp_path / "no.txt"), "no.txt"),
        (("relabel", tmp_path / "d", "--drop", "Hat"), "'Hat'"),
        (("relabel", tmp_path / "d", "--labels", tmp_path / "no.csv"), "no.csv"),
        (("diff", tmp_path / "d", tmp_path / "no"), "no"),
        (("dedupe", tmp_path / "d", "--cosine", "7"), "cosine"),
        (("add", tmp_path / "d", tmp_path / "no"), "no"),
    ):
        refused(w2w(*words), says)
        assert not (tmp_path / "e").exists()
    assert WeightDataset.open(tmp_path / "d").manifest == before
    assert w2w("relabel", tmp_path / "d").exit_code == 2
    assert "nothing to change" in w2w("relabel", tmp_path / "d").stderr
    assert "is not COLUMN=TEXT" in w2w("relabel", tmp_path / "d", "--unit", "Age").stderr

"""`w2w import-w2w` and `w2w compare`: data on stdout, one line for a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.upstream.published import Published, publish
from w2w_hub import load_point
from w2w_hub.cli import main


def w2w(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    found = publish(tmp_path_factory.mktemp("w2w"), dogs=False)
    found.write("w2wmodel.pt", torch.from_numpy(found.projections[:1]))
    return found


def test_the_command_imports_compares_and_reads_a_point(published: Published, tmp_path: Path) -> None:
    done = w2w("import-w2w", published.folder, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["made"]["points"] == ["w2wmodel"]
    assert w2w("verify", tmp_path / "out" / "space", "--deep").exit_code == 0
    assert w2w("verify", tmp_path / "out" / "dataset", "--deep").exit_code == 0
    point = w2w(
        "import-w2w", published.folder / "w2wmodel.pt", "--space", tmp_path / "out" / "space", "--out",
        tmp_path / "person.json", "--json",
    )  # fmt: skip
    assert point.exit_code == 0, point.output
    assert json.loads(point.stdout)["coefficients"] == len(load_point(tmp_path / "person.json").coefficients)
    assert load_point(tmp_path / "person.json") == load_point(tmp_path / "out" / "points" / "w2wmodel.json")
    compared = w2w("compare", tmp_path / "out" / "space", tmp_path / "out" / "space", "--json")
    assert json.loads(compared.stdout)["principal_angles"]["10"]["largest"] < 0.1
    shown = w2w("compare", tmp_path / "out" / "space", tmp_path / "out" / "space")
    assert shown.exit_code == 0, shown.output
    assert "standardized" in shown.stderr


def test_the_command_shows_assumptions_and_the_license(published: Published, tmp_path: Path) -> None:
    done = w2w("import-w2w", published.folder, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("assumed: ") > 3
    assert "non-commercial" in done.stderr
    again = w2w("import-w2w", published.folder, "--out", tmp_path / "out")
    assert again.exit_code == 2
    assert "--force" in again.stderr


def test_a_malicious_file_is_one_line_with_its_name(published: Published, tmp_path: Path) -> None:
    bad = publish(tmp_path / "bad", dogs=False, rows=False)
    bad.write("files/identity_df.pt", torch.nn.Linear(1, 1))
    done = w2w("import-w2w", bad.folder, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "identity_df.pt" in done.stderr
    assert not (tmp_path / "out").exists()

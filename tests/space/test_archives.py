from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from w2w_hub import WeightSpace
from w2w_hub.errors import InvalidInputError
from w2w_hub.space.integrity import check_space

ARCHIVES = sorted((Path(__file__).parents[1] / "data" / "archives").glob("space-*"))


@pytest.mark.parametrize("folder", ARCHIVES, ids=lambda folder: folder.name)
def test_a_space_that_an_earlier_version_wrote_still_opens_and_can_be_used(folder: Path, tmp_path: Path) -> None:
    space = WeightSpace.from_pretrained(folder)
    assert (space.k, len(space.ids), int(space.fitted.sum())) == (4, 24, 18)
    np.testing.assert_allclose(space.basis.astype(float) @ space.basis.T, np.eye(4), atol=1e-6)
    beard = space.direction("Beard")
    assert beard.auc == pytest.approx(1.0)
    assert beard.unreliable == ""  # nothing is known that speaks against it
    edited = space.edit(space.row("p01"), {"Beard": 2.0})
    assert space.read(edited, "Beard") > space.read(space.row("p01"), "Beard")
    np.testing.assert_allclose(space.project(space.decode(edited)), edited.coefficients, atol=1e-4)
    with pytest.raises(InvalidInputError, match="build it again"):
        space.reconstruction_error()
    report = check_space(folder)
    assert report.ok
    assert [rule for rule in report.not_checked if "checksum" in rule]  # manifests of spaces had none then
    space.verify()
    space.save(tmp_path / "again")
    assert check_space(tmp_path / "again").not_checked == []
    assert WeightSpace.from_pretrained(tmp_path / "again").digest == space.digest


def test_there_is_an_archive_to_open() -> None:
    assert ARCHIVES

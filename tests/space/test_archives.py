from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from w2w_hub import WeightSpace
from w2w_hub.errors import InvalidInputError, MissingPopulationError
from w2w_hub.space.integrity import check_space
from w2w_hub.store.manifest import READERS, SPACE

ARCHIVES = sorted((Path(__file__).parents[1] / "data" / "archives").glob("space-*"))
OLDEST = next(folder for folder in ARCHIVES if folder.name.endswith("w2w_hub-0.1.0"))


def version_of(folder: Path) -> int:
    return int(json.loads((folder / "manifest.json").read_text("utf-8"))["format_version"])


@pytest.mark.parametrize("folder", ARCHIVES, ids=lambda folder: folder.name)
def test_a_space_that_an_earlier_version_wrote_still_opens_and_can_be_used(folder: Path, tmp_path: Path) -> None:
    space = WeightSpace.from_pretrained(folder)
    basis = space.coordinates.basis
    assert (space.k, space.spread.rows) == (4, 18)
    np.testing.assert_allclose(basis.astype(float) @ basis.T, np.eye(4), atol=1e-6)
    person = space.sample(1, seed=1)[0]
    edited = space.edit(person, {"Beard": 2.0}, preserve=[name for name in space.directions if name != "Beard"])
    assert space.read(edited, "Beard") > space.read(person, "Beard")
    np.testing.assert_allclose(space.project(space.decode(edited)), edited.coefficients, atol=1e-4)
    assert check_space(folder).ok
    space.verify()
    space.save(tmp_path / "again")
    assert check_space(tmp_path / "again").not_checked == []
    again = WeightSpace.from_pretrained(tmp_path / "again")
    assert again == space
    assert (again.digest, version_of(tmp_path / "again")) == (space.digest, version_of(folder))


@pytest.mark.parametrize("folder", [f for f in ARCHIVES if version_of(f) == 1], ids=lambda folder: folder.name)
def test_an_archived_population_is_there_with_its_rows(folder: Path) -> None:
    space = WeightSpace.from_pretrained(folder)
    assert space.population is not None
    assert (len(space.population), int(space.population.fitted.sum())) == (24, 18)
    name = space.population.ids[1]
    assert space.nearest(space.row(name))[0][0] == name != space.nearest(name)[0][0]


def test_a_space_written_before_norms_and_checksums_were_kept_says_so_where_they_are_needed() -> None:
    space = WeightSpace.from_pretrained(OLDEST)
    assert space.direction("Beard").unreliable == ""  # nothing is known that speaks against it
    assert space.population is not None
    with pytest.raises(InvalidInputError):
        space.population.reconstruction_error()
    assert [rule for rule in check_space(OLDEST).not_checked if "checksum" in rule]


def test_the_archived_space_without_a_population_is_the_one_with_it() -> None:
    both = [WeightSpace.from_pretrained(folder) for folder in ARCHIVES if folder != OLDEST]
    whole, bare = sorted(both, key=lambda space: space.population is None)
    assert bare.population is None
    assert whole.without_population() == bare
    with pytest.raises(MissingPopulationError):
        bare.row("p00001")


def test_there_is_an_archive_of_every_format_version_and_a_reader_for_each() -> None:
    assert {version_of(folder) for folder in ARCHIVES} == set(READERS[SPACE]) == {1, 2}

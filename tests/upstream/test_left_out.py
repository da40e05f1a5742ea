"""Files of which an import makes nothing are in its report, each with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.upstream.published import PUBLISHED, publish
from w2w_hub.upstream import Imported, import_w2w

pytestmark = pytest.mark.filterwarnings("ignore::w2w_hub.upstream.LeakingSplitWarning")


def imported(folder: Path, *missing: str, out: str = "out") -> Imported:
    for name in missing:
        (folder / name).unlink()
    return import_w2w(folder, folder.parent / out)


def test_without_components_points_and_coefficients_are_left_out_and_said(tmp_path: Path) -> None:
    published = publish(tmp_path / "w2w")
    published.write("w2wmodel.pt", torch.zeros(1, PUBLISHED))
    published.write("two.pt", torch.zeros(2, PUBLISHED))
    published.write("whole.pt", torch.zeros(3, dtype=torch.int64))
    made = imported(tmp_path / "w2w", "files/V.pt", "weights_datasets/dogs/dog_weights.pt")
    assert (made.space, made.dogs, made.points, made.adapters) == (None, None, [], [])
    left = made.report["skipped"]
    assert left.keys() == {
        "proj_1000pc.pt", "pinverse_1000pc.pt", "dog_labels.pt", "w2wmodel.pt", "two.pt", "whole.pt",
    }  # fmt: skip
    assert left["two.pt"] == left["whole.pt"] != left["w2wmodel.pt"]
    assert "V.pt" in left["proj_1000pc.pt"]
    assert "dog_weights.pt" in left["dog_labels.pt"]
    assert made.dataset is not None
    np.testing.assert_array_equal(made.dataset.to_numpy(), published.weights)


def test_components_that_make_no_space_are_left_out_with_what_is_missing(tmp_path: Path) -> None:
    publish(tmp_path / "w2w", dogs=False)
    made = imported(tmp_path / "w2w", "files/std.pt")
    assert made.space is None
    left = made.report["skipped"]
    assert left.keys() == {"V.pt", "mean.pt", "proj_1000pc.pt"} | ({"pinverse_1000pc.pt"} & left.keys())
    assert all("std.pt" in left[name] for name in ("V.pt", "mean.pt", "proj_1000pc.pt"))


def test_values_that_are_rounded_are_said_with_their_file(tmp_path: Path) -> None:
    published = publish(tmp_path / "w2w", dogs=False)
    before = imported(tmp_path / "w2w").report["assumed"]
    published.write("files/V.pt", torch.from_numpy(published.basis.astype(np.float64)))
    after = imported(tmp_path / "w2w", out="doubled").report["assumed"]
    assert [each for each in after if each not in before] == [next(each for each in after if "float64" in each)]
    assert "V.pt" in next(each for each in after if "float64" in each)
    assert not any("float64" in each for each in before)

"""What is said of a folder that is opened as something else, and of the package's own folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2w_hub import WeightDataset, WeightSpace
from w2w_hub.common.warn import warn_caller
from w2w_hub.errors import MissingPathError

from ..tiny_world import TinyWorld


@pytest.mark.parametrize("opening", [WeightSpace.open, WeightDataset.open])
def test_a_base_model_and_an_empty_folder_are_told_from_what_was_expected(
    opening: Callable[[Path], Any], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    for folder, subject in ((tiny_world.base, "from_base"), (tmp_path, "manifest.json")):
        with pytest.raises(MissingPathError, match=subject) as error:
            opening(folder)
        assert error.value.path == folder / "manifest.json"


def test_a_folder_above_names_what_lies_in_it_and_nothing_else(
    tiny_world: TinyWorld, tiny_space: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_space, tmp_path / "here")
    shutil.copytree(tiny_world.rows, tmp_path / "rows")
    (tmp_path / "link").symlink_to(tiny_space)
    for opening, meant, others in ((WeightSpace.open, "here", "rows"), (WeightDataset.open, "rows", "here")):
        with pytest.raises(MissingPathError) as error:
            opening(tmp_path)
        assert str(tmp_path / meant) in str(error.value)
        assert str(tmp_path / others) not in str(error.value)
        assert "link" not in str(error.value)


def test_the_packages_folders_are_attributes_before_they_are_imported() -> None:
    code = "import w2w_hub, sys; assert 'w2w_hub.release' not in sys.modules; print(w2w_hub.release.push.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "push\n"


def test_a_warning_points_to_the_line_that_called_the_library() -> None:
    inside: dict[str, Any] = {"__name__": "w2w_hub.made_up", "warn_caller": warn_caller}
    exec("def outer():\n    inner()\ndef inner():\n    warn_caller('x')\n", inside)
    with pytest.warns(UserWarning, match="x") as caught:
        inside["outer"]()
    assert caught[0].filename == __file__

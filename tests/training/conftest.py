from __future__ import annotations

from pathlib import Path

import pytest

from .test_runs import portrait


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Folders of three people with a picture each."""
    for i, name in enumerate(("ann", "bob", "cy")):
        portrait(tmp_path / "folders" / name / "0.png", seed=i)
    return tmp_path / "folders"

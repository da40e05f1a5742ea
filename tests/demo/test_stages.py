"""The journal of a demo: one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2w_hub.demo.stages import FILE, Journal, remove_demo
from w2w_hub.errors import BusyError
from w2w_hub.store.replacing import files_named


def test_a_demo_that_another_process_runs_is_neither_continued_nor_removed(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path / "out", {}, resume=False)
    with journal.alone():
        for start in (lambda: remove_demo(tmp_path / "out", files_named(FILE)), lambda: journal.alone().__enter__()):
            with pytest.raises(BusyError) as caught:
                start()
            assert caught.value.path == tmp_path / "out"
        assert (tmp_path / "out" / FILE).exists()
    remove_demo(tmp_path / "out", files_named(FILE))
    assert not (tmp_path / "out").exists()

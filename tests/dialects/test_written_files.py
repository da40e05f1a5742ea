"""Files of adapters: their bytes, and a full disk."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from w2w_hub import Adapter, convert_adapter, write_adapter
from w2w_hub.errors import DiskError
from w2w_hub.lora.adapter import LoraFactors, Target

from ..full_disk import files_of_at_most


def wide_adapter() -> Adapter:
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    wide = LoraFactors(np.ones((1, 20_000), np.float32), np.ones((8, 1), np.float32), 1.0)
    return Adapter({Target("unet", module): wide})


@pytest.mark.parametrize("dialect", ["peft", "diffusers", "kohya"])
def test_the_bytes_of_an_adapter_depend_on_its_content_alone(dialect: str, tmp_path: Path) -> None:
    adapter = wide_adapter()
    adapter.metadata = {f"w2w.fact{i}": str(i) for i in range(20)}
    for name in ("one", "two"):
        write_adapter(adapter, tmp_path / name, (dialect,))
    files = [path.name for path in (tmp_path / "one").iterdir()]
    assert files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("dialect", ["peft", "diffusers", "kohya"])
def test_an_adapter_that_the_disk_cannot_hold_is_one_line_and_leaves_nothing(dialect: str, tmp_path: Path) -> None:
    adapter = wide_adapter()
    with files_of_at_most(30_000), pytest.raises(DiskError):
        write_adapter(adapter, tmp_path / "lora", (dialect,))
    assert list(tmp_path.iterdir()) == []
    write_adapter(adapter, tmp_path / "lora", (dialect,))
    with files_of_at_most(30_000), pytest.raises(DiskError):
        convert_adapter(tmp_path / "lora", tmp_path / "other", "diffusers")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]

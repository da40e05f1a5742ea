"""Every option of `invert`, `render` and `grid` changes what is found or drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from w2w_hub.space.points import load_point

from .test_commands import w2w


def done(*words: object) -> Any:
    result = w2w(*words)
    assert result.exit_code == 0, (words, result.output)
    return result


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(tmp_path / f"face-{i}.png")
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    Image.fromarray(255 - half).save(tmp_path / "other.png")
    return [tmp_path / f"face-{i}.png" for i in range(2)]


@pytest.mark.slow
def test_each_option_of_an_inversion_changes_what_is_found(
    tiny_space: Path, pictures: list[Path], tmp_path: Path
) -> None:
    half, other = tmp_path / "half.png", tmp_path / "other.png"

    def found(name: str, *words: object) -> tuple[np.ndarray, list[dict[str, Any]]]:
        rows = json.loads(done("invert", tiny_space, *words, "--out", tmp_path / name, "--json").stdout)
        return np.stack([load_point(Path(row["point"])).coefficients for row in rows]), rows

    steps = ("--steps", 3)
    plain, rows = found("plain", *pictures, *steps)
    assert [len(row["losses"]) for row in rows] == [3, 3]
    again, _ = found("again", *pictures, *steps, "--seed", 0, "--prompt", "sks person", "--learning-rate", 0.1)
    np.testing.assert_array_equal(plain, again)
    alone, _ = found("alone", pictures[0], *steps)
    for name, words in {
        "seed": ("--seed", 1), "prompt": ("--prompt", "something else"), "rate": ("--learning-rate", 0.5),
        "prior": ("--prior", 5.0), "k": ("--k", 2), "mask": ("--mask", half),
        "more": ("--steps", 5), "restarts": ("--restarts", 3, "--seed", 3),
    }.items():  # fmt: skip
        assert not np.array_equal(found(name, pictures[0], *steps, *words)[0], alone), name
    left, right = (found(f"m{i}", *pictures, *steps, "--mask", a, "--mask", b)[0] for i, (a, b) in enumerate(
        [(half, other), (other, half)]
    ))  # fmt: skip
    assert not np.array_equal(left, right)
    one, rows = found("one", *pictures, *steps, "--together")
    assert one.shape[0] == 1
    assert Path(rows[0]["point"]).name == "face-0.json"
    masked, _ = found("one-masked", *pictures, *steps, "--together", "--mask", half, "--mask", other)
    assert not np.array_equal(one, masked)
    early = found("early", pictures[0], "--steps", 120, "--tolerance", 0.9)[1]
    assert len(early[0]["losses"]) < 120


@pytest.mark.slow
def test_each_option_of_a_drawing_changes_the_sheet(tiny_space: Path, tmp_path: Path) -> None:
    def sheet(name: str, command: str, *words: object, kind: str = "png") -> bytes:
        done(command, tiny_space, *words, "--out", tmp_path / f"{name}.{kind}")
        picture = Image.open(tmp_path / f"{name}.{kind}")
        return repr(picture.size).encode() + picture.convert("RGB").tobytes()

    quick = ("--steps", 2)
    plain = sheet("plain", "render", "person-0001", *quick)
    assert plain == sheet("same", "render", "person-0001", *quick, "--seed", 0, "--prompt", "sks person", "--scale", 2)
    for name, words in {
        "seed": ("--seed", 1), "prompt": ("--prompt", "other"), "guidance": ("--guidance", 2.0),
        "steps": ("--steps", 3), "scale": ("--scale", 1), "two": ("--seed", 0, "--seed", 1),
    }.items():  # fmt: skip
        assert sheet(name, "render", "person-0001", *quick, *words) != plain, name
    assert sheet("grid", "grid", "person-0001", *quick) == plain
    order = [("--prompt", a, "--prompt", b, "--seed", 0, "--seed", 1) for a, b in (("x", "y"), ("y", "x"))]
    assert sheet("xy", "render", "base", *quick, *order[0]) != sheet("yx", "render", "base", *quick, *order[1])
    edit = ("person-0001", "--attribute", "Full_Beard", *quick)
    swept = sheet("swept", "grid", *edit)
    assert swept == sheet("stated", "grid", *edit, "--strengths=-3,0,3,6")
    assert swept == sheet("ends", "grid", *edit, "--from", -3, "--to", 6, "--count", 4)
    for name, words in {
        "low": ("--from", -2), "high": ("--to", 5), "count": ("--count", 3), "start": ("--start", 0.6),
        "kept": ("--preserve", "Sunglasses"), "seeded": ("--seed", 4), "prompted": ("--prompt", "other"),
        "guided": ("--guidance", 2.0), "stepped": ("--steps", 3), "scaled": ("--scale", 1),
    }.items():  # fmt: skip
        assert sheet(name, "grid", *edit, *words) != swept, name

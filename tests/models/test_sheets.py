"""Contact sheets, animations and pictures that are written: every picture at its place, every caption in ink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from w2w_hub.errors import AlreadyExistsError, InvalidInputError
from w2w_hub.models.pictures import animation, contact_sheet, picture_kind, save_picture, to_picture

HEIGHT, WIDTH = 18, 40
ROWS, COLUMNS = ["first", "second, with a long name"], ["a", "b with many words that are wrapped", "c"]


def colours(rows: int = 2, columns: int = 3) -> np.ndarray:
    """Pictures of one saturated colour each, ``(rows, columns, 3)`` of uint8, none of them grey."""
    found = np.zeros((rows, columns, 3), np.uint8)
    for i in range(rows):
        for j in range(columns):
            found[i, j] = (200, 20 + 30 * i, 40 * j)
    return found


def pictures(rows: int = 2, columns: int = 3) -> np.ndarray:
    whole = np.broadcast_to(colours(rows, columns)[:, :, None, None] / 255, (rows, columns, HEIGHT, WIDTH, 3)).copy()
    whole[..., 0, 0, :] = (0, 0, 1)  # a blue corner tells up from down and left from right
    return whole


def box(sheet: Image.Image, colour: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of one colour."""
    ys, xs = np.nonzero((np.asarray(sheet) == colour).all(2))
    return int(ys.min()), int(xs.min()), int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("title", ["", "a title"])
def test_every_picture_is_whole_and_in_its_row_and_column(scale: int, title: str) -> None:
    sheet = contact_sheet(pictures(), ROWS, COLUMNS, scale=scale, title=title)
    boxes = [[box(sheet, colour) for colour in row] for row in colours()]
    for row in boxes:
        for top, left, height, width in row:
            assert (height, width) == (HEIGHT * scale, WIDTH * scale)
            assert sheet.getpixel((left, top)) == sheet.getpixel((left + scale - 1, top + scale - 1)) == (0, 0, 255)
            assert top + height <= sheet.height
            assert left + width <= sheet.width
    tops, lefts = [[b[0] for b in row] for row in boxes], [[b[1] for b in row] for row in boxes]
    assert [len(set(row)) for row in tops] == [1, 1]
    assert lefts[0] == lefts[1] == sorted(set(lefts[0]))
    assert tops[0][0] + HEIGHT * scale < tops[1][0]
    assert all(a + WIDTH * scale < b for a, b in zip(lefts[0], lefts[0][1:], strict=False))
    count = [(np.asarray(sheet) == c).all(2).sum() for c in colours().reshape(-1, 3)]
    assert count == [(HEIGHT * WIDTH - 1) * scale**2] * 6  # no caption is written over a picture


def test_pictures_are_shown_twice_as_large_unless_told() -> None:
    assert box(contact_sheet(pictures(), ROWS, COLUMNS), colours()[0, 0])[2:] == (2 * HEIGHT, 2 * WIDTH)
    assert box(animation(pictures(), ROWS, COLUMNS)[0], colours()[0, 0])[2:] == (2 * HEIGHT, 2 * WIDTH)


def test_every_caption_is_beside_what_it_names() -> None:
    plain = np.asarray(contact_sheet(pictures(), ["x", "x"], ["x", "x", "x"], title="x").convert("L")).astype(int)
    top, left, height, width = box(contact_sheet(pictures(), ["x", "x"], ["x"] * 3, title="x"), colours()[0, 0])
    for i in range(2):
        rows = ["x", "x"]
        rows[i] = "M"
        other = np.asarray(contact_sheet(pictures(), rows, ["x"] * 3, title="x").convert("L")).astype(int)
        changed = other[:, : left - 1] != plain[:, : left - 1]
        where = np.nonzero(changed[top:].any(1))[0] + top
        begin = top + i * (height + 4)
        assert len(where)
        assert begin <= where.min() <= where.max() < begin + height
    for j in range(3):
        columns = ["x"] * 3
        columns[j] = "MM"
        other = np.asarray(contact_sheet(pictures(), ["x", "x"], columns, title="x").convert("L")).astype(int)
        ys, xs = np.nonzero(other != plain)
        assert ys.max() < top
        assert left + j * (width + 4) - 2 <= xs.min() <= xs.max() < left + (j + 1) * (width + 4)
    other = np.asarray(contact_sheet(pictures(), ["x", "x"], ["x"] * 3, title="MM").convert("L")).astype(int)
    ys, xs = np.nonzero(other != plain)
    assert len(ys)
    assert ys.max() < top - 12  # above the columns' captions
    without = contact_sheet(pictures(), ["x", "x"], ["x"] * 3)
    assert without.height < plain.shape[0]
    wrapped = contact_sheet(pictures(), ["x", "x"], ["x", "several words that need lines", "x"])
    assert wrapped.height > without.height


def test_a_picture_is_rounded_cut_and_enlarged_without_smoothing() -> None:
    values = np.array([[[-1.0, 0.0, 0.499 / 255], [0.501 / 255, 0.5, 1.0]], [[254.6 / 255, 2.0, 1e9], [0, 0.1, 0.2]]])
    values = np.concatenate([values, values], 1)
    expected = np.array([[[0, 0, 0], [1, 128, 255]], [[255, 255, 255], [0, 26, 51]]])
    expected = np.concatenate([expected, expected], 1)
    found = np.asarray(to_picture(values)).astype(int)
    assert found.shape == (2, 4, 3)
    np.testing.assert_allclose(found, expected, atol=0)
    large = np.asarray(to_picture(values, 3))
    np.testing.assert_array_equal(large, np.repeat(np.repeat(found, 3, 0), 3, 1))


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3)), np.zeros((2, 3, 4)), np.zeros((0, 3, 3)), np.full((2, 2, 3), np.nan)]
)
def test_what_is_no_picture_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InvalidInputError):
        to_picture(wrong)


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((2, 3, 4, 4, 3), 2, 2), ((2, 3, 4, 4, 3), 3, 3), ((2, 3, 4, 4, 3), 3, 2), ((2, 4, 4, 3), 2, 4),
        ((0, 3, 4, 4, 3), 0, 3), ((2, 0, 4, 4, 3), 2, 0),
    ],
)  # fmt: skip
def test_a_caption_for_each_row_and_column_of_at_least_one_picture(
    shape: tuple[int, ...], rows: int, columns: int
) -> None:
    with pytest.raises(InvalidInputError):
        contact_sheet(np.zeros(shape), ["x"] * rows, ["x"] * columns)


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_a_sweep_goes_there_and_back_without_a_pause_at_its_ends(frames: int) -> None:
    names = [f"frame {j}" for j in range(frames)]
    found = animation(pictures(2, frames), ROWS, names, scale=1)
    expected = [
        np.asarray(contact_sheet(pictures(2, frames)[:, j][None], [""], ROWS, scale=1, title=names[j]))
        for j in [*range(frames), *range(frames - 2, 0, -1)]
    ]
    assert len(found) == max(frames, 2 * frames - 2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)
    with pytest.raises(InvalidInputError):
        animation(pictures(2, frames), ROWS[:1], names)
    with pytest.raises(InvalidInputError):
        animation(pictures(2, frames), ROWS, [*names, "more"])


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
@pytest.mark.parametrize("options", [{}, {"milliseconds": 100}])
def test_an_animation_holds_every_frame_for_its_time_and_begins_again(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    frames = [Image.new("RGB", (8, 6), tuple(map(int, c))) for c in colours().reshape(-1, 3)]
    save_picture(frames, tmp_path / f"a.{kind}", **options)
    with Image.open(tmp_path / f"a.{kind}") as found:
        assert found.n_frames == 6
        assert found.info.get("loop", 0) == 0
        for i, frame in enumerate(frames):
            found.seek(i)
            found.load()
            np.testing.assert_allclose(
                np.asarray(found.convert("RGB")).astype(int), np.asarray(frame).astype(int), atol=12
            )
            if kind != "webp" or i:
                assert found.info["duration"] == options.get("milliseconds", 250)
    with pytest.raises(AlreadyExistsError):
        save_picture(frames[0], tmp_path / f"a.{kind}")


@pytest.mark.parametrize("name", ["a", "a.txt", "a.psd", "a.", ".png", "a.png.zip"])
def test_an_ending_that_no_picture_is_written_under_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        picture_kind(name)
    with pytest.raises(InvalidInputError):
        save_picture(Image.new("RGB", (2, 2)), tmp_path / name)
    assert not list(tmp_path.iterdir())
    assert [picture_kind(f"a.{e}") for e in ("png", "JPG", "webp", "gif")] == ["PNG", "JPEG", "WEBP", "GIF"]


@pytest.mark.parametrize("wrong", [[], (), "a.png", [Image.new("RGB", (2, 2)), 3], None])
def test_what_is_no_picture_is_not_written(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        save_picture(wrong, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())

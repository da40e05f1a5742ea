"""Pictures from files: upright, on white, of stated formats and sizes, and never a crash."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from w2w_hub.errors import CorruptFileError, InvalidInputError, MissingPathError, UnsafePathError, W2WError
from w2w_hub.models.pictures import as_mask, as_rgb, open_mask, open_picture
from w2w_hub.store import pictures

ORIENTATION = 0x0112
# one colour in each corner of an upright picture of 6 x 4 pixels
UPRIGHT = np.zeros((4, 6, 3), np.uint8)
UPRIGHT[:2, :3], UPRIGHT[:2, 3:], UPRIGHT[2:, :3], UPRIGHT[2:, 3:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
)
# how a camera that was held so stores it
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", sorted(STORED))
def test_a_picture_is_turned_upright_by_its_exif_in_every_format(orientation: int, kind: str, tmp_path: Path) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    large = stored.resize((stored.width * 16, stored.height * 16), Image.Resampling.NEAREST)
    options = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(kind, {})
    large.save(tmp_path / f"a.{kind}", exif=exif(orientation), **options)
    found = open_picture(tmp_path / f"a.{kind}")
    assert found.size == (96, 64)
    np.testing.assert_allclose(np.asarray(found)[8::16, 8::16].astype(int), UPRIGHT.astype(int), atol=40)
    given = as_rgb(Image.open(tmp_path / f"a.{kind}"))  # one that a caller opened, as `invert` takes it
    np.testing.assert_array_equal(np.asarray(given), np.asarray(found))


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_a_picture_of_sixteen_bits_is_turned_upright_too(orientation: int, tmp_path: Path) -> None:
    wide = STORED[orientation](UPRIGHT)[..., 0].astype(np.uint16) * 257
    Image.fromarray(np.ascontiguousarray(wide)).save(tmp_path / "a.png", exif=exif(orientation))
    for found in (open_picture(tmp_path / "a.png").convert("L"), open_mask(tmp_path / "a.png")):
        np.testing.assert_array_equal(np.asarray(found), UPRIGHT[..., 0])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_leaves_the_picture_as_it_is(orientation: int, tmp_path: Path) -> None:
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=exif(orientation))
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "a.png")), UPRIGHT)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_exif_does_not_stop_a_picture_from_being_read(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(exif(6))
    for position in rng.integers(4, len(data), 4):
        data[position] = int(rng.integers(256))
    block = bytes(data[: int(rng.integers(7, len(data) + 1))])
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=block)
    assert open_picture(tmp_path / "a.png").mode == "RGB"


RED = (255, 0, 0)


def transparent() -> dict[str, Image.Image]:
    """Pictures of 2 x 1 pixels in every way to say that the first is see-through and the second red."""
    rgba = Image.new("RGBA", (2, 1), (*RED, 255))
    rgba.putpixel((0, 0), (0, 0, 0, 0))
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, *RED])
    palette.putpixel((0, 0), 0)
    with_bytes = palette.copy()
    palette.info["transparency"], with_bytes.info["transparency"] = 0, b"\x00\xff"
    colour = Image.new("RGB", (2, 1), RED)
    colour.putpixel((0, 0), (1, 2, 3))
    colour.info["transparency"] = (1, 2, 3)
    return {"RGBA": rgba, "RGBa": rgba.convert("RGBa"), "P": palette, "P bytes": with_bytes, "RGB": colour}


@pytest.mark.parametrize("name", sorted(transparent()))
def test_what_is_transparent_is_white_not_the_hidden_colour(name: str) -> None:
    found = np.asarray(as_rgb(transparent()[name]))
    np.testing.assert_array_equal(found, [[(255, 255, 255), RED]])


def test_grey_pictures_with_transparency_are_white_there_too(tmp_path: Path) -> None:
    grey = Image.new("LA", (2, 1), (10, 255))
    grey.putpixel((0, 0), (0, 0))
    wide = Image.fromarray(np.array([[0, 2570]], np.uint16))
    wide.info["transparency"] = 0
    for picture in (grey, grey.convert("La"), wide):
        np.testing.assert_array_equal(np.asarray(as_rgb(picture))[0, :, 0], [255, 10])
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert as_rgb(half).getpixel((0, 0)) == (127, 127, 127)
    half.save(tmp_path / "half.png")
    assert open_picture(tmp_path / "half.png").getpixel((0, 0)) == (127, 127, 127)


def test_a_mask_that_is_transparent_in_places_is_refused_and_an_opaque_one_is_not() -> None:
    for name, picture in transparent().items():
        with pytest.raises(InvalidInputError):
            as_mask(picture)
        assert name
    assert as_mask(Image.new("RGBA", (2, 1), (255, 255, 255, 255))).getpixel((0, 0)) == 255


def test_a_masks_file_is_turned_upright_as_its_picture_is(tmp_path: Path) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](UPRIGHT)[..., 0]))
    stored.save(tmp_path / "mask.png", exif=exif(6))
    np.testing.assert_array_equal(np.asarray(open_mask(tmp_path / "mask.png")), UPRIGHT[..., 0])


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_modes_of_stated_colours_are_read(mode: str) -> None:
    found = as_rgb(Image.new("RGB", (2, 2), "white").convert(mode))
    assert found.mode == "RGB"
    assert np.asarray(found).min() >= 253


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_that_state_no_range_are_refused(mode: str) -> None:
    with pytest.raises(InvalidInputError, match=mode):
        as_rgb(Image.new(mode, (2, 2)))


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight() -> None:
    every = np.arange(65536)
    found = np.asarray(as_mask(Image.fromarray(every.astype(np.uint16).reshape(256, 256)))).ravel()
    np.testing.assert_array_equal(found, (2 * every + 257) // 514)


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "wide.png"))[0, :, 0], [0, 128, 255])


# ---------------------------------------------------------------- files that are not one small picture
@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_a_file_of_several_pictures_is_refused(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidInputError, match=f"a.{kind}.* 3 "):
        open_picture(tmp_path / f"a.{kind}")


def test_of_a_phones_jpeg_with_a_second_picture_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert open_picture(tmp_path / "a.jpg").getpixel((0, 0))[0] > 200  # type: ignore[index]


def test_a_picture_of_one_frame_in_a_format_of_many_is_read(tmp_path: Path) -> None:
    for kind in ("gif", "webp", "tif", "bmp"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / f"a.{kind}")
        assert open_picture(tmp_path / f"a.{kind}").size == (4, 4)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header states a size, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8193, 8192), (10_000, 9_000), (14_000, 14_000), (2**31 - 1, 2**31 - 1), (1, 2**27)])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(
    size: tuple[int, int], tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png_of(*size))
    for limit in (Image.MAX_IMAGE_PIXELS, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(CorruptFileError, match=r"a\.png"):
            open_picture(tmp_path / "a.png")
    assert not recwarn.list


def test_a_picture_may_have_as_many_pixels_and_bytes_as_the_limits_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png")
    sizes = {"MAX_PICTURE_PIXELS": 24, "MAX_PICTURE_BYTES": (tmp_path / "a.png").stat().st_size}
    for name, size in sizes.items():
        with monkeypatch.context() as patch:
            patch.setattr(pictures, name, size)
            assert open_picture(tmp_path / "a.png").size == (6, 4)
            patch.setattr(pictures, name, size - 1)
            with pytest.raises(CorruptFileError, match=r"a\.png"):
                open_picture(tmp_path / "a.png")


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 1000)
    data = io.BytesIO()
    Image.new("RGB", (2, 2)).save(data, "PNG")
    (tmp_path / "a.png").write_bytes(data.getvalue() + b"\0" * 1000)
    with pytest.raises(CorruptFileError, match=r"a\.png"):
        open_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "gif", "bmp"])
def test_a_truncated_or_damaged_file_is_one_typed_line(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / f"a.{kind}")
    whole = (tmp_path / f"a.{kind}").read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 25)):
        damaged = bytearray(whole)
        damaged[cut] ^= 0xFF
        for data in (whole[:cut], bytes(damaged)):
            (tmp_path / f"b.{kind}").write_bytes(data)
            told = f"b.{kind}"
            try:
                assert open_picture(tmp_path / f"b.{kind}").mode == "RGB"
            except W2WError as error:
                told = str(error)
            assert f"b.{kind}" in told
            assert "\n" not in told


@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_a_format_that_runs_a_program_is_not_opened_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / name).write_text(text)
    assert Image.open(tmp_path / name).format == "EPS"  # Pillow by itself would
    with pytest.raises(CorruptFileError, match=name):
        open_picture(tmp_path / name)


@pytest.mark.parametrize("kind", ["ppm", "ico", "tga", "sgi", "pdf"])
def test_formats_that_are_not_listed_are_refused(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / f"a.{kind}")
    with pytest.raises(CorruptFileError, match=f"a.{kind}"):
        open_picture(tmp_path / f"a.{kind}")


def test_only_regular_files_are_read_and_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png", "folder.png"):
        with pytest.raises((UnsafePathError, MissingPathError), match=name):
            open_picture(tmp_path / name)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    for name in ("dangling.png", "nothing.png", "a/b.png"):
        with pytest.raises(MissingPathError, match=name):
            open_picture(tmp_path / name)
    Image.new("RGB", (2, 2)).save(tmp_path / "there.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "there.png")  # the user names it
    assert open_picture(tmp_path / "link.png").size == (2, 2)

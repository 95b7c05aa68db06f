"""From file bytes to pixels: equal to torchvision where it has an answer, sensible in every mode, safe for any byte."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import v2

from vitadapt.data.examples import FileRef
from vitadapt.data.image_file import open_image
from vitadapt.data.images import Geometry, UnreadableImage, fit, to_pixels, to_rgb, upright
from vitadapt.utils.errors import DataError

ORIENTATION = 0x0112


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SIZES = [(32, 32), (31, 45), (45, 31), (7, 9), (100, 33), (33, 100), (1, 1), (1, 20), (20, 1), (224, 17), (65, 64)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("side", "resize"), [(32, 1.0), (33, 1.0), (28, 256 / 224), (15, 1.1)])
def test_resizing_and_cropping_equal_torchvision_to_the_bit(size: tuple[int, int], side: int, resize: float) -> None:
    image = noise(*size)
    steps = v2.Compose(
        [v2.Resize(round(side * resize), v2.InterpolationMode.BICUBIC), v2.CenterCrop(side)],
    )
    expected = np.asarray(steps(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(to_pixels(image, Geometry(side, resize)), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squashing_equals_torchvision_to_the_bit(size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = np.asarray(v2.Resize((24, 24), v2.InterpolationMode.BICUBIC)(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(to_pixels(image, Geometry(24, squash=True)), expected)


@pytest.mark.parametrize("size", [(2, 130), (130, 2), (3, 400), (1, 999), (997, 1)])
def test_a_very_long_image_gives_the_pixels_of_the_whole_resized_strip(size: tuple[int, int]) -> None:
    # A smooth image, because the order of Pillow's two passes shows where a bicubic overshoot is clipped.
    width, height = size
    wave = 128 + 80 * np.sin(np.arange(max(size)) / 7)
    grey = np.broadcast_to(wave if width > height else wave[:, None], (height, width)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(grey)).convert("RGB")
    whole = (8, 8 * height // width) if width < height else (8 * width // height, 8)
    left, top = round((whole[0] - 8) / 2), round((whole[1] - 8) / 2)
    strip = image.resize(whole, Image.Resampling.BICUBIC).crop((left, top, left + 8, top + 8))
    difference = np.asarray(fit(image, Geometry(8)), dtype=int) - np.asarray(strip, dtype=int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1)])
def test_extreme_shapes_work_at_a_real_size_and_in_little_memory(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, resize = [], Image.Image.resize

    def recorded(self: Image.Image, *args: object, **options: object) -> Image.Image:
        made.append(resize(self, *args, **options))
        return made[-1]

    monkeypatch.setattr(Image.Image, "resize", recorded)
    assert to_pixels(Image.new("RGB", size, (10, 20, 30)), Geometry(224)).mean(axis=(1, 2)).tolist() == [10, 20, 30]
    assert [image.size for image in made] == [(224, 224)]  # the whole strip would have 224 x 2240000 pixels


@pytest.mark.parametrize("wrong", [(0, 1.0), (8, 0.5), (8, float("nan"))])
def test_an_impossible_geometry_is_refused(wrong: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Geometry(*wrong)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    # A camera held so that `orientation` describes it stores the upright scene turned by the inverse operation.
    scene = np.zeros((16, 16, 3), dtype=np.uint8)
    scene[:8, :8], scene[:8, 8:], scene[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(inverse(scene)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(stored, kind, exif=exif, **({"quality": 100} if kind in ("JPEG", "WEBP") else {}))
    pixels = to_pixels(open_image(data, "x"), Geometry(16)).transpose(1, 2, 0)
    corners = pixels[[3, 3, 12], [3, 12, 3]].astype(int)
    assert np.abs(corners - [(255, 0, 0), (0, 255, 0), (0, 0, 255)]).max() < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pillow_does_and_also_beside_a_damaged_tag(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x011A] = orientation, 72.0
    sound = exif.tobytes()
    damaged = sound.replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")  # the resolution counts as a text
    assert damaged != sound
    turned = ImageOps.exif_transpose(open_image(encoded(noise(7, 9), "PNG", exif=sound), "a.png"))
    for block in (sound, damaged):
        shown = upright(open_image(encoded(noise(7, 9), "PNG", exif=block), "a.png"))
        assert (shown.size, shown.tobytes()) == (turned.size, turned.tobytes())


def test_a_damaged_exif_block_counts_as_none() -> None:
    image = Image.new("RGB", (4, 4), "red")
    image.info["exif"] = b"Exif\x00\x00rubbish"
    assert to_pixels(image, Geometry(4))[:, 0, 0].tolist() == [255, 0, 0]


def rgb_of(image: Image.Image) -> list[int]:
    return list(to_rgb(open_image(encoded(image, "PNG" if image.mode != "CMYK" else "TIFF"), "x")).getpixel((0, 0)))


def test_transparent_pixels_lie_on_white() -> None:
    assert rgb_of(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == [255, 255, 255]
    assert rgb_of(Image.new("RGBA", (2, 2), (0, 0, 0, 51))) == [204, 204, 204]
    assert rgb_of(Image.new("LA", (2, 2), (0, 0))) == [255, 255, 255]
    assert rgb_of(Image.new("RGBA", (2, 2), (1, 2, 3, 255))) == [1, 2, 3]


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_lies_on_white(mode: str) -> None:
    image = Image.new("RGB", (2, 1), "black").convert(mode)
    hidden: object = (0, 0, 0) if mode == "RGB" else image.getpixel((0, 0))
    data = encoded(image, "PNG", transparency=hidden)
    assert to_rgb(open_image(data, "x")).getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_with_alpha_lies_on_white() -> None:
    image = Image.new("P", (1, 1))
    image.putpalette(bytes([0, 0, 0, 0]), "RGBA")
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_other_modes_become_rgb() -> None:
    assert rgb_of(Image.new("1", (2, 2), 1)) == [255, 255, 255]
    assert rgb_of(Image.new("L", (2, 2), 77)) == [77, 77, 77]
    assert rgb_of(Image.new("RGB", (2, 2), (200, 100, 0)).quantize(4)) == [200, 100, 0]
    assert rgb_of(Image.new("CMYK", (2, 2), (0, 255, 255, 0))) == [255, 0, 0]


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    levels = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    stored = open_image(encoded(Image.fromarray(levels), "PNG"), "x")
    assert np.asarray(to_rgb(stored))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    portable = b"P5 5 1 65535\n" + levels.astype(">u2").tobytes()
    assert np.asarray(to_rgb(open_image(portable, "x")))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_float_grey_means_0_to_1() -> None:
    stored = open_image(encoded(Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)), "TIFF"), "x")
    assert np.asarray(to_rgb(stored))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [-1.0, 1.5, float("nan")])
def test_grey_levels_of_unknown_scale_are_refused(value: float) -> None:
    with pytest.raises(UnreadableImage, match=r"scan.tif cannot be read \(grey values outside 0..1\)"):
        to_pixels(Image.fromarray(np.full((2, 2), value, dtype=np.float32)), Geometry(2), "scan.tif")


def test_of_an_animation_the_first_frame_is_taken() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(red, kind, save_all=True, append_images=[blue], **({"lossless": True} if kind == "WEBP" else {}))
        assert to_rgb(open_image(data, "x")).getpixel((4, 4)) == (255, 0, 0), kind


def png_of(width: int, height: int) -> bytes:
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(99))}
    chunks = (
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
        for tag, body in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow warns about the first and refuses the second
def test_a_decompression_bomb_is_refused_and_pillow_is_left_as_it_was(side: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImage, match=r"bomb.png cannot be read \(more than \d+ pixels\)"):
        open_image(png_of(side, side), "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(40, 40), kind)
    path = tmp_path / "half.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match=r"half.img cannot be read \(.+\); remove or re-save it"):
        FileRef(path).read()


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    jpeg = encoded(noise(40, 40), "JPEG")
    cases = {"": "empty file", "hello, I am text": "not an image of a known format"}
    for content, reason in cases.items():
        (tmp_path / "a.jpg").write_text(content)
        with pytest.raises(UnreadableImage) as caught:
            FileRef(tmp_path / "a.jpg").read()
        assert (caught.value.reason, caught.value.name) == (reason, str(tmp_path / "a.jpg"))
    (tmp_path / "a.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    with pytest.raises(DataError, match=r"a.jpg cannot be read \(truncated\); remove or re-save it"):
        FileRef(tmp_path / "a.jpg").read()
    with pytest.raises(DataError, match=r"b.jpg cannot be read \(no such file\)"):
        FileRef(tmp_path / "b.jpg").read()
    with pytest.raises(DataError, match=r"cannot be read \(is a directory\)"):
        FileRef(tmp_path).read()


def test_formats_that_start_programs_are_not_opened() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(UnreadableImage, match="not an image of a known format"):
        open_image(eps, "x.eps")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "JPEG2000"])
def test_damaged_bytes_give_an_image_or_one_clear_error(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    good = encoded(noise(12, 9), kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    dice, refused = random.Random(kind), 0
    for _ in range(150):
        data = bytearray(good[: dice.randrange(1, len(good))] if dice.random() < 0.3 else good)
        for _ in range(dice.choice([1, 4, 12])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            assert to_pixels(open_image(bytes(data), "x"), Geometry(8), "x").shape == (3, 8, 8)
        except UnreadableImage:
            refused += 1
    assert refused > 10

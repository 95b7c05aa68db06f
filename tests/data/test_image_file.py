"""Pictures that are not plain 8-bit RGB: of telephones, medical ones, and of more than 8 bits."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_cases import DATA, chunk, deep_png, dicom, heic, tiff
from PIL import Image

from vitadapt.data.checks.dataset import check
from vitadapt.data.image_file import open_image
from vitadapt.data.images import Geometry, UnreadableImage, to_pixels, to_rgb


def grey(data: bytes) -> list[int]:
    """The first row of the picture as it is seen."""
    return np.asarray(to_rgb(open_image(data, "x")))[0, :, 0].tolist()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_picture_of_a_telephone_is_read_upright() -> None:
    image = Image.new("RGB", (32, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 16))
    opened = open_image(heic(image), "x.heic")
    assert opened.size == (32, 16) and opened.mode == "RGB"
    pixels = np.asarray(opened).astype(int)
    assert pixels[:, :14].mean() > 250 and pixels[:, 18:].mean() < 5
    with pytest.raises(UnreadableImage, match="damaged"):
        open_image(DATA["heic"][:-40], "x.heic")
    assert open_image(encoded(image, "AVIF", quality=90), "x.avif").size == (32, 16)


def test_a_window_says_what_is_black_and_what_is_white() -> None:
    values = np.array([[0, 100, 150, 200, 300]], dtype=np.uint16)
    assert grey(dicom(values, WindowCenter=150.5, WindowWidth=101)) == [0, 0, 128, 255, 255]
    assert grey(dicom(values, WindowCenter=["150.5", "0"], WindowWidth=["101", "1"])) == [0, 0, 128, 255, 255]
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    assert grey(dicom(values, WindowCenter=150.5, WindowWidth=101, **inverse)) == [255, 255, 128, 0, 0]
    scaled = dicom(values.astype(np.int16), RescaleSlope=2, RescaleIntercept=-200, WindowCenter=100.5, WindowWidth=201)
    assert grey(scaled) == [0, 0, 128, 255, 255]


def test_without_a_window_the_values_themselves_are_the_range_and_a_finding_says_so(tmp_path: Path) -> None:
    values = np.array([[-50, 0, 205]], dtype=np.int16)
    assert grey(dicom(values)) == [0, 50, 255]
    assert grey(dicom(np.full((1, 2), 7, dtype=np.uint8))) == [0, 0]
    for c, label in enumerate(("sick", "sound")):
        (tmp_path / label).mkdir()
        for i in range(5):
            pixels = np.random.default_rng(10 * c + i).integers(0, 4096, (20, 20), dtype=np.uint16)
            window = {} if c else {"WindowCenter": 2000, "WindowWidth": 4000}
            (tmp_path / label / f"{i}.dcm").write_bytes(dicom(pixels, **window))
    levels = {finding.check: (finding.level, finding.count) for finding in check(tmp_path).findings}
    assert levels["scaled by the range of their own values"] == ("warning", 5)


def test_colour_is_kept() -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    assert open_image(dicom(pixels), "x").getpixel((1, 1)) == (200, 0, 0)


PLAIN = np.zeros((4, 4), dtype=np.uint16)
REFUSED = {
    "several pictures": (dicom(np.zeros((8, 4), dtype=np.uint16), Rows=4, NumberOfFrames=2), "2 pictures"),
    "a palette": (dicom(PLAIN, PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
    "another window": (dicom(PLAIN, WindowCenter=1, WindowWidth=1, VOILUTFunction="SIGMOID"), "SIGMOID"),
    "too large": (dicom(PLAIN, Rows=60_000, Columns=60_000), "at most"),
    "deep colour": (dicom(np.zeros((2, 2, 3), dtype=np.uint16)), "more than 8 bits"),
    "deflated": (DATA["dcm"].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"), "deflated"),
    "no end": (DATA["dcm"][:-20], "truncated|damaged"),
    "no beginning": (bytes(128) + b"DICM", "without a picture|damaged"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_medical_file_that_is_shown_in_another_way_is_refused_by_name(what: str) -> None:
    data, words = REFUSED[what]
    with pytest.raises(UnreadableImage, match=words):
        open_image(data, "x.dcm")


def with_significant_bits(data: bytes, bits: int) -> bytes:
    """A PNG file with the chunk sBIT."""
    return data[:33] + chunk(b"sBIT", bytes([bits])) + data[33:]  # behind the signature and IHDR


LEVELS = np.array([[0, 255, 511, 1023]], dtype=np.uint16)


@pytest.mark.parametrize(
    ("values", "white", "options"),
    [
        (LEVELS, 4095, {}),  # no value is larger: 12 bits
        (LEVELS * 4, 4095, {}),
        (LEVELS * 5, 65535, {}),
        (LEVELS, 1023, {"bits": 10}),
        (LEVELS, 16383, {"bits": 14}),
        (LEVELS * 64, 65535, {"bits": 10}),  # stretched to 16 bits
        (LEVELS, 2000, {"largest": 2000}),
        (np.zeros((1, 4), dtype=np.uint16), 65535, {}),
    ],
)
def test_values_of_more_than_8_bits_are_scaled_by_the_declared_range_or_12_bits(
    values: np.ndarray, white: int, options: dict[str, int]
) -> None:
    image = Image.fromarray(values)
    data = encoded(image, "TIFF", tiffinfo={281: options["largest"]}) if "largest" in options else encoded(image, "PNG")
    if "bits" in options:
        data = with_significant_bits(data, options["bits"])
    assert grey(data) == np.rint(values[0] * (255.0 / white)).astype(int).tolist()


@pytest.mark.parametrize("top", [1000, 4095, 4096, 65535])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_scaled_as_grey_is(channels: int, top: int) -> None:
    values = np.random.default_rng(0).integers(0, top + 1, (9, 7, channels), dtype=np.uint16)
    values[0, 0], values[..., 3:] = top, 65535
    expected = np.rint(values[..., :3] * (255.0 / (4095 if top <= 4095 else 65535))).astype(np.uint8)
    extra: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"] if channels == 4 else None}
    files = [deep_png(values), *(tiff(values, byteorder=order, **extra) for order in "<>")]
    for data in (*files, tiff(values, compression="zlib", rowsperstrip=2, **extra)):
        image = open_image(data, "x")
        assert image.mode == ("RGB" if channels == 3 else "RGBA")
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected)


def test_declared_ranges_of_colours_and_texts_of_the_same_names() -> None:
    values = np.full((2, 2, 3), 1023, dtype=np.uint16)
    bits, text = chunk(b"sBIT", bytes([10] * 3)), [chunk(b"tEXt", key + b"\0x") for key in (b"range", b"channels")]
    files = [(deep_png(values, bits, *text), 255), (deep_png(values * 64, bits), 255), (deep_png(values), 64)]
    for data, white in files:
        assert np.asarray(open_image(data, "x")).flatten().tolist() == [white] * 12
    whole = encoded(Image.new("RGB", (2, 2)), "PNG")
    plain = open_image(whole[:33] + b"".join(text) + whole[33:], "x")
    assert to_pixels(plain, Geometry(2)).shape == (3, 2, 2) and not {"range", "channels"} & plain.info.keys()


@pytest.mark.parametrize("count", [4, 5, 7])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_all_channels_of_a_tiff_are_kept_behind_its_first_three(count: int, kind: type) -> None:
    top = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[kind]
    values = (np.random.default_rng(0).random((9, 7, count)) * top).astype(kind)
    expected = np.rint(values * (255.0 / top)).astype(np.uint8)
    for data in (tiff(values), tiff(values, compression="zlib")):
        image = open_image(data, "x.tif")
        np.testing.assert_array_equal(np.asarray(image), expected[..., :3])
        wide = to_pixels(image, Geometry(7, channels=count), "x.tif")
        planes = [to_pixels(Image.fromarray(expected[..., k]), Geometry(7))[0] for k in range(count)]
        np.testing.assert_array_equal(wide, np.stack(planes))
        with pytest.raises(UnreadableImage, match=f"{count} channels, and the backbone is for 9"):
            to_pixels(image, Geometry(7, channels=9), "x.tif")
    with pytest.raises(UnreadableImage, match="3 channels, and the backbone is for 5"):
        to_pixels(Image.new("RGB", (8, 8)), Geometry(7, channels=5), "x.png")


def test_channels_that_cannot_be_used_are_named() -> None:
    turned = tiff(np.zeros((4, 4, 5), dtype=np.uint8), extratags=[(274, 3, 1, 6, True)])
    wrong = {"turned": turned, "int32": tiff(np.zeros((4, 4, 5), dtype=np.int32)), "damaged": DATA["tif"][:-60]}
    wrong["outside 0..1"] = tiff(np.full((4, 4, 5), 2, dtype=np.float32))
    for words, data in wrong.items():
        with pytest.raises(UnreadableImage, match=words):
            open_image(data, "x.tif")


@pytest.mark.parametrize("kind", DATA)
def test_whatever_is_damaged_the_file_is_named_and_nothing_else_happens(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, outcomes = random.Random(0), set()
    for _ in range(60):
        data = bytearray(DATA[kind])
        for _ in range(rng.choice((1, 2, 9))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        try:
            outcomes.add(to_pixels(open_image(bytes(data), "x"), Geometry(8), "x").shape)
        except UnreadableImage as error:
            outcomes.add(error.name)
    assert outcomes == {(3, 8, 8), "x"} and not capsys.readouterr().err


def test_grey_is_what_a_network_of_one_channel_sees() -> None:
    image = Image.new("RGB", (9, 7), (10, 200, 30))
    np.testing.assert_array_equal(to_pixels(image, Geometry(5, channels=1))[0], np.asarray(image.convert("L"))[:5, :5])

"""Images become the numbers that each library's own transform makes of them, for every rule of a checkpoint.

Of photographs, and of pictures with a palette or with transparency once they are RGB: libraries convert those after
resizing, or not at all, and here transparent parts lie on white first.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitadapt.data.images import Geometry, to_pixels, to_upright_rgb
from vitadapt.nn.backbone import Backbone, Interpolation, Preprocess
from vitadapt.training.features import geometry_of
from vitadapt.utils.errors import WeightsError
from vitadapt.weights.catalog import BackboneRow, backbones
from vitadapt.weights.hints import NORMALISATIONS
from vitadapt.weights.hugging_face_config import PROCESSORS, hints_of_config, processor_of
from vitadapt.weights.open_clip_timm import hints_of_open_clip
from vitadapt.weights.openai_clip import preprocess_of as of_open_clip
from vitadapt.weights.timm import preprocess_of as of_timm

FILTERS = get_args(Interpolation)
SIDE = 28
SHAPES = [(61, 87), (90, 31), (41, 40), (40, 47), (300, 17), (19, 211), (5, 4), (28, 28)]
"""Widths and heights: margins of all remainders by four, tall and wide, tiny, and one that already fits."""
SCALE: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


@cache
def pictures() -> list[Image.Image]:
    """Parts of a photograph in all shapes; with a palette, a transparent corner, and in grey."""
    from sklearn.datasets import load_sample_image

    photo = Image.fromarray(load_sample_image("flower.jpg"))
    parts = [photo.resize(shape, box=(9 * i, 5 * i, 400 + 9 * i, 300 + 5 * i)) for i, shape in enumerate(SHAPES)]
    clear = parts[0].convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    return [to_upright_rgb(part, "") for part in (*parts, parts[0].quantize(16), clear, parts[1].convert("L"))]


class Plain(Backbone):
    """No network: what happens to an image before one."""

    def __init__(self, how: Preprocess) -> None:
        super().__init__()
        self.config: Any = BackboneConfig(how)
        self.register_scales()


class BackboneConfig:
    image_size, features = SIDE, 1

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess


def prepared(picture: Image.Image, how: Preprocess) -> Tensor:
    """(3, S, S): decoded as `geometry_of` says, then normalised, as every forward pass does."""
    backbone = Plain(how)
    return backbone.normalise(torch.from_numpy(to_pixels(picture, geometry_of(backbone))))


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.875])
@pytest.mark.parametrize("filter_", FILTERS)
def test_timm(filter_: str, fraction: float, mode: str) -> None:
    data = pytest.importorskip("timm.data")
    config = {"input_size": (3, SIDE, SIDE), "interpolation": filter_, "crop_pct": fraction, "crop_mode": mode, **SCALE}
    transform = data.create_transform(**data.resolve_data_config(pretrained_cfg=config))
    for picture in pictures():
        torch.testing.assert_close(prepared(picture, of_timm(config)), transform(picture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear", "random"])
def test_open_clip(filter_: str, mode: str) -> None:
    library = pytest.importorskip("open_clip.transform")
    config = {"size": SIDE, "interpolation": filter_, "resize_mode": mode, **SCALE}
    transform = library.image_transform_v2(library.PreprocessCfg(**config), is_train=False)
    for picture in pictures():
        torch.testing.assert_close(prepared(picture, of_open_clip(config)), transform(picture), atol=1e-5, rtol=0)


SIZES = {
    "crop": {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}},
    "squash": {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False},
    "squash and crop": {"size": {"height": 32, "width": 32}, "do_center_crop": True, "crop_size": SIDE},
}
CROPPING = ("CLIP", "Bit", "DeiT", "Beit")
CROPS = [(kind, size) for kind in PROCESSORS for size in SIZES if kind in CROPPING or size == "squash"]
CROPS = [(kind, "fraction" if kind == "ConvNext" else size) for kind, size in CROPS]
SIZES["fraction"] = {"size": {"shortest_edge": SIDE}}


@pytest.mark.parametrize(("kind", "rule"), CROPS)
@pytest.mark.parametrize("resample", range(6))
def test_hugging_face(kind: str, rule: str, resample: int) -> None:
    """Pillow's processors give the same pixels; those of torchvision are at most two levels of 255 beside.

    The library rounds half a pixel of a margin down and torchvision to the even: there our crop lies a pixel beside.
    """
    transformers = pytest.importorskip("transformers")
    how = {"resample": resample, "image_mean": [0.0] * 3, "image_std": [1.0] * 3, **SIZES[rule]}
    exact = getattr(transformers, f"{kind}ImageProcessorPil", None)
    library = getattr(transformers, f"{kind}ImageProcessor")
    if exact is None and resample != library.resample:
        pytest.skip("torchvision has other filters than Pillow, or rounds and clips otherwise between its two passes")
    processor = (exact or library)(**how)
    found = processor_of({**processor.to_dict(), "image_processor_type": library.__name__})
    assert found.size == SIDE
    for picture in pictures():
        theirs = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"][0])
        ours = prepared(picture, found.preprocess)
        wide, high = (round(32 * side / min(picture.size) - 0.5) for side in picture.size)
        for axis, length in ((2, wide), (1, high)):
            if rule in ("crop", "fraction") and (length - SIDE) % 4 == 3:
                ours, theirs = ours.narrow(axis, 0, SIDE - 1), theirs.narrow(axis, 1, SIDE - 1)
        torch.testing.assert_close(ours, theirs, atol=1e-5 if exact else 2 / 255, rtol=0)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_what_a_processor_leaves_out_is_what_its_class_does(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    library = getattr(transformers, f"{kind}ImageProcessor")
    known = json.loads(library().to_json_string())
    assert processor_of({"image_processor_type": library.__name__}) == processor_of(
        {**known, "image_processor_type": f"{kind}ImageProcessorFast"}
    )


@pytest.mark.parametrize("model", ["clip", "siglip", "vit", "dinov2", "dinov3_vit", "ijepa", "aimv2", "tipsv2"])
def test_a_processor_without_a_name_is_the_one_that_the_library_takes_for_the_model(model: str) -> None:
    auto = pytest.importorskip("transformers.models.auto.image_processing_auto")
    library = auto.IMAGE_PROCESSOR_MAPPING_NAMES[model]["torchvision"]
    found = hints_of_config({"model_type": model, "vision_config": {}}, {"do_rescale": True}).preprocess
    assert found == processor_of({"image_processor_type": library}).preprocess


def test_radio_has_its_scale_in_the_model() -> None:
    how = {"image_processor_type": "CLIPImageProcessor", "do_normalize": False, "do_center_crop": False}
    config = {"model_type": "radio", "norm_mean": [0.1, 0.2, 0.3], "norm_std": [0.4, 0.5, 0.6], "image_size": 224}
    square = {"size": {"height": 224, "width": 224}}
    expected = Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 1.0, True)
    assert hints_of_config(config, {**how, **square}).preprocess == expected
    with pytest.raises(WeightsError, match="a scale of its own and one in preprocessor_config"):
        hints_of_config(config, {**how, **square, "do_normalize": True})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crop_mode": "border"}, "images prepared with crop_mode='border'"),
        ({"interpolation": "random"}, "images resized with interpolation='random'"),
        ({"input_size": (3, 64, 48)}, r"inputs of shape \(64, 48\)"),
    ],
)
def test_what_is_not_known_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        of_timm({"input_size": (3, SIDE, SIDE), "interpolation": "bicubic", **SCALE, **config})


def test_open_clip_that_pads_is_refused() -> None:
    with pytest.raises(WeightsError, match="images prepared with resize_mode='longest'"):
        of_open_clip({"resize_mode": "longest"})


AUTHORS = ("dinov2-", "dinov3-", "eupe-")
"""These are evaluated by their authors at 224 of 256 pixels; timm's settings are for the size of the training."""
SATELLITE = Preprocess((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))


@pytest.mark.parametrize("row", backbones().values(), ids=lambda row: row.name)
def test_every_row_prepares_images_as_its_source_does(row: BackboneRow) -> None:
    scheme, _, rest = row.source.partition(":")
    pytest.importorskip({"timm": "timm", "open_clip": "open_clip"}.get(scheme, "torch"))
    if scheme == "timm":
        import timm

        source = of_timm(timm.get_pretrained_cfg(rest).to_dict())
    elif scheme == "open_clip":
        import open_clip

        arch, _, tag = rest.partition("/")
        hints = hints_of_open_clip(open_clip.get_model_config(arch), open_clip.get_pretrained_cfg(arch, tag))
        assert hints.preprocess is not None
        source = hints.preprocess
    else:
        pytest.skip("its settings are on the hub")
    scale = (NORMALISATIONS | {"satellite": SATELLITE})[row.normalise]
    resize = 256 / 224 if row.name.startswith(AUTHORS) else source.resize
    assert (scale.mean, scale.std) == (source.mean, source.std)
    assert (row.resize, row.squash, row.interpolation) == (resize, source.squash, source.interpolation)


def test_what_names_cached_pixels_is_as_it_was_for_what_there_was() -> None:
    was = "Geometry(size=8, resize=1.25, squash=False)", "Geometry(size=8, resize=1.0, squash=True)"
    assert (Geometry(8, 1.25).identity, Geometry(8, squash=True).identity) == was
    others = [Geometry(8, *more) for more in product((1.0, 1.25), (False, True), (1, 3), FILTERS)]
    assert len({other.identity for other in others}) == len(others)
    with pytest.raises(ValueError, match="unknown interpolation 'cubic'"):
        Geometry(8, interpolation="cubic")
    assert Preprocess().settings().keys() == {"mean", "std", "resize"}
    assert np.array_equal(*(to_pixels(pictures()[0], geometry_of(Plain(Preprocess(resize=r)), True)) for r in (1, 2)))

"""Resizing and cropping as operations of ONNX, in front of a network: a picture of any size in, probabilities out."""

from __future__ import annotations

from typing import Any

from ...data.images import ELONGATED
from ...utils.errors import NotApplicable
from ...utils.optional import package
from .deployed import TrainedModel

IMAGE, PROBABILITIES = "image", "probabilities"
_MODES = {"bicubic": "cubic", "bilinear": "linear"}  # what ONNX calls them
_CROPPED = """
    pre_margins = Sub (pre_target, pre_sides)
    pre_rest = Mod (pre_margins, pre_four)
    pre_up = Div (pre_rest, pre_three)
    pre_even = Add (pre_margins, pre_up)
    pre_start = Div (pre_even, pre_two)
    pre_end = Add (pre_start, pre_sides)
    images = Slice (pre_resized, pre_start, pre_end, pre_spatial)"""
"""The crop starts at half the margin, a half rounded to the even number: up where the margin leaves 3 by 4."""


def _graph(trained: TrainedModel) -> str:
    """uint8 (height, width, 3 or 4: RGB, alpha) -> uint8 (1, 3, S, S), as `data.images` does, in ONNX's own text."""
    size, short, squash = trained.image_size, trained.shorter_side, trained.geometry.squash
    scaled = "pre_scaled = Mul (pre_size, pre_short)\n    pre_target = Div (pre_scaled, pre_shortest)"
    target = "pre_target = Identity (pre_square)" if squash else scaled
    lengths = f"int64[2] pre_square = {{{short}, {short}}}" if squash else f"int64[1] pre_short = {{{short}}}"
    seen = "Identity (pre_whole)" if squash else "Min (pre_whole, pre_longest)"
    if (filter_ := trained.geometry.interpolation) not in _MODES:
        raise NotApplicable(f"--preprocessing inside has no {filter_} resizing; leave it outside")
    return f"""<ir_version: 10, opset_import: ["" : 20]>
preprocessing (uint8[height, width, channels] {IMAGE}) => (uint8[1, 3, {size}, {size}] images)
<int64[2] pre_sides = {{{size}, {size}}}, {lengths}, int64[1] pre_zero = {{0}},
 int64[1] pre_two = {{2}}, int64[1] pre_three = {{3}}, int64[1] pre_four = {{4}}, int64[1] pre_long = {{{ELONGATED}}},
 int64[2] pre_both = {{0, 1}}, int64[2] pre_spatial = {{2, 3}}, float pre_white = {{255.0}}>
{{
    pre_whole = Shape <start = 0, end = 2> ({IMAGE})
    pre_shortest = ReduceMin <keepdims = 1> (pre_whole)
    pre_longest = Mul (pre_shortest, pre_long)
    pre_size = {seen}
    pre_outside = Sub (pre_whole, pre_size)
    pre_from = Div (pre_outside, pre_two)
    pre_to = Add (pre_from, pre_size)
    pre_middle = Slice ({IMAGE}, pre_from, pre_to, pre_both)
    pre_shape = Shape <start = 2, end = 3> ({IMAGE})
    pre_alpha = Equal (pre_shape, pre_four)
    pre_rgb = If (pre_alpha) <
        then_branch = on_white () => (uint8[h, w, 3] pre_blended) {{
            pre_colours = Slice (pre_middle, pre_zero, pre_three, pre_two)
            pre_opacity = Slice (pre_middle, pre_three, pre_four, pre_two)
            pre_c = Cast <to = 1> (pre_colours)
            pre_o = Cast <to = 1> (pre_opacity)
            pre_light = Sub (pre_c, pre_white)
            pre_seen = Mul (pre_light, pre_o)
            pre_part = Div (pre_seen, pre_white)
            pre_sum = Add (pre_part, pre_white)
            pre_round = Round (pre_sum)
            pre_blended = Cast <to = 2> (pre_round)
        }},
        else_branch = as_it_is () => (uint8[h, w, 3] pre_plain) {{ pre_plain = Identity (pre_middle) }}
    >
    pre_first = Transpose <perm = [2, 0, 1]> (pre_rgb)
    pre_image = Unsqueeze (pre_first, pre_zero)
    {target}
    pre_resized = Resize <mode = "{_MODES[filter_]}", cubic_coeff_a = -0.5, antialias = 1, axes = [2, 3]>
        (pre_image, , , pre_target)
    {_CROPPED}
}}"""


_PICTURE = f"""<ir_version: 10, opset_import: ["" : 20]>
picture (float[1, channels, height, width] pixel_values) => (uint8[height, width, seen] {IMAGE})
<int64[4, 4] pic_seats = {{0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 0, 0, 1, 2, 3}},
 int64[1] pic_zero = {{0}}, int64[1] pic_one = {{1}}, int64[1] pic_two = {{2}}, int64[1] pic_four = {{4}}>
{{
    pic_bytes = Cast <to = 2> (pixel_values)
    pic_first = Squeeze (pic_bytes, pic_zero)
    pic_channels = Shape <start = 0, end = 1> (pic_first)
    pic_row = Sub (pic_channels, pic_one)
    pic_rows = Gather (pic_seats, pic_row)
    pic_flat = Squeeze (pic_rows, pic_zero)
    pic_odd = Mod (pic_channels, pic_two)
    pic_count = Sub (pic_four, pic_odd)
    pic_chosen = Slice (pic_flat, pic_zero, pic_count)
    pic_planes = Gather (pic_first, pic_chosen)
    {IMAGE} = Transpose <perm = [1, 2, 0]> (pic_planes)
}}"""
"""One picture of 1 to 4 channels (grey or RGB, with or without alpha), 0 to 255 -> as `_graph` takes it."""


def with_pixel_values(model: Any) -> Any:
    """A model with the preprocessing inside -> the same with the input of programs that give floats, channels first."""
    onnx = package("onnx", "onnx")
    before = onnx.parser.parse_model(_PICTURE)
    before.ir_version = model.ir_version
    return onnx.compose.merge_models(before, model, io_map=[(IMAGE, IMAGE)])


def preprocessing_model(trained: TrainedModel) -> Any:
    """The graph of `_graph` alone, an ONNX model."""
    return package("onnx", "onnx").parser.parse_model(_graph(trained))


def with_preprocessing(model: Any, trained: TrainedModel) -> Any:
    """An ONNX model of prepared images -> the same for one picture, with probabilities (1, C) as its first output."""
    onnx = package("onnx", "onnx")
    before = preprocessing_model(trained)
    before.ir_version = model.ir_version
    whole = onnx.compose.merge_models(before, model, io_map=[("images", "images")])
    kind, options = ("Sigmoid", {}) if trained.info.thresholds else ("Softmax", {"axis": -1})
    whole.graph.node.append(onnx.helper.make_node(kind, ["logits"], [PROBABILITIES], **options))
    shape = [1, len(trained.info.classes)]
    found = onnx.helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, shape)
    whole.graph.output.insert(0, found)
    return whole

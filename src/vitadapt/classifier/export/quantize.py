"""Smaller ONNX files: linear layers in int8, by ranges and errors that are measured, and weights in fp16.

Static int8 is ONNX's own notation: y = DQ(Q(x)) DQ(W) with Q(x) = clip(round(x / s) + z, 0, 255), one s and z per
tensor x from its smallest and largest value on the calibration images, and one scale per output channel of W. W has 7
bits: two products of 8 by 8 bits do not fit the 16 bits in which processors without VNNI add them, and answers would
depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...utils.errors import WeightsError
from ...utils.optional import package
from .comparison import Layers, Run, in_batches

_BATCH, _JUDGED = 4, 8  # images at a time, and on which the error of each layer is measured


def session(model: Path | bytes, **options: Any) -> Any:
    """onnxruntime's session of a file, or of what it would hold, on the CPU."""
    ort = package("onnxruntime", "onnx")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    for name, value in options.items():
        setattr(settings, name, value)
    content = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def runner(model: Path | bytes) -> Run:
    """uint8 images (B, 3, S, S) -> logits (B, C) by onnxruntime."""
    live = session(model)
    return lambda images: torch.from_numpy(live.run(["logits"], {"images": images.numpy()})[0])


def folded(path: Path) -> Any:
    """The model in `path` with everything computed that does not depend on the image."""
    ort, onnx = package("onnxruntime", "onnx"), package("onnx", "onnx")
    simpler = path.with_name("folded.onnx")
    level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session(path, graph_optimization_level=level, optimized_model_filepath=str(simpler))
    model = onnx.load(str(simpler))
    simpler.unlink()
    return model


def linear_layers(model: Any) -> dict[str, Any]:
    """Name -> node of every product of an activation and a constant matrix that the logits depend on.

    A layer is called as the bias that is added to it, where there is one.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    maker = {name: node for node in model.graph.node for name in node.output}
    biases = {
        node.input[i]: node.input[1 - i]
        for node in model.graph.node
        if node.op_type == "Add"
        for i in (0, 1)
        if node.input[1 - i] in constants
    }
    needed, waiting = {}, ["logits"]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.output[0] not in needed:
            needed[node.output[0]] = node
            waiting += node.input
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.output[0] in needed and node.input[1] in constants:
            bias = biases.get(node.output[0], "").removeprefix("deployed.").removeprefix("backbone.")
            found[bias.removesuffix(".bias") if bias.endswith(".bias") else node.name] = node
    return found


class StaticQuantization:
    """What is measured of the linear layers of a folded model on images (N, 3, S, S), and files made of it.

    ranges: smallest and largest input of each layer. errors: |y_int8 - y|^2 / |y|^2 of its output, each by itself.
    """

    def __init__(self, model: Any, images: Tensor) -> None:
        self.model, self.layers = model, linear_layers(model)
        onnx = package("onnx", "onnx")
        self.weights = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if tensor.name in {node.input[1] for node in self.layers.values()}
        }
        self.ranges: dict[str, tuple[float, float]] = dict.fromkeys(self.layers, (0.0, 0.0))
        for inputs in self._inputs(images):
            for name, x in inputs.items():
                low, high = self.ranges[name]
                self.ranges[name] = min(low, float(x.min())), max(high, float(x.max()))
        wrong, right = dict.fromkeys(self.layers, 0.0), dict.fromkeys(self.layers, 1e-30)
        for inputs in self._inputs(images[:_JUDGED]):
            for name, x in inputs.items():
                weight = self.weights[self.layers[name].input[1]]
                scale, zero = self._activation(name)
                x8 = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
                w8, scales = _weight8(weight)
                wanted = x @ weight
                wrong[name] += float(((x8 @ (w8 * scales) - wanted) ** 2).sum())
                right[name] += float((wanted**2).sum())
        self.errors = {name: wrong[name] / right[name] for name in self.layers}

    def _inputs(self, images: Tensor) -> Iterator[dict[str, np.ndarray]]:
        """The input of every layer, for a few images at a time."""
        onnx = package("onnx", "onnx")
        shown = onnx.ModelProto()
        shown.CopyFrom(self.model)
        values = {node.input[0] for node in self.layers.values()}
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in sorted(values))
        live = session(shown.SerializeToString())
        names = [node.input[0] for node in self.layers.values()]
        for some in images.split(_BATCH):
            found = live.run(names, {"images": some.numpy()})
            yield dict(zip(self.layers, found, strict=True))

    def _activation(self, name: str) -> tuple[np.float32, int]:
        """s and z of a layer's input; the range holds zero."""
        low, high = self.ranges[name]
        scale = np.float32(max(high - low, 1e-8) / 255)
        return scale, round(-low / float(scale))

    def without(self, worst: int) -> tuple[Any, tuple[str, ...]]:
        """The model in int8, all but the `worst` layers with the largest errors; and these."""
        onnx = package("onnx", "onnx")
        order = sorted(self.layers, key=lambda name: -self.errors[name])
        small = onnx.ModelProto()
        small.CopyFrom(self.model)
        nodes = {node.output[0]: node for node in small.graph.node}
        before: dict[str, list[Any]] = {}
        made: dict[str, str] = {}
        for name in order[worst:]:
            node = nodes[self.layers[name].output[0]]
            x, weight = node.input
            scale, zero = self._activation(name)
            w8, scales = _weight8(self.weights[weight])
            constants = {"x_scale": scale, "x_zero": np.uint8(zero), "w": w8.astype(np.int8)}
            constants |= {"w_scale": scales.astype(np.float32), "w_zero": np.zeros(len(scales), np.int8)}
            names = {part: f"{name}.{part}" for part in constants}
            small.graph.initializer.extend(
                onnx.numpy_helper.from_array(np.asarray(value), names[part]) for part, value in constants.items()
            )
            small_x, back, w = f"{name}.int8", f"{name}.fp32", f"{name}.weight32"
            made[weight] = w
            pair = [names["x_scale"], names["x_zero"]]
            before[node.output[0]] = [
                onnx.helper.make_node("QuantizeLinear", [x, *pair], [small_x]),
                onnx.helper.make_node("DequantizeLinear", [small_x, *pair], [back]),
                onnx.helper.make_node("DequantizeLinear", [names["w"], names["w_scale"], names["w_zero"]], [w], axis=1),
            ]
            node.input[:] = [back, w]
        ordered = [new for node in small.graph.node for new in (*before.get(node.output[0], ()), node)]
        del small.graph.node[:]
        small.graph.node.extend(ordered)
        _drop_unused(small)
        return small, tuple(order[:worst])


def _weight8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers -63..63 (D_in, D_out) as floats, and one scale per output channel (D_out,)."""
    scales = np.maximum(np.abs(weight).max(axis=0), 1e-8) / 63
    return np.rint(weight / scales), scales


def _drop_unused(model: Any) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def static_int8(model: Any, images: Tensor, max_loss: float) -> tuple[Any, Layers]:
    """A folded model -> the same in int8, the number of its linear layers, and those that stay in fp32.

    First none stays, then 1, 2, 4 ... with the largest errors, until at most `max_loss` percent of the calibration
    `images` change their class; half of them at most.
    """
    measured = StaticQuantization(model, images)
    if not measured.layers:
        raise WeightsError("export in int8: this model has no linear layers that an image passes; export it in fp32")
    wanted, count = in_batches(runner(model.SerializeToString()), images).argmax(dim=1), len(measured.layers)
    for worst in (0, *(2**i for i in range(count.bit_length()) if 2 ** (i + 1) <= count)):
        small, kept = measured.without(worst)
        found = in_batches(runner(small.SerializeToString()), images).argmax(dim=1)
        if 100 * float((found != wanted).float().mean()) <= max_loss:
            break
    return small, (count, kept)


def dynamic_int8(model: Any, folder: Path) -> tuple[Any, Layers]:
    """As `static_int8`, the ranges taken anew from every input (onnxruntime's own dynamic quantisation)."""
    onnx, tools = package("onnx", "onnx"), package("onnxruntime.quantization", "onnx")
    layers, file = linear_layers(model), folder / "dynamic.onnx"
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # `folded` did it: no warning
    tools.quantize_dynamic(
        model,
        file,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=tools.QuantType.QInt8,
        nodes_to_quantize=[node.name for node in layers.values()],
    )
    small = onnx.load(str(file))
    file.unlink()
    return small, (len(layers), ())


def fp16_weights(model: Any) -> Any:
    """The model with its large weights stored in fp16; they are turned into fp32 once, when it is opened.

    Raises WeightsError for a weight that is too large for fp16.
    """
    onnx = package("onnx", "onnx")
    casts = []
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.size < 1024:
            continue
        if not np.abs(value).max(initial=0.0) < np.finfo(np.float16).max:
            raise WeightsError(f"export in fp16: {tensor.name} has values that fp16 cannot hold; export it in fp32")
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), f"{name}.fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.fp16"], [name], to=onnx.TensorProto.FLOAT))
    nodes: Sequence[Any] = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model

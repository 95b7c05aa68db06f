"""Export to ExecuTorch: model.pte for telephones and small devices, by its own lowering, for XNNPACK's kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...utils.optional import package
from .certificate import TARGETS, Options, Program, Target, write_json
from .deployed import TrainedModel
from .graphs import about, program_of

MODEL = "model.pte"


def _write(trained: TrainedModel, folder: Path, _: Options) -> None:
    exir = package("executorch.exir", "executorch")
    kernels = package("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    lowered = exir.to_edge_transform_and_lower(program_of(trained, 1), partitioner=[kernels.XnnpackPartitioner()])
    (folder / MODEL).write_bytes(lowered.to_executorch().buffer)
    known: dict[str, Any] = {
        name: text if name == "format" else json.loads(text) for name, text in about(trained).items()
    }
    known["preprocessing"]["input"] = "uint8 RGB, shape (1, 3, height, width)"
    write_json(folder / "vitadapt.json", known)


def _reopen(folder: Path, trained: TrainedModel, _: Options) -> Program:
    runtime = package("executorch.runtime", "executorch").Runtime.get()
    network = runtime.load_program(folder / MODEL).load_method("forward")

    def run(images: Tensor) -> Tensor:
        return torch.cat([network.execute([image])[0].clone() for image in images.split(1)])

    return Program(run)


TARGETS.register("executorch")(Target("ExecuTorch", ("executorch",), _write, _reopen))

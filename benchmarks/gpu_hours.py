"""The most hours that a benchmark file takes on GPUs of several classes, from its arithmetic alone.

    python benchmarks/gpu_hours.py elevater-kadaptation

The images that pass through each network are those of `Protocol.budget`; what one image costs, forward and backward, is
counted by torch on shapes, without any numbers. A GPU is supposed to reach a third of the peak of its data sheet, and
decoding is left out. Nothing here was measured on a GPU: docs/gpu.md.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.plan import images_of
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.sweep import find_benchmark_file, read_bench
from vitadapt.nn.surgery import Method, adapt
from vitadapt.nn.vit import ViT
from vitadapt.training.features import Environment
from vitadapt.weights.hints import config_of

SHARE = 1 / 3
GPUS = {  # TFLOP/s of the data sheets without sparsity: fp32 (TF32 where there is one), bf16 (fp16 on the T4)
    "T4": (8.1, 65.0),
    "RTX 3090": (35.6, 71.0),
    "A6000": (77.4, 154.8),
    "A100": (156.0, 312.0),
    "H100": (494.0, 989.0),
}
BATCH = 8


@lru_cache(maxsize=64)
def gflop(backbone: str, method: Method) -> tuple[float, float]:
    """10^9 operations of one image: a training step, and the forward pass alone."""
    with torch.device("meta"):
        vit = ViT(config_of(backbone)).requires_grad_(False)
        adapted = adapt(vit, method) if method.trains_head else vit
        images = torch.zeros(BATCH, 3, vit.image_size, vit.image_size)
        counts = []
        for backward in (True, False):
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
                features = adapted(images)
                if backward and features.requires_grad:
                    features.sum().backward()
            counts.append(counter.get_total_flops() / BATCH / 1e9)
    return counts[0], counts[1]


def operations(config: RunConfig) -> float:
    """The most 10^9 operations of one cell, its test images included."""
    images = images_of(config, Environment(data_root=Path("none")))
    budget = PROTOCOLS[config.protocol].budget(config, images.labels)
    trained, forward = gflop(config.backbone, cast(Any, config.method))
    return budget.trained * trained + (budget.scored + images.test) * forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    cells = [cell.resolved() for cell in read_bench(find_benchmark_file(parser.parse_args().file))]
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell in cells:
        sums[cell.backbone, "all" if cell.shots is None else str(cell.shots)].append(operations(cell))
    print(f"{'backbone':<14}{'shots':>6}{'cells':>7}{'PFLOP':>10}", *(f"{name:>16}" for name in GPUS), sep="")
    for (backbone, shots), found in [*sums.items(), (("total", ""), [sum(map(sum, sums.values()))])]:
        hours = [
            "/".join(f"{sum(found) / 1e3 / (SHARE * peak) / 3600:,.1f}" for peak in peaks) for peaks in GPUS.values()
        ]
        count = len(cells) if backbone == "total" else len(found)
        print(f"{backbone:<14}{shots:>6}{count:>7}{sum(found) / 1e6:>10,.0f}", *(f"{h:>16}" for h in hours), sep="")
    print("hours at a third of the peak: fp32 or TF32 / bf16 or fp16")


if __name__ == "__main__":
    main()

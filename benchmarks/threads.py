"""What waiting threads cost: CPU-seconds and seconds per image of a frozen pass, by OpenMP's wait policy and threads.

    python benchmarks/threads.py --busy 0 2

Each row is a process of its own, which passes images through a ViT-S/14 at 224 pixels. `--busy` processes keep the
cores busy meanwhile. The rows take turns; medians over the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

ROWS = [(policy, threads) for policy in ("PASSIVE", "ACTIVE") for threads in (1, 2)]
IMAGES = 8
WORK = f"""
import time, resource, torch
from vitadapt.weights import load_backbone
from vitadapt.training.loop import forward_all, TensorInputs
from vitadapt.nn.setting import Setting
vit = load_backbone("random:dinov2-s14", image_size=224)
images = TensorInputs(torch.zeros({IMAGES}, 3, 224, 224, dtype=torch.uint8))
forward_all(vit, images, Setting(), "warm")
usage = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
cpu, start = usage(), time.perf_counter()
for _ in range(4):
    forward_all(vit, images, Setting(), "x", batch_size={IMAGES})
print((usage() - cpu) / {4 * IMAGES}, (time.perf_counter() - start) / {4 * IMAGES})
"""


def keep_busy() -> None:
    while True:
        sum(range(10**6))


def measure(policy: str, threads: int) -> tuple[float, float]:
    """CPU-seconds and seconds per image."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(threads)}
    line = subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, check=True)
    cpu, seconds = map(float, line.stdout.split())
    return cpu, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; ms of CPU / ms per image")
    for busy in options.busy:
        others = [multiprocessing.Process(target=keep_busy, daemon=True) for _ in range(busy)]
        for other in others:
            other.start()
        time.sleep(0.5)
        found: dict[tuple[str, int], list[tuple[float, float]]] = {row: [] for row in ROWS}
        for _ in range(options.rounds):
            for row in ROWS:
                found[row].append(measure(*row))
        for other in others:
            other.kill()
        for (policy, threads), times in found.items():
            cpu, seconds = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            print(f"{busy} busy processes, {policy:7s}, {threads} threads: {cpu:.0f} / {seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()

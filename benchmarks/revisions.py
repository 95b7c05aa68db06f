"""The forward pass and a training step at another revision of this repository, in turns with the present one.

    python benchmarks/revisions.py 9566764^ --turns 7

Processor seconds on one thread, random weights: the median, and the middle half, of the ratio of neighbouring turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NETWORKS = ("random:dinov2-s14", "random:clip-vit-b32")
KINDS = ("forward", "lora step", "fine-tune step")


def serve(images: int) -> None:
    """Answer each line of input, [network, kind], with the processor seconds that it took."""
    import torch

    from vitadapt.methods import FineTune, LoRA
    from vitadapt.nn.surgery import adapt, trainable
    from vitadapt.weights import load_backbone

    torch.set_num_threads(1)
    models = {}
    for name in NETWORKS:
        base = load_backbone(name)
        models[name] = {"forward": base, "lora step": adapt(base, LoRA()), "fine-tune step": adapt(base, FineTune())}
    x = torch.randint(0, 256, (images, 3, 224, 224), dtype=torch.uint8)
    for line in sys.stdin:
        name, kind = json.loads(line)
        model = models[name][kind]
        start = time.process_time()
        if kind == "forward":
            with torch.no_grad():
                model(x)
        else:
            model(x).square().mean().backward()
            torch.optim.SGD(trainable(model).values(), lr=1e-6).step()
        print(time.process_time() - start, flush=True)


def started(source: Path, images: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--serve", "--images", str(images)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ask(worker: subprocess.Popen[str], name: str, kind: str) -> float:
    assert worker.stdin is not None and worker.stdout is not None
    print(json.dumps([name, kind]), file=worker.stdin, flush=True)
    return float(worker.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", default="9566764^")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve(asked.images)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", asked.revision, "src"], capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        then, now = (started(source, asked.images) for source in (Path(folder, "src"), ROOT / "src"))
        print(f"| network | {asked.images} images | then, s | now, s | now / then | middle half |")
        print("|---|---|---|---|---|---|", flush=True)
        for name in NETWORKS:
            for kind in KINDS:
                ask(then, name, kind), ask(now, name, kind)  # the first of each allocates
                pairs = []
                for turn in range(asked.turns):  # each is first in every second turn
                    order = (then, now) if turn % 2 else (now, then)
                    one, other = (ask(worker, name, kind) for worker in order)
                    pairs.append((one, other) if turn % 2 else (other, one))
                ratios = [after / before for before, after in pairs]
                low, middle, high = statistics.quantiles(ratios, n=4)
                before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
                print(
                    f"| {name} | {kind} | {before:.3f} | {after:.3f} | {middle:.3f} | {low:.3f} to {high:.3f} |",
                    flush=True,
                )
        for worker in (then, now):
            worker.kill()


if __name__ == "__main__":
    main()

"""Time and memory of one training step and of inference, ours beside the peers', interleaved in one process.

    python benchmarks/step.py --arch vit-b32 --batch 32 --rounds 7 --json runs/step.json --picture runs/step.png

Random weights, the same shape for everybody. Each round runs every contender once, so that a machine that slows down
slows all of them; medians over rounds and their spread (interquartile range over median) are printed, next to the
measured peak of matrix multiplication and what the arithmetic costs there. Ratios of one run can be compared, times
of two runs cannot. Memory is the peak of a fresh process per contender beyond what it held before its first step.
"last third": only these blocks are adapted and the tokens before them are computed once; "half": of the patches.
Peers: KAdaptation computed as in the published code (published.py), Hugging Face PEFT (LoRA and LoKr), timm (full
fine-tuning) and, where it is installed, AdapterHub's `adapters`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from published import AsPublished
from torch import Tensor, nn

from vitadapt.methods.spec import parse_method
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.surgery import adapt, merge, trainable
from vitadapt.nn.vit import ViT
from vitadapt.training.views import FromBlock
from vitadapt.utils.system import peak_memory_mb
from vitadapt.weights import load_backbone

CLASSES = 10
OURS = (
    "linear-probe", "kadaptation", "lora", "adapter", "compacter", "phm-adapter", "bitfit", "layernorm", "attention",
    "fine-tune",
)  # fmt: skip
HF_DINO, HF_VIT = "Dinov2", "ViT"


@dataclass(frozen=True)
class Line:
    """One contender: milliseconds per image, medians over rounds, and memory in MB beyond the loaded model."""

    name: str
    train: float
    train_spread: float
    infer: float
    infer_spread: float
    memory: float | None = None


class Contender:
    """A network with a head: one training step, one inference pass."""

    def __init__(self, name: str, network: nn.Module, images: Tensor, labels: Tensor, trains: bool = True) -> None:
        self.name, self.network, self.images, self.labels = name, network, images, labels
        parameters = list(trainable(network).values())
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9) if parameters and trains else None

    def train(self) -> None:
        if self.optimizer is None:
            return
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.network(self.images).float(), self.labels).backward()
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self) -> None:
        self.network(self.images)


def our_model(vit: ViT, method: str) -> nn.Module:
    return Classifier(adapt(vit, parse_method(method)), Head(vit.features, CLASSES))


def merged_model(vit: ViT, method: str) -> nn.Module:
    return Classifier(merge(adapt(vit, parse_method(method))), Head(vit.features, CLASSES))


class Kept(nn.Module):
    """KAdaptation of the last third of the blocks. It trains on the tokens of `images` that stand before them, which
    are computed once, and on a share of the patches only; it infers as any other."""

    def __init__(self, vit: ViT, share: float) -> None:
        super().__init__()
        count = max(1, vit.config.depth // 3)
        self.model, self.share = our_model(vit, f"kadaptation:blocks=last:{count}"), share
        self.rest = FromBlock(cast(Classifier, self.model), vit.config.depth - count)
        self.tokens: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return cast(Tensor, self.model(images))
        if self.tokens is None:
            vit = self.rest.backbone
            with torch.no_grad():
                tokens = vit.run_blocks(vit.embed(images), 0, self.rest.first)
            self.tokens = tokens[:, : vit.config.prefix + round(self.share * vit.config.grid**2)].clone()
        return cast(Tensor, self.rest(self.tokens))


class Theirs(nn.Module):
    """A peer's backbone with a linear head on the class token."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        out = self.backbone(images)
        return cast(Tensor, self.head(out if isinstance(out, Tensor) else out.last_hidden_state[:, 0]))


def hugging_face(vit: ViT) -> nn.Module:
    """The Hugging Face model of the same shape."""
    import transformers

    c = vit.config
    kind = HF_DINO if c.layer_scale else HF_VIT
    hidden = {"mlp_ratio": c.mlp_width // c.width} if c.layer_scale else {"intermediate_size": c.mlp_width}
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=c.width, num_hidden_layers=c.depth, num_attention_heads=c.heads, image_size=c.image_size,
        patch_size=c.patch, attn_implementation="sdpa", **hidden,
    )  # fmt: skip
    extra = {} if c.layer_scale else {"add_pooling_layer": False}
    return cast(nn.Module, getattr(transformers, f"{kind}Model")(config, **extra)).eval()


def timm_model(vit: ViT) -> nn.Module:
    """timm's model of the same shape, without a head."""
    from timm.models.vision_transformer import VisionTransformer

    c = vit.config
    return cast(
        nn.Module,
        VisionTransformer(
            img_size=c.image_size, patch_size=c.patch, embed_dim=c.width, depth=c.depth, num_heads=c.heads,
            mlp_ratio=c.mlp_width / c.width, init_values=1e-5 if c.layer_scale else None, num_classes=0,
        ).eval(),
    )  # fmt: skip


def peft_model(base: nn.Module, config: Any) -> nn.Module:
    import peft

    return cast(nn.Module, peft.get_peft_model(cast(Any, base), config))


def query_and_value(base: nn.Module) -> list[str]:
    names = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
    return ["query", "value"] if "query" in names else ["q_proj", "v_proj"]


def peers(vit: ViT) -> dict[str, Callable[[], nn.Module]]:
    """Name -> how to build it; needs peft, transformers and timm."""
    import peft

    def lora() -> nn.Module:
        base = hugging_face(vit)
        return peft_model(base, peft.LoraConfig(r=4, lora_alpha=4, target_modules=query_and_value(base)))

    def lokr() -> nn.Module:
        base = hugging_face(vit)
        targets = query_and_value(base)
        return peft_model(base, peft.LoKrConfig(r=1, alpha=1, target_modules=targets, decompose_factor=32))

    def fused() -> nn.Module:
        return peft_model(timm_model(vit), peft.LoraConfig(r=4, lora_alpha=4, target_modules=["qkv"]))

    def frozen() -> nn.Module:
        return timm_model(vit).requires_grad_(False)

    found = {"PEFT LoRA q,v (HF)": lora, "PEFT LoKr q,v (HF)": lokr, "PEFT LoRA qkv (timm)": fused}
    found |= {"timm fine-tune": lambda: timm_model(vit), "timm frozen": frozen}
    try:
        import adapters
    except ImportError:
        return found

    def hub(config: str) -> nn.Module:
        base = hugging_face(vit)
        adapters.init(base)
        cast(Any, base).add_adapter("a", config=config)
        cast(Any, base).train_adapter("a")
        return base

    return found | {f"adapters {c}": lambda c=c: hub(c) for c in ("compacter", "seq_bn")}


def builders(vit: ViT, methods: list[str]) -> dict[str, Callable[[], nn.Module]]:
    """Every contender by name."""
    found: dict[str, Callable[[], nn.Module]] = {}
    for method in methods:
        found[method] = lambda method=method: our_model(vit, method)  # type: ignore[misc]
    for method in ("kadaptation", "lora"):
        if method in methods:
            found[f"{method}, merged"] = lambda method=method: merged_model(vit, method)  # type: ignore[misc]
    width = vit.config.width
    if "kadaptation" in methods:
        found["kadaptation, last third"] = lambda: Kept(vit, 1.0)
        found["kadaptation, last third, half"] = lambda: Kept(vit, 0.5)
        found["kadaptation as published"] = lambda: Theirs(AsPublished(vit, "kadaptation"), vit.features)
    for name, build in peers(vit).items():
        found[name] = lambda build=build: Theirs(build(), width)  # type: ignore[misc]
    return found


def contender(name: str, build: Callable[[], nn.Module], vit: ViT, batch: int, device: str) -> Contender:
    size = vit.config.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator).to(device)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator).to(device)
    return Contender(name, build().to(device), images, labels, trains="merged" not in name)


def synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], None], batch: int, device: str) -> float:
    """Milliseconds per image."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return 1000 * (time.perf_counter() - start) / batch


def peak_flops(device: str, rounds: int = 5) -> float:
    """Multiply-adds x 2 per second of a large fp32 matrix product, the best of several."""
    a = torch.randn(2048, 2048, device=device)
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, a, out=out)

    return float(2 * 2048**3 / min(timed(product, 1000, device) for _ in range(rounds)))


def forward_flops(vit: ViT) -> float:
    """2 x multiply-adds of one image's forward pass: linear layers, attention and patches, for all tokens."""
    c = vit.config
    n, d, m = c.grid**2 + c.prefix, c.width, c.mlp_width
    block = n * (4 * d * d + 2 * d * m) + 2 * n * n * d
    return 2.0 * (c.depth * block + c.grid**2 * 3 * c.patch**2 * d)


def measure(vit: ViT, methods: list[str], batch: int, rounds: int, device: str) -> tuple[list[Line], dict[str, float]]:
    runners = [contender(name, build, vit, batch, device) for name, build in builders(vit, methods).items()]
    train: dict[str, list[float]] = {r.name: [] for r in runners}
    infer: dict[str, list[float]] = {r.name: [] for r in runners}
    peaks = []
    for turn in range(rounds + 1):
        peaks.append(peak_flops(device, 1))
        for runner in runners if turn % 2 else runners[::-1]:
            a, b = timed(runner.train, batch, device), timed(runner.infer, batch, device)
            if turn:  # the first round warms up
                train[runner.name].append(a)
                infer[runner.name].append(b)
        gc.collect()
    peak, work = max(peaks), forward_flops(vit)
    limits = {"gflops": peak / 1e9, "forward": 1000 * work / peak, "forward+input gradients": 2000 * work / peak}
    return [Line(n, *middle(train[n]), *middle(infer[n])) for n in train], limits


def middle(values: list[float]) -> tuple[float, float]:
    """Median, and interquartile range over median."""
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median, median, median)
    return median, (high - low) / max(median, 1e-9)


def memory_of(arguments: argparse.Namespace, name: str) -> float | None:
    """Peak of a training step in a process of its own, MB beyond the loaded model; None when nothing trains."""
    command = [sys.executable, __file__, "--arch", arguments.arch, "--batch", str(arguments.batch)]
    command += ["--device", arguments.device, "--only-memory", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else None


def print_memory(vit: ViT, name: str, batch: int, device: str) -> None:
    runner = contender(name, builders(vit, list(OURS))[name], vit, batch, device)
    with torch.inference_mode():
        runner.network(runner.images[:1])
    gc.collect()
    before = torch.cuda.memory_allocated() / 1e6 if device != "cpu" else peak_memory_mb()
    runner.train()
    runner.train()
    print(f"{peak_memory_mb() - before:.1f}")


def table(lines: list[Line], limits: dict[str, float]) -> str:
    head = f"{'':28s} {'train':>8s} {'±%':>4s} {'x limit':>8s} {'infer':>8s} {'±%':>4s} {'x limit':>8s} {'memory':>8s}"
    rows = [head]
    for line in lines:
        step, forward = line.train / limits["forward+input gradients"], line.infer / limits["forward"]
        memory = "" if line.memory is None else f"{line.memory:8.0f}"
        first = f"{line.name:28s} {line.train:8.2f} {100 * line.train_spread:4.0f} {step:8.2f}"
        rows.append(f"{first} {line.infer:8.2f} {100 * line.infer_spread:4.0f} {forward:8.2f} {memory:>8s}")
    return "\n".join(rows)


def picture(lines: list[Line], limits: dict[str, float], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = sorted((line for line in lines if line.train > 0.01), key=lambda line: line.train)
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(shown) + 1.4), layout="constrained")
    colours = ["#0072B2" if line.name.split(",")[0] in OURS else "#999999" for line in shown]
    axes.barh([line.name for line in shown], [line.train for line in shown], color=colours)
    axes.axvline(limits["forward+input gradients"], color="#D55E00", linestyle="--")
    axes.set(xlabel="ms per image of a training step (dashed: forward + input gradients at peak)", title=title)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit-b32")
    parser.add_argument("--methods", nargs="+", default=list(OURS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--only-memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    vit = cast(ViT, load_backbone(f"random:{arguments.arch}", device=arguments.device))
    if arguments.only_memory:
        print_memory(vit, arguments.only_memory, arguments.batch, arguments.device)
        return
    lines, limits = measure(vit, arguments.methods, arguments.batch, arguments.rounds, arguments.device)
    if not arguments.no_memory:
        lines = [Line(**{**asdict(line), "memory": memory_of(arguments, line.name)}) for line in lines]
    title = f"{arguments.arch}, batch {arguments.batch}, {arguments.device}, {torch.get_num_threads()} threads"
    print(f"{title}: ms per image")
    print("; ".join(f"{name} {value:.1f}" for name, value in limits.items()))
    print(table(lines, limits))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"limits": limits, "lines": [asdict(line) for line in lines]}, indent=1))
    if arguments.picture:
        picture(lines, limits, arguments.picture, title)


if __name__ == "__main__":
    main()

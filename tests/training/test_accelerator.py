"""Training and inference on another device, without one: torch's device "meta" has shapes and no numbers.

What mixes tensors of two devices, asks for a number in order to go on, or copies to the CPU, fails or is counted there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from families import build, random_images
from torch.utils._python_dispatch import TorchDispatchMode

from vitadapt.methods import METHODS
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.head_spec import parse_head
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import adapt, solves_head, towers_of, trainable
from vitadapt.training.loop import TensorInputs, fit, forward_all
from vitadapt.training.recipe import Recipe

IMAGES, LABELS = random_images(4), torch.arange(4) % 3
KINDS = {name: kind() for name, kind in METHODS.items()}
TRAINED = [n for n, m in KINDS.items() if m.trains_head and not solves_head(m) and towers_of(m) != "text"]
RECIPE = Recipe(epochs=1, batch_size=2)
RICH = Recipe(
    epochs=2, batch_size=2, clip_norm=1.0, flip=True, jitter=0.2, cutmix=0.5, drop_path=0.1, dropout=0.1, noise=0.1,
    pace=0.1, ema=0.9, layer_decay=0.8, label_smoothing=0.1,
)  # fmt: skip


class Transfers(TorchDispatchMode):
    """Counts what goes from the CPU to the other device, and what comes back: copies, and numbers asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode the parts of an operator are not seen by themselves
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            self.count["back"] += 1
            return 1.0
        if func is torch.ops.aten._to_copy.default:
            device = torch.device(kwargs.get("device") or args[0].device)
            if args[0].is_meta and device.type == "cpu":
                self.count["back"] += 1
                return torch.ones(args[0].shape)
            self.count["there"] += device.type == "meta" and not args[0].is_meta
        return func(*args, **kwargs)


def classifier(method: str, head: str = "zero") -> Classifier:
    backbone = adapt(build("clip-like"), METHODS[method]())
    return Classifier(backbone, Head(48, 3, parse_head(head)))


def trained(model: Classifier, recipe: Recipe, setting: Setting) -> Counter[str]:
    with Transfers() as transfers:
        fit(model, IMAGES, LABELS, recipe, setting=setting)
    return transfers.count


@pytest.mark.parametrize("method", TRAINED)
def test_a_step_sends_images_and_row_numbers_and_waits_for_nothing(method):
    """Besides these, the labels once, and the mean loss back once per epoch."""
    count = trained(classifier(method).to("meta"), RECIPE, Setting("meta"))
    assert (count["there"], count["back"]) == (2 * 2 * RECIPE.epochs + 1, RECIPE.epochs)


@pytest.mark.parametrize("head", ["zero", "zero:norm=batch", "zero:length=unit,scale=10"])
def test_no_ingredient_of_a_recipe_waits_either(head):
    count = trained(classifier("kadaptation", head).to("meta"), RICH, Setting("meta"))
    assert count["back"] == RICH.epochs


def test_inference_comes_back_once_per_batch():
    model = classifier("lora").to("meta")
    with Transfers() as transfers:
        forward_all(model, TensorInputs(IMAGES), Setting("meta"), "test", batch_size=2)
    assert (transfers.count["there"], transfers.count["back"]) == (2, 2)


def test_what_waits_is_seen():
    with Transfers() as transfers:
        float(torch.zeros(3, device="meta").sum())
        torch.zeros(3, device="meta").cpu()
    assert transfers.count["back"] == 2


@pytest.mark.parametrize("method", TRAINED)
def test_bfloat16_learns_what_fp32_learns(method):
    """Under autocast of a CPU: trained tensors stay in fp32, and losses differ by what bfloat16 rounds."""
    losses = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = classifier(method)
        log = fit(model, IMAGES, LABELS, RECIPE, setting=Setting(precision=precision))
        assert all(tensor.dtype == torch.float32 for tensor in trainable(model).values())
        losses[precision] = log.losses
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.03)

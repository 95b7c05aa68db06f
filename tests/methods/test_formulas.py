"""The newer methods against their papers' formulas, written again here: a plain transformer with the change by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import build, random_images
from torch import Tensor

from vitadapt.methods import METHODS, VPT, Convpass, FactTK, FactTT, RepAdapter, SideTuning
from vitadapt.methods.testing import Case
from vitadapt.nn.surgery import Method, adapt, trainable
from vitadapt.nn.vit import ViT
from vitadapt.weights import load_backbone

SLOTS = {"q": 0, "k": 1, "v": 2}


class Plain:
    """The network of the family "deit-like" (class token, two blocks, D = 64) from its weights; a paper overrides."""

    def __init__(self, weights: dict[str, Tensor], learnt: dict[str, Tensor]) -> None:
        self.w, self.learnt = weights, learnt

    def of(self, i: int, rest: str) -> Tensor:
        """What the method learnt in block i."""
        return self.learnt[f"blocks.{i}.{rest}"]

    def linear(self, i: int, slot: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x @ weight.T + bias

    def embedded(self, patches: Tensor) -> Tensor:
        return patches

    def before(self, i: int, layer: str, n: Tensor) -> Tensor:
        return n

    def added(self, i: int, layer: str, x: Tensor, n: Tensor, y: Tensor) -> Tensor:
        return y

    def entering(self, i: int, x: Tensor) -> Tensor:
        return x

    def leaving(self, i: int, x: Tensor) -> Tensor:
        return x

    def ending(self, feature: Tensor) -> Tensor:
        return feature

    def _linear(self, i: int, slot: str, x: Tensor) -> Tensor:
        path = {"o": "attention.out", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}.get(slot, "attention.qkv")
        weight, bias = self.w[f"blocks.{i}.{path}.weight"], self.w[f"blocks.{i}.{path}.bias"]
        if slot in SLOTS:
            rows = slice(64 * SLOTS[slot], 64 * SLOTS[slot] + 64)
            weight, bias = weight[rows], bias[rows]
        return self.linear(i, slot, x, weight, bias)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (64,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6)

    def _attention(self, i: int, n: Tensor) -> Tensor:
        q, k, v = (self._linear(i, slot, n).unflatten(-1, (2, 32)).transpose(1, 2) for slot in "qkv")
        mixed = (q @ k.mT / 32**0.5).softmax(-1) @ v
        return self._linear(i, "o", mixed.transpose(1, 2).flatten(2))

    def _mlp(self, i: int, n: Tensor) -> Tensor:
        return self._linear(i, "fc2", F.gelu(self._linear(i, "fc1", n)))

    def __call__(self, pixels: Tensor) -> Tensor:
        x = F.conv2d(pixels, self.w["patches.weight"], self.w["patches.bias"], stride=8).flatten(2).mT
        x = self.embedded(x) + self.w["position"][1:]
        first = (self.w["class_token"] + self.w["position"][0]).expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1)
        for i in range(2):
            x = self.entering(i, x)
            n = self.before(i, "attention", self._norm(x, f"blocks.{i}.norm1"))
            x = x + self.added(i, "attention", x, n, self._attention(i, n))
            n = self.before(i, "mlp", self._norm(x, f"blocks.{i}.norm2"))
            x = x + self.added(i, "mlp", x, n, self._mlp(i, n))
            x = self.leaving(i, x)
        return self.ending(self._norm(x, "norm")[:, 0])


def bottleneck(paper: Plain, i: int, place: str, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    down, up = (
        [paper.of(i, f"inserted.{place}.{part}.{kind}") for kind in ("weight", "bias")] for part in ("down", "up")
    )
    return f(x @ down[0].T + down[1]) @ up[0].T + up[1]


class Houlsby(Plain):
    def added(self, i: int, layer: str, x: Tensor, n: Tensor, y: Tensor) -> Tensor:
        return y + bottleneck(self, i, layer, y, F.gelu)


class Pfeiffer(Plain):
    def added(self, i: int, layer: str, x: Tensor, n: Tensor, y: Tensor) -> Tensor:
        return y + bottleneck(self, i, layer, y, F.relu) if layer == "mlp" else y


class AdaptFormer(Plain):
    def added(self, i: int, layer: str, x: Tensor, n: Tensor, y: Tensor) -> Tensor:
        return y + 0.1 * bottleneck(self, i, "mlp-residual", x, F.relu) if layer == "mlp" else y


class AdapterPlus(Plain):
    def leaving(self, i: int, x: Tensor) -> Tensor:
        return x + self.of(i, "inserted.block.scale") * bottleneck(self, i, "block", x, F.gelu)


class DeepPrompts(Plain):
    def entering(self, i: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], self.of(i, "tokens").expand(len(x), -1, -1), x[:, 1:17]], dim=1)

    def leaving(self, i: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], x[:, -16:]], dim=1)


class ShallowPrompts(Plain):
    def entering(self, i: int, x: Tensor) -> Tensor:
        return x if i else torch.cat([x, self.learnt["tokens"].expand(len(x), -1, -1)], dim=1)


class ScaledAndShifted(Plain):
    def linear(self, i: int, slot: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = super().linear(i, slot, x, weight, bias)
        path = {"o": "attention.out", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}.get(slot, "attention.qkv")
        scaled = y * self.of(i, f"{path}.deltas.{slot}.scale")
        return scaled if slot == "k" else scaled + self.of(i, f"{path}.deltas.{slot}.shift")

    def _at(self, place: str, x: Tensor) -> Tensor:
        return x * self.learnt[f"{place}.scale"] + self.learnt[f"{place}.offset"]

    def before(self, i: int, layer: str, n: Tensor) -> Tensor:
        return self._at(f"blocks.{i}.inserted.{layer}-input", n)

    def embedded(self, patches: Tensor) -> Tensor:
        return self._at("inserted.patches", patches)

    def ending(self, feature: Tensor) -> Tensor:
        return self._at("inserted.norm", feature)


class Bypassed(Plain):
    def added(self, i: int, layer: str, x: Tensor, n: Tensor, y: Tensor) -> Tensor:
        at = f"inserted.{layer}-parallel"
        thin = n @ self.of(i, f"{at}.down.weight").T + self.of(i, f"{at}.down.bias")
        thin = thin * torch.sigmoid(1.702 * thin)
        kernel, bias = self.of(i, f"{at}.conv.weight"), self.of(i, f"{at}.conv.bias")
        images = thin[:, 1:].mT.reshape(len(n), -1, 4, 4)
        patches = F.conv2d(images, kernel, bias, padding=1).flatten(2).mT
        alone = F.conv2d(thin[:, :1].mT.unsqueeze(-1), kernel, bias, padding=1).flatten(2).mT
        mixed = torch.cat([alone, patches], dim=1)
        mixed = mixed * torch.sigmoid(1.702 * mixed)
        return y + 0.5 * (mixed @ self.of(i, f"{at}.up.weight").T + self.of(i, f"{at}.up.bias"))


class Reparametrised(Plain):
    def before(self, i: int, layer: str, n: Tensor) -> Tensor:
        a, b, c, d = (self.of(i, f"inserted.{layer}-input.{name}") for name in ("a", "a_bias", "b", "b_bias"))
        thin = F.conv1d(n.mT, a.unsqueeze(-1), b)  # as published: two convolutions of width 1, the second in groups
        return n + 3.0 * F.conv1d(thin, c.flatten(0, 1).unsqueeze(-1), d, groups=2).mT


class Tensorised(Plain):
    """The twelve D x D matrices of a block in the order q k v o, fc1 in four rows of matrices, fc2 in four columns."""

    def core(self, number: int) -> Tensor:
        raise NotImplementedError

    def update(self, number: int) -> Tensor:
        return 0.7 * self.learnt["shared.fact.v"] @ self.core(number) @ self.learnt["shared.fact.u"].T

    def linear(self, i: int, slot: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        first = 12 * i + {"q": 0, "k": 1, "v": 2, "o": 3, "fc1": 4, "fc2": 8}[slot]
        if slot in ("fc1", "fc2"):
            change = torch.cat([self.update(first + j) for j in range(4)], dim=0 if slot == "fc1" else 1)
        else:
            change = self.update(first)
        return x @ (weight + change).T + bias


class Tucker(Tensorised):
    def core(self, number: int) -> Tensor:
        core, mix = self.learnt["shared.fact.core"], self.learnt["shared.fact.mix"][number]
        return sum(mix[c] * core[c] for c in range(len(mix)))  # type: ignore[return-value]


class Train(Tensorised):
    def core(self, number: int) -> Tensor:
        return self.learnt["shared.fact.core"][number]


class SingularValues(Plain):
    def linear(self, i: int, slot: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        path = {"o": "attention.out", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}.get(slot, "attention.qkv")
        u, s, vt = torch.linalg.svd(weight.float(), full_matrices=False)
        strengths = s.double() + self.of(i, f"{path}.deltas.{slot}.change")
        return x @ (u.double() * strengths @ vt.double()).T + bias


class ScaledSubLayers(Plain):
    def added(self, i: int, layer: str, x: Tensor, n: Tensor, y: Tensor) -> Tensor:
        last = "attention.out.deltas.o" if layer == "attention" else "mlp.fc2.deltas.fc2"
        return y * self.of(i, f"{last}.scale")


class Streamed(Plain):
    def leaving(self, i: int, x: Tensor) -> Tensor:
        own = x @ self.learnt["side.a"][i] @ self.learnt["side.b"][i]
        self.h = own if i == 0 else self.h + own
        return x + self.h * torch.sigmoid(100 * self.h) if i >= 1 else x  # the second half of two blocks


class Laddered(Plain):
    def leaving(self, i: int, x: Tensor) -> Tensor:
        thin = x @ self.learnt[f"side.down.{i}.weight"].T + self.learnt[f"side.down.{i}.bias"]
        if i:
            gate = torch.sigmoid(self.learnt["side.gates"][0] / 0.1)
            thin = gate * thin + (1 - gate) * self.h
        self.h = rung(thin, {k.removeprefix(f"side.rungs.{i}."): v for k, v in self.learnt.items()})
        return x + self.h @ self.learnt["side.up.weight"].T + self.learnt["side.up.bias"] if i == 1 else x


def rung(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """A pre-norm transformer block of width 16 with two heads."""
    n = F.layer_norm(x, (16,), w["norm1.weight"], w["norm1.bias"], 1e-6)
    q, k, v = (
        (n @ w["attention.qkv.weight"].T + w["attention.qkv.bias"]).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    )
    mixed = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = x + mixed @ w["attention.out.weight"].T + w["attention.out.bias"]
    n = F.layer_norm(x, (16,), w["norm2.weight"], w["norm2.bias"], 1e-6)
    return x + F.gelu(n @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]) @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]


PAPERS: dict[str, tuple[type[Plain], Method]] = {
    "houlsby": (Houlsby, METHODS["houlsby"]()),
    "pfeiffer": (Pfeiffer, METHODS["pfeiffer"]()),
    "adaptformer": (AdaptFormer, METHODS["adaptformer"]()),
    "adapter-plus": (AdapterPlus, METHODS["adapter-plus"]()),
    "vpt, deep": (DeepPrompts, VPT(tokens=3)),
    "vpt, shallow": (ShallowPrompts, VPT(tokens=3, deep=False)),
    "ssf": (ScaledAndShifted, METHODS["ssf"]()),
    "convpass": (Bypassed, Convpass(bottleneck=6, scale=0.5)),
    "repadapter": (Reparametrised, RepAdapter(rank=6, scale=3.0)),
    "fact-tk": (Tucker, FactTK(rank=5, scale=0.7)),
    "fact-tt": (Train, FactTT(rank=5, scale=0.7)),
    "svd": (SingularValues, METHODS["svd"]()),
    "diff-fit": (ScaledSubLayers, METHODS["diff-fit"]()),
    "partial-k": (Plain, METHODS["partial-k"]()),
    "side": (Laddered, SideTuning(reduction=4)),
    "dtl": (Streamed, METHODS["dtl"]()),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_method_computes_its_papers_formula(name: str) -> None:
    paper, method = PAPERS[name]
    base: Any = build("deit-like")
    model: Any = Case(method, base).perturbed().double()
    learnt = {name: p.detach() for name, p in trainable(model).items()}
    weights = {name: t.double() for name, t in base.state_dict().items()}
    weights |= {name: t for name, t in learnt.items() if name in weights}  # what was thawed
    images = random_images()
    with torch.no_grad():
        found, expected = model(images), paper(weights, learnt)(model.normalise(images))
        unchanged = Plain({n: t.double() for n, t in base.state_dict().items()}, {})(model.normalise(images))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    assert float((found - unchanged).abs().max()) > 1e-3


def test_the_plain_network_of_these_tests_is_ours() -> None:
    model = build("deit-like").double()
    assert isinstance(model, ViT)
    pixels = model.normalise(random_images())
    torch.testing.assert_close(Plain(model.state_dict(), {})(pixels), model(random_images()))


def test_the_weights_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as there are different weights; and a network in half precision leaves what is kept as it is."""
    monkeypatch.setattr("vitadapt.methods.svd._KNOWN", {})
    calls, real = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(1) or real(*a, **k))
    backbone = load_backbone("random:tiny")
    first = adapt(backbone, METHODS["svd"]())
    half = adapt(copy.deepcopy(backbone).bfloat16(), METHODS["svd"]())
    done = len(calls)
    second = adapt(backbone, METHODS["svd"](), seed=7)
    assert len(calls) == done
    for name, buffer in second.named_buffers():
        assert torch.equal(buffer, first.get_buffer(name)) and half.get_buffer(name).dtype != buffer.dtype
        assert buffer.data_ptr() != first.get_buffer(name).data_ptr()


def test_no_method_of_one_file_is_longer_than_sixty_lines() -> None:
    """Without blank lines and docstrings; a method in a file is the promise of docs/new-method.md."""
    from ast import Constant, Expr, parse, walk
    from inspect import getsourcefile
    from pathlib import Path

    for name in PAPERS:
        file = Path(getsourcefile(type(PAPERS[name][1])) or "")
        text = file.read_text("utf-8")
        lines = {number for number, line in enumerate(text.splitlines(), 1) if line.strip()}
        for node in walk(parse(text)):
            if isinstance(node, Expr) and isinstance(node.value, Constant) and isinstance(node.value.value, str):
                lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        assert len(lines) <= 60, (file.name, len(lines))

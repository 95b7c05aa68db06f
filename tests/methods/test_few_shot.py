"""The few-shot methods of CLIP: each against its formula in plain numpy, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import lapack

from vitadapt.methods import (
    CLAP,
    METHODS,
    CLIPAdapter,
    GDAClip,
    LPPlusPlus,
    Method,
    ProKeR,
    ProLIP,
    Solution,
    SSText,
    Support,
    TaskRes,
    TextDiscriminant,
    TextPrior,
    TipAdapter,
    TipAdapterF,
)
from vitadapt.methods.discriminant import SHRINKAGES, discriminants
from vitadapt.methods.gda_clip import ALPHAS
from vitadapt.methods.left_out import judges, left_out_logits, losses
from vitadapt.methods.proker import FACTORS, cholesky, diagonal_of_inverse
from vitadapt.nn.head import Head
from vitadapt.nn.surgery import adapt, trainable
from vitadapt.nn.vit import ViT, ViTConfig
from vitadapt.utils.errors import ConfigError

CLASSES, E, F = 4, 12, 16
NAMES = [name for name, kind in METHODS.items() if issubclass(kind, TextPrior)]
Array = Any


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(z: Array) -> Array:
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def case(counts: tuple[int, ...] = (3,) * CLASSES, seed: int = 0, noise: float = 0.7) -> tuple[Support, Array]:
    """A support set with so many images of each class, and new pooled features (M, F)."""
    rng = np.random.default_rng(seed)
    centres, projection = rng.normal(size=(CLASSES, F)), rng.normal(size=(E, F)) / 4
    labels = rng.permutation(np.repeat(np.arange(CLASSES), counts))
    pooled = centres[labels] + noise * rng.normal(size=(3, len(labels), F))
    new = centres[np.arange(20) % CLASSES] + noise * rng.normal(size=(20, F))
    text = unit(unit(centres @ projection.T) + 0.15 * rng.normal(size=(CLASSES, E)))
    start = {"projection.weight": projection.astype(np.float32)}
    for part, shape in {"down": (E // 4, E), "up": (E, E // 4)}.items():
        start[f"inserted.features.{part}.weight"] = rng.normal(size=shape).astype(np.float32) / 2
    versions = unit(pooled @ projection.T)
    return Support(versions[0], labels, CLASSES, versions, text, 20.0, pooled, start), new


def small(name: str) -> Any:
    """The method with few epochs, where it has epochs."""
    kind: Any = METHODS[name]
    return kind(epochs=8) if "epochs" in kind.__dataclass_fields__ else kind()


def needed(method: Method, support: Support) -> Support:
    """With the tensors of the backbone alone that the method adapts."""
    wanted = {ProLIP: "projection", CLIPAdapter: "inserted"}.get(type(method), "nothing")  # type: ignore[call-overload]
    return replace(support, start={n: t for n, t in support.start.items() if n.startswith(wanted)})


def logits_of(solution: Solution, support: Support, pooled: Array) -> Array:
    """Logits (M, C) of pooled features (M, F): the formula of a head, written again."""
    learnt = {**support.start, **solution.backbone}
    f = pooled @ learnt["projection.weight"].T
    if (down := solution.backbone.get("inserted.features.down.weight")) is not None:
        up = solution.backbone["inserted.features.up.weight"]
        f = 0.2 * np.maximum(np.maximum(f @ down.T, 0) @ up.T, 0) + 0.8 * f
    g, weight = unit(f), solution.weight if solution.weight is not None else support.scale * support.text
    logits = g @ weight.T + (0 if solution.bias is None else solution.bias)
    if solution.keys is not None:
        logits = logits + np.exp(solution.sharpness * (g @ solution.keys.T - 1)) @ solution.values
    return logits


def answers(method: Method, support: Support, pooled: Array) -> Array:
    solution = method.solve_head(needed(method, support))
    assert solution is not None
    return logits_of(solution, support, pooled)


def test_ss_text_is_its_formula() -> None:
    support, new = case((1, 2, 3, 5))
    for balanced in (False, True):
        rows = []
        for c in range(CLASSES):
            own = support.features[support.labels == c]
            regularisation = 1 / 11 if balanced else 1 / len(own)
            w = support.text[c] + sum(support.scale * f for f in own) / 11 / regularisation
            rows.append(w / np.sqrt((w**2).sum()))
        expected = support.scale * unit(new @ support.start["projection.weight"].T) @ np.array(rows).T
        np.testing.assert_allclose(answers(SSText(balanced), support, new), expected, atol=1e-9)


def test_tip_adapter_adds_every_image_by_itself() -> None:
    support, new = case()
    g = unit(new @ support.start["projection.weight"].T)
    expected = support.scale * g @ support.text.T
    for key, label in zip(support.features, support.labels, strict=True):
        expected[:, label] += 2.0 * np.exp(-1.5 * (1 - g @ key))
    np.testing.assert_allclose(answers(TipAdapter(2.0, 1.5), support, new), expected, atol=1e-9)
    one, _ = case((1,) * CLASSES)
    assert TipAdapter().mix(one) == (3.0, 1.0)


def test_tip_adapter_chooses_by_each_image_without_itself() -> None:
    """Against the likelihood of every image under a cache that was built without it."""
    support, _ = case((4,) * CLASSES, noise=1.5)
    found = {}
    for alpha in (0.1, 1.0, 10.0):
        for beta in (0.5, 4.0, 13.0):
            logits = np.zeros((16, CLASSES))
            for i in range(16):
                rest = support.take(np.arange(16) != i)
                zero_shot = support.scale * support.features[i] @ support.text.T
                near = np.exp(beta * (rest.features @ support.features[i] - 1))
                cache = np.bincount(rest.labels, near, CLASSES)
                cache[support.labels[i]] *= 4 / 3  # three images stand for four
                logits[i] = zero_shot + alpha * cache
            found[alpha, beta] = losses(logits, support.labels, np.ones(1))[0]
    alpha, beta = TipAdapter().mix(support)
    if (alpha, beta) not in found:
        chosen = TipAdapter(alpha=alpha).mix(support), TipAdapter(beta=beta).mix(support)
        assert chosen == ((alpha, beta), (alpha, beta))
    for beta in (0.5, 4.0, 13.0):
        best = min((loss, a) for (a, b), loss in found.items() if b == beta)
        chosen_alpha = TipAdapter(beta=beta).mix(support)[0]
        assert chosen_alpha not in (0.1, 1.0, 10.0) or chosen_alpha == best[1]


def test_tip_adapter_f_trains_the_keys() -> None:
    support, _ = case()
    x, y = support.features, np.eye(CLASSES)[support.labels]
    keys, mean, square = x.copy(), np.zeros_like(x), np.zeros_like(x)
    for step in range(5):
        near = np.exp(1.5 * (x @ keys.T - 1))
        gradient = (softmax(support.scale * x @ support.text.T + near @ (2 * y)) - y) / len(x)
        slope = 1.5 * (near * (gradient @ (2 * y).T)).T @ x
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        lr = 1e-2 * (1 + np.cos(np.pi * step / 5)) / 2
        keys *= 1 - lr * 0.01
        keys -= lr * mean / (1 - 0.9 ** (step + 1)) / (np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-4)
    solution = TipAdapterF(2.0, 1.5, lr=1e-2, epochs=5).solve_head(support)
    np.testing.assert_allclose(solution.keys, keys, atol=1e-5)
    assert np.abs(keys - x).max() > 1e-2 and solution.sharpness == 1.5


@pytest.mark.parametrize("versions", [True, False])
def test_gda_clip_is_its_formula(versions: bool) -> None:
    """Against the pseudo-inverse of the published code; one class has one image."""
    support, new = case((4, 1, *(3,) * (CLASSES - 2)))
    if not versions:
        support = replace(support, versions=None)
    x = support.features if support.versions is None else support.versions.reshape(-1, E)
    y = np.tile(support.labels, len(x) // len(support.labels))
    means = np.array([x[y == c].mean(axis=0) for c in range(CLASSES)])
    covariance = np.cov((x - means[y]).T)
    inverse = E * np.linalg.pinv((len(x) - 1) * covariance + np.trace(covariance) * np.eye(E))
    weight, bias = means @ inverse, np.log(1 / CLASSES) - np.diag(means @ inverse @ means.T) / 2
    g = unit(new @ support.start["projection.weight"].T)
    expected = support.scale * g @ support.text.T + 0.3 * (g @ weight.T + bias)
    np.testing.assert_allclose(answers(GDAClip(0.3), support, new), expected, atol=1e-8)


def test_gda_clip_chooses_by_images_left_out() -> None:
    """Texts that are right make the images count little, texts that are swapped make them count much."""
    support, _ = case((5,) * CLASSES, noise=0.3)
    wrong = replace(support, text=np.roll(support.text, 1, axis=0))
    chosen = [GDAClip().mix(s, s.scale * s.text) for s in (support, wrong)]
    assert chosen[0] < chosen[1] and set(chosen) <= set(ALPHAS)
    one, _ = case((1,) * CLASSES)
    assert GDAClip().mix(one, one.text) == 0.1


def proker(support: Support, x: Array, beta: float, strength: float) -> Array:
    """Logits (M, C) of directions by an explicit inverse, without the factor."""
    kernel = np.exp(-beta * (1 - support.features @ support.features.T))
    rest = np.eye(CLASSES)[support.labels] - support.features @ support.text.T
    dual = np.linalg.inv(kernel / strength + np.eye(len(kernel))) @ rest
    return x @ support.text.T + np.exp(-beta * (1 - x @ support.features.T)) @ dual


@pytest.mark.parametrize(("shots", "beta", "strength"), [(1, 3, 0.05), (2, 2.6, 0.05), (5, 1.5, 0.05), (16, 1.7, 0.1)])
def test_proker_is_its_formula_and_leaves_out_exactly(shots: int, beta: float, strength: float) -> None:
    support, new = case((shots,) * CLASSES)
    x, found = unit(new @ support.start["projection.weight"].T), answers(ProKeR(), support, new)
    expected = proker(support, x, beta, strength)
    factor = (found * expected).sum() / (expected**2).sum()
    np.testing.assert_allclose(found, factor * expected, atol=1e-8 * factor)
    rows = np.arange(len(support.labels))
    left = np.stack([proker(support.take(rows != i), support.features[i : i + 1], beta, strength)[0] for i in rows])
    best = FACTORS[np.argmin(losses(left, support.labels, 1 / FACTORS))]
    assert factor == pytest.approx(best)


@pytest.mark.parametrize("n", [1, 2, 3, 12, 13])
def test_half_a_kernel_solves_as_the_whole_does(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitadapt.methods.proker._COLUMNS", 4)
    rng = np.random.default_rng(n)
    x, right = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    kernel = x @ x.T
    factor = cholesky(lambda rows, columns: kernel[rows, columns], n)
    inverse = np.linalg.inv(kernel + np.eye(n))
    np.testing.assert_allclose(lapack.dpftrs(n, factor, right, uplo="L")[0], inverse @ right, atol=1e-12)
    np.testing.assert_allclose(diagonal_of_inverse(factor, n, np.arange(n)), np.diag(inverse), atol=1e-12)
    with pytest.raises(ConfigError, match="must be positive"):
        cholesky(lambda rows, columns: -2 * np.eye(n)[rows, columns], n)


def test_lp_plus_plus_is_its_two_descents() -> None:
    support, new = case((2, 3, 4, 5))
    x, y = support.features, np.eye(CLASSES)[support.labels]
    zero_shot, count = x @ support.text.T, len(x)
    weight, bias = y.T @ x, np.zeros(CLASSES)
    own = [zero_shot[support.labels == c, c].mean() for c in range(CLASSES)]
    blend = np.full(CLASSES, 250 * np.mean(own))
    lr = 4 * count / np.linalg.svd(x, compute_uv=False)[0] ** 2
    step = count / (4 * np.max(np.sum(zero_shot**2, axis=0)))
    speed, bias_speed = np.zeros_like(weight), np.zeros(CLASSES)
    for epoch in range(12):
        error = (softmax(x @ weight.T + bias + blend * zero_shot) - y) / count
        speed, bias_speed = 0.9 * speed + error.T @ x, 0.9 * bias_speed + error.sum(axis=0)
        weight, bias = weight - lr * speed, bias - lr * bias_speed
        if epoch % 5 == 4:
            blend = blend - step * (error * zero_shot).sum(axis=0)
    g = unit(new @ support.start["projection.weight"].T)
    expected = g @ weight.T + bias + blend * (g @ support.text.T)
    np.testing.assert_allclose(answers(LPPlusPlus(epochs=12, every=5), support, new), expected, atol=2e-3)


def through_unit(gradient: Array, w: Array) -> Array:
    """The gradient before w / |w|, of the gradient behind it."""
    length, u = np.linalg.norm(w, axis=1, keepdims=True), unit(w)
    return (gradient - u * (gradient * u).sum(axis=1, keepdims=True)) / length


def rates(lr: float, epochs: int, warmup: int = 1) -> list[float]:
    return [1e-5 if e < warmup else lr * (1 + np.cos(np.pi * e / epochs)) / 2 for e in range(epochs)]


def test_clap_is_descent_on_its_loss() -> None:
    support, new = case((2, 3, 4, 5), noise=2.0)
    x, y, s, text = support.features, np.eye(CLASSES)[support.labels], support.scale, support.text
    zero_shot = softmax(s * x @ text.T)
    penalty = np.array([zero_shot[support.labels == c, c].mean() for c in range(CLASSES)])
    weight, speed = text.copy(), np.zeros_like(text)
    for lr in rates(2.0, 6):
        error = (softmax(s * x @ unit(weight).T) - y) / len(x)
        slope = through_unit(s * error.T @ x, weight) + 2 * (penalty / CLASSES)[:, None] * (weight - text)
        speed = 0.9 * speed + slope
        weight = weight - lr * speed
    expected = s * unit(new @ support.start["projection.weight"].T) @ unit(weight).T
    np.testing.assert_allclose(answers(CLAP(lr=2.0, epochs=6), support, new), expected, atol=1e-3)
    assert np.abs(weight - text).max() > 0.01


class Adam:
    """Adam with L2 decay, in numpy."""

    def __init__(self, eps: float, decay: float = 0.0) -> None:
        self.eps, self.decay, self.step = eps, decay, 0
        self.mean, self.square = 0.0, 0.0

    def __call__(self, w: Array, slope: Array, lr: float) -> Array:
        slope, self.step = slope + self.decay * w, self.step + 1
        self.mean, self.square = 0.9 * self.mean + 0.1 * slope, 0.999 * self.square + 0.001 * slope**2
        square = self.square / (1 - 0.999**self.step)
        return w - lr * self.mean / (1 - 0.9**self.step) / (np.sqrt(square) + self.eps)


def test_taskres_adds_a_residual() -> None:
    support, new = case()
    x, y, s, text = support.features, np.eye(CLASSES)[support.labels], support.scale, support.text
    residual, adam = np.zeros_like(text), Adam(1e-8, 5e-4)
    for lr in rates(0.01, 6):
        weight = text + 0.5 * residual
        error = (softmax(s * x @ unit(weight).T) - y) / len(x)
        residual = adam(residual, 0.5 * through_unit(s * error.T @ x, weight), lr)
    expected = s * unit(new @ support.start["projection.weight"].T) @ unit(text + 0.5 * residual).T
    np.testing.assert_allclose(answers(TaskRes(lr=0.01, epochs=6), support, new), expected, atol=1e-3)


def test_prolip_trains_the_projection_near_its_start() -> None:
    support, _ = case()
    start, y, s = support.start["projection.weight"].astype(np.float64), np.eye(CLASSES)[support.labels], support.scale
    projection, adam = start.copy(), Adam(1e-4)
    for epoch, lr in enumerate(rates(1e-2, 6, warmup=0)):
        pooled = support.pooled[epoch % 3]
        f = pooled @ projection.T
        error = (softmax(s * unit(f) @ support.text.T) - y) / len(y)
        slope = through_unit(s * error @ support.text, f).T @ pooled + 2 * 3.0**-2 * (projection - start)
        projection = adam(projection, slope, lr)
    solution = ProLIP(lr=1e-2, epochs=6).solve_head(needed(ProLIP(), support))
    np.testing.assert_allclose(solution.backbone["projection.weight"], projection, atol=1e-5)
    assert np.abs(projection - start).max() > 1e-2


def test_clip_adapter_is_descent_behind_the_features() -> None:
    support, _ = case()
    x, y, s = support.features, np.eye(CLASSES)[support.labels], support.scale
    down, up = (support.start[f"inserted.features.{part}.weight"].astype(np.float64) for part in ("down", "up"))
    for lr in rates(0.1, 6):
        hidden = np.maximum(x @ down.T, 0)
        made = np.maximum(hidden @ up.T, 0)
        g = 0.2 * made + 0.8 * x
        error = (softmax(s * unit(g) @ support.text.T) - y) / len(x)
        slope = 0.2 * through_unit(s * error @ support.text, g) * (made > 0)
        before = (slope @ up) * (hidden > 0)
        down, up = down - lr * before.T @ x, up - lr * slope.T @ hidden
    solution = CLIPAdapter(lr=0.1, epochs=6).solve_head(needed(CLIPAdapter(), support))
    for part, expected in (("down", down), ("up", up)):
        np.testing.assert_allclose(solution.backbone[f"inserted.features.{part}.weight"], expected, atol=1e-5)


def test_the_text_discriminant_is_the_sum_of_both_logits() -> None:
    support, new = case((6,) * CLASSES)
    solution = TextDiscriminant().solve_head(replace(support, versions=None))
    candidates, fits = discriminants(replace(support, versions=None), SHRINKAGES), []
    zero_shot = np.column_stack([support.scale * support.text, np.zeros(CLASSES)])
    for weight, bias in candidates:  # a T + b W for one of the shrinkages, with the same b for the bias
        own = np.stack([zero_shot, np.column_stack([weight, bias])])
        wanted = np.column_stack([solution.weight, solution.bias])
        _, residual, *_ = np.linalg.lstsq(own.reshape(2, -1).T, wanted.ravel(), rcond=None)
        fits.append(float(residual[0]) if len(residual) else 0.0)
    assert min(fits) < 1e-12
    one, new = case((1,) * CLASSES)
    g = unit(new @ one.start["projection.weight"].T)
    order = np.argsort(one.labels)
    expected = one.scale * g @ one.text.T + 10 * g @ one.features[order].T
    np.testing.assert_allclose(answers(TextDiscriminant(), one, new), expected, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [(1,) * CLASSES, (4,) * CLASSES, (1, 2, 6, 3)], ids=str)
def test_the_order_of_the_classes_means_nothing(name: str, counts: tuple[int, ...]) -> None:
    support, new = case(counts)
    order = np.array([2, 0, 3, 1])  # the new class i is the old class order[i]
    moved = replace(support, labels=np.argsort(order)[support.labels], text=support.text[order])
    one, other = answers(small(name), support, new), answers(small(name), moved, new)
    assert np.isfinite(one).all()
    np.testing.assert_allclose(other, one[:, order], atol=2e-3 * np.abs(one).max())


@pytest.mark.parametrize("name", NAMES)
def test_the_texts_matter_and_so_do_the_images(name: str) -> None:
    support, new = case()
    plain = answers(small(name), support, new)
    swapped = answers(small(name), replace(support, text=support.text[[1, 0, 2, 3]]), new)
    assert np.abs(softmax(plain) - softmax(swapped)).max() > 1e-3
    other, _ = case(seed=1)
    pooled = support.pooled[:, ::-1].copy()
    images = replace(support, features=other.features, versions=other.versions, pooled=pooled)
    assert np.abs(plain - answers(small(name), images, new)).max() > 1e-6
    assert np.array_equal(plain, answers(small(name), support, new))


@pytest.mark.parametrize("name", NAMES)
def test_without_texts_or_with_several_labels_it_is_refused(name: str) -> None:
    support, _ = case()
    with pytest.raises(ConfigError, match=f"{name} needs the texts of the classes; choose a backbone"):
        METHODS[name]().solve_head(needed(METHODS[name](), replace(support, text=None)))
    with pytest.raises(ConfigError, match="one label per image"):
        replace(support, labels=np.eye(CLASSES)[support.labels])


@pytest.mark.parametrize("name", NAMES)
def test_a_head_computes_the_solution_row_by_row(name: str) -> None:
    support, new = case((3, 2, 4, 3))
    method = small(name)
    solution, g = method.solve_head(needed(method, support)), unit(new @ support.start["projection.weight"].T)
    head = Head(E, CLASSES, replace(method.default_head, scale=support.scale), count=len(support.labels))
    head.start_from(torch.from_numpy(support.text))
    head.set_solution(solution)
    features = torch.from_numpy(7 * g).float()
    expected = logits_of(replace(solution, backbone={}), support, new)
    torch.testing.assert_close(head(features), torch.from_numpy(expected).float(), atol=1e-3, rtol=1e-4)
    alone = torch.cat([head(row) for row in features.split(1)])
    torch.testing.assert_close(head(features), alone, atol=1e-4, rtol=1e-5)
    learnt = sum(p.numel() for p in head.parameters() if p.requires_grad)
    kept = {"keys": 12 * (E + CLASSES), "nothing": 0, "linear": CLASSES * (E + 1)}
    assert learnt == kept[method.default_head.learnt]


def test_counts_at_full_size() -> None:
    """ViT-B/16 with 512 features: what is trained in the backbone."""
    with torch.device("meta"):
        plain = ViT(ViTConfig(width=768, depth=12, heads=12, patch=16, projection=512))
        counts = {name: sum(p.numel() for p in trainable(adapt(plain, METHODS[name]())).values()) for name in NAMES}
    assert counts == {**dict.fromkeys(NAMES, 0), "prolip": 393_216, "clip-adapter": 131_072}


def test_an_image_alone_in_its_class_stays_when_others_are_left_out() -> None:
    """Otherwise its class would be unanswerable in one part, and the temperature would drown the others."""
    labels, seen = np.array([0, 0, 1, 2, 2, 2]), []

    def solve(rest: Array, out: Array) -> Array:
        seen.append(rest)
        assert not rest[out].any()
        return np.zeros((len(out), 3))

    left_out_logits(labels, 3, judges(labels, 3), solve)
    assert all(rest[2] for rest in seen) and 2 not in judges(labels, 3)

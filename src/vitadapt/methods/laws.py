"""The laws that every adaptation method must keep, one small function each; for our tests and for yours.

    from vitadapt.methods import check_method
    check_method(MyMethod(), backbone, count=1234)

A backbone of toy size is enough. With pytest, parametrise over `LAWS` and call `law(Case(MyMethod(), backbone))`. A
method that rightly does not start as the identity says so with the class attribute `starts_as_identity = False`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ..nn.backbone import Backbone
from ..nn.block import Block, SlotLinear
from ..nn.deltas import Affine, Delta, separate_branches
from ..nn.matmul import ordinary_products
from ..nn.surgery import Method, adapt, load_trainable_state, merge, trainable, trainable_state
from ..nn.transformer import Transformer
from ..nn.vit import ViT
from ..utils.errors import MethodDefect, NotMergeable, WeightsError
from .audit import probe, random_task, require_learnable
from .testing import Case, differing_names, require, require_close, run, snapshot

MERGE_TOLERANCE = 1e-5  # in float32, relative to the largest output when that exceeds 1
SAME = 1e-9  # in float64
ROUNDING = 5e-5  # in float32, where sums are taken in another order; some methods make much of a small difference
HALF_TOLERANCE = 0.1  # in bfloat16, which has three digits
DIFFERENCE = 1e-5  # half the distance of the two points of a finite difference; short, for the kinks of a ReLU

Law = Callable[[Case], None]


def law_method_is_a_value(case: Case) -> None:
    """A frozen dataclass with a default for every field; equal fields make equal methods."""
    method = cast(Any, case.method)
    require(
        dataclasses.is_dataclass(method) and cast(Any, method).__dataclass_params__.frozen, "not a frozen dataclass"
    )
    twin = dataclasses.replace(method)
    require(twin == method and hash(twin) == hash(method), "two methods with the same fields differ")
    require(type(method)() is not None, "a field has no default")


def law_starts_as_identity(case: Case) -> None:
    """Before the first step the adapted network computes what the original computes."""
    if not getattr(case.method, "starts_as_identity", True):
        return
    images = case.images()
    first, original = run(case.adapted(), images), run(case.backbone, images)
    require_close(first, original, 1e-6, "the first output differs from the original's")


def law_created_parameters_train(case: Case) -> None:
    """What a method creates is trainable, or it would be lost on saving; a constant is no parameter."""
    known = dict(case.backbone.named_parameters())
    frozen = [n for n, p in case.adapted().named_parameters() if n not in known and not p.requires_grad]
    require(not frozen, f"created, but frozen: {', '.join(frozen[:3])}")


def law_trainable_tensors_learn(case: Case) -> None:
    """Every trainable tensor receives a gradient, at the start or after a few steps, and training moves it."""
    try:
        require_learnable(probe(case.backbone, case.method))
    except MethodDefect as defect:
        raise AssertionError(str(defect)) from defect
    model = case.adapted().double()
    before = trainable_state(model)
    case.train(model)
    idle = before.keys() - set(differing_names(before, trainable_state(model)))
    require(not idle, f"not moved by training: {', '.join(sorted(idle)[:3])}")


def law_frozen_tensors_stay(case: Case) -> None:
    """Training moves no frozen tensor and no buffer, and nothing at all in the original, whose memory is shared."""
    original = copy.deepcopy(case.backbone)
    before = snapshot(original.state_dict())
    model = adapt(original, case.method)
    known = snapshot(model.state_dict())
    case.train(model)
    run(model, case.images())
    moved = [n for n in differing_names(known, model.state_dict()) if n not in _aliases(model)]
    require(not moved, f"frozen, yet moved: {', '.join(moved[:3])}")
    touched = differing_names(before, original.state_dict())
    require(not touched, f"changed in the original backbone: {', '.join(touched[:3])}")


def law_rows_are_independent(case: Case) -> None:
    """The output of an image depends neither on the others of its batch nor on their order, in training mode either."""
    model, images = case.perturbed().double(), case.images()
    for training in (False, True):
        model.train(training)
        together = run(model, images)
        if not torch.equal(together, run(model, images)):
            continue  # random in training mode (dropout): rows cannot be compared
        alone = torch.cat([run(model, image) for image in images.split(1)])
        mode = "training" if training else "evaluation"
        require_close(together, alone, SAME, f"in {mode} mode an image alone gives another output than in its batch")
        require_close(
            together.flip(0), run(model, images.flip(0)), SAME, f"in {mode} mode the order of the images matters"
        )


def law_state_round_trip(case: Case) -> None:
    """What is saved, loaded into a copy adapted with another seed, gives the same tensors and outputs to the bit; and a
    state dict holds every tensor once, or safetensors and Hugging Face would not save it."""
    first, second = case.perturbed(0), case.adapted(1)
    names: dict[int, str] = {}
    twice = [n for n, t in first.state_dict().items() if t.numel() and names.setdefault(t.data_ptr(), n) != n]
    require(not twice, f"held under two names: {', '.join(twice[:3])}; use `refer` (Referring) in one of the places")
    state = trainable_state(first)
    try:
        load_trainable_state(second, load(save({name: tensor.contiguous() for name, tensor in state.items()})))
    except WeightsError as error:
        raise AssertionError(f"saved tensors do not fit a copy adapted with another seed: {error}") from error
    require(not differing_names(state, trainable_state(second)), "loaded tensors differ from the saved ones")
    images = case.images()
    require(torch.equal(run(first, images), run(second, images)), "after loading, something unsaved still differs")


def law_merge_is_exact(case: Case) -> None:
    """Merged weights give the same outputs under the original's state-dict keys; or the merge is refused, untouched."""
    model, images = case.perturbed(), case.images()
    before = run(model, images)
    try:
        merged = merge(copy.deepcopy(model))
    except NotMergeable as refusal:
        require(not _holds_only_deltas(model), f"refused without need: {refusal}")
        require(torch.equal(run(model, images), before), "the refused merge changed the model")
        return
    strange = merged.state_dict().keys() ^ case.backbone.state_dict().keys()
    require(not strange, f"state-dict keys differ from the original's: {', '.join(sorted(strange)[:3])}")
    require_close(run(merged, images), before, MERGE_TOLERANCE, "merged and unmerged outputs differ")


def law_count_is_the_formula(case: Case) -> None:
    """As many parameters train as the formula says (when one is given), whatever the seed."""
    counts = {sum(p.numel() for p in trainable(case.adapted(seed)).values()) for seed in (0, 1)}
    expected = counts if case.count is None else {case.count}
    require(len(counts) == 1 and counts == expected, f"{sorted(counts)} parameters train, expected {sorted(expected)}")


def law_same_seed_same_bytes(case: Case) -> None:
    """Method and seed fix every initial tensor, whatever random numbers were drawn before."""
    first = snapshot(case.adapted().state_dict())
    torch.rand(1)
    differing = differing_names(first, case.adapted().state_dict())
    require(not differing, f"not fixed by the seed: {', '.join(differing[:3])}")


def law_branch_is_matrix_and_bias(case: Case) -> None:
    """branch(x) = x matrix()^T + bias() for every delta, so that what trains is what merges."""
    generator = torch.Generator().manual_seed(0)
    for name, delta in case.perturbed().double().named_modules():
        if isinstance(delta, Delta):
            with torch.no_grad():
                matrix, bias = delta.matrix(), delta.bias()
                x = torch.randn(2, 5, matrix.shape[1], dtype=torch.float64, generator=generator).to(matrix)
                expected = x @ matrix.T + (0 if bias is None else bias)
                require_close(delta.branch(x), expected, SAME, f"{name}: branch(x) is not x matrix()^T + bias()")


def law_gradients_are_derivatives(case: Case) -> None:
    """Back-propagation agrees with a central difference along a random direction, in float64.

    A method whose paper takes some factor as a constant in gradients says so: `exact_gradients = False`.
    """
    if not getattr(case.method, "exact_gradients", True):
        return
    model, loss = case.perturbed().double(), random_task(case.backbone)
    parameters = list(trainable(model).values())
    value = loss(model, 0)
    if not value.requires_grad:
        return  # nothing trains, or nothing can: `law_trainable_tensors_learn` tells which
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, dtype=torch.float64, generator=generator).to(p) for p in parameters]
    length = sum(float(d.square().sum()) for d in direction) ** 0.5
    direction = [d / length for d in direction]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, direction, strict=True) if g is not None)
    ends = [_loss_along(model, loss, direction, sign * DIFFERENCE) for sign in (1, -1)]
    measured = (ends[0] - ends[1]) / (2 * DIFFERENCE)
    wrong = abs(slope - measured) > 1e-6 * max(abs(slope), abs(measured)) + 1e-10
    require(not wrong, f"the gradient predicts a slope of {slope:.8g}, the loss has {measured:.8g}")


def law_shortcuts_change_nothing(case: Case) -> None:
    """Output and gradients are those of every block run for all tokens and every delta through its own branch; and in
    single precision those of torch's ordinary products."""
    if not isinstance(case.backbone, ViT):
        return
    model, images = case.perturbed().double(), case.images()
    vit = cast(ViT, model)
    with separate_branches():
        whole = _outcome(model, vit.pool(vit.run_blocks(vit.embed(images))))
    _require_same(_outcome(model, model(images)), whole, SAME, "the fast way")
    model = case.perturbed().float()
    with ordinary_products():
        whole = _outcome(model, model(images))
    _require_same(_outcome(model, model(images)), whole, ROUNDING, "the faster product")


def _outcome(model: nn.Module, y: Tensor) -> list[Tensor | None]:
    """The output y of a forward pass, and the gradient of every trainable tensor."""
    parameters = list(trainable(model).values())
    if not y.requires_grad:
        return [y]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)]


def _require_same(found: list[Tensor | None], expected: list[Tensor | None], limit: float, who: str) -> None:
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        require((a is None) == (b is None), f"{who} loses a gradient")
        if a is not None and b is not None:
            require_close(a, b, limit, f"{who} changes {f'gradient {i}' if i else 'the output'}")


def law_half_precision_works(case: Case) -> None:
    """A backbone in bfloat16 can be adapted and trained, and its output is near that in float32."""
    half = dataclasses.replace(case, backbone=copy.deepcopy(case.backbone).bfloat16())
    model, images = half.adapted(), case.images()
    try:
        y, *_ = _outcome(model, model(images))
    except RuntimeError as error:
        raise AssertionError(f"fails on a backbone in half precision: {error}") from error
    require_close(
        cast(Tensor, y).float(),
        run(case.adapted(), images),
        HALF_TOLERANCE,
        "the output in half precision is another one",
    )


LAWS: tuple[Law, ...] = (
    law_method_is_a_value,
    law_starts_as_identity,
    law_created_parameters_train,
    law_trainable_tensors_learn,
    law_frozen_tensors_stay,
    law_rows_are_independent,
    law_state_round_trip,
    law_merge_is_exact,
    law_count_is_the_formula,
    law_same_seed_same_bytes,
    law_branch_is_matrix_and_bias,
    law_gradients_are_derivatives,
    law_shortcuts_change_nothing,
    law_half_precision_works,
)


def broken_laws(method: Method, backbone: Backbone, count: int | None = None) -> dict[str, str]:
    """Name of each law that `method` breaks on `backbone` -> how. Raises NotApplicable when it cannot work on it."""
    case, broken = Case(method, copy.deepcopy(backbone), count), {}
    for law in LAWS:
        try:
            law(case)
        except AssertionError as error:
            broken[law.__name__] = str(error)
    return broken


def check_method(method: Method, backbone: Backbone, count: int | None = None) -> None:
    """Raises AssertionError naming every law that `method` breaks on `backbone`, and NotApplicable as `adapt` does.

    Laws that the method itself says it breaks (its class attribute `breaks`) are left out.

    `backbone` has attributes `features` and `image_size`; `count` is the expected number of trainable parameters.
    """
    broken = {law: how for law, how in broken_laws(method, backbone, count).items() if law not in method.breaks}
    if broken:
        raise AssertionError(f"{method} breaks " + "; ".join(f"{law}: {how}" for law, how in broken.items()))


def _aliases(model: nn.Module) -> set[str]:
    """All names of trainable tensors, also the second ones of those that are used in several places."""
    return {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}


def _holds_only_deltas(model: nn.Module) -> bool:
    """Did the method create nothing but deltas and affine maps, with a bias only where the layer has one?"""
    holders = [m for m in model.modules() if isinstance(m, (Block, Transformer))]
    inserted = [module for m in holders for module in m.inserted.values()]
    if any(m.tokens is not None for m in holders) or not all(isinstance(m, Affine) for m in inserted):
        return False
    if isinstance(model, Transformer) and (
        model.other_changes or model.side is not None or not (model.config.qkv_bias and model.config.linear_bias)
    ):
        return False
    layers = [m for m in model.modules() if isinstance(m, SlotLinear)]
    deltas = [cast(Delta, delta) for layer in layers if layer.bias is None for delta in layer.deltas.values()]
    return all(delta.bias() is None for delta in deltas)


def _loss_along(
    model: nn.Module, loss: Callable[[nn.Module, int], Tensor], direction: list[Tensor], size: float
) -> float:
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, step in zip(trainable(moved).values(), direction, strict=True):
            parameter.add_(size * step)
        return float(loss(moved, 0))

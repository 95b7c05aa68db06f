"""Which trainable tensors can learn at all? Answered by gradients over a few small steps, not by reading code.

A tensor may have a zero gradient at the start and still be sound: LoRA's A waits for B to leave zero. So the audit
takes steps, and only what never receives a gradient is a defect. (Published code counted tensors that never could.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.backbone import Backbone
from ..nn.deltas import references
from ..nn.surgery import Method, adapt, seeded, trainable
from ..nn.text_transformer import TextTransformer
from ..utils.errors import MethodDefect

Status = Literal["live", "dead", "stuck", "disturbed"]

REASONS: dict[Status, str] = {
    "live": "receives a gradient",
    "dead": "no path leads from the loss to it",
    "stuck": "its gradient stays zero",
    "disturbed": "is frozen and yet changes",
}
LEARNABLE = "law_trainable_tensors_learn"  # the law of `vitadapt.methods.laws` that asks this audit
STEP = 1e-2  # how far the entry with the largest gradient moves per probe step
NOISE = 16  # a gradient below this many roundings of the loss, or of the largest gradient, counts as zero
CLASSES, BATCH = 5, 4


@dataclass(frozen=True)
class TensorReport:
    """What the audit found about one tensor. `shared`: other modules refer to it, too.

    status: "live" (a gradient arrives), "dead" (no gradient path at any step), "stuck" (gradient zero at the start and
    after every step), "disturbed" (frozen, yet its values changed).
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    status: Status
    shared: bool


def audit(model: nn.Module, forward_loss: Callable[[nn.Module, int], Tensor], steps: int = 3) -> list[TensorReport]:
    """Reports on every trainable tensor of `model`, then on the frozen ones that changed; `model` itself is untouched.

    `forward_loss(copy of model, step)` gives the scalar loss for steps 0..`steps`. Rounding leaves a gradient that is
    zero by mathematics at about 1e-8 in float32 and 1e-17 in float64, so a model in float64 is judged more sharply.
    """
    probed = copy.deepcopy(model)
    own = trainable(probed)
    reached: set[str] = set()
    moving: set[str] = set()
    with seeded(0):
        for step in range(steps + 1):
            gradients = small_step(own, forward_loss(probed, step))
            reached |= gradients.keys()
            moving |= {name for name, is_real in gradients.items() if is_real}
    shared = _shared_names(model)
    status: dict[str, Status] = {n: "live" if n in moving else "stuck" if n in reached else "dead" for n in own}
    status |= dict.fromkeys(_disturbed(model, probed), "disturbed")
    parameters = dict(model.named_parameters())
    return [
        TensorReport(name, tuple(parameters[name].shape), parameters[name].numel(), found, name in shared)
        for name, found in status.items()
    ]


def small_step(own: dict[str, nn.Parameter], loss: Tensor) -> dict[str, bool]:
    """Move every tensor that has a real gradient a little against it.

    Returns, for the names with a gradient path: is the gradient more than rounding noise?
    """
    if not (own and loss.requires_grad):
        return {}
    found = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    gradients = {name: g for name, g in zip(own, found, strict=True) if g is not None}
    peaks = {name: float(g.abs().max()) for name, g in gradients.items()}
    scale = max(abs(float(loss.detach())), *peaks.values(), 0.0)
    floor = NOISE * max(torch.finfo(p.dtype).eps for p in own.values()) * scale
    with torch.no_grad():
        for name, peak in peaks.items():
            if peak > floor:  # stepping along mere noise could carry a tensor off the saddle that holds it
                own[name].sub_(STEP / peak * gradients[name])
    return {name: peak > floor for name, peak in peaks.items()}


def _shared_names(model: nn.Module) -> set[str]:
    """The names of the parameters that other modules refer to as well."""
    used: set[int] = set()
    for module in model.modules():
        for owner, attribute in references(module).values():
            if attribute and owner is not module:
                thing = getattr(owner, attribute)
                used |= {id(p) for p in (thing.parameters() if isinstance(thing, nn.Module) else [thing])}
    return {name for name, parameter in model.named_parameters() if id(parameter) in used}


def _disturbed(model: nn.Module, probed: nn.Module) -> list[str]:
    pairs = zip(model.named_parameters(), probed.parameters(), strict=True)
    return [name for (name, before), after in pairs if not before.requires_grad and not torch.equal(before, after)]


def probe(backbone: Backbone | TextTransformer, method: Method, seed: int = 0) -> list[TensorReport]:
    """`audit` of `backbone` adapted by `method`, in float64, on a random task. `backbone` is untouched.

    Raises NotApplicable when the method cannot work on it.
    """
    return audit(adapt(backbone, method, seed).double(), random_task(backbone, seed))


def random_task(backbone: Backbone | TextTransformer, seed: int = 0) -> Callable[[nn.Module, int], Tensor]:
    """A loss (model, step) -> scalar in float64: a few fixed random images and labels, behind a fixed random head.

    `backbone` has the attributes `features` and `image_size` of the models to come, and is on their device; or it is a
    text tower.
    """
    generator, features = torch.Generator().manual_seed(seed), backbone.features
    images = random_inputs(backbone, BATCH, generator)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    head = torch.randn(CLASSES, features, dtype=torch.float64, generator=generator) * features**-0.5
    device = next(backbone.parameters()).device
    images, labels, head = images.to(device), labels.to(device), head.to(device)
    return lambda model, step: F.cross_entropy(model(images).double() @ head.T, labels)


def random_inputs(network: Any, count: int, generator: torch.Generator) -> Tensor:
    """uint8 images (count, 3, S, S) for an image tower, token numbers (count, L) for a text tower."""
    if not isinstance(network, TextTransformer):
        size = network.image_size
        return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    config = network.config
    tokens = torch.randint(0, config.vocabulary - 1, (count, config.context), generator=generator)
    tokens += tokens >= config.end  # any token but the end
    tokens[torch.arange(count), torch.randint(1, config.context, (count,), generator=generator)] = config.end
    return tokens


def require_learnable(reports: Sequence[TensorReport]) -> None:
    """Raises MethodDefect naming the tensors that cannot learn, or are frozen and change."""
    faults = [report for report in reports if report.status != "live"]
    if faults:
        named = ", ".join(f"{report.name} ({REASONS[report.status]})" for report in faults[:3])
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise MethodDefect(f"{len(faults)} of {len(reports)} tensors cannot learn as they should: {named}{more}")

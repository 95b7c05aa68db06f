"""Several methods on one network: `Together(LoRA(), BitFit())`, written `lora+bitfit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from ..nn.support import Solution, Support
from ..nn.surgery import Method, acts_on, solves_head, towers_of
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .registry import METHODS


def _only(name: str, methods: tuple[Method, ...]) -> float:
    """The number of that name which the methods ask for; 0 where none does."""
    asked = {getattr(part, name): METHODS.name_of(part) for part in methods if getattr(part, name)}
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked.values())} differ in {name}; give both the same, or name one of them")
    return float(next(iter(asked), 0.0))


@dataclass(frozen=True, init=False)
class Together(Method):
    """Several methods at once, each at places of its own; counted, audited, saved and merged as one.

    Raises ConfigError for two that compute the head, or want it trained in different ways.
    """

    methods: tuple[Method, ...]

    def __init__(self, *parts: Method, methods: tuple[Method, ...] = ()) -> None:
        flat = [part.methods if isinstance(part, Together) else (part,) for part in (*parts, *methods)]
        every = tuple(method for methods in flat for method in methods)
        if len(heads := [METHODS.name_of(part) for part in every if solves_head(part)]) > 1:
            raise ConfigError(f"{' and '.join(heads)} each make the whole head; name one of them")
        facts = {
            "methods": every,
            "trains_head": all(part.trains_head for part in every),
            "reads_versions": any(part.reads_versions for part in every),
            "reads_pooled": any(part.reads_pooled for part in every),
            "several_labels": all(part.several_labels for part in every),
            "learns_prior": all(part.learns_prior for part in every),
            "text_penalty": _only("text_penalty", every),
            "head_share": _only("head_share", every),
            "breaks": frozenset[str]().union(*(part.breaks for part in every)),
            "default_head": next((part.default_head for part in every if part.default_head is not None), None),
        }
        towers = {towers_of(part) for part in every} or {"image"}
        facts["towers"] = towers.pop() if len(towers) == 1 else "both"
        for law in ("starts_as_identity", "exact_gradients"):
            facts[law] = all(getattr(part, law, True) for part in every)
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    def adapt(self, vit: ViT) -> None:
        """Raises ConfigError when two of the methods act at the same place, and what each of them raises."""
        for part in self.methods:
            if not acts_on(part, vit):
                continue
            before = dict(getattr(vit, "shared", {}))
            try:
                part.adapt(vit)
            except ValueError as error:
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(f"{METHODS.name_of(self)}: two act at one place: {error}") from error
            shared = cast(dict[str, Any], dict(getattr(vit, "shared", {})))
            if any(shared[name] is not module for name, module in before.items()):
                raise ConfigError(f"{METHODS.name_of(self)}: {METHODS.name_of(part)} shares tensors by the same name")

    def couple(self, image: Any, text: Any, sentences: Tensor) -> None:
        for part in self.methods:
            part.couple(image, text, sentences)

    def templates(self) -> tuple[str, ...]:
        return next((found for part in self.methods if (found := part.templates())), ())

    def solve_head(self, support: Support) -> Solution | None:
        solved = (part.solve_head(support) for part in self.methods)
        return next((head for head in solved if head is not None), None)

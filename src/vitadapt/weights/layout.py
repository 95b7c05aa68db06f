"""The names of tensors in another library: a table of renaming rules that is read in both directions.

A layout is data. Reading is closed-world: a tensor that no rule takes and that is not listed as irrelevant is refused,
so that a network which only resembles a plain transformer is never converted to something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.surgery import State
from ..utils.errors import WeightsError
from ..utils.files import shipped_table
from .rules import Rule

WRAPPING = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
"""What training programs put before all names: DataParallel, torch.compile, Lightning and others."""


def unwrapped(prefix: str) -> str:
    """`prefix` without what training programs put before names."""
    while outer := next((p for p in WRAPPING if prefix.startswith(p)), ""):
        prefix = prefix[len(outer) :]
    return prefix


@dataclass(frozen=True)
class Layout:
    """One source's names of the tensors of a transformer.

    `anchors` are the tensors that tell this layout from the others, `block` is what stands before a block's number,
    and `spare` are patterns of tensors without influence on features.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    block: str
    anchors: tuple[str, ...]
    _: KW_ONLY
    prefixes: tuple[str, ...] = ("",)
    spare: tuple[str, ...] = ()

    def prefix_of(self, state: Mapping[str, Any], wrapped: bool = True) -> str | None:
        """What stands before this layout's names in `state`; None when it is another layout.

        Only the source's own prefixes count, or also, when `wrapped`, those that training programs put before them.
        """
        own = (p for p in self.prefixes if all(p + anchor in state for anchor in self.anchors))
        found = next(own, None)
        if found is None and wrapped:
            found = next((p for p in self.prefixes_in(state) if unwrapped(p) in self.prefixes), None)
        return found

    def prefixes_in(self, state: Mapping[str, Any]) -> list[str]:
        """Whatever stands before the names of this layout's tensors in `state`; the shortest first."""
        first, *others = self.anchors
        found = {name.removesuffix(first) for name in state if name.endswith(first)}
        return sorted((p for p in found if all(p + anchor in state for anchor in others)), key=len)

    def another(self) -> WeightsError:
        """The error for tensors that are not of this layout."""
        return WeightsError(f"not {self.title}: expected tensors named {', '.join(self.anchors)}")

    def written(self, ours: State, depth: int, prefix: str) -> State:
        """Our tensors of a network of `depth` blocks -> theirs. Raises WeightsError for what has no place or lacks."""
        left, theirs = dict(ours), State()
        for rule in self.expanded(depth):
            if rule.ours not in left and rule.missing == "zeros":
                left[rule.ours] = torch.zeros_like(left[rule.ours.removesuffix("bias") + "weight"].flatten(1)[:, 0])
            if rule.ours in left:
                for name, part in rule.write(left.pop(rule.ours), prefix).items():
                    theirs[name] = self._joined(rule, theirs[name], part) if name in theirs else part
            elif rule.missing == "error":
                raise WeightsError(f"{self.title} cannot hold this model: it needs {rule.ours}, which the model lacks")
        if left:
            raise WeightsError(f"{self.title} cannot hold this model: it has no place for {min(left)}")
        return theirs

    def _joined(self, rule: Rule, before: Tensor, part: Tensor) -> Tensor:
        """One of their tensors of two of ours: their rows behind one another, or the same twice."""
        if rule.form != "shared":
            return torch.cat([before, part])
        if not torch.equal(before, part):
            raise WeightsError(f"{self.title} cannot hold this model: {rule.ours} is not that of the blocks before")
        return before

    def rules_of(self, depth: int) -> dict[str, Rule]:
        """Our name of every tensor of a network of `depth` blocks -> the rule for it."""
        return {rule.ours: rule for rule in self.expanded(depth)}

    def expanded(self, depth: int) -> Iterator[Rule]:
        """The rules for a network of `depth` blocks."""
        for rule in self.rules:
            if "{i}" in rule.ours:
                yield from (rule.at(block) for block in range(depth))
            else:
                yield rule

    def depth_of(self, inside: Mapping[str, Any]) -> int:
        """How many blocks the tensors `inside`, without prefix, are of. Raises WeightsError when one is missing."""
        numbers = {name[len(self.block) :].split(".")[0] for name in inside if name.startswith(self.block)}
        depth = len(numbers)
        if numbers != {str(i) for i in range(depth)}:
            gap = next(i for i in range(depth) if str(i) not in numbers)
            raise WeightsError(f"incomplete checkpoint ({self.title}): block {gap} of at least {depth} is missing")
        return depth

    def renamed(self, inside: State, depth: int) -> tuple[State, set[str]]:
        """The tensors `inside` in our words, and which of theirs were used. Raises WeightsError for a missing one."""
        ours: State = {}
        used: set[str] = set()
        for rule in self.expanded(depth):
            lacking = [name for name in rule.theirs if name not in inside]
            if rule.missing == "absent" and len(lacking) == len(rule.theirs):
                continue
            if lacking:
                raise WeightsError(f"incomplete checkpoint ({self.title}): {lacking[0]} is missing")
            ours[rule.ours] = rule.read([inside[name] for name in rule.theirs])
            used |= set(rule.theirs)
        return ours, used

    def refuse_foreign(self, names: set[str], nearest: Callable[[], str] | None = None) -> None:
        """Raises WeightsError for one of `names`, which no rule takes, that may have influence on features.

        `nearest` gives the name of the backbone that is most like this one and can be converted.
        """
        foreign = shipped_table("vitadapt.weights", "settings.toml")["foreign_tensors"]
        for name in sorted(names):
            if any(fnmatchcase(name, pattern) for pattern in self.spare):
                continue
            feature = next((what for pattern, what in foreign.items() if fnmatchcase(name, pattern)), "")
            what = f"has {feature} ({name})" if feature else f"has a tensor that a plain ViT lacks: {name}"
            other = f" (the nearest backbone that can: {nearest()})" if nearest else ""
            raise WeightsError(f"this {self.title} network {what}; it cannot be converted exactly{other}")

    def check_shapes(self, ours: State, make: Callable[[], nn.Module], depth: int) -> None:
        """Raises WeightsError unless the network of `depth` blocks that `make` makes has exactly the tensors `ours`."""
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in make().state_dict().items()}
        theirs = {rule.ours: " + ".join(rule.theirs) for rule in self.expanded(depth)}
        for name in sorted(expected.keys() | ours.keys()):
            if name not in ours or name not in expected:
                state = "is missing" if name not in ours else "is unexpected"
                raise WeightsError(f"incomplete checkpoint ({self.title}): {theirs.get(name, name)} {state}")
            if ours[name].shape != expected[name]:
                raise WeightsError(
                    f"tensors disagree ({self.title}): {theirs[name]} has shape {tuple(ours[name].shape)}, its "
                    f"siblings ask for {tuple(expected[name])}; the file is damaged or mixes two models"
                )

"""Configurations -> the command lines that run them again: the inverse of what `vitadapt run` reads."""

from __future__ import annotations

import dataclasses
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..methods.spec import method_text
from ..nn.head_spec import head_text
from ..training.recipe import recipe_for
from ..utils.errors import VitadaptError
from .config import RunConfig

Options = tuple[tuple[str, str], ...]


def run_command(configs: Sequence[RunConfig]) -> str:
    """One `vitadapt run` for configurations that differ in method and seed alone, every method with every seed.

    Class names and the images of a subset come from files; the names are written out for bash, and a manifest is called
    subset-DIGEST.json. What does not change numbers (folders, cache, device) is left out.
    """
    methods = dict.fromkeys(method_text(config.method) for config in configs)
    seeds = dict.fromkeys(config.seed for config in configs)
    options = [("dataset", configs[0].dataset), *(("method", method) for method in methods)]
    options += [*_options(configs[0]), *(("seed", str(seed)) for seed in seeds)]
    written = [f"--{name} {value if value.startswith('<(') else shlex.quote(value)}" for name, value in options]
    return " ".join(["vitadapt run", *written])


def run_commands(configs: Iterable[RunConfig]) -> list[str]:
    """As few commands as run just these configurations, in the order of first appearance."""
    seeds: dict[tuple[str, Options, str], list[RunConfig]] = defaultdict(list)
    for config in configs:
        seeds[(config.dataset, _options(config), method_text(config.method))].append(config)
    whole: dict[Any, list[RunConfig]] = defaultdict(list)
    for (dataset, options, _), members in seeds.items():
        members.sort(key=lambda config: config.seed)
        whole[(dataset, options, tuple(config.seed for config in members))] += members
    return [run_command(members) for members in whole.values()]


def _options(config: RunConfig) -> Options:
    """All options but dataset, method and seed."""
    config = config.resolved()
    options = [("backbone", config.backbone), ("shots", "all" if config.shots is None else str(config.shots))]
    if config.image_size is not None:
        options.append(("image-size", str(config.image_size)))
    options += [("protocol", config.protocol)] if config.protocol != "fixed" else []
    options += [("precision", config.precision)] if config.precision != "fp32" else []
    if changed := _fields(config.recipe, recipe_for(config.protocol, config.method)):
        options.append(("recipe", changed))
    options += [("head", head_text(config.head))] if config.head else []
    if config.prompts:
        options += [("template", template) for template in config.prompts.templates]
        if config.prompts.class_names:
            names = " ".join(map(shlex.quote, config.prompts.class_names))
            options.append(("class-names", rf"<(printf '%s\n' {names})"))
        if config.prompts.knowledge:
            options.append(("knowledge", _fields(config.prompts.knowledge)))
    if config.subset:
        options.append(("subset", f"subset-{config.subset}.json"))
    if config.test is not None:
        options.append(("test", config.test))
    return tuple(options)


def _fields(value: Any, base: Any = None) -> str:
    """ "lr=0.01,epochs=20": fields that are not those of `base`, or not the default ones."""
    changed = []
    for field in dataclasses.fields(value):
        now = getattr(value, field.name)
        if now != (getattr(base, field.name) if base is not None else field.default):
            changed.append(f"{field.name}={str(now).lower() if isinstance(now, bool) else now}")
    return ",".join(changed)


def commands_of(plain: Iterable[Mapping[str, Any]]) -> list[str]:
    """`run_commands` of configurations as records hold them; one of an unknown method or protocol says so instead."""
    known, unknown = [], {}
    for config in plain:
        try:
            known.append(RunConfig.from_dict(config).resolved())
        except VitadaptError as error:
            unknown[f"# {error}"] = True
    return [*run_commands(known), *unknown]

"""Where backbones come from: one loader per scheme, each from the text behind the colon to a module."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ..nn.backbone import Backbone
from ..nn.surgery import State, seeded
from ..nn.vit import ViT
from ..utils.errors import ConfigError, WeightsError, damaged
from ..utils.files import expanded
from ..utils.limits import NUMBER_DIGITS
from ..utils.optional import fetching, package
from ..utils.registry import Registry, unknown
from .checkpoint_files import WEIGHT_FILES, load_state_file, read_json
from .feature_extractor import extractor
from .hint_query import Which, parse_hints, weights_of
from .hints import NO_HINTS, Hints, build, config_of, expect
from .hugging_face_config import PROCESSOR_FILE, hints_of_config
from .layouts import from_module, read_state
from .offline import load_offline
from .open_clip_timm import hints_of_open_clip
from .openai_clip import ORIGINAL
from .other_networks import network_of_folder, network_of_state, pools
from .timm import preprocess_of
from .timm_eva import hints_of_config as timm_hints
from .torchscript import is_torchscript

_log = logging.getLogger(__name__)
SOURCES: Registry[Callable[[str], Backbone]] = Registry("backbone source", "vitadapt.backbones")
"""Scheme -> loader."""


@SOURCES.register("offline")
def _offline(rest: str) -> Backbone:
    """offline:dinov2-s14, or offline:dinov2-s14@BLOCKS with another number of blocks than eleven."""
    name, _, blocks = rest.partition("@")
    if name != "dinov2-s14" or not _is_number(blocks or "11"):
        raise ConfigError(f"offline:{rest}: use offline:dinov2-s14 or offline:dinov2-s14@BLOCKS")
    return load_offline(int(blocks or 11))


@SOURCES.register("random")
def _random(rest: str) -> Backbone:
    """random:ARCH, random:timm/NAME, either with @SEED: the same name gives the same bytes."""
    name, seed = split_seed(rest)
    with seeded(seed):
        if name.startswith("timm/"):
            return _timm_module(name.removeprefix("timm/"), pretrained=False)
        return ViT(config_of(name))


def split_seed(rest: str) -> tuple[str, int]:
    """NAME or NAME@SEED -> the name and the seed (absent: 0). Raises ConfigError for a seed that is no number."""
    name, at, seed = rest.rpartition("@") if "@" in rest else (rest, "", "0")
    if at and not _is_number(seed):
        raise ConfigError(f"random:{rest}: the seed behind @ must be a whole number, e.g. random:{name}@7")
    return name, int(seed)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS


@SOURCES.register("timm")
def _timm(name: str) -> Backbone:
    return _timm_module(name, pretrained=True)


def _timm_module(name: str, pretrained: bool) -> Backbone:
    timm = package("timm", "timm")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    if pretrained and not timm.models.is_model_pretrained(name):
        arch = name.partition(".")[0]
        known = timm.list_pretrained(f"{arch}.*") or timm.list_pretrained()
        raise unknown("pretrained timm model", name, known, f"(without weights: random:timm/{arch})")
    overlay: dict[str, Any] = {}
    if pretrained and (repository := timm.get_pretrained_cfg(name).hf_hub_id):
        weights = timm.get_pretrained_cfg(name).hf_hub_filename
        names = (weights,) if weights else ("model.safetensors", "pytorch_model.bin")
        overlay = {"file": str(hub_file(repository, *names)), "custom_load": False}
    with fetching(f"timm:{name}") if pretrained else nullcontext():
        network = timm.create_model(name, pretrained, num_classes=0, pretrained_cfg_overlay=overlay)
    config = network.pretrained_cfg
    try:
        return from_module(network)
    except WeightsError:  # not a plain ViT: still exact as a feature extractor
        return extractor(name, network, config["input_size"][-1], preprocess_of(config))


@SOURCES.register("open_clip")
def _open_clip(rest: str) -> Backbone:
    model, pretrained, path = open_clip_checkpoint(rest)
    return _convert(path, hints_of_open_clip(model, pretrained), None, {})


def open_clip_checkpoint(rest: str) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """ARCH/TAG -> open_clip's configurations of the model and of its weights, and the downloaded file.

    Raises UnknownName for a misspelt one and WeightsError when the file cannot be had or does not fit the model.
    """
    open_clip = package("open_clip", "clip")
    arch, _, tag = rest.partition("/")
    model = open_clip.get_model_config(arch)
    if model is None:
        raise unknown("open_clip architecture", arch, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if tag not in tags:
        raise unknown(f"weights of open_clip's {arch}", tag, tags or ["none"], "(open_clip:ARCH/TAG)")
    pretrained = open_clip.get_pretrained_cfg(arch, tag)
    hints_of_open_clip(model, pretrained)  # refuses what does not fit before anything is downloaded
    repository, _, weights = pretrained.get("hf_hub", "").rpartition("/")
    if repository:
        usual = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        names = (str(Path(weights).with_suffix(".safetensors")), weights) if weights else usual
        return model, pretrained, hub_file(repository, *dict.fromkeys(names))
    with fetching(f"open_clip:{rest}", pretrained.get("url", "")):
        return model, pretrained, Path(open_clip.download_pretrained(pretrained))


@SOURCES.register("hf")
def _hugging_face(repository: str) -> Backbone:
    return _of_folder(hub_folder(repository), NO_HINTS)


def hub_folder(repository: str, *more: str) -> Path:
    """The local copy of a repository's configuration and weights, and of the files that match `more`.

    A folder is its own copy. Raises WeightsError when it cannot be fetched.
    """
    if Path(repository).is_dir():
        return Path(repository)
    hub = package("huggingface_hub", "hf")
    with fetching(f"hf:{repository}") as offline:
        patterns = ["*config.json", "model*.safetensors*", "open_clip_model.safetensors", *more]
        folder = Path(hub.snapshot_download(repository, allow_patterns=patterns, local_files_only=offline))
        if not any(folder.glob("*model*.safetensors")):
            hub.snapshot_download(repository, allow_patterns=["pytorch_model.bin"], local_files_only=offline)
    return folder


def hub_file(repository: str, *names: str) -> Path:
    """The local copy of the first of these files that the repository has. Raises WeightsError when there is none."""
    hub = package("huggingface_hub", "hf")
    with fetching(f"{names[0]} of hf:{repository}") as offline:
        for name in names:
            try:
                return Path(hub.hf_hub_download(repository, name, local_files_only=offline))
            except hub.errors.EntryNotFoundError:
                if name == names[-1]:
                    raise
    raise AssertionError("unreachable")


@SOURCES.register("url")
def _url(address: str) -> Backbone:
    return _of_file(url_file(address), NO_HINTS)


def url_file(address: str) -> Path:
    """The local copy of a file of the net. Raises WeightsError when it cannot be fetched."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    if not path.is_file():
        with fetching(address, address):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path), progress=False)
    return path


@SOURCES.register("file")
def _file(rest: str) -> Backbone:
    """file:PATH or file:PATH?hint=value&... (see `parse_hints`)."""
    found, query = split_query(rest)
    hints, which = parse_hints(query), weights_of(query)
    return _of_folder(found, hints, which) if os.path.isdir(found) else _of_file(found, hints, which)


def split_query(rest: str) -> tuple[Path, str]:
    """PATH or PATH?hint=value&... -> the path, and what stands behind the question mark."""
    path, mark, query = rest.rpartition("?")
    if not mark or os.path.exists(rest):
        path, query = rest, ""
    return expanded(path), query


def settings_folder(name: str) -> Path | None:
    """The folder with the settings beside the weights of `name`; None where there is none (timm:, open_clip:)."""
    scheme, _, rest = name.partition(":")
    if scheme == "hf":
        return hub_folder(rest)
    path = split_query(rest)[0] if scheme == "file" else None
    return path.parent if path is not None and path.is_file() else path


def _of_folder(folder: Path, hints: Hints, which: Which | None = None) -> Backbone:
    if pools(config := _json_in(folder, "config.json")):
        return network_of_folder(folder, config, _json_in(folder, PROCESSOR_FILE))
    stated, shapes = _settings_in(folder)
    return _convert(folder, hints.over(stated), which, shapes)


def _of_file(path: Path, hints: Hints, which: Which | None = None) -> Backbone:
    if os.path.isfile(path) and is_torchscript(path):
        hints = hints.over(ORIGINAL)
    stated, shapes = NO_HINTS, dict[str, Any]()
    if path.name in WEIGHT_FILES:  # any other name may be in a folder of many things
        stated, shapes = _settings_in(path.parent)
    return _convert(path, hints.over(stated), which, shapes)


def _json_in(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if os.path.isfile(folder / name) else {}


def _settings_in(folder: Path) -> tuple[Hints, dict[str, Any]]:
    """What the configuration files in `folder` tell, whichever library wrote them: hints, and settings of shapes."""
    names = ("config.json", PROCESSOR_FILE, "open_clip_config.json")
    config, processor, open_clip = (_json_in(folder, name) for name in names)
    with _understood(folder, [name for name in names if os.path.isfile(folder / name)]):
        hints = _hints_of(config, processor, open_clip)
        inner = config.get("vision_config") or config.get("model_args") or config
        return hints, open_clip.get("model_cfg", {}).get("vision_cfg", {}) if not config else inner


@contextmanager
def _understood(folder: Path, names: list[str]) -> Iterator[None]:
    """Settings of another kind than expected, whatever kind, become one line."""
    place = f"{folder} ({', '.join(names)})"
    with damaged(place, "download the folder again", WeightsError, "cannot be understood"):
        try:
            yield
        except WeightsError as error:
            raise WeightsError(f"{place}: {error}") from error


def _hints_of(config: dict[str, Any], processor: dict[str, Any], open_clip: dict[str, Any]) -> Hints:
    if "model_type" in config:
        return hints_of_config(config, processor)
    if "pretrained_cfg" in config:
        return timm_hints(config)
    if "model_cfg" in open_clip:
        model = open_clip["model_cfg"]
        same = {"quick_gelu": model.get("quick_gelu", False)}
        return hints_of_open_clip(model, {**open_clip.get("preprocess_cfg", {}), **same})
    return NO_HINTS


_SHAPES = {
    **{"hidden_size": "width", "num_hidden_layers": "depth", "patch_size": "patch"},
    **{"num_register_tokens": "registers", "embed_dim": "width", "img_size": "image_size", "layers": "depth"},
    **{name: name for name in ("depth", "width", "image_size", "qkv_bias")},
}
"""What the libraries call sizes that the tensors tell, too -> ours."""


def _convert(path: Path, hints: Hints, which: Which | None, shapes: dict[str, Any]) -> Backbone:
    state = load_state_file(path, which)
    if half := {str(t.dtype) for t in state.values()} & {"torch.float16", "torch.bfloat16"}:
        _log.info(f"{path} holds {', '.join(sorted(half))}; it is computed in torch.float32")
    try:
        if (network := network_of_state(state, hints)) is not None:
            refuse_unusable({name: t for name, t in network.state_dict().items() if t.is_floating_point()})
            return network
        converted = read_state(state, hints)
        for name, ours in _SHAPES.items():
            given, found = shapes.get(name), getattr(converted.config, ours)
            same = given == found or type(given) not in (int, bool)
            expect(same, f"{name}={given} in its settings and {found} in its tensors")
        refuse_unusable(converted.state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return build(converted.config, converted.state)


def refuse_unusable(state: State) -> None:
    """Raises WeightsError for tensors of whole numbers, and for values that are not numbers."""
    if whole := [name for name, t in state.items() if not t.is_floating_point()]:
        dtype = state[whole[0]].dtype
        raise WeightsError(f"{whole[0]} holds {dtype}, not floating-point numbers; save the full weights")
    if broken := [name for name, t in state.items() if not bool(torch.isfinite(t).all())]:
        raise WeightsError(f"{broken[0]} holds values that are not numbers (NaN or infinite); get it again")

"""From the name of a backbone to the text tower that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..nn.backbone import Backbone
from ..nn.surgery import State, seeded
from ..nn.text_transformer import TextConfig, TextTransformer
from ..nn.vit import Activation, ViT
from ..utils.errors import NotApplicable, WeightsError, damaged
from ..utils.files import shipped_table
from ..utils.optional import MissingPackage, package
from ..utils.registry import Registry
from ..weights.catalog import backbones
from ..weights.checkpoint_files import load_state_file, read_json
from ..weights.hint_query import Which, weights_of
from ..weights.hints import heads_of_64
from ..weights.sources import hub_folder, open_clip_checkpoint, refuse_unusable, split_query, split_seed, url_file
from . import tokenisers
from .configurations import LOWER, OLD_END, Told, of_hugging_face, of_open_clip
from .layouts import DECLIP, OPENAI, build, layout_of
from .tokenisers import BytePairs, HubTokeniser, Tokeniser, hub_tokeniser
from .tower import TextTower, check_pair

Source = Callable[[str, Backbone], TextTower]
TEXT_SOURCES: Registry[Source] = Registry("text tower source")
"""Scheme -> loader, given what stands behind the colon and the image tower."""


def load_text_tower(name: str, backbone: Backbone, device: str = "cpu") -> TextTower:
    """The text tower of the model that `backbone` (loaded under `name`) is the image tower of.

    Raises NotApplicable when that model has none, and WeightsError when it cannot be had or the two do not fit.
    """
    row = backbones().get(name)
    missing = []
    for source in row.sources if row else (name,):
        scheme, _, rest = source.partition(":")
        if scheme not in TEXT_SOURCES:
            raise no_text_tower(name)
        try:
            with damaged(source, "get its files again", WeightsError, "has a text tower that cannot be read"):
                tower = TEXT_SOURCES[scheme](rest, backbone)
        except MissingPackage as error:  # the image tower came from the next source, too
            missing.append(str(error))
            continue
        check_pair(tower, backbone, name)
        return tower.to(device)
    raise WeightsError(f"{name}: {'; or '.join(missing)}")


def no_text_tower(name: str) -> NotApplicable:
    """The error for a backbone without language."""
    return NotApplicable(
        f"{name} has no text tower to make a head of class names from; choose a CLIP backbone (clip-vit-b32, "
        "open_clip:ARCH/TAG, hf:REPO, file:PATH), or a method that needs none, such as discriminant, with --head zero"
    )


@TEXT_SOURCES.register("open_clip")
def _open_clip(rest: str, backbone: Backbone) -> TextTower:
    model, _, path = open_clip_checkpoint(rest)
    return _of_open_clip(model, load_state_file(path), f"open_clip:{rest}")


@TEXT_SOURCES.register("hf")
def _hugging_face(repository: str, backbone: Backbone) -> TextTower:
    return _of_path(hub_folder(repository, *tokenisers.FILES), backbone, f"hf:{repository}")


@TEXT_SOURCES.register("file")
def _file(rest: str, backbone: Backbone) -> TextTower:
    path, query = split_query(rest)
    return _of_path(path, backbone, f"file:{rest}", weights_of(query))


@TEXT_SOURCES.register("url")
def _url(address: str, backbone: Backbone) -> TextTower:
    return _of_path(url_file(address), backbone, f"url:{address}")


@TEXT_SOURCES.register("random")
def _random(rest: str, backbone: Backbone) -> TextTower:
    """A random tower as wide as the image tower needs it; its weights depend on the seed alone."""
    name, seed = split_seed(rest)
    if name not in architectures():
        raise no_text_tower(f"random:{rest}")
    features, activation = backbone.features, _activation(backbone)
    config = TextConfig(**architectures()[name], projection=features, activation=activation)
    with seeded(seed):
        network = TextTransformer(config)
    return TextTower(network, BytePairs(config.context), 100.0)


def architectures() -> dict[str, dict[str, Any]]:
    """Name of an image architecture -> the fields of `TextConfig` of the tower beside it."""
    return shipped_table("vitadapt.text", "architectures.toml")


def _of_path(path: Path, backbone: Backbone, where: str, which: Which | None = None) -> TextTower:
    """A file or folder in any of the known layouts."""
    folder = path if path.is_dir() else path.parent
    state = load_state_file(path, which)
    if (layout := layout_of(state)) is None:
        raise no_text_tower(where)
    if layout.name.startswith("hf-"):
        if not (folder / "config.json").is_file():
            raise WeightsError(f"{where}: config.json and the tokeniser's files must lie beside the weights")
        return _of_folder(folder, read_json(folder / "config.json"), state)
    if path.is_dir() and (folder / "open_clip_config.json").is_file():
        return _of_open_clip(read_json(folder / "open_clip_config.json")["model_cfg"], state, where, folder)
    return _of_openai(state, _activation(backbone), where)


def _of_openai(state: State, activation: Activation, where: str) -> TextTower:
    """A bare file: OpenAI's own tower, with 64 channels per head. Raises WeightsError for one that may be another."""
    width, vocabulary = (
        len(next(tensor for name, tensor in state.items() if name.endswith(f"{part}.weight")))
        for part in ("ln_final", "token_embedding")
    )
    if heads_of_64(width) is None:
        what = f"a text tower of width {width} is not OpenAI's"
        raise WeightsError(f"{where}: {what}; a bare file has no number of heads")
    other = any(name.partition("visual.")[2].startswith("trunk.") for name in state)
    layout = layout_of(state)
    if other or layout not in (OPENAI, DECLIP):
        raise WeightsError(
            f"{where}: a bare file does not tell whether its text tower is causal; "
            "give it as a folder with open_clip_config.json"
        )
    fields = {"heads": heads_of_64(width), "activation": activation, "end": vocabulary - 1}
    if layout is DECLIP and vocabulary == tokenisers.encoder().vocab_size + 1:  # one token for masks
        return _tower(Told(fields), state, where, BytePairs(tokenisers.CONTEXT, added=1))
    return _tower(Told(fields), state, where)


def _of_open_clip(model: Mapping[str, Any], state: State, where: str, folder: Path | None = None) -> TextTower:
    return _tower(of_open_clip(model, where), state, where, folder)


def _of_folder(folder: Path, config: Mapping[str, Any], state: State) -> TextTower:
    """A folder of Hugging Face with a model of two towers and its tokeniser."""
    told, kind = of_hugging_face(config, str(folder)), config.get("model_type")
    vocabulary = len(state["text_model.embeddings.token_embedding.weight"])
    inner = hub_tokeniser(folder, vocabulary)
    if kind == "clip" and told.fields["end"] == OLD_END:
        told = replace(told, fields={**told.fields, "end": inner.eos_token_id})
    context = len(state["text_model.embeddings.position_embedding.weight"])
    clean = str.lower if kind in LOWER else str
    return _tower(told, state, str(folder), HubTokeniser(inner, context, clean, vocabulary))


def _tower(told: Told, state: State, where: str, tokeniser: Path | Tokeniser | None = None) -> TextTower:
    """The tower in `state` with its tokeniser, that of a folder, or the usual one of its kind.

    Raises WeightsError when the tensors or the vocabulary do not fit.
    """
    layout = layout_of(state)
    if layout is None:
        raise no_text_tower(where)
    try:
        config, ours = layout.read(state, **told.fields)
        if config.pooling == "end" and not 0 <= config.end < config.vocabulary:
            raise WeightsError(f"the end token {config.end}, where {config.vocabulary} tokens are known")
        refuse_unusable(ours)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}; use --head zero") from error
    if tokeniser is None or isinstance(tokeniser, Path):
        tokeniser = _usual_tokeniser(told, config, where, tokeniser)
    scale, bias = (state.get(f"logit_{what}", state.get(f"module.logit_{what}")) for what in ("scale", "bias"))
    known = None if scale is None else float(scale.float().exp())
    return TextTower(build(config, ours), tokeniser, known, None if bias is None else float(bias.float()))


def _usual_tokeniser(told: Told, config: TextConfig, where: str, folder: Path | None) -> Tokeniser:
    """Byte pairs, or the tokeniser that the configuration names: in the folder itself, in the cache, or on the hub."""
    if told.tokeniser:
        own = folder is not None and any(
            (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
        )
        inner = hub_tokeniser(folder if own and folder is not None else told.tokeniser, config.vocabulary)
        clean = package("open_clip.tokenizer", "clip").get_clean_fn(told.clean)
        return HubTokeniser(inner, config.context, clean, config.vocabulary)
    if tokenisers.encoder().vocab_size != config.vocabulary:
        raise WeightsError(
            f"{where}: its text tower knows {config.vocabulary} tokens and CLIP's tokeniser "
            f"{tokenisers.encoder().vocab_size}; it needs a tokeniser of its own, give it as a Hugging Face folder"
        )
    return BytePairs(config.context)


def _activation(backbone: Backbone) -> Activation:
    """A bare file does not name the activation; the one that was given for the image tower counts for both towers."""
    if isinstance(backbone, ViT):
        return backbone.config.activation
    raise WeightsError("a text tower needs a vision transformer beside it, and this backbone is another network")

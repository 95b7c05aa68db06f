"""CLIP models of toy size in the official formats, with random weights: data for the tests of language."""

from __future__ import annotations

import json
import string
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from weights_cases import open_clip_tower, shaken

from vitadapt.nn.surgery import seeded

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 64, "layers": 1}
SIGLIP_FILE = "open_clip_model.safetensors"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
LONG = "a photo of " + "a very " * 40 + "long sentence"
TEXTS = ["a photo of a cat.", "A photo of the  dog, a type of pet!", "naïve café 12345", "", LONG]


@cache
def open_clip_clip(quick: bool = True) -> Any:
    """open_clip's own CLIP with a readable text tower."""
    open_clip = pytest.importorskip("open_clip")
    with seeded(0):
        return shaken(open_clip.CLIP(48, VISION, TEXT, quick_gelu=quick), size=0.05)


def openai_file(folder: Path, quick: bool = True) -> str:
    """The model as a plain state dict in OpenAI's layout -> the name to load it by."""
    state = open_clip_clip(quick).state_dict()
    extra = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    torch.save({**state, **{name: torch.tensor(value) for name, value in extra.items()}}, folder / "clip.pt")
    return f"file:{folder / 'clip.pt'}?activation={'quick_gelu' if quick else 'gelu'}"


def open_clip_folder(folder: Path, **text: Any) -> str:
    """The same model as a folder with open_clip's configuration."""
    from safetensors.torch import save_file

    state = {name: tensor.clone() for name, tensor in open_clip_clip().state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"embed_dim": 48, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": {**TEXT, **text}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return f"file:{folder}"


@cache
def hf_clip() -> nn.Module:
    """transformers' own CLIPModel."""
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"max_position_embeddings": 24, "vocab_size": 60, "projection_dim": 40}
    text |= {"bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59}
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 32, "patch_size": 8, "projection_dim": 40}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)
    with seeded(0):
        return shaken(transformers.CLIPModel(config), size=0.05)


def hf_folder(folder: Path, **text: Any) -> str:
    """transformers' CLIPModel and a tokeniser of single letters, in the files of a Hugging Face repository."""
    from safetensors.torch import save_file

    model: Any = hf_clip()
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    config = model.config.to_dict()
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))
    letters = [*string.ascii_lowercase, ".", ","]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: i + 2 * (i >= 56) for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    described = {**special, "unk_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer", "model_max_length": 24}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return f"hf:{folder}"


def open_clip_text(name: str) -> tuple[dict[str, Any], Any]:
    """open_clip's configuration of a model and its text tower, in small sizes and with random weights."""
    open_clip = pytest.importorskip("open_clip")
    model = json.loads(json.dumps(open_clip.get_model_config(name)))
    model["text_cfg"] |= {"width": 64, "heads": 4, "layers": 2, "context_length": 12, "vocab_size": 60}
    text, quick = model["text_cfg"], model.get("quick_gelu", False)
    with seeded(0):
        return model, shaken(open_clip.model._build_text_tower(40, text, quick), size=0.05).eval()


def sentences(config: Any, end: int) -> torch.Tensor:
    """Token numbers of three sentences of different lengths."""
    tokens = torch.randint(3, 50, (3, config.context), generator=torch.Generator().manual_seed(1))
    for row, length in zip(tokens, (4, 9, config.context), strict=True):
        row[length - 1], row[length:] = end, 0
    return tokens


@cache
def hf_text_model(kind: str) -> Any:
    """A model of transformers with two towers of small sizes."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    end = 59 if kind == "CLIP" else 2
    text = {**sizes, "max_position_embeddings": 12, "vocab_size": 60, "eos_token_id": end, "bos_token_id": 1}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    with seeded(0):
        return shaken(getattr(transformers, f"{kind}Model")(config), size=0.05).eval()


def siglip_folder(folder: Path) -> tuple[Any, str]:
    """open_clip's SigLIP with a tokeniser of words, as a folder -> the model, and the name to load it by."""
    open_clip = pytest.importorskip("open_clip")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    model = json.loads(json.dumps(open_clip.get_model_config("ViT-B-16-SigLIP")))
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "dogs", "two", "and", "A", "!"]
    model["text_cfg"] |= {"width": 64, "heads": 4, "layers": 1, "context_length": 8, "vocab_size": len(words)}
    model["embed_dim"], model["vision_cfg"]["image_size"] = 96, 32
    with seeded(0):
        network = open_clip.CustomTextCLIP(96, VISION, model["text_cfg"], init_logit_bias=-10)
        network.visual = open_clip_tower("vit_base_patch16_siglip_224", "map", "none", embed_dim=96, num_heads=12)
        shaken(network, size=0.05).eval()
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, folder / SIGLIP_FILE)
    described = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return network, f"file:{folder}"

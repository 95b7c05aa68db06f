"""Checkpoint files: every container and layout is read, nothing in them is executed, and a bad file says what it is."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import weights_cases as cases
from safetensors.torch import save_file
from torch import Tensor, nn
from weights_cases import images, largest

from vitadapt.nn.vit import ViT
from vitadapt.utils.errors import ConfigError, VitadaptError, WeightsError
from vitadapt.weights import CONVERTERS, build, load_backbone, load_state_file, read_state

TOLERANCE = 1e-5


class Traced(nn.Module):
    """Some module with parameters and buffers of several types, a transposed one and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.again = self.body[0]
        self.table = nn.Parameter(torch.randn(3, 4).T)
        self.register_buffer("small", torch.arange(3, dtype=torch.float16))
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.body(x)) @ self.table


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.jit.trace(Traced(), torch.zeros(2, 4)).save(str(path))
    return path


def test_torchscript_archive_gives_what_torch_itself_reads(archive: Path) -> None:
    theirs, ours = torch.jit.load(str(archive)).state_dict(), load_state_file(archive)
    assert {"small", "input_resolution", "table", "body.0.weight"} <= ours.keys() <= theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    shared = {name for name in theirs.keys() - ours.keys()}
    assert shared <= {"again.weight", "again.bias", "body.0.weight", "body.0.bias"}


def _rewrite(archive: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(archive) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in members.items():
            target.writestr(name, pickled if name.endswith("/data.pkl") else content)


class Call:
    """Pickled, it asks the reader to call `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "function", [os.system, eval, exec, __import__, getattr, torch.load, open], ids=lambda f: f.__name__
)
def test_no_code_of_an_archive_is_executed(archive: Path, tmp_path: Path, function: Callable[..., Any]) -> None:
    mark = tmp_path / "was-here"
    _rewrite(archive, pickle.dumps({"visual": Call(function, f"touch {mark}")}, protocol=2))
    with pytest.raises(WeightsError, match="do not trust this file"):
        load_state_file(archive)
    assert not mark.exists()


_TAG = b"ctorch.jit._pickle\nrestore_type_tag\n"
_NODE = b"c__torch__\nsystem\n"


def _pickled_module(weight: bytes) -> bytes:
    """A pickled module whose only attribute, w, is what `weight` makes."""
    return b"\x80\x02" + _NODE + b")\x81}X\x01\x00\x00\x00w" + weight + b"sb."


def _storage(count: int) -> bytes:
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK"
        + bytes([count])
        + b"tQ"
    )


def _tensor(storage: bytes, offset: int, size: bytes, stride: int) -> bytes:
    numbers = b"K" + bytes([offset]) + b"(" + size + b"t(K" + bytes([stride]) + b"t\x89Nt"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"R"


ODD_PICKLES = {
    "a class named like a function is called": _pickled_module(_NODE + b"(X\x04\x00\x00\x00exittR"),
    "a function in the place of a tensor": _pickled_module(_TAG),
    "state written to a function": _pickled_module(_TAG + b"(N}X\x0c\x00\x00\x00__defaults__K\x01stb"),
    "state written to a tensor": _pickled_module(_tensor(_storage(4), 0, b"K\x04", 1) + b"}b"),
    "a tensor larger than its storage": _pickled_module(_tensor(_storage(4), 0, b"K\xff", 1)),
    "a number repeated for ever": _pickled_module(_tensor(_storage(4), 0, b"J\x00\x00\x00\x10", 0)),
    "a tensor behind its storage": _pickled_module(_tensor(_storage(4), 2, b"K\x04", 1)),
    "a storage of another size": _pickled_module(_tensor(_storage(5), 0, b"K\x04", 1)),
    "an unknown reference": _pickled_module(b"(X\x05\x00\x00\x00otherNNNNtQ"),
    "an extension code": _pickled_module(b"\x82\x01"),
    "nothing": b"",
    "no end": b"\x80\x02(",
}


@pytest.fixture
def hand_made(tmp_path: Path) -> Callable[[bytes], Path]:
    """An archive with a given pickle and one storage of four numbers."""

    def make(pickled: bytes) -> Path:
        path = tmp_path / "hand-made.pt"
        numbers = torch.arange(4, dtype=torch.float32).numpy().tobytes()
        path.write_bytes(_zip({"m/data.pkl": pickled, "m/data/0": numbers, "m/code/__torch__.py": b""}))
        return path

    return make


def test_a_sound_hand_made_archive_is_read(hand_made: Callable[[bytes], Path]) -> None:
    """So that the odd ones below are refused for what they are and not because they are garbled."""
    state = load_state_file(hand_made(_pickled_module(_tensor(_storage(4), 1, b"K\x02", 2))))
    assert {name: tensor.tolist() for name, tensor in state.items()} == {"w": [1.0, 3.0]}


@pytest.mark.parametrize("kind", ODD_PICKLES)
def test_odd_pickles_are_refused_in_one_line(hand_made: Callable[[bytes], Path], kind: str) -> None:
    path = hand_made(ODD_PICKLES[kind])
    with pytest.raises(WeightsError) as raised:
        load_state_file(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def _openai(tmp_path: Path, container: str) -> tuple[Any, Path]:
    """A CLIP in OpenAI's layout, in half precision as published, in one of the containers."""
    model = cases.open_clip_model(head_width=64).half().float()
    path = tmp_path / f"clip.{container}"
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    if container == "torchscript":
        model.register_buffer("input_resolution", torch.tensor(32))  # so do OpenAI's files
        traced = torch.jit.trace_module(model, {"encode_image": torch.zeros(1, 3, 32, 32)})
        traced.half().save(str(path))
    elif container == "safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if container == "pth" else state, path)
    return model.float(), path


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("container", ["torchscript", "pt", "pth", "safetensors"])
def test_openai_clip_from_every_container(tmp_path: Path, container: str) -> None:
    model, path = _openai(tmp_path, container)
    hint = "" if container == "torchscript" else "?activation=quick_gelu"
    vit, x = load_backbone(f"file:{path}{hint}"), images()
    assert isinstance(vit, ViT) and vit.config.heads == 1 and vit.config.activation == "quick_gelu"
    with torch.no_grad():
        assert largest(model.encode_image(vit.normalise(x)), vit(x)) <= TOLERANCE


def test_an_activation_that_nobody_told_is_asked_for(tmp_path: Path) -> None:
    _, path = _openai(tmp_path, "pt")
    with pytest.raises(WeightsError, match=r"do not tell activation; add .*\?like=NAME"):
        load_backbone(f"file:{path}")
    vit = load_backbone(f"file:{path}?like=clip-vit-b32&heads=1&activation=gelu")
    assert isinstance(vit, ViT) and vit.config.activation == "gelu" and vit.config.norm_eps == 1e-5


def _wrapped(kind: str, model: Any) -> dict[str, Any]:
    state = model.state_dict()
    if kind == "mae":
        extras = {"mask_token": torch.zeros(1, 1, 64), "decoder_pred.weight": torch.zeros(3, 64)}
        return {"model": state | extras, "epoch": 7}
    momentum = {f"module.momentum_encoder.{name}": t for name, t in state.items()}
    head = {"module.base_encoder.head.0.weight": torch.zeros(3, 64), "module.predictor.0.weight": torch.zeros(3, 3)}
    if kind == "moco":
        return {"state_dict": {f"module.base_encoder.{n}": t for n, t in state.items()} | momentum | head, "arch": "x"}
    return {"state_dict": {f"module.{n}": t for n, t in state.items()}}


@pytest.mark.parametrize("kind", ["mae", "moco", "moco probe"])
def test_mae_and_moco_v3_are_timm_models_under_other_names(tmp_path: Path, kind: str) -> None:
    heads = 4 if kind == "mae" else 12
    width = 64 if kind == "mae" else 96
    model = cases.timm_model("vit_base_patch16_224", embed_dim=width, num_heads=heads, num_classes=0)
    with torch.no_grad():
        model.pos_embed[:, 0] = 0  # both have fixed positions, and none for the class token
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(_wrapped(kind, model), path)
    vit, x = load_backbone(f"file:{path}" + ("?heads=4" if kind == "mae" else "")), images()
    assert isinstance(vit, ViT) and vit.config.norm_eps == 1e-6 and vit.config.heads == heads
    with torch.no_grad():
        assert largest(cases.timm_features(model, vit.normalise(x)), vit(x)) <= TOLERANCE


def test_a_wrapped_model_with_learnt_positions_is_not_taken_for_moco(tmp_path: Path) -> None:
    model = cases.timm_model("vit_base_patch16_224", num_classes=0, embed_dim=192)
    torch.save(_wrapped("moco probe", model), tmp_path / "ddp.pth")
    with pytest.raises(WeightsError, match="do not tell heads, preprocess"):
        load_backbone(f"file:{tmp_path / 'ddp.pth'}")


def _deit() -> dict[str, Tensor]:
    return cases.model("timm deit").state_dict()


HINTS = "?heads=4&mean=imagenet"


@pytest.mark.parametrize(
    ("names", "query", "taken"),
    [
        (("state_dict", "state_dict_ema"), "", "ema"),
        (("state_dict", "state_dict_ema"), "&weights=ema", "ema"),
        (("state_dict", "state_dict_ema"), "&weights=raw", "raw"),
        (("model", "model_ema"), "", "ema"),
        (("student", "teacher"), "", "ema"),
        (("model", "ema_model"), "", "ema"),
        (("state_dict", "swa_state_dict"), "", "ema"),
        (("params", "params_ema"), "&weights=raw", "raw"),
        (("encoder", "target_encoder"), "", "ema"),
        (("student", "teacher"), "&weights=raw", "raw"),
        (("state_dict", ""), "", "raw"),
        (("", "ema"), "", "ema"),
    ],
)
def test_averaged_or_raw_weights_are_taken_as_asked_and_it_is_said(
    names: tuple[str, str], query: str, taken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = {"raw": _deit(), "ema": {name: tensor + 1 for name, tensor in _deit().items()}}
    content = {name: tensors for name, tensors in zip(names, sets.values(), strict=True) if name}
    torch.save(
        {**content, "epoch": 9, "args": Namespace(lr=0.1), "optimizer": {"state": {0: torch.zeros(3)}}},
        tmp_path / "c.pth",
    )
    vit: Any = load_backbone(f"file:{tmp_path / 'c.pth'}{HINTS}{query}")
    assert torch.equal(vit.position, sets[taken]["pos_embed"][0])
    warned = all(names) and not query
    assert bool(caplog.messages) == warned and all(f"({names[1]})" in line for line in caplog.messages)


def test_a_set_of_weights_under_a_name_that_is_not_known_is_named(tmp_path: Path) -> None:
    torch.save({"model": _deit(), "lookahead": _deit()}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="same names under model and lookahead"):
        load_backbone(f"file:{tmp_path / 'c.pth'}{HINTS}")
    both = {p + name: tensor for p in ("backbone.", "backbone_momentum.") for name, tensor in _deit().items()}
    with pytest.raises(WeightsError, match=r"two networks .*backbone_momentum\."):
        read_state(both, cases.CASES[0].hints)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    name = "blocks.0.mlp.fc1.weight"
    torch.save(_deit() | {name: _deit()[name].to(dtype)}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=f"holds {dtype}"):
        load_backbone(f"file:{tmp_path / 'c.pth'}{HINTS}")


@pytest.mark.parametrize("wrapper", ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod."])
def test_wrappers_of_single_blocks_are_removed(wrapper: str, tmp_path: Path) -> None:
    state = {name.replace("blocks.0.", f"blocks.0.{wrapper}"): tensor for name, tensor in _deit().items()}
    inside = {wrapper + name: tensor for name, tensor in state.items()}
    torch.save({**inside, "n_averaged": torch.tensor(3)}, tmp_path / "c.pth")
    vit: Any = load_backbone(f"file:{tmp_path / 'c.pth'}{HINTS}")
    assert torch.equal(vit.position, _deit()["pos_embed"][0])


def test_a_file_with_one_set_of_weights_has_no_other(tmp_path: Path) -> None:
    for content in (_deit(), {"model": _deit()}):
        torch.save(content, tmp_path / "c.pth")
        with pytest.raises(ConfigError, match=r"leave out \?weights=ema"):
            load_backbone(f"file:{tmp_path / 'c.pth'}{HINTS}&weights=ema")
    with pytest.raises(ConfigError, match="use one of ema, raw"):
        load_backbone(f"file:{tmp_path / 'c.pth'}{HINTS}&weights=best")


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.", "encoder.", "model.backbone._orig_mod."],
)
@pytest.mark.parametrize("kind", ["timm deit", "hf Dinov2Model", "open_clip quick gelu"])
def test_names_that_training_programs_put_in_front_are_removed(prefix: str, kind: str, tmp_path: Path) -> None:
    case = next(case for case in cases.CASES if case.name == kind)
    module = cases.model(kind)
    state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    converted = read_state(state | {"head.weight": torch.zeros(2), "criterion.weight": torch.zeros(2)}, case.hints)
    vit, x = build(converted.config, converted.state), images()
    with torch.no_grad():
        assert largest(case.features(module, vit.normalise(x)), vit(x)) <= TOLERANCE
    back = CONVERTERS[converted.layout].write(converted.config, converted.state, converted.prefix)
    assert back.keys() <= state.keys()


def test_another_prefix_and_strange_tensors_beside_the_network_are_named() -> None:
    with pytest.raises(WeightsError, match=r"begin with 'student\.vit5\.' where those of timm ViT follow"):
        read_state({"student.vit5." + name: tensor for name, tensor in _deit().items()}, cases.CASES[0].hints)
    wrapped = {"backbone." + name: tensor for name, tensor in _deit().items()}
    for name in ("prompt_embeddings", "ema_backbone.pos_embed", "adapters.0.weight"):
        with pytest.raises(WeightsError, match=f"stands beside {name}, which may change its features"):
            read_state(wrapped | {name: torch.zeros(2)}, cases.CASES[0].hints)


@pytest.mark.parametrize("scheme", ["file", "hf"])
@pytest.mark.parametrize("kind", ["hf CLIPVisionModelWithProjection", "hf ViTModel", "hf Dinov2WithRegistersModel"])
def test_hugging_face_folder(tmp_path: Path, kind: str, scheme: str) -> None:
    case = next(case for case in cases.CASES if case.name.startswith(kind))
    model: Any = cases.model(case.name)
    model.save_pretrained(tmp_path)
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 1.0, 0.5], "size": {"shortest_edge": 40}}
    processor |= {"image_processor_type": "CLIPImageProcessor", "crop_size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    vit, x = load_backbone(f"{scheme}:{tmp_path}"), images()
    assert isinstance(vit, ViT) and vit.preprocess.mean == (0.1, 0.2, 0.3) and vit.preprocess.resize == 1.25
    with torch.no_grad():
        assert largest(case.features(model, vit.normalise(x)), vit(x)) <= TOLERANCE


def test_hugging_face_classifier_and_whole_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vision = {k: v for k, v in cases._HF_TINY.items() if k != "projection_dim"}
    text = {
        "vocab_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=48)
    clip, classifier = (
        transformers.CLIPModel(config),
        transformers.ViTForImageClassification(transformers.ViTConfig(**vision)),
    )
    for model, width in ((clip, 48), (classifier, 64)):
        cases.shaken(model).save_pretrained(tmp_path / str(width))
        vit, x = load_backbone(f"file:{tmp_path / str(width)}"), images()
        assert isinstance(vit, ViT) and vit.features == width
        with torch.no_grad():
            seen = vit.normalise(x)
            if width == 48:
                theirs = model.visual_projection(model.vision_model(pixel_values=seen).pooler_output)
            else:
                theirs = model.vit(pixel_values=seen).last_hidden_state[:, 0]
            assert largest(theirs, vit(x)) <= TOLERANCE


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


_SAFE = (1 << 20).to_bytes(8, "little") + b'{"a": {"dtype"'
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\); download it again"),
    "web page": (b"\n<!DOCTYPE html><html>", "is a web page, not a checkpoint"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "text": (b"hello, this is no checkpoint" * 9, "neither safetensors nor a torch file"),
    "truncated safetensors": (_SAFE, "is a damaged safetensors file"),
    "truncated torch file": (_saved({"a": torch.zeros(999)})[:-900], "is a damaged or incomplete checkpoint"),
    "pickled objects": (_saved({"model": Call(os.getcwd)}), "could run code and are not loaded"),
    "a list": (_saved([torch.zeros(2)]), "holds a list, not a state dict"),
    "no tensors": (_saved({"epoch": 3, "lr": 0.1}), r"holds no tensors \(found: epoch, lr\)"),
    "other zip": (_zip({"readme": b"x"}), "is a zip without a torch checkpoint"),
    "text tower": (_saved({"token_embedding.weight": torch.zeros(2, 2)}), "only the text tower of a CLIP"),
    "ResNet": (_saved({"visual.layer1.0.conv1.weight": torch.zeros(2, 2)}), "does not pool by attention"),
    "another network": (_saved({"layer.weight": torch.zeros(2, 2)}), "no known vision transformer; known layouts"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_named_with_what_it_is(tmp_path: Path, kind: str) -> None:
    content, message = BAD_FILES[kind]
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as raised:
        load_backbone(f"file:{path}")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_missing_file_and_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pt does not exist"):
        load_backbone(f"file:{tmp_path / 'nowhere.pt'}")
    with pytest.raises(WeightsError, match="holds none of"):
        load_backbone(f"file:{tmp_path}")
    (tmp_path / "config.json").write_text("{]")
    with pytest.raises(WeightsError, match=r"config\.json is not readable JSON"):
        load_backbone(f"file:{tmp_path}")


def test_truncated_archive(archive: Path) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="download it again"):
        load_state_file(archive)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"activation": "swish"}, "'swish' is no value for activation; use one of gelu"),
        ({"heads": "many"}, "use a whole number"),
        ({"mean": "zero"}, "use one of imagenet, none, half, clip"),
        ({"antialias": "maybe"}, "use true or false"),
        ({"like": "clip-vit-b23"}, "did you mean clip-vit-b32"),
        ({"activatoin": "gelu"}, "unknown hint 'activatoin'; did you mean activation"),
    ],
)
def test_wrong_hints_are_named(tmp_path: Path, hints: dict[str, Any], message: str) -> None:
    path = tmp_path / "w.pt"
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(VitadaptError, match=message):
        load_backbone(f"file:{path}{cases.query(**hints)}")


def test_a_gap_between_the_blocks_and_a_damaged_tensor_are_named(tmp_path: Path) -> None:
    state = cases.model("timm deit").state_dict()
    gap = {name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in state.items()}
    wide = state | {"blocks.1.mlp.fc1.weight": torch.zeros(32, 64)}
    for content, message in (
        (gap, "block 1 of at least 2 is missing"),
        (wide, r"blocks\.1\.mlp\.fc1\.weight has shape"),
    ):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=message) as raised:
            load_backbone(f"file:{tmp_path / 'w.pt'}?like=deit-b16&heads=4")
        assert str(tmp_path) in str(raised.value)

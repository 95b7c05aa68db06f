"""Backbones by name: the table, the general forms, what is refused, and what happens without a connection."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import weights_cases as cases
from safetensors.torch import save_file
from weights_cases import images, largest

from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.vit import ViT, ViTConfig
from vitadapt.utils.errors import ConfigError, UnknownName, VitadaptError, WeightsError
from vitadapt.weights import FeatureExtractor, build, from_module, list_backbones, load_backbone
from vitadapt.weights.catalog import architectures, backbones
from vitadapt.weights.hints import NORMALISATIONS, config_of
from vitadapt.weights.sources import SOURCES

TOLERANCE = 1e-5
SCALES = {*NORMALISATIONS, "satellite"}
NAMED = {
    *("clip-vit-b32", "clip-vit-b16", "clip-vit-l14", "dinov2-s14", "dinov2-b14", "dinov2-s14-offline"),
    *("deit-b16", "vit-b16-in21k", "vit-b32", "mae-b16", "mocov3-b16"),
    *("dinov3-s16", "siglip2-b16", "pe-core-b16", "eva02-b14", "aimv2-l14", "tipsv2-b14", "c-radio-v4-h16"),
}


def test_the_table_is_whole() -> None:
    assert set(backbones()) > NAMED and len(backbones()) >= 60
    for row in list_backbones():
        assert list(row)[:3] == ["name", "source", "licence"] and row["description"]
    for row in backbones().values():
        assert row.licence and row.image_size % 2 == 0 and row.parameters > 1 and row.normalise in SCALES
        assert all(source.partition(":")[0] in SOURCES for source in row.sources)


def test_every_row_names_something_that_its_library_has() -> None:
    timm, open_clip = pytest.importorskip("timm"), pytest.importorskip("open_clip")
    for row in backbones().values():
        scheme, _, rest = row.source.partition(":")
        if scheme == "timm":
            assert timm.models.is_model_pretrained(rest), rest
        elif scheme == "open_clip":
            arch, _, tag = rest.partition("/")
            assert tag in open_clip.list_pretrained_tags_by_model(arch), rest


def test_backbones_are_found_by_what_they_are_called_elsewhere() -> None:
    def found(**asked: Any) -> set[str]:
        return {row["name"] for row in list_backbones(**asked)}

    assert found(like="vit_small_patch16_dinov3") == {"dinov3-s16"} == found(like="dinov3-vits16-pretrain")
    assert found(like="ViT-B-16-SigLIP2/webli") == {"siglip2-b16"}
    small = found(like="dinov3", max_params=30)
    assert small == {"dinov3-s16", "dinov3-splus16", "eupe-s16"} and not found(like="dinov3", licence="permissive")
    assert found(licence="MIT", text=True) < found(text=True) and "dinov2-s14" not in found(text=True)
    with pytest.raises(UnknownName, match=r"is dinov3-s16 here$"):
        load_backbone("vit_small_patch16_dinov3")


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from vitadapt.weights.catalog import list_backbones; list_backbones(); "
        "print(sorted({'torch', 'timm', 'open_clip', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_building_a_network_from_tensors_imports_no_compiler() -> None:
    code = (
        "import sys; from vitadapt.nn.vit import ViT, ViTConfig; from vitadapt.weights import build; "
        "config = ViTConfig(image_size=16, patch=8, width=32, depth=1, heads=2); "
        "build(config, ViT(config).state_dict()); "
        "print(sorted({'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", architectures())
def test_every_named_architecture_has_a_valid_configuration(name: str) -> None:
    config = config_of(name)
    assert config.width % config.heads == 0 and config.features > 0


def test_random_weights_are_the_same_bytes_every_time_and_depend_on_the_seed_alone() -> None:
    first = backbone_digest(load_backbone("random:tiny"))
    state = torch.get_rng_state()
    torch.rand(3)
    assert backbone_digest(load_backbone("random:tiny")) == first == backbone_digest(load_backbone("random:tiny@0"))
    assert backbone_digest(load_backbone("random:tiny@1")) != first
    torch.set_rng_state(state)
    load_backbone("random:tiny")
    assert torch.equal(torch.get_rng_state(), state)


def test_digest_sees_every_tensor_and_the_configuration() -> None:
    vit = load_backbone("random:tiny")
    digests = {backbone_digest(vit), backbone_digest(load_backbone("random:tiny", image_size=64))}
    for parameter in vit.parameters():
        with torch.no_grad():
            parameter.view(-1)[0] += 1
        digests.add(backbone_digest(vit))
    assert len(digests) == 2 + len(list(vit.parameters()))


def test_digest_of_known_bytes_never_changes() -> None:
    """Adapter files name their backbone by it."""
    config = ViTConfig(width=8, depth=1, heads=2, patch=4, image_size=8, ln_pre=True)
    shapes = {name: tensor.shape for name, tensor in ViT(config).state_dict().items()}
    vit = build(config, {name: torch.arange(shape.numel()).view(shape) / 64 for name, shape in shapes.items()})
    assert backbone_digest(vit) == "f6a3a9777e9579cd73290fa9176c5b57"


def test_a_backbone_is_frozen_and_in_eval_mode_and_resized() -> None:
    vit = load_backbone("random:tiny", image_size=48)
    assert isinstance(vit, ViT) and vit.image_size == 48 and vit.config.grid == 6
    assert not vit.training and not any(p.requires_grad for p in vit.parameters())
    assert vit(images(48)).shape == (2, 64)


@pytest.mark.parametrize(
    ("size", "near"), [(50, "use 48 or 56"), (3, "use 8 or 16"), (0, "use 8 or 16"), (-8, "use 8")]
)
def test_a_size_that_is_no_multiple_of_the_patch_size_is_refused_with_near_ones(size: int, near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        load_backbone("random:tiny", image_size=size)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip-vit-b23", "did you mean clip-vit-b32"),
        ("nope", r"unknown backbone 'nope'; none of the \d+ known ones is called like it \(vitadapt list backbones"),
        ("/data/model.pt", "file:PATH"),
        ("ftp:somewhere", "unknown backbone 'ftp:somewhere'"),
        ("random:tyni", "unknown architecture 'tyni'; did you mean tiny"),
        ("random:tiny@x", "must be a whole number"),
        ("random:timm/resnet81", "unknown timm model 'resnet81'; did you mean resnet"),
        ("timm:resnet18.nothing", "unknown pretrained timm model"),
        ("open_clip:ViT-B-23/openai", "unknown open_clip architecture 'ViT-B-23'; did you mean ViT-B-32"),
        ("open_clip:ViT-B-32-quickgelu/opneai", "did you mean openai"),
        ("open_clip:ViT-B-32/openai", "use the architecture with -quickgelu in its name"),
        ("open_clip:RN50/openai", "use the architecture with -quickgelu in its name"),
        ("open_clip:coca_ViT-B-32/laion2b_s13b_b90k", "attentional_pool"),
        ("open_clip:convnext_base/laion400m_s13b_b51k", "a projection behind the timm image tower"),
    ],
)
def test_unusable_names_are_answered_in_one_line(name: str, message: str) -> None:
    pytest.importorskip("timm"), pytest.importorskip("open_clip")
    with pytest.raises(VitadaptError, match=message) as raised:
        load_backbone(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["clip-vit-b32", "dinov2-s14", "hf:openai/clip-vit-base-patch32", "timm:resnet18"])
def test_without_the_hub_the_error_names_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = _empty_hub(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set.*dinov2-s14-offline.*file:PATH"):
        load_backbone(name)
    assert hub.HF_HUB_OFFLINE is True


@pytest.mark.parametrize("name", ["clip-vit-b16", "mae-b16", "mocov3-b16", "hf:facebook/dinov2-small"])
def test_without_a_connection_nothing_is_tried_again_and_again(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    hub = _empty_hub(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("vitadapt.utils.optional.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("a request was repeated"))
    with pytest.raises(WeightsError, match=r"could not fetch.*no connection to .*dinov2-s14-offline"):
        load_backbone(name)
    assert hub.HF_HUB_OFFLINE is False


class _Gate(BaseHTTPRequestHandler):
    """A hub whose every repository is gated: what the real one answers to a user without access."""

    def do_GET(self) -> None:
        self.send_response(403)
        for name, value in (("X-Error-Code", "GatedRepo"), ("X-Error-Message", "Ask."), ("Content-Length", "0")):
            self.send_header(name, value)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("dinov3-s16", "timm/vit_small_patch16_dinov3.lvd1689m"),
        ("hf:facebook/dinov3-vits16-pretrain-lvd1689m", "facebook/dinov3-vits16-pretrain-lvd1689m"),
        ("open_clip:ViT-B-16-SigLIP2/webli", "timm/ViT-B-16-SigLIP2"),
    ],
)
def test_a_gated_repository_says_where_to_ask(
    name: str, repository: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = _empty_hub(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), _Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(
            hub, "HUGGINGFACE_CO_URL_TEMPLATE", hub.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        )
        with pytest.raises(WeightsError, match=f"on request; ask at https://huggingface.co/{repository}, then log in"):
            load_backbone(name)
        server.shutdown()


def _empty_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Any:
    pytest.importorskip("timm"), pytest.importorskip("open_clip")
    hub = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("TORCH_HOME", str(cache))
    return hub


def _fill(cache: Path, repository: str) -> Path:
    """A folder in the hub's cache that counts as the downloaded `repository`."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    files = folder / "snapshots" / ("0" * 40)
    files.mkdir(parents=True)
    return files


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(_empty_hub(monkeypatch, tmp_path), "HF_HUB_OFFLINE", True)
    return tmp_path


def test_hugging_face_repository_from_the_cache(cache: Path) -> None:
    model: Any = cases.model("hf CLIPVisionModelWithProjection")
    model.save_pretrained(_fill(cache, "someone/clip"))
    vit, x = load_backbone("hf:someone/clip"), images()
    assert isinstance(vit, ViT)
    with torch.no_grad():
        assert largest(model(pixel_values=vit.normalise(x)).image_embeds, vit(x)) <= TOLERANCE


def test_open_clip_weights_from_the_cache(cache: Path) -> None:
    """The row clip-vit-b32; the file in the cache is small, and only the heads come from the architecture's name."""
    model: Any = cases.open_clip_model(width=96, head_width=8)
    save_file(model.state_dict(), _fill(cache, "timm/vit_base_patch32_clip_224.openai") / "open_clip_model.safetensors")
    vit, x = load_backbone("clip-vit-b32", image_size=32), images()
    assert isinstance(vit, ViT) and vit.config.heads == 12 and vit.config.activation == "quick_gelu"
    with torch.no_grad():
        assert largest(model.encode_image(vit.normalise(x)), vit(x)) <= TOLERANCE
    assert load_backbone("clip-vit-b32").image_size == 224  # type: ignore[comparison-overlap]


def test_timm_weights_from_the_cache(cache: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "test_vit.r160_in1k"
    model = cases.shaken(timm.create_model("test_vit"))
    save_file(model.state_dict(), _fill(cache, f"timm/{name}") / "model.safetensors")
    vit, x = load_backbone(f"timm:{name}"), images(160)
    assert isinstance(vit, ViT) and vit.preprocess.mean == (0.5, 0.5, 0.5)
    with torch.no_grad():
        assert largest(cases.timm_features(model, vit.normalise(x)), vit(x)) <= TOLERANCE


def test_without_the_first_package_the_second_source_is_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = cases.model("hf CLIPVisionModelWithProjection")
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as if it were not installed
    model.save_pretrained(_fill(cache, "openai/clip-vit-base-patch32"))
    assert load_backbone("clip-vit-b32", image_size=32).features == 48  # type: ignore[comparison-overlap]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r'vitadapt\[clip\]".* or .*vitadapt\[hf\]"'):
        load_backbone("clip-vit-b32")


def test_a_row_may_say_how_images_are_shrunk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = cases.model("hf Dinov2Model")
    monkeypatch.setitem(sys.modules, "timm", None)
    model.save_pretrained(_fill(cache, "facebook/dinov2-small"))
    vit = load_backbone("dinov2-s14")
    assert isinstance(vit, ViT) and vit.image_size == 224 and vit.preprocess.resize == pytest.approx(256 / 224)
    assert vit.preprocess.mean == (0.485, 0.456, 0.406)


def test_timm_repository_from_the_cache_without_timm(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    model = cases.shaken(timm.create_model("test_vit"))
    folder = _fill(cache, "timm/some_vit")
    save_file(model.state_dict(), folder / "model.safetensors")
    prepared = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 160, 160], "crop_pct": 0.5}
    config = {"architecture": "some_vit", "global_pool": "token", "pretrained_cfg": prepared}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match="do not tell heads"):
        load_backbone("hf:timm/some_vit")
    path = folder / "model.safetensors"
    vit, x = load_backbone(f"file:{path}?heads=2"), images(160)
    assert isinstance(vit, ViT) and vit.preprocess.mean == (0.1, 0.2, 0.3) and vit.preprocess.resize == 2
    with torch.no_grad():
        assert largest(cases.timm_features(model, vit.normalise(x)), vit(x)) <= TOLERANCE
    (folder / "config.json").write_text(json.dumps({**config, "model_args": {"act_layer": "mish"}}))
    with pytest.raises(WeightsError, match="the setting act_layer='mish' in timm's model_args"):
        load_backbone(f"file:{path}?heads=2")


def test_configuration_files_of_strangers_are_left_alone(tmp_path: Path) -> None:
    torch.save(cases.model("timm deit").state_dict(), tmp_path / "deit.pt")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert isinstance(load_backbone(f"file:{tmp_path / 'deit.pt'}?like=deit-b16&heads=4"), ViT)


def test_unsupported_hugging_face_type_and_open_clip_folder(tmp_path: Path) -> None:
    model: Any = cases.model("open_clip average pooling without ln_pre")
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    vision = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "no_ln_pre": True}
    average = {"pool_type": "avg", "final_ln_after_pool": True}
    config = {
        "model_cfg": {"embed_dim": 48, "vision_cfg": {**vision, **average}},
        "preprocess_cfg": {"mean": [0, 0, 0]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    vit, x = load_backbone(f"file:{tmp_path}"), images()
    assert isinstance(vit, ViT) and vit.preprocess.mean == (0, 0, 0)
    with torch.no_grad():
        assert largest(model.encode_image(vit.normalise(x)), vit(x)) <= TOLERANCE
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="model type 'bert' is not supported; known are clip"):
        load_backbone(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": {}}')  # found by tests/fuzz
    with pytest.raises(WeightsError, match=r"config\.json.* cannot be understood"):
        load_backbone(f"hf:{tmp_path}")


def test_random_timm_models() -> None:
    timm = pytest.importorskip("timm")
    vit, again = load_backbone("random:timm/test_vit"), load_backbone("random:timm/test_vit@0")
    assert isinstance(vit, ViT) and backbone_digest(vit) == backbone_digest(again)
    assert backbone_digest(load_backbone("random:timm/test_vit@5")) != backbone_digest(vit)
    net = load_backbone("random:timm/test_resnet")
    assert isinstance(net, FeatureExtractor) and isinstance(load_backbone("random:timm/test_vit3"), FeatureExtractor)
    with pytest.raises(WeightsError, match="class ResNet"):
        from_module(timm.create_model("test_resnet"))


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot be put on device 'nonsense'"):
        load_backbone("random:tiny", device="nonsense")


def test_unknown_name_suggests_all_forms() -> None:
    with pytest.raises(UnknownName, match="timm:NAME, open_clip:ARCH/TAG, hf:REPO, file:PATH, random:ARCH"):
        load_backbone("nothing-like-it")

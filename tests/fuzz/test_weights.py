"""Weights and adapters from strangers: a payload that would run does not, and a sealed lie is found out."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from law import TARGETS
from safetensors.torch import load, save
from weight_targets import Scripted, tensors

from vitadapt.training.adapter_file import ADAPTER, checksum_of, load_adapter, read_adapter
from vitadapt.utils.errors import WeightsError
from vitadapt.utils.pickle_guard import check_pickle
from vitadapt.weights import load_backbone, load_state_file


class Payload:
    """A pickle of this creates `proof` when it is opened without care."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.proof,))


def in_torch_zip(proof: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": tensors(), "extra": Payload(proof)}, buffer)
    return buffer.getvalue()


def in_old_torch(proof: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": tensors(), "extra": Payload(proof)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def in_torchscript(proof: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/code/x.py", "")
        archive.writestr("model/data.pkl", pickle.dumps(Payload(proof)))
    return buffer.getvalue()


@pytest.mark.parametrize("make", [in_torch_zip, in_old_torch, in_torchscript, lambda p: pickle.dumps(Payload(p))])
def test_a_payload_is_refused_without_running(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "w.pt").write_bytes(make(proof))
    with pytest.raises(WeightsError, match=r"w\.pt"):
        load_state_file(tmp_path / "w.pt")
    assert not proof.exists()
    pickle.loads(pickle.dumps(Payload(proof)))  # noqa: S301 (harmless, and the proof that the ones above were not)
    assert proof.exists()  # so it would have run


LIES: dict[str, tuple[Callable[[], Any], str]] = {
    "strides of zero": (lambda: {"a": torch.zeros(1).expand(1 << 20)}, "far more than it holds"),
    "a sparse tensor": (lambda: {"a": torch.eye(3).to_sparse()}, "sparse|could run code|damaged"),
    "no tensors but laughs": (lambda: {_laughs(): 1}, "damaged or incomplete|holds no tensors"),
}


def _laughs() -> tuple:
    value: tuple = ()
    for _ in range(14):  # few enough for torch.save, which hashes it
        value = (value, value)
    return value


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("new", [True, False])
def test_a_checkpoint_that_unfolds_is_refused(lie: str, new: bool, tmp_path: Path) -> None:
    make, message = LIES[lie]
    torch.save(make(), tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=message) as caught:
        load_state_file(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as source, zipfile.ZipFile(tmp_path / "z.pt", "w") as packed:
        for info in source.infolist():
            packed.writestr(info.filename, source.read(info), zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"z\.pt is a damaged .*compressed, which torch never does"):
        load_state_file(tmp_path / "z.pt")


def test_sound_checkpoints_pass_every_look(tmp_path: Path) -> None:
    torch.jit.trace(Scripted(), torch.zeros(2, 3)).save(str(tmp_path / "s.pt"))
    shared = torch.randn(4, 4)
    torch.save({"model": {"a": shared, "b": shared, "c": shared.T}}, tmp_path / "w.pt")
    assert load_state_file(tmp_path / "s.pt").keys() >= {"body.0.weight", "table", "small"}
    assert torch.equal(load_state_file(tmp_path / "w.pt")["c"], shared.T)


def test_a_look_at_a_pickle_tells_what_it_would_build() -> None:
    for sound in ({"a": [1, 2, (3, b"x" * 999)]}, np.arange(99), [{}] * 50):
        for protocol in range(6):
            check_pickle(pickle.dumps(sound, protocol))
    for bad in (b"\x80\x02}r\xff\xff\xff\xff.", b"\x80\x02)" + b"2\x86" * 40 + b".", b"\x80\x02", b"", b"."):
        with pytest.raises(ValueError, match=r"\w"):
            check_pickle(bad)


@pytest.mark.parametrize("index", [{"weight_map": {"a": "../w"}}, {"weight_map": {"a": ""}}, {"weight_map": 3}, {}])
def test_shards_lie_beside_their_index(index: dict, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"index\.json names .*no file beside it"):
        load_state_file(tmp_path)


def sealed(folder: Path, tensors_changed: dict[str, torch.Tensor], **about: Any) -> Path:
    """The adapter of the fuzz target with changes, under a right checksum: what somebody with intentions makes."""
    TARGETS["adapter"].prepare(folder)
    path = folder / ADAPTER
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = {**json.loads(header["__metadata__"]["vitadapt"]), **about}
    metadata.pop("checksum", None)
    everything = {**load(data), **tensors_changed}
    metadata["checksum"] = checksum_of(metadata, everything)
    path.write_bytes(save(everything, {"vitadapt": json.dumps(metadata)}))
    return path


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"image_size": 1 << 40}, "impossible image_size"),
        ({"image_size": True}, "impossible image_size"),
        ({"classes": "abc"}, "list was expected"),
        ({"classes": [1, 2, 3]}, "impossible classes"),
        ({"classes": []}, "impossible classes"),
        ({"backbone": "url:http://127.0.0.1/x"}, "must not make this machine ask an address"),
        ({"backbone": 3}, "impossible backbone"),
        ({"method": {"name": "lora", "rank": 1 << 40}}, "impossible method's rank"),
        ({"method": 3}, "damaged metadata"),
        ({"training": [1]}, "impossible training"),
        ({"preprocess": "x"}, "impossible preprocess"),
        ({"squash": "yes"}, "impossible squash"),
    ],
)
def test_a_sealed_lie_of_an_adapter_is_told(about: dict, message: str, tmp_path: Path) -> None:
    path = sealed(tmp_path, {}, **about)
    with pytest.raises(WeightsError, match=message) as caught:
        read_adapter(path)
    assert str(path) in str(caught.value)


def test_tensors_of_an_adapter_that_cannot_be_are_told(tmp_path: Path) -> None:
    backbone = load_backbone("random:tiny")
    changes = {
        "head.linear.weight": (torch.zeros(4, 2, 2), "impossible head"),
        "head.linear.bias": (torch.full((3,), float("inf")), "NaN or infinite"),
        "test.images": (torch.zeros(2, 8, 8, 9, dtype=torch.uint8), r"impossible test\.images"),
        "test.logits": (torch.zeros(()), r"adapter\.safetensors"),
    }
    for name, (tensor, message) in changes.items():
        with pytest.raises(WeightsError, match=message):
            load_adapter(sealed(tmp_path, {name: tensor}), backbone)


def test_a_backslash_in_a_text_of_a_pickle_warns_nobody() -> None:
    check_pickle(b"S'\\q'\n.")

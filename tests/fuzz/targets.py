"""Every reader of the package with sound files to begin from. What a reader of a new kind needs here is one entry."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import elevater_cases
import leaderboard_cases
import native_cases
import numpy as np
import torch
from law import Target
from pictures import image_seeds
from torch import nn

from vitadapt.benchmark.analysis.groups import rows_of
from vitadapt.benchmark.leaderboard.check import check
from vitadapt.benchmark.leaderboard.import_results import import_results
from vitadapt.benchmark.leaderboard.score import score, total
from vitadapt.benchmark.leaderboard.submission import SubmissionEntry, read_folder, write_seed, write_zip
from vitadapt.benchmark.leaderboard.submission import read_entries as read_submission
from vitadapt.benchmark.leaderboard.suite import Truth, suite
from vitadapt.benchmark.results.index import read_summaries
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.sweep import read_bench
from vitadapt.classifier.fit_record import read_record
from vitadapt.classifier.model import load_model
from vitadapt.classifier.predict import model_facts
from vitadapt.data import open_dataset
from vitadapt.data.archives import tar_members, zip_members
from vitadapt.data.checks.images import scan
from vitadapt.data.datasets import catalog
from vitadapt.data.examples import FileRef, ImageRef
from vitadapt.data.images import Geometry, to_pixels
from vitadapt.data.sampling.manifests import make_manifest, read_manifest, subset_rows
from vitadapt.methods import LoRA
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.surgery import adapt, seeded, trainable
from vitadapt.report.table import columns_of
from vitadapt.text.knowledge import Knowledge
from vitadapt.text.prompts import read_class_names
from vitadapt.training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes, load_adapter
from vitadapt.weights import load_backbone, load_state_file

TARGETS: dict[str, Target] = {}
GEOMETRY = Geometry(8)


def target(name: str, read: Callable[[Path], object], **options: Any) -> Callable[[Callable], Callable]:
    def file(prepare: Callable[[Path], list[Path]]) -> Callable:
        TARGETS[name] = Target(name, prepare, read, **options)
        return prepare

    return file


def used(ref: ImageRef) -> None:
    """What may happen to an image: hashed, decoded, examined."""
    ref.digest()
    scan([ref], workers=1)
    pixels = to_pixels(ref.read(), GEOMETRY, ref.name)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.uint8


# Images


def _image_target(name: str, data: bytes) -> None:
    def prepare(folder: Path) -> list[Path]:
        (folder / name).write_bytes(data)
        return [folder / name]

    TARGETS[f"image {name}"] = Target(f"image {name}", prepare, lambda folder: used(FileRef(folder / name)))


for _name, _data in image_seeds().items():
    _image_target(_name, _data)


# Archives and the storages made of them


def _archived(folder: Path, members: Callable[[Path], Any], name: str) -> None:
    for ref in members(folder / name).values():
        used(ref)


@target("zip", lambda folder: _archived(folder, zip_members, "a.zip"))
def _zip(folder: Path) -> list[Path]:
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number, kind in enumerate(kinds):
            archive.writestr(f"dir/ä{number}.png", elevater_cases.png(number), kind)
    return [folder / "a.zip"]


@target("tar", lambda folder: _archived(folder, tar_members, "a.tar"))
def _tar(folder: Path) -> list[Path]:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        elevater_cases.add_member(archive, "d" * 120 + "/0.png", elevater_cases.png(0))
        elevater_cases.add_member(archive, "1.png", elevater_cases.png(1))
    return [folder / "a.tar"]


@target("tar pax", lambda folder: _archived(folder, tar_members, "a.tar"))
def _tar_pax(folder: Path) -> list[Path]:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        elevater_cases.add_member(archive, "ä" * 120 + "/0.png", elevater_cases.png(0))
        elevater_cases.add_member(archive, "1.png", elevater_cases.png(1))
    return [folder / "a.tar"]


def opened(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        dataset = open_dataset(name, folder)
        for part in dataset.splits.values():
            assert len(part.refs) == len(part.labels)
            used(part.refs[0])

    return read


STORAGES = {"hub": ("mnist", "kitti-distance"), "webdataset": ("mnist", "voc-2007"), "numbered-folders": ("mnist",)}


def _storage_target(kind: str, name: str) -> None:
    def prepare(folder: Path) -> list[Path]:
        elevater_cases.WRITERS[kind](folder, elevater_cases.make(name))
        return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".png")

    TARGETS[f"{kind} {name}"] = Target(f"{kind} {name}", prepare, opened(name))


for _kind, _sets in STORAGES.items():
    for _set in _sets:
        if any(options["reader"] == _kind for options in catalog()[_set].sources):
            _storage_target(_kind, _set)


_PICTURES = {".jpg", ".png", ".ppm"}


def _native_target(name: str) -> None:
    def prepare(folder: Path) -> list[Path]:
        native_cases.CASES[name](folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in _PICTURES]
        return files[:: max(1, len(files) // 8)]

    TARGETS[f"native {name}"] = Target(f"native {name}", prepare, opened(name))


_LARGE = (*native_cases.SEEDED, "country211", "rendered-sst2", "sun397")
NATIVE = [name for name in native_cases.CASES if name not in _LARGE]
for _set in NATIVE:
    _native_target(_set)


@target("idx gzipped", opened("mnist"))
def _gzipped(folder: Path) -> list[Path]:
    native_cases.CASES["mnist"](folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return [path.with_name(f"{path.name}.gz") for path in files]


# Tables, lists and settings


def _pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> list[str]:
    names = []
    for c, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for i in range(each):
            names.append(f"{label}/{i}.png")
            (folder / names[-1]).write_bytes(elevater_cases.png(10 * c + i))
    return names


@target("csv table", lambda folder: open_dataset(folder / "list.csv"))
def _table(folder: Path) -> list[Path]:
    lines = [f"{name},{name.partition('/')[0]},{'test' if '2' in name else 'train'}" for name in _pictures(folder)]
    lines[0] = '"cat/0.png "," cat ",train'
    (folder / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    return [folder / "list.csv"]


def _subset_read(folder: Path) -> None:
    dataset = open_dataset(folder / "images")
    assert len(subset_rows(dataset, read_manifest(folder / "subset.json"))) == 2


@target("subset", _subset_read)
def _subset(folder: Path) -> list[Path]:
    _pictures(folder / "images")
    manifest = make_manifest(open_dataset(folder / "images"), 1, 0)
    (folder / "subset.json").write_text(json.dumps(manifest))
    return [folder / "subset.json"]


@target("class names", lambda folder: read_class_names(folder / "names.txt"))
def _names(folder: Path) -> list[Path]:
    (folder / "names.txt").write_text("cat\ta small cat\ndog\ta dog\n")
    return [folder / "names.txt"]


@target("class names json", lambda folder: read_class_names(folder / "names.json"))
def _names_json(folder: Path) -> list[Path]:
    (folder / "names.json").write_text('{"cat": "a small cat", "dog": "a dog"}')
    return [folder / "names.json"]


def _knowing(folder: Path) -> None:
    known = Knowledge(str(folder), "wiktionary", 2).pinned(("pets",)).items(("pets",), ["cat", "dog"])
    assert all(text is None or isinstance(text, str) for texts in known.values() for text in texts)


@target("knowledge", _knowing)
def _knowledge(folder: Path) -> list[Path]:
    rows = [{"classname": "cat", "def_wiki": "small", "path_wn": ["a", "b"]}, {"classname": "dog", "def_wiki": None}]
    (folder / "pets_knowledge.tsv").write_text(json.dumps(rows))
    generated = [{"classname": name, "gpt3": ["one", "two", "three"]} for name in ("cat", "dog")]
    (folder / "GPT3_pets.tsv").write_text(json.dumps(generated))
    return sorted(folder.iterdir())


@target("knowledge hierarchy", lambda folder: Knowledge(str(folder), "wordnet-hierarchy").items(("pets",), ["cat"]))
def _hierarchy(folder: Path) -> list[Path]:
    return _knowledge(folder)[1:]


@target("own knowledge", lambda folder: Knowledge(str(folder / "own.json")).items((), ["cat", "dog"]))
def _own(folder: Path) -> list[Path]:
    (folder / "own.json").write_text('{"cat": ["one", "two"], "dog": "three"}')
    return [folder / "own.json"]


BENCH = """title = "A benchmark"
[bench]
backbone = "random:tiny"
dataset = ["digits", "mnist-5k"]
shots = [1, "all"]
seed = [0, 1]
image_size = 32

[[bench.part]]
method = ["lora:rank=2,targets=q+k", "linear-probe"]
head = ["zero", "text"]

[[bench.part]]
method = "bitfit"
head = "text"
protocol = "fixed"

[recipe]
epochs = 3
lr = 0.001
schedule = "cosine"

[prompts]
templates = ["a photo of a {}."]
"""


# What a bench file says may be wrong in the words of the option alone, as it would be on the command line.
@target("bench toml", lambda folder: [cell.digest() for cell in read_bench(folder / "bench.toml")], names=False)
def _bench(folder: Path) -> list[Path]:
    (folder / "bench.toml").write_text(BENCH)
    return [folder / "bench.toml"]


# The leaderboard


@cache
def _rows() -> tuple[str, ...]:
    return ("mnist", "voc-2007-classification")


def _entry(name: str, seed: int) -> SubmissionEntry:
    row = suite()[name]
    fields = {"model_name": "m", "dataset_name": name, **leaderboard_cases.FIELDS, "n_shot": 5, "rnd_seeds": [seed]}
    return SubmissionEntry(fields, (leaderboard_cases.probabilities(row, seed, 8),))


def _truth(row: Any) -> Truth | None:
    return Truth(leaderboard_cases.labels_of(row, images=8), True, "here")


def _judged(entries: Callable[[], Any]) -> None:
    with leaderboard_cases.small_suite():
        list(map(str, check(entries())))
        total(list(score(entries(), _truth)))


@target("submission", lambda folder: _judged(lambda: read_submission(folder / "all_predictions.json")))
def _submission(folder: Path) -> list[Path]:
    _submission_zip(folder)
    with zipfile.ZipFile(folder / "s.zip") as archive:
        (folder / "all_predictions.json").write_bytes(archive.read("all_predictions.json"))
    (folder / "s.zip").unlink()
    return [folder / "all_predictions.json"]


@target("submission zip", lambda folder: _judged(lambda: read_submission(folder / "s.zip")))
def _submission_zip(folder: Path) -> list[Path]:
    with leaderboard_cases.small_suite():
        write_zip(folder / "s.zip", [_entry(name, 0) for name in _rows()])
    return [folder / "s.zip"]


@target("submission folder", lambda folder: _judged(lambda: read_folder(folder)))
def _submission_folder(folder: Path) -> list[Path]:
    with leaderboard_cases.small_suite():
        return [write_seed(folder, _entry("mnist", seed)) for seed in range(3)]


def _imported(folder: Path) -> None:
    store = Store(folder / "store")
    with leaderboard_cases.small_suite():
        found = import_results(folder / "logs", store, truths=_truth)
    for line in (*found.problems, *found.skipped):
        assert "\n" not in line and "\r" not in line
    columns_of(rows_of(store.records()[0])) if found.records else None
    shutil.rmtree(folder / "store", ignore_errors=True)


@target("toolkit", _imported)
def _toolkit(folder: Path) -> list[Path]:
    import toolkit_cases as cases

    base = folder / "logs" / "lora" / "1" / "vitb32" / "log"
    log = cases.write(base / "mnist" / f"finetuning_5_{cases.DATE}_rank0.txt", cases.log_text())
    line = "best acc is:  71.500, num_params is:  1000, n_trainable_params is:  0.014346, backbone_params is:  900."
    result = cases.write(base / "predictions" / "finetuning_5" / "seed1_mnist.txt", line)
    with leaderboard_cases.small_suite():
        seed_file = write_seed(result.parent, _entry("mnist", 1))
    return [log, result, seed_file]


# Records


def _tables(folder: Path) -> None:
    store = Store(folder)
    records, damaged = store.records()
    read_summaries(store)
    for line in damaged:
        assert "\n" not in line
    rows_of(records)
    for record in records:
        store.predictions(record)


@target("records", _tables)
def _records(folder: Path) -> list[Path]:
    leaderboard_cases.fill(Store(folder), ["mnist"], seeds=(0, 1))
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Weights


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.table = nn.Parameter(torch.ones(3, 4).T)
        self.register_buffer("small", torch.arange(3, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) @ self.table


def tensors() -> dict[str, torch.Tensor]:
    with seeded(0):
        return {
            "a.weight": torch.randn(3, 4),
            "a.bias": torch.zeros(3),
            "n": torch.arange(5),
            "h": torch.ones(2).half(),
        }


def _loaded(folder: Path, name: str) -> None:
    from copy import deepcopy

    deepcopy({key: t.float() for key, t in load_state_file(folder / name).items()})


def _weights_target(kind: str, write: Callable[[Path], None]) -> None:
    def prepare(folder: Path) -> list[Path]:
        write(folder / "w.bin")
        return [folder / "w.bin"]

    TARGETS[kind] = Target(kind, prepare, lambda folder: _loaded(folder, "w.bin"))


def _safe(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors(), path, {"format": "pt"})


_weights_target("safetensors", _safe)
_weights_target("torch zip", lambda path: torch.save({"model": tensors(), "epoch": 3}, path))
_weights_target(
    "torch legacy", lambda path: torch.save({"state_dict": tensors()}, path, _use_new_zipfile_serialization=False)
)
_weights_target("torchscript", lambda path: torch.jit.trace(Scripted(), torch.zeros(2, 3)).save(str(path)))


def _backbone(folder: Path) -> None:
    vit: Any = load_backbone(f"file:{folder}")
    with torch.no_grad():
        vit(torch.zeros(1, 3, vit.image_size, vit.image_size))


_HF = {"model_type": "vit", "hidden_size": 64, "num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [1.0, 1.0, 0.5],
    "size": {"shortest_edge": 40},
    "crop_size": 32,
}


@target("hugging face folder", _backbone)
def _folder(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    from vitadapt.weights import write_state

    vit: Any = load_backbone("random:tiny")
    state = write_state(vit, "hf-vit")
    names = sorted(state)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: state[name].contiguous() for name in held}, folder / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    config = {**_HF, "num_attention_heads": vit.config.heads, "hidden_size": vit.config.width}
    for name, content in {
        "config.json": config,
        "preprocessor_config.json": _PROCESSOR,
        "model.safetensors.index.json": index,
    }.items():
        (folder / name).write_text(json.dumps(content))
    return sorted(folder.iterdir())


@target("timm folder", _backbone)
def _timm_folder(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    from vitadapt.weights import write_state

    vit: Any = load_backbone("random:tiny")
    save_file({n: t.contiguous() for n, t in write_state(vit, "timm").items()}, folder / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    config = {
        "architecture": "vit_base_patch16_224",
        "model_args": {"num_heads": vit.config.heads},
        "pretrained_cfg": cfg,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return [folder / "config.json"]


@target("open_clip folder", _backbone)
def _open_clip_folder(folder: Path) -> list[Path]:
    import weights_cases
    from safetensors.torch import save_file

    state = weights_cases.open_clip_model().state_dict()
    save_file({name: t.contiguous().clone() for name, t in state.items()}, folder / "open_clip_model.safetensors")
    vision = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32}
    model = {"embed_dim": 48, "quick_gelu": True, "vision_cfg": vision, "text_cfg": {"width": 32}}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return [folder / "open_clip_config.json"]


# Adapters and fitted models


@cache
def _tiny() -> tuple[Any, str]:
    backbone: Any = load_backbone("random:tiny")
    return backbone, backbone_digest(backbone)


@cache
def _adapter_bytes() -> bytes:
    backbone, base = _tiny()
    model = Classifier(adapt(backbone, LoRA(rank=1), 1), Head(backbone.features, 3)).eval()
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05)
    return adapter_bytes(model, AdapterInfo(LoRA(rank=1), "random:tiny", backbone.image_size, ("a", "b", "c"), base))


@target("adapter", lambda folder: load_adapter(folder / ADAPTER, *_tiny()))
def _adapter(folder: Path) -> list[Path]:
    (folder / ADAPTER).write_bytes(_adapter_bytes())
    return [folder / ADAPTER]


def _model(folder: Path) -> None:
    json.dumps(model_facts(folder))
    read_record(folder)
    model = load_model(folder)
    assert model.predict_proba([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 3)


@target("fitted model", _model)
def _fitted(folder: Path) -> list[Path]:
    _adapter(folder)
    record = {"format": "vitadapt-fit/1", "test": {"accuracy": 50.0, "interval": [40.0, 60.0], "count": 8}}
    (folder / "fit.json").write_text(json.dumps(record))
    return [folder / ADAPTER, folder / "fit.json"]


def _peft_read(folder: Path) -> None:
    from vitadapt.classifier.export.peft_import import import_peft

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    import_peft(folder / "peft", "random:tiny", None, out)


@target("peft adapter", _peft_read)
def _peft(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    backbone, _ = _tiny()
    d, place = backbone.config.width, folder / "peft"
    place.mkdir()
    state, head = {}, "base_model.model.classifier"
    for block in range(backbone.config.depth):
        at = f"base_model.model.vit.encoder.layer.{block}.attention.attention.query"
        state |= {f"{at}.lora_A.weight": torch.ones(2, d), f"{at}.lora_B.weight": torch.ones(d, 2) / 9}
    state |= {f"{head}.weight": torch.ones(3, backbone.features), f"{head}.bias": torch.zeros(3)}
    save_file(state, place / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "bias": "none"}
    (place / "adapter_config.json").write_text(json.dumps(config))
    (place / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b", "2": "c"}}))
    return sorted(place.iterdir())

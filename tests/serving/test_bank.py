"""The bank: whatever is mixed in a batch, every image is answered as by its own model; swaps, disk and errors."""

from __future__ import annotations

import copy
import gc
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import product

import more_methods
import pytest
import torch
from families import FAMILIES, PARTS, ConvNet, build, common
from torch import Tensor, nn

import vitadapt as va
from vitadapt.methods import METHODS, Adapter, BitFit, KAdaptation, LinearProbe, LoRA
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head, without_projection
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.nn.surgery import adapt, blocks, insert, merge, seeded, trainable
from vitadapt.nn.vit import Preprocess, ViT
from vitadapt.serving.bank.factors import merging_pays
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes, load_adapter
from vitadapt.utils.errors import ConfigError, DataError, NotApplicable, UnknownName, WeightsError

SIDE = 32
TOLERANCE = 1e-5  # of the largest logit, and of 1 at least
MORE = {
    "kadaptation:full": KAdaptation(rule_rank=0),
    "kadaptation:all": KAdaptation(n=4, targets=("q", "k", "v", "o", "fc1", "fc2")),
    "kadaptation:few": KAdaptation(n=2, bias=False),
    "lora:mlp": LoRA(rank=2, targets=("fc1", "o")),
    "lora:large": LoRA(rank=40, targets=("q", "k", "v")),
}
HEADS = {
    "standard": HeadSpec(),
    "unit": HeadSpec(norm="none", length="unit", scale=100.0),
    "batch": HeadSpec(norm="batch"),
    "scaled": HeadSpec(scale="classes", learn_scale=True),
    "pretrained": HeadSpec(norm="none", scale="pretrained"),
}


def pictures(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def trained(backbone: nn.Module, method: va.Method, classes: int, seed: int, spec: HeadSpec = HEADS["standard"]):
    """A classifier all of whose numbers have moved."""
    if spec.projection == "merged":
        backbone, _ = without_projection(backbone)
    model = Classifier(adapt(backbone, method, seed), Head(backbone.features, classes, spec, 14.0)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        model.head.linear.weight.add_(torch.randn(model.head.linear.weight.shape, generator=generator))
        for name, buffer in model.head.named_buffers():
            if buffer.is_floating_point():
                move = torch.rand(buffer.shape, generator=generator)
                buffer.copy_(buffer + move if "centre" in name else 0.5 + move)
    return model


def is_held(method: va.Method, family: str = "deit-like") -> bool:
    """Does a bank compute this method for many adapters at once? It refuses the others by name."""
    backbone = common(family)
    try:
        model = trained(backbone, method, 2, 0)
    except NotApplicable:  # it needs another backbone
        return False
    try:
        va.Bank(backbone, {"x": model})
    except NotApplicable as error:
        assert "serve it as a model of its own" in str(error)
        return False
    return True


SHARING = {name: kind() for name, kind in METHODS.items() if name != "fine-tune" and is_held(kind())} | MORE


def test_a_bank_holds_the_methods_that_it_was_made_for():
    """The rest is refused by name, see `is_held`."""
    first = {"kadaptation", "lora", "adapter", "compacter", "phm-adapter", "bitfit", "layernorm", "linear-probe"}
    assert first <= set(SHARING)


def written(path, model: Classifier, backbone: nn.Module, method: va.Method, **about):
    """The adapter file of a classifier."""
    classes = tuple(f"class {i}" for i in range(model.head.linear.out_features))
    info = AdapterInfo(method, "random:toy", backbone.image_size, classes, backbone_digest(backbone), **about)
    path.write_bytes(adapter_bytes(model, info))
    return path


@torch.no_grad()
def alone(model: Classifier, images: Tensor) -> list[Tensor]:
    return [model(image.unsqueeze(0))[0] for image in images]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == torch.float32
        assert float((one - other).abs().max()) <= tolerance * max(1.0, float(other.abs().max()))


WHOLE = ("deit-like", "clip-like")  # families on which every method is tried; each of the others takes its turn
TURNS = 6


@cache
def mixture(family: str) -> dict[str, Classifier]:
    """Two classifiers of every method that shares something, or of one in six; heads of all kinds and many sizes."""
    backbone, specs = common(family), list(HEADS.values())
    turn = None if family in WHOLE else [*FAMILIES, *PARTS].index(family) % TURNS
    return {
        f"{name} {twin}": trained(backbone, method, 2 + (7 * i + 3 * twin) % 90, 2 * i + twin, specs[i % len(specs)])
        for i, (name, method) in enumerate(SHARING.items())
        if turn is None or (i % TURNS == turn and (family != "beit-like" or is_held(method, family)))
        for twin in (0, 1)
    }  # of tables of relative positions (beit-like) a bank has one


@cache
def bank_of(family: str) -> va.Bank:
    """A bank of the mixture, for reading only."""
    return va.Bank(common(family), mixture(family))


@pytest.mark.parametrize(
    ("family", "active"), [*product(WHOLE, [0, 64 << 20]), *((f, 64 << 20) for f in FAMILIES | PARTS if f not in WHOLE)]
)
def test_every_method_mixed_in_one_batch_answers_as_its_own_model(family, active):
    models = mixture(family)
    assert models
    bank = va.Bank(common(family), models, active=active)
    images = pictures(len(models))
    expected = [alone(model, images[i : i + 1])[0] for i, model in enumerate(models.values())]
    assert_same(bank.logits(images, list(models)), expected)
    scattered = torch.randperm(len(models), generator=torch.Generator().manual_seed(1)).tolist()
    found = bank.logits(images[scattered], [list(models)[i] for i in scattered])
    assert_same(found, [expected[i] for i in scattered])


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channels_are_answered_as_by_their_own_models(channels):
    scale = (0.5,) * channels
    backbone = ViT(replace(PARTS["pe-like"], channels=channels, preprocess=Preprocess(scale, scale)))
    backbone.requires_grad_(False).eval()
    methods = {"lora": LoRA(rank=2), "kadaptation": va.KAdaptation(), "bitfit": va.BitFit(), "probe": va.LinearProbe()}
    models = {name: trained(backbone, method, 3 + i, i) for i, (name, method) in enumerate(methods.items())}
    bank, size = va.Bank(backbone, models), (len(models), channels, SIDE, SIDE)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    expected = [alone(model, images[i : i + 1])[0] for i, model in enumerate(models.values())]
    assert_same(bank.logits(images, list(models)), expected)
    with pytest.raises(DataError, match=rf"expected images \(B, {channels}, 32, 32\)"):
        bank.logits(pictures(1), ["lora"])


@pytest.mark.parametrize("name", SHARING)
def test_one_method_fills_a_batch(name):
    """Alone, twice, and all the same: the ways in which a batch of one family can be."""
    backbone = common("clip-like")
    models = {f"{i}": mixture("clip-like")[f"{name} {i}"] for i in (0, 1)}
    bank, images = va.Bank(backbone, models), pictures(3)
    for names in (["0"], ["0", "0", "0"], ["1", "0", "1"]):
        expected = [alone(models[own], images[i : i + 1])[0] for i, own in enumerate(names)]
        assert_same(bank.logits(images[: len(names)], names), expected)


def test_adapters_of_one_method_are_computed_together():
    adapters = bank_of("deit-like")._adapters
    twins = {name: (adapters[f"{name} 0"], adapters[f"{name} 1"]) for name in SHARING}
    assert all(one.family is other.family and one.head is other.head for one, other in twins.values())


def test_it_is_one_pass_of_the_backbone():
    models = mixture("deit-like")
    bank, passes = va.Bank(common("deit-like"), models), []
    for module in bank.backbone.modules():
        module.register_forward_hook(lambda *_: passes.append("a model of its own"))
    bank._host.blocks[0].register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    bank.logits(pictures(len(models)), list(models))
    assert [p for p in passes if p != "a model of its own"] == [len(models)]
    assert len(passes) <= 2  # the output projection is the backbone's


def test_files_are_answered_like_by_load_adapter(tmp_path):
    backbone, paths = common("clip-like"), {}
    names = [name for name, method in SHARING.items() if method.trains_head and name in METHODS]
    for i, name in enumerate(names):
        model = trained(backbone, METHODS[name](), 2 + i % 5, i)
        paths[name] = written(tmp_path / name, model, backbone, METHODS[name]())
    bank, images = va.Bank(backbone, paths), pictures(len(names))
    expected = [alone(load_adapter(paths[name], backbone), images[i : i + 1])[0] for i, name in enumerate(names)]
    assert_same(bank.logits(images, names), expected)
    for name in names:
        facts = bank.info(name)
        assert facts.classes == tuple(f"class {i}" for i in range(len(facts.classes))) and len(facts.classes) > 1
        assert facts.method == METHODS[name]() and facts.path == tmp_path / name


def test_a_head_that_took_the_projection_along_is_mixed_with_others():
    backbone = common("clip-like")
    merged = HeadSpec(norm="batch", projection="merged")
    models = {
        "merged": trained(backbone, KAdaptation(), 4, 0, merged),
        "kept": trained(backbone, KAdaptation(), 4, 1),
        "bare": trained(backbone, LinearProbe(), 9, 2, merged),
    }
    images = pictures(3)
    expected = [alone(model, images[i : i + 1])[0] for i, model in enumerate(models.values())]
    assert_same(va.Bank(backbone, models).logits(images, list(models)), expected)


def test_many_classes_and_few(tmp_path):
    backbone = common("deit-like")
    models = {str(c): trained(backbone, LinearProbe(), c, c) for c in (1, 2, 64, 65, 130, 1000)}
    images, bank = pictures(len(models)), va.Bank(backbone, models)
    expected = [alone(model, images[i : i + 1])[0] for i, model in enumerate(models.values())]
    assert_same(bank.logits(images, list(models)), expected)
    assert [len(bank.info(name).classes) for name in models] == [1, 2, 64, 65, 130, 1000]


class Sloped(nn.Module):
    """Tokens times a factor of their place: not tokenwise, as far as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor) -> Tensor:
        return y + self.slope * y.flip(1)


class Inserts:
    """A method of somebody else: a module of an unknown kind, and a thawed vector of the backbone."""

    def adapt(self, vit: va.ViT) -> None:
        insert(blocks(vit)[-1], "attention", Sloped())
        blocks(vit)[0].scale1.gamma.requires_grad_(True)


def test_modules_of_unknown_kinds_are_answered_too():
    backbone = common("dinov2-like")
    models = {str(i): trained(backbone, Inserts(), 3, i) for i in range(2)} | {"b": trained(backbone, BitFit(), 3, 5)}
    images = pictures(3)
    expected = [alone(model, images[i : i + 1])[0] for i, model in enumerate(models.values())]
    assert_same(va.Bank(backbone, models).logits(images, list(models)), expected)


def test_a_merged_model_is_taken_for_what_differs_in_it():
    backbone = common("deit-like")
    model = trained(backbone, KAdaptation(), 3, 0)
    folded = copy.deepcopy(model).requires_grad_(False)
    merge(folded.backbone)
    bank, images = va.Bank(backbone, {"delta": model, "merged": folded}), pictures(2)
    assert_same(bank.logits(images, ["delta", "merged"]), alone(model, images))


def test_both_ways_of_adding_thin_deltas_are_tried():
    """The tests above hold for layers of one's own and for factors only if both occur in them."""
    layers = [b.attention.qkv for m in mixture("deit-like").values() for b in m.backbone.blocks]
    assert {merging_pays(layer) for layer in layers if layer.deltas} == {True, False}


def test_the_adapter_comes_back_as_a_model_of_its_own():
    models = mixture("clip-like")
    bank, images = bank_of("clip-like"), pictures(1)
    for name, model in models.items():
        own = bank.classifier(name)
        assert_same([own(images).detach()], [model(images).detach()])
    weight = own.backbone.blocks[0].mlp.fc1.weight
    assert weight.data_ptr() == common("clip-like").blocks[0].mlp.fc1.weight.data_ptr()


def test_what_becomes_of_a_model_after_it_was_added_does_not_matter():
    backbone = common("deit-like")
    model = trained(backbone, KAdaptation(), 3, 0)
    bank, images = va.Bank(backbone, {"a": model, "b": trained(backbone, KAdaptation(), 3, 1)}), pictures(1)
    before = alone(model, images)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.zero_()
    assert_same(bank.logits(images, ["a"]), before)


def test_memory_per_adapter_is_its_own_numbers():
    backbone = common("deit-like")
    bank = va.Bank(backbone, {"a": trained(backbone, KAdaptation(), 5, 0)})
    numbers = sum(p.numel() for p in trainable(trained(backbone, KAdaptation(), 5, 0)).values())
    facts = bank.info("a")
    assert facts.parameters == numbers + 64 + 1  # the head's centre and spread
    assert facts.bytes == 4 * facts.parameters


@pytest.mark.parametrize("resident", [None, 1])
def test_what_is_gone_leaves_nothing_behind(resident):
    """Neither factors made of adapters that were replaced or went to disk, nor kinds of adapters that nobody has."""
    backbone, images = common("deit-like"), pictures(2)
    bank = va.Bank(backbone, {"steady": trained(backbone, LoRA(rank=3), 2, 0)}, resident=resident)
    for seed in range(1, 5):
        bank.add("swapped", trained(backbone, LoRA(rank=seed), 2, seed, HeadSpec(scale=float(seed))))
        bank.logits(images, ["steady", "swapped"])
    gc.collect()
    assert len(bank._families) == 2 and len(bank._factors._rows) <= 4
    for name in bank.names:
        bank.remove(name)
    gc.collect()
    assert not bank._families and not bank._heads


def test_names_are_any_strings_and_stay_in_order():
    backbone = common("deit-like")
    names = ["", "a/b", "../x", "ünï ☃", "a b\n", "0"]
    bank = va.Bank(backbone, {name: trained(backbone, LinearProbe(), 2, i) for i, name in enumerate(names)}, resident=1)
    assert bank.names == tuple(names) and len(bank) == 6 and "a/b" in bank and "c" not in bank
    assert len(bank.logits(pictures(6), names)) == 6
    bank.remove("a/b")
    assert bank.names == tuple(name for name in names if name != "a/b")


def test_an_empty_batch_has_no_answers():
    assert va.Bank(common("deit-like")).logits(pictures(0), []) == []


def test_floats_are_answered_like_bytes():
    backbone, images = common("deit-like"), pictures(2)
    bank = va.Bank(backbone, {"a": trained(backbone, KAdaptation(), 3, 0)})
    assert_same(bank.logits(images.float() / 255, ["a", "a"]), bank.logits(images, ["a", "a"]), 1e-4)


# Adding, replacing and removing.


def test_a_name_is_replaced_at_once():
    backbone, images = common("deit-like"), pictures(1)
    models = [trained(backbone, LoRA(), 3 + i, i) for i in range(2)]
    bank = va.Bank(backbone, {"a": models[0]})
    bank.add("a", models[1], classes=("ant", "bee", "cat", "dog"))
    assert bank.names == ("a",) and bank.info("a").classes == ("ant", "bee", "cat", "dog")
    assert_same(bank.logits(images, ["a"]), alone(models[1], images))


def test_a_refused_replacement_leaves_what_was():
    backbone, images = common("deit-like"), pictures(1)
    model = trained(backbone, LoRA(), 3, 0)
    bank = va.Bank(backbone, {"a": model})
    with pytest.raises(ConfigError, match=r"'a'.*2 class names for a head of 3"):
        bank.add("a", trained(backbone, LoRA(), 3, 1), classes=("ant", "bee"))
    assert_same(bank.logits(images, ["a"]), alone(model, images))


@pytest.mark.parametrize("resident", [None, 2])
def test_a_swap_while_answering_never_mixes(resident):
    """Every answer is that of one of the versions, whole, for all images that asked for the name in one call."""
    backbone, images = common("deit-like"), pictures(4)
    versions = [trained(backbone, method, 3, i) for i, method in enumerate((KAdaptation(), LoRA(), KAdaptation()))]
    expected = [torch.stack(alone(model, images)) for model in versions]
    steady = trained(backbone, KAdaptation(), 5, 9)
    bank = va.Bank(backbone, {"steady": steady, "swapped": versions[0]}, resident=resident)
    done = threading.Event()

    def swap() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            bank.add("swapped", versions[turn % 3])
            bank.add(f"passing {turn % 5}", versions[turn % 3])
            if f"passing {(turn + 2) % 5}" in bank:
                bank.remove(f"passing {(turn + 2) % 5}")

    def ask(_: int) -> set[int]:
        found = bank.logits(torch.cat([images, images[:1]]), ["swapped"] * 4 + ["steady"])
        answer = torch.stack(found[:4])
        assert_same(found[4:], alone(steady, images[:1]))
        return {i for i, own in enumerate(expected) if torch.allclose(answer, own, atol=1e-4)}

    with ThreadPoolExecutor(3) as pool:
        swapping = pool.submit(swap)
        seen = list(pool.map(ask, range(40)))
        done.set()
        swapping.result()
    assert all(len(one) == 1 for one in seen)
    assert len(set().union(*seen)) > 1


def test_several_threads_ask_at_once():
    models = mixture("deit-like")
    bank, images, names = bank_of("deit-like"), pictures(len(models)), list(models)
    expected = bank.logits(images, names)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: bank.logits(images, names), range(8)):
            assert_same(found, expected)


def test_an_adapter_is_taken_out_while_others_ask():
    models, images = dict(list(mixture("deit-like").items())[::8]), pictures(1)
    bank, names, busy = va.Bank(common("deit-like"), models), list(models) * 2, threading.Event()

    def ask(_: int) -> None:
        while not busy.is_set():
            bank.logits(images.repeat(len(names), 1, 1, 1), names)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, i) for i in range(2)]
        try:
            for name, model in models.items():
                assert_same([bank.classifier(name)(images).detach()], [model(images).detach()])
            moved = bank.to("cpu")
        finally:
            busy.set()
        for one in asking:
            one.result()
    assert_same(moved.logits(images, names[:1]), alone(models[names[0]], images))


# The disk.


@pytest.mark.parametrize("kind", ["file", "object"])
def test_an_adapter_that_was_not_resident_answers_the_same_bits(kind, tmp_path):
    backbone, images = common("deit-like"), pictures(1)
    method = {"a": KAdaptation(), "b": BitFit(), "c": METHODS["compacter-released"]()}
    models = {name: trained(backbone, own, 3, i) for i, (name, own) in enumerate(method.items())}
    files = {name: written(tmp_path / name, model, backbone, method[name]) for name, model in models.items()}
    bank = va.Bank(backbone, files if kind == "file" else models, resident=1)
    before = va.Bank(backbone, models)
    for name in "abcabccba":
        bank.logits(images, [name])
        assert [other for other in bank.names if bank.is_resident(other)] == [name]
        assert torch.equal(bank.logits(images, [name])[0], before.logits(images, [name])[0])
    assert_same(bank.logits(pictures(3), ["a", "b", "c"]), before.logits(pictures(3), ["a", "b", "c"]))


def test_the_least_recently_used_goes_first():
    backbone = common("deit-like")
    bank = va.Bank(backbone, {name: trained(backbone, LoRA(), 2, i) for i, name in enumerate("abc")}, resident=2)
    bank.logits(pictures(1), ["b"])
    bank.logits(pictures(1), ["a"])
    assert [bank.is_resident(name) for name in "abc"] == [True, True, False]


def test_nothing_is_written_anywhere(tmp_path, monkeypatch):
    """Neither temporary files, nor the removal of folders of somebody else that are called like them."""
    theirs = tmp_path / "vitadapt-bank-mine"
    theirs.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    backbone = common("deit-like")
    bank = va.Bank(backbone, {name: trained(backbone, LoRA(), 2, i) for i, name in enumerate("abc")}, resident=1)
    bank.logits(pictures(3), ["a", "b", "c"])
    assert list(tmp_path.iterdir()) == [theirs]


def test_a_file_that_vanished_or_changed_is_named(tmp_path):
    backbone, images = common("deit-like"), pictures(1)
    models = [trained(backbone, LoRA(), 2, i) for i in range(3)]
    files = {name: written(tmp_path / name, models[i], backbone, LoRA()) for i, name in enumerate("abc")}
    bank = va.Bank(backbone, files, resident=1)
    (tmp_path / "a").unlink()
    with pytest.raises(WeightsError, match=r"'a'.*/a cannot be read again .*add the adapter again"):
        bank.logits(images, ["a"])
    written(tmp_path / "b", models[0], backbone, LoRA())
    with pytest.raises(WeightsError, match=r"'b'.*/b is no longer the file that was added"):
        bank.logits(images, ["b"])
    assert_same(bank.logits(images, ["c"]), alone(models[2], images))
    bank.add("b", tmp_path / "b")
    assert_same(bank.logits(images, ["b"]), alone(models[0], images))


# What cannot be answered.


def test_unknown_names_are_met_with_near_ones():
    bank = va.Bank(common("deit-like"), {"pets": trained(common("deit-like"), LoRA(), 2, 0)})
    for ask in (bank.remove, bank.info, bank.classifier, bank.is_resident, lambda n: bank.logits(pictures(1), [n])):
        with pytest.raises(UnknownName, match="unknown adapter 'pest'; did you mean pets"):
            ask("pest")


@pytest.mark.parametrize(
    ("images", "names", "error", "message"),
    [
        (pictures(2), ["a"], ConfigError, "2 images need as many names"),
        (pictures(1), "a", ConfigError, "as many names"),
        (pictures(1)[:, :, :16], ["a"], DataError, "expected images"),
        (torch.zeros(1, 3, 64, 64), ["a"], DataError, "expected images"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), ["a"], DataError, "int64"),
        (pictures(1)[0], ["a"], DataError, "expected images"),
        (pictures(1).numpy(), ["a"], DataError, "as a tensor, got ndarray"),
    ],
)
def test_questions_that_make_no_sense(images, names, error, message):
    bank = va.Bank(common("deit-like"), {"a": trained(common("deit-like"), LoRA(), 2, 0)})
    with pytest.raises(error, match=message):
        bank.logits(images, names)


def test_adapters_that_make_no_sense_are_refused(tmp_path):
    backbone, method = common("deit-like"), LoRA()
    model = trained(backbone, method, 2, 0)
    file = written(tmp_path / "a", model, backbone, method)
    bank = va.Bank(backbone, {"a": model})
    for name, source, classes, message in [
        (3, model, (), "is a string, got 3"),
        ("b", None, (), "a path or a Classifier, got NoneType"),
        ("b", {}, (), "got dict"),
        ("b", model, ("cat", "cat"), "1 different class names for a head of 2"),
        ("b", file, ("cat", "dog"), "the file says how its classes are called"),
    ]:
        with pytest.raises(ConfigError, match=message):
            bank.add(name, source, classes)
    assert bank.names == ("a",)


@pytest.mark.parametrize("name", ["scale and shift", "dora", "shared gain"])
def test_changes_of_other_kinds_are_mixed(name):
    backbone, method = common("dinov2-like"), more_methods.BY_NAME[name]
    models = {str(i): trained(backbone, method, 3, i) for i in range(2)} | {"b": trained(backbone, BitFit(), 3, 5)}
    images = pictures(3)
    expected = [alone(model, images[i : i + 1])[0] for i, model in enumerate(models.values())]
    assert_same(va.Bank(backbone, models).logits(images, list(models)), expected)


@pytest.mark.parametrize("name", ["vpt, deep", "vpt, shallow", "adaptformer", "repadapter"])
def test_what_a_bank_cannot_mix_is_refused_and_never_left_out(name):
    backbone = common("deit-like")
    with pytest.raises(NotApplicable, match="which a bank cannot compute for many; serve it as a model of its own"):
        va.Bank(backbone, {"a": trained(backbone, more_methods.BY_NAME.get(name) or METHODS[name](), 2, 0)})


def test_what_trains_the_whole_backbone_has_nothing_to_share():
    backbone = common("deit-like")
    with pytest.raises(NotApplicable, match=r"'all'.*nothing to share; serve it as a model of its own"):
        va.Bank(backbone, {"all": trained(backbone, va.FineTune(), 2, 0)})


@pytest.mark.parametrize("family", ["clip-like", "dinov2-like", "class+average", "gap-like"])
def test_adapters_of_another_backbone_are_refused(family, tmp_path):
    other = common(family)
    model = trained(other, LoRA(), 2, 0)
    bank = va.Bank(common("deit-like"))
    with pytest.raises(WeightsError, match="'a'"):
        bank.add("a", model)
    with pytest.raises(WeightsError, match="file"):
        bank.add("a", written(tmp_path / "file", model, other, LoRA()))
    assert bank.names == ()


def test_adapters_of_other_weights_are_refused(tmp_path):
    with seeded(1):
        other = va.ViT(FAMILIES["deit-like"]).requires_grad_(False).eval()
    bank = va.Bank(common("deit-like"))
    with pytest.raises(NotApplicable, match="made for another backbone"):
        bank.add("a", trained(other, LoRA(), 2, 0))
    with pytest.raises(WeightsError, match="this backbone is another"):
        bank.add("a", written(tmp_path / "a", trained(other, LoRA(), 2, 0), other, LoRA()))


def test_adapters_for_other_images_are_refused(tmp_path):
    larger = copy.deepcopy(common("deit-like"))
    larger.resize(64)
    bank = va.Bank(common("deit-like"))
    with pytest.raises(WeightsError, match="image_size=64"):
        bank.add("a", trained(larger, LoRA(), 2, 0))
    with pytest.raises(WeightsError, match="trained on images of 64 pixels"):
        bank.add("a", written(tmp_path / "a", trained(larger, LoRA(), 2, 0), larger, LoRA()))


def test_broken_files_are_refused(tmp_path):
    backbone = common("deit-like")
    bank = va.Bank(backbone)
    with pytest.raises(WeightsError, match="absent"):
        bank.add("a", tmp_path / "absent")
    path = written(tmp_path / "broken", trained(backbone, LoRA(), 2, 0), backbone, LoRA())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="broken"):
        bank.add("a", path)


def test_backbones_that_cannot_be_shared():
    with pytest.raises(NotApplicable):
        va.Bank(ConvNet())
    for method in (LoRA(), Adapter()):
        with pytest.raises(ConfigError, match="this one is adapted"):
            va.Bank(adapt(common("deit-like"), method))
    with pytest.raises(ConfigError, match="resident=0"):
        va.Bank(common("deit-like"), resident=0)


def test_a_head_of_another_kind_is_refused():
    model = Classifier(common("deit-like"), nn.Linear(64, 2))
    with pytest.raises(ConfigError, match="head of type Linear"):
        va.Bank(common("deit-like"), {"a": model})


# Precision and place.


def test_under_autocast_it_answers_nearly_the_same():
    models = mixture("clip-like")
    bank, images, names = bank_of("clip-like"), pictures(len(models)), list(models)
    with torch.autocast("cpu", torch.bfloat16):
        found = bank.logits(images, names)
        expected = [models[name](images[i : i + 1])[0].detach() for i, name in enumerate(names)]
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and float((one - other).abs().max()) <= 0.2 * float(other.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    backbone = copy.deepcopy(common("deit-like")).to(dtype)
    models = {name: trained(backbone, METHODS[name](), 3, i) for i, name in enumerate(("bitfit", "kadaptation"))}
    bank, images = va.Bank(backbone, models), pictures(2)
    found = bank.logits(images, ["bitfit", "kadaptation"])
    assert_same(found[:1], alone(models["bitfit"], images[:1]), 0.1 if dtype == torch.bfloat16 else 1e-6)
    assert found[1].isfinite().all()


@pytest.mark.parametrize("resident", [None, 1])
def test_a_bank_that_moved_stands_apart_and_answers_the_same(resident):
    backbone = build("deit-like")
    models = {name: trained(backbone, METHODS[name](), 3, i) for i, name in enumerate(("bitfit", "kadaptation"))}
    bank, images = va.Bank(backbone, models, resident=resident), pictures(2)
    expected = bank.logits(images, list(models))
    moved = bank.to("cpu")
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    bank.remove("bitfit")
    assert all(map(torch.equal, moved.logits(images, list(models)), expected))


def test_everything_moves():
    """The device `meta` has no numbers to compute with, but shows where all of them are."""
    bank = va.Bank(common("deit-like"), dict(list(mixture("deit-like").items())[::4]))
    moved = bank.to("meta")
    rows = [row for own in moved._adapters.values() for row in (own.packed.body, own.packed.head)]
    templates = [module for own in moved._adapters.values() for module in (own.family.template, own.head.template)]
    tensors = [t for module in (moved._host, *templates) for t in (*module.parameters(), *module.buffers())]
    assert {t.device.type for t in (*rows, *tensors)} == {"meta"} and moved.names == bank.names
    assert bank.device.type == "cpu"

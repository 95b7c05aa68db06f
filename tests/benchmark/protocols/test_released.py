"""The published methods and protocol, defects included, against numbers that the published code itself produced."""

from __future__ import annotations

import dataclasses
import itertools
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import build, random_images
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from vitadapt.benchmark.analysis.groups import rows_of
from vitadapt.benchmark.analysis.selection_bias import optimism_of
from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.protocols.released import (
    ElevaterReleased,
    Shuffled,
    check_published,
    classifier,
    fit_released,
    left_neighbours,
    predict,
    score_of,
)
from vitadapt.benchmark.protocols.search import Grid, coarse_to_fine
from vitadapt.benchmark.protocols.standard import Fixed
from vitadapt.benchmark.protocols.steps import at_point
from vitadapt.benchmark.results.record import Record
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import _train, run
from vitadapt.cli.results import print_optimism
from vitadapt.data.images import Geometry, to_pixels
from vitadapt.data.sampling.few_shot import sample_few_shot
from vitadapt.methods import METHODS
from vitadapt.methods.audit import probe, require_learnable
from vitadapt.methods.laws import broken_laws
from vitadapt.methods.released import scramble
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head, TextStart
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import adapt, seeded, trainable
from vitadapt.nn.vit import ViT
from vitadapt.report.table import remarks_of
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes, load_adapter
from vitadapt.training.checkpoint import running_statistics
from vitadapt.training.features import Environment
from vitadapt.training.loop import TensorInputs
from vitadapt.training.recipe import Recipe
from vitadapt.training.task import LabelledImages, Task
from vitadapt.utils.errors import ConfigError, Diverged, MethodDefect
from vitadapt.weights import build as build_vit
from vitadapt.weights.layouts import read_state
from vitadapt.weights.openai_clip import ORIGINAL

GOLDEN = Path(__file__).parents[2] / "golden" / "released"
HEAD = HeadSpec(norm="batch")
RELEASED = [name for name, kind in METHODS.items() if kind.breaks]
PLAIN = Setting()


def pictures(names: list[str]) -> Tensor:
    """uint8 (N, 3, 224, 224) of `archive.zip@member` names."""
    found = []
    for name in names:
        archive, _, member = name.partition("@")
        with zipfile.ZipFile(GOLDEN / archive) as file, file.open(member) as stream:
            found.append(torch.from_numpy(to_pixels(Image.open(stream), Geometry(224))))
    return torch.stack(found)


@cache
def tiny_clip() -> ViT:
    """The image tower of a random CLIP: 224 pixels, patch 32, width 128, 2 blocks, 2 heads, embedding 64."""
    parts = [load_file(part) for part in sorted(GOLDEN.glob("tiny-visual-*.safetensors"))]
    state = {name: torch.cat([part[name] for part in parts if name in part]) for part in parts for name in part}
    converted = read_state(state, ORIGINAL)
    return build_vit(converted.config, converted.state).requires_grad_(False).eval()


def listed(split: str) -> tuple[list[str], np.ndarray]:
    lines = (GOLDEN / f"{split}.txt").read_text().split("\n")
    pairs = [line.rsplit(" ", 1) for line in lines if line]
    return [name for name, _ in pairs], np.array([int(label) for _, label in pairs])


def names_of(model: torch.nn.Module) -> dict[str, str]:
    """Name here -> name in the published model, of every tensor that is learnt."""
    found = {"head.linear.weight": "layers.0.weight", "head.linear.bias": "layers.0.bias"}
    sides = {"s": "right", "t": "left", "u": "right", "v": "left"}
    for name in trainable(model):
        part, leaf = name.split("."), name.rsplit(".", 1)[1]
        if name.startswith("backbone.shared.rule_"):
            rule = 1 if part[2] == "rule_q" else 2
            found[name] = f"backbone.visual.transformer.phm_rule{rule}_{sides[leaf]}"
        elif leaf == "shift":
            found[name] = f"backbone.visual.transformer.resblocks.{part[2]}.attn.b"
        elif leaf in "uv":
            found[name] = f"backbone.visual.transformer.resblocks.{part[2]}.attn.{part[6]}_proj_adapter1_{sides[leaf]}"
        elif leaf in "ab":
            number = 1 if leaf == "a" else 2
            found[name] = f"backbone.visual.transformer.resblocks.{part[2]}.attn.{part[6]}_proj_adapter{number}.weight"
    return found


def published(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """A published tensor in the shape it has here: right factors lie transposed there."""
    return tensor.mT if name.endswith("_right") and tensor.mT.shape == shape else tensor


class Run:
    """The published training of one method, repeated from its initial tensors with its batches."""

    def __init__(self, method: str) -> None:
        self.plain = method.removesuffix("-released")
        initial = self.file("initial")
        batches = json.loads((GOLDEN / f"{self.plain}-batches.json").read_text())
        names, labels = listed("train")
        rows = sample_few_shot(labels, 5, 0)
        self.drawn, self.expected = [[names[row], int(labels[row])] for row in rows], batches["train_images"]
        orders = iter([[torch.tensor(batch) for batch in epoch] for epoch in batches["epochs"]])
        tests, self.labels = listed("test")
        config = RunConfig("tiny", METHODS[method](), "fashion", protocol="elevater-released")
        recipe = dataclasses.replace(config.resolved().recipe, epochs=3)
        images = TensorInputs(pictures([names[row] for row in rows]))
        text = TextStart(initial["layers.0.weight"])
        truth = torch.from_numpy(labels[rows])
        self.task = Task(config.training, tiny_clip(), images, truth, 10, torch.zeros(50, 64), PLAIN, text=text)
        self.model = classifier(self.task)
        self.names = names_of(self.model)
        with torch.no_grad():
            for name, parameter in trainable(self.model).items():
                parameter.copy_(published(self.names[name], initial[self.names[name]], parameter.shape))
        pixels = TensorInputs(pictures(tests))
        self.probabilities: list[np.ndarray] = []

        class Given:
            def __iter__(self) -> Iterator[Tensor]:
                return iter(next(orders))

        def evaluate() -> None:
            self.probabilities.append(predict(self.model, pixels, PLAIN))

        fit_released(self.model, self.task, at_point(recipe, 0.1, 1e-6), Given(), evaluate)

    def file(self, which: str) -> dict[str, Tensor]:
        return load_file(GOLDEN / f"{self.plain}-{which}.safetensors")

    def distances(self) -> list[np.ndarray]:
        """Per epoch, the largest difference of a probability of each test image."""
        with np.load(GOLDEN / f"{self.plain}-probabilities.npz") as arrays:
            assert (arrays["labels"] == self.labels).all()
            return [np.abs(a - b).max(axis=1) for a, b in zip(self.probabilities, arrays["probs"], strict=True)]

    def scores(self) -> list[float]:
        return [round(score_of(self.task, self.labels, p), 6) for p in self.probabilities]

    def drift(self) -> dict[str, float]:
        """Largest difference of each tensor to the published one after training, the norm's statistics included."""
        final = self.file("final")
        pairs = {name: (p.detach(), final[self.names[name]]) for name, p in trainable(self.model).items()}
        for name, buffer in running_statistics(self.model).items():
            pairs[name] = buffer, final["channel_bn." + name.rsplit(".", 1)[1]]
        return {
            name: float((mine - published(self.names.get(name, ""), theirs, mine.shape)).abs().max())
            for name, (mine, theirs) in pairs.items()
        }


@cache
def golden(method: str) -> Run:
    return Run(method)


@pytest.mark.parametrize("method", ["kadaptation-released", "lora-released"])
def test_the_training_images_are_the_published_ones_in_their_order(method: str) -> None:
    assert golden(method).drawn == golden(method).expected


def test_kadaptation_gives_the_published_probabilities_after_every_epoch() -> None:
    run = golden("kadaptation-released")
    assert max(map(np.max, run.distances())) < 1e-6
    assert run.scores() == [17.5, 28.5, 22.0]
    assert max(run.drift().values()) < 1e-6 and len(run.drift()) == len(run.file("final"))


def test_lora_gives_the_published_probabilities_after_every_epoch() -> None:
    """Its factor of 256 on q makes rounding grow about fiftyfold per epoch; in the last one 95 % are within 0.01."""
    run = golden("lora-released")
    first, second, last = run.distances()
    assert first.max() < 1e-5 and second.max() < 5e-4 and np.quantile(last, 0.95) < 0.01 and np.median(last) < 1e-3
    assert run.scores() == [11.0, 10.0, 12.0]
    assert max(run.drift().values()) < 5e-4 and len(run.drift()) == len(run.file("final"))


def test_lora_without_the_scrambling_is_far_from_the_published_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitadapt.methods.released.scramble", lambda change, heads: change)
    assert Run("lora-released").distances()[1].max() > 0.1


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_method_breaks_exactly_the_laws_it_names(name: str) -> None:
    method = METHODS[name]()
    assert broken_laws(method, build("clip-like")).keys() == method.breaks


def test_released_factors_start_at_the_published_sizes() -> None:
    blocks = {
        name: adapt(build("clip-like"), METHODS[f"{name}-released"]()) for name in ("adapter", "lora", "compacter")
    }
    bottleneck = blocks["adapter"].blocks[0].inserted["mlp"]
    for weight in (bottleneck.down.weight, bottleneck.up.weight, blocks["lora"].blocks[0].attention.qkv.deltas["q"].a):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not bottleneck.down.bias.any() and not bottleneck.up.bias.any()
    left = blocks["compacter"].blocks[0].inserted["mlp"].down.left  # (4, 16, 1): Glorot's bound with a gain of sqrt(2)
    assert 0.8 * (12 / 17) ** 0.5 < left.abs().max() <= (12 / 17) ** 0.5
    rules = adapt(build("clip-like"), METHODS["kadaptation-released"]()).shared
    assert all(0.009 < factor.abs().max() <= 0.01 for rule in rules.values() for factor in (rule.s, rule.t))


def test_the_audit_refuses_kadaptation_as_released() -> None:
    faults = [
        report for report in probe(build("clip-like"), METHODS["kadaptation-released"]()) if report.status != "live"
    ]
    statuses = {report.name.rsplit(".", 2)[-2] + "." + report.name[-1]: report.status for report in faults}
    assert statuses == {
        **{f"rule_{slot}.{side}": "stuck" for slot in "qv" for side in "st"},
        **{f"q.{side}": "stuck" for side in "uv"},
        **{f"v.{side}": "dead" for side in "uv"},
    }
    with pytest.raises(MethodDefect, match="12 of 14 tensors cannot learn"):
        require_learnable(probe(build("clip-like"), METHODS["kadaptation-released"]()))


def test_the_published_reshape_takes_the_documented_chunks() -> None:
    images, tokens, heads, width = 3, 5, 2, 8
    change = torch.arange(images * tokens * width).view(images, tokens, width)
    mixed = scramble(change, heads).unflatten(-1, (heads, -1))
    for s, h, t in itertools.product(range(images), range(heads), range(tokens)):
        g = s * heads * tokens + h * tokens + t
        row, chunk = divmod(g, heads)
        token, sample = divmod(row, images)
        assert torch.equal(mixed[s, t, h], change[sample, token].unflatten(-1, (heads, -1))[chunk])


def ridge(peak: int) -> tuple[list[int], float]:
    """Indices tried after the coarse pass, and the weight decay found, where the score falls with the distance."""
    grid, tried = Grid(lrs=(1.0,)), []

    def score(lr: float, decay: float) -> float:
        tried.append(grid.decays.index(decay))
        return 100 - abs(tried[-1] - peak)

    choice = coarse_to_fine(score, grid, left_neighbours)
    return tried[7:], choice.weight_decay


def test_the_search_that_looks_left() -> None:
    indices, decay = ridge(37)
    assert indices == [24, 24, 28, 28, 30, 30, 31, 31] and decay == pytest.approx(1e-2)
    assert ridge(0)[0] == [0, 0, 0, 0]


def test_the_right_neighbour_is_recorded_though_it_was_never_trained() -> None:
    grid, scores = Grid(lrs=(1.0,)), iter([0, 0, 5, 0, 0, 0, 0, 4, 6, *[0] * 6])
    choice = coarse_to_fine(lambda lr, decay: float(next(scores)), grid, left_neighbours)
    assert grid.decays.index(choice.weight_decay) == 40 and choice.trials[8].weight_decay == grid.decays[24]


def test_shuffling_follows_a_plain_data_loader() -> None:
    rows = Shuffled(12, torch.Generator().manual_seed(0))
    orders = [torch.cat(list(rows)).tolist() for _ in range(3)]
    assert orders == [
        [5, 4, 0, 9, 7, 8, 1, 10, 3, 11, 6, 2],
        [8, 6, 10, 0, 5, 11, 4, 3, 2, 1, 9, 7],
        [9, 10, 3, 2, 7, 1, 4, 6, 5, 11, 0, 8],
    ]


def test_without_a_generator_shuffling_follows_torch_s_own() -> None:
    rows = Shuffled(12, None)
    with seeded(3):
        first = torch.cat(list(rows)).tolist()
    with seeded(3):
        torch.empty((), dtype=torch.int64).random_()  # what a pass over a loader draws for its workers
        order = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        assert torch.randperm(12, generator=order).tolist() == first


TEST = LabelledImages(TensorInputs(random_images(9, seed=1)), np.arange(9) % 3)


def toy(method: str, count: int = 12, *, test: LabelledImages = TEST, **recipe: Any) -> tuple[Task, RunConfig]:
    """`count` random images of three classes in turn, for the toy CLIP; a head without text."""
    config = RunConfig("x", METHODS[method](), "x", 4, protocol="elevater-released", head=HEAD)
    config = dataclasses.replace(config, recipe=dataclasses.replace(config.training.recipe, **recipe))
    images, labels = TensorInputs(random_images(count)), torch.arange(count) % 3
    features = torch.zeros(count, 48)
    return Task(config.training, build("clip-like"), images, labels, 3, features, PLAIN, test=test), config


SMALL = ElevaterReleased(Grid(lrs=(1e-3, 1e-1), decays=(1e-4, 1e-2), stride=1), epochs=2)


@pytest.mark.parametrize("method", RELEASED)
def test_the_result_is_the_first_best_epoch_on_the_test_set_and_the_last_is_told(method: str) -> None:
    seen = SMALL(*toy(method, epochs=4))
    scores, model = seen.chosen["test_scores"], seen.model
    assert len(scores) == 4 and seen.chosen["epoch"] == scores.index(max(scores)) + 1
    assert seen.scores == {"best on test": max(scores), "last epoch": scores[-1]} and seen.score == max(scores)
    np.testing.assert_array_equal(predict(model, TEST.images, PLAIN), seen.probabilities)
    assert seen.chosen["trials"] >= 4 and not model.backbone.training


def test_the_statistics_of_the_norm_are_those_of_the_first_epoch() -> None:
    seen = SMALL(*toy("adapter-released", 66, lr=0.01, epochs=3))
    assert seen.model.head.channels.num_batches_tracked == 2 and seen.log.steps == 6


def test_a_batch_of_one_image_is_left_out() -> None:
    seen = SMALL(*toy("adapter-released", 65, lr=0.01, epochs=3))
    assert seen.log.steps == 3 and seen.model.head.channels.num_batches_tracked == 1


def test_without_weight_decay_kadaptation_moves_only_its_vectors_and_the_head() -> None:
    task, config = toy("kadaptation-released", lr=0.1, epochs=2)
    with seeded(0):
        before = {name: p.detach().clone() for name, p in trainable(classifier(task)).items()}
    seen = SMALL(task, config)
    after = {name: p.detach() for name, p in trainable(seen.model).items()}
    moved = {name.rsplit(".", 1)[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"shift", "weight", "bias"}
    assert not any(p.any() for name, p in after.items() if name.endswith((".u", ".v")))


def test_a_killed_search_goes_on_to_the_same_result(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    task, config = toy("lora-released", epochs=2)
    whole = SMALL(task, config)
    logged = dataclasses.replace(task, trials=tmp_path / "trials")

    def stop(label: str, done: int, total: int) -> None:
        if label.startswith("search 4/"):
            raise Killed

    with pytest.raises(Killed):
        SMALL(dataclasses.replace(logged, setting=Setting(progress=stop)), config)
    labels: list[str] = []
    watched = Setting(progress=lambda label, done, total: labels.append(label))
    again = SMALL(dataclasses.replace(logged, setting=watched), config)
    assert labels[0].startswith("search 4/")
    np.testing.assert_array_equal(again.probabilities, whole.probabilities)
    assert again.chosen == whole.chosen


def test_a_result_of_zero_is_no_result() -> None:
    nothing = LabelledImages(TEST.images, np.full(9, 7))
    with pytest.raises(Diverged, match="no epoch scored above zero"):
        SMALL(*toy("adapter-released", lr=0.01, epochs=1, test=nothing))


@pytest.mark.parametrize(
    ("protocol", "method", "message"),
    [
        ("elevater-released", "lora", "repeats published code and runs kadaptation-released, .* use elevater for lora"),
        ("elevater", "lora-released", "lora-released breaks law_.* runs only under protocol elevater-released"),
        ("fixed", "compacter-released", "runs only under protocol elevater-released"),
    ],
)
def test_released_methods_and_their_protocol_belong_together(protocol: str, method: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig("x", METHODS[method](), "x", protocol=protocol)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": HeadSpec()}, "norm=batch or norm=none"),
        ({"head": dataclasses.replace(HEAD, scale=7.0)}, "scale=1"),
        ({"head": HEAD, "precision": "bf16"}, "fp32"),
        ({"head": HEAD, "recipe": Recipe()}, "epochs, lr, and weight_decay with lr alone"),
    ],
)
def test_what_the_published_code_has_not_is_refused(fields: dict[str, Any], message: str) -> None:
    config = RunConfig("x", METHODS["lora-released"](), "x", protocol="elevater-released", **fields)
    with pytest.raises(ConfigError, match=message):
        check_published(config)


def test_its_usual_head_is_the_published_one() -> None:
    config = RunConfig("x", METHODS["lora-released"](), "x", protocol="elevater-released").resolved()
    assert config.head is None and config.head_spec == HeadSpec("text", norm="batch", length="kept", scale=1.0)


def test_no_other_protocol_is_given_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seeing = {name for name, protocol in PROTOCOLS.items() if protocol.sees_test}
    assert seeing == {"elevater-released", "fixed-released", "few-shot-clip-released"}
    task, config = toy("kadaptation-released")
    task, given = dataclasses.replace(task, test=None), []

    class Spy(Fixed):
        def __call__(self, task: Task, config: RunConfig) -> Any:
            given.append(task.test)

    for sees in (False, True):
        monkeypatch.setattr(Spy, "sees_test", sees)
        monkeypatch.setitem(PROTOCOLS._things, config.protocol, Spy())
        _train(task, config, TEST)
    assert given == [None, TEST] and dataclasses.replace(task, test=TEST).take(torch.arange(3)).test is None


def test_an_adapter_file_holds_the_constants_that_its_method_drew(tmp_path: Path) -> None:
    backbone, method = build("clip-like"), METHODS["compacter-released"]()
    model = Classifier(adapt(backbone, method, 5), Head(48, 3)).eval()
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(model, AdapterInfo(method, "x", 32, ("a", "b", "c"), backbone_digest(backbone))))
    images = random_images()
    with torch.no_grad():
        torch.testing.assert_close(
            load_adapter(path, backbone).backbone(images), model.backbone(images), rtol=0, atol=0
        )


def record(method: str, score: float, dataset: str, seed: int, last: float | None = None) -> Record:
    protocol = "elevater" if last is None else "elevater-released"
    config = RunConfig("random:tiny", METHODS[method](), dataset, seed=seed, protocol=protocol).resolved()
    scores = {} if last is None else {"best on test": score, "last epoch": last}
    empty: dict[str, Any] = {key: {} for key in ("parameters", "chosen", "seconds", "versions", "images")}
    lists: dict[str, Any] = {key: [] for key in ("classes", "per_class", "losses")}
    caveat = "" if last is None else "best epoch on the test set"
    fixed = {"status": "ok", "metric": "accuracy", "pe": None, "peak_memory_mb": 0.0}
    plain = {**empty, **lists, **fixed, "scores": scores, "caveat": caveat}
    return Record(digest=config.digest(), config=config.to_dict(), score=score, **plain)


RECORDS = [
    record("lora-released", 60.0, "a", 0, 50.0),
    record("lora-released", 70.0, "a", 1, 68.0),
    record("lora-released", 40.0, "b", 0, 40.0),
    record("lora", 55.0, "a", 0),
    record("lora", 41.0, "b", 0),
    record("kadaptation", 99.0, "a", 0),
]


def test_optimism_is_the_best_minus_the_last_epoch_and_minus_the_honest_protocol_on_the_same_cells() -> None:
    first, second, average = optimism_of(RECORDS[::-1])
    assert (first.dataset, first.seeds, first.best, first.last, first.selection) == ("a", 2, 65.0, 59.0, 6.0)
    assert (first.pairs, first.honest, first.gap) == (1, 55.0, 5.0)
    assert (second.selection, second.gap) == (0.0, -1.0)
    assert (average.dataset, average.best, average.selection, average.gap) == ("average", 52.5, 3.0, 2.0)
    assert optimism_of(RECORDS[3:]) == []


def test_every_table_marks_what_looked_at_the_test_set() -> None:
    rows = {row.method: row for row in rows_of(RECORDS)}
    assert set(rows) == {"lora-released †", "lora", "kadaptation"}
    assert any("† best epoch on the test set" in remark for remark in remarks_of(list(rows.values())))
    assert not any("†" in remark for remark in remarks_of([rows["lora"]]))


@pytest.mark.parametrize("form", ["text", "json"])
def test_results_prints_the_optimism(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one in RECORDS:
        Store(tmp_path).add(one, None, np.zeros(0), None)
    print_optimism(Store(tmp_path).records()[0], form)  # type: ignore[arg-type]
    output = capsys.readouterr().out
    assert (
        "lora-released †" in json.loads(output)[0]["method"]
        if form == "json"
        else "+6.0" in output and "-1.0" in output
    )
    with pytest.raises(ConfigError, match="no records of a protocol that sees the test set"):
        print_optimism(RECORDS[3:], "text")


def test_a_cell_runs_from_images_to_a_marked_record(photos: Path, tmp_path: Path) -> None:
    method = METHODS["kadaptation-released"]()
    config = RunConfig("random:tiny", method, str(photos), 1, protocol="elevater-released", head=HEAD)
    recipe = dataclasses.replace(config.resolved().recipe, lr=0.1, weight_decay=1e-6, epochs=2)
    done = run(dataclasses.replace(config, recipe=recipe), Store(tmp_path), Environment())
    assert done.score == done.scores["best on test"] and done.caveat and done.method.endswith("†")
    assert len(done.images["train"]) == 4 and done.images["test_count"] == 4
    probabilities, labels = Store(tmp_path).predictions(done)
    assert 100 * (probabilities.argmax(1) == labels).mean() == pytest.approx(done.score)
    assert Record.from_json(done.to_json()) == done


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of noise, dark and bright, three images for training and two for testing each."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for (label, mean), (part, count) in itertools.product(
        {"dark": 60, "bright": 200}.items(), {"train": 3, "test": 2}.items()
    ):
        (root / part / label).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(mean, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root

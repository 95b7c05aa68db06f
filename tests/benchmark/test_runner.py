"""From a configuration to a record, on small real image files."""

import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.prepare import cached_probe, training_pool
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import SingleUseLabels, run
from vitadapt.benchmark.sweep import expand, run_bench
from vitadapt.data import FileRef, open_dataset
from vitadapt.data.sampling.manifests import make_manifest, manifest_digest
from vitadapt.methods import LinearProbe, LoRA
from vitadapt.metrics.scores import METRICS
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head_spec import ZERO
from vitadapt.nn.setting import Setting
from vitadapt.training.adapter_file import load_adapter
from vitadapt.training.features import Environment
from vitadapt.training.loop import forward_all, forward_batches
from vitadapt.training.recipe import Recipe, recipe_for
from vitadapt.utils.errors import ConfigError, DataError, MethodDefect, NotApplicable, WeightsError
from vitadapt.weights import load_backbone

METHODS = ["linear-probe", "kadaptation", "lora", "adapter", "compacter", "bitfit", "layernorm", "fine-tune"]
FAST = Recipe(epochs=2, batch_size=8, lr=1e-3)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three classes of noisy coloured pictures, 8 for training and 6 for testing each."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, colour in {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 40)}.items():
        for part, count in (("train", 8), ("test", 6)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 60, (40, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def config(photos, method=None, **fields):
    values = {"shots": 4, "recipe": FAST, **fields}
    return RunConfig("random:tiny", method or LoRA(), str(photos), **values)


@pytest.fixture
def environment(tmp_path):
    return Environment(cache=tmp_path / "cache")


def test_every_method_gets_a_record(photos, tmp_path, environment):
    store = Store(tmp_path / "runs")
    cells = expand({"backbone": "random:tiny", "dataset": str(photos), "method": METHODS}, dataclasses.asdict(FAST))
    outcomes = run_bench(cells, store, environment)
    assert [outcome.failure for outcome in outcomes] == [""] * len(METHODS)
    for outcome in outcomes:
        record = outcome.record
        assert record.status == "ok" and 0 <= record.score <= 100
        assert record.parameters["trained"] == record.parameters["backbone"] + record.parameters["head"]
        assert len(record.images["train"]) == 15 and record.images["test_count"] == 18
        assert store.get(record.digest) == record
        probabilities, labels = store.predictions(record)
        assert probabilities.shape == (18, 3) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert 100 * (probabilities.argmax(1) == labels).mean() == pytest.approx(record.score)


def test_a_recorded_cell_is_not_run_again(photos, tmp_path, environment):
    store = Store(tmp_path / "runs")
    first = run(config(photos), store, environment)
    path = store.path("records", first.digest)
    before = path.stat().st_mtime_ns
    assert run(config(photos), store, environment) == first
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["kadaptation", "linear-probe", "fine-tune"])
def test_same_configuration_same_bytes_with_and_without_cache(photos, tmp_path, method):
    (cell,) = expand(
        {"backbone": "random:tiny", "dataset": str(photos), "method": method, "shots": 4}, dataclasses.asdict(FAST)
    )
    stores = [Store(tmp_path / name) for name in "ab"]
    run(cell, stores[0], Environment(cache=tmp_path / "cache"))
    torch.randn(3)
    run(cell, stores[1], Environment(cache=None))
    for kind in ("predictions", "adapters"):
        assert stores[0].path(kind, cell.digest()).read_bytes() == stores[1].path(kind, cell.digest()).read_bytes()


def test_without_a_cache_every_image_is_read_once(photos, tmp_path, monkeypatch):
    reads = Counter()

    def counted(ref, read=FileRef.data):
        reads[ref.name] += 1
        return read(ref)

    monkeypatch.setattr(FileRef, "data", counted)
    record = run(config(photos), tmp_path / "runs", Environment(cache=None))
    assert set(reads.values()) == {1} and len(reads) == 3 * (4 + 6)
    monkeypatch.undo()
    cached = run(config(photos), tmp_path / "again", Environment(cache=tmp_path / "cache"))
    assert record.images == cached.images and record.images["test_count"] == 18


def test_the_adapter_file_gives_the_recorded_predictions(photos, tmp_path, environment):
    store = Store(tmp_path / "runs")
    record = run(config(photos), store, environment)
    backbone = load_backbone("random:tiny")
    path = store.path("adapters", record.digest)
    model = load_adapter(path, backbone, backbone_digest(backbone))
    from vitadapt.data import Geometry, open_dataset, open_pixels

    test = open_dataset(str(photos)).splits["test"]
    pixels = open_pixels(test, Geometry(backbone.image_size, backbone.preprocess.resize), None)
    logits = forward_all(model, pixels, Setting(), "test")
    expected, _ = store.predictions(record)
    np.testing.assert_array_equal(logits.softmax(dim=1).numpy(), expected)
    with torch.no_grad():
        next(backbone.parameters()).add_(1)
    with pytest.raises(WeightsError, match="was trained on"):
        load_adapter(path, backbone)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"cannot be read as an adapter .*copy it again"):
        load_adapter(path, backbone)


def test_a_diverged_training_is_recorded_and_the_bench_goes_on(photos, tmp_path, environment):
    store = Store(tmp_path / "runs")
    bad = config(photos, recipe=Recipe(optimizer="sgd", lr=1e25, head_lr=1e25, epochs=3))
    outcomes = run_bench([bad, config(photos)], store, environment)
    assert [outcome.record.status for outcome in outcomes] == ["diverged", "ok"]
    assert outcomes[0].record.score is None and "learning rate" in outcomes[0].record.notes[-1]


def test_a_failing_cell_leaves_its_trace_and_the_others_run(photos, tmp_path, environment):
    store = Store(tmp_path / "runs")
    missing = dataclasses.replace(config(photos), dataset=str(tmp_path / "absent"))
    outcomes = run_bench([missing, config(photos)], store, environment)
    assert outcomes[0].record is None and "absent" in outcomes[0].failure
    assert "Traceback" in store.path("failures", missing.digest()).read_text()
    assert outcomes[1].record.status == "ok"


def test_a_method_with_a_tensor_that_cannot_learn_stops_the_run(photos, tmp_path, environment, monkeypatch):
    from vitadapt.methods import lora

    def both_zero(self, shape, rank, scale):
        torch.nn.Module.__init__(self)
        self.scale = scale
        self.a = torch.nn.Parameter(torch.zeros(rank, shape[1]))
        self.b = torch.nn.Parameter(torch.zeros(shape[0], rank))

    cached_probe.cache_clear()
    monkeypatch.setattr(lora.LowRank, "__init__", both_zero)
    with pytest.raises(MethodDefect, match="cannot learn"):
        run(config(photos), tmp_path / "runs", environment)
    cached_probe.cache_clear()


def test_a_method_that_trains_no_head_needs_text(photos, tmp_path, environment):
    from vitadapt.methods import ZeroShot

    with pytest.raises((ConfigError, NotApplicable), match="text tower"):
        run(config(photos, ZeroShot()), tmp_path / "runs", environment)


def test_the_test_labels_answer_once():
    sealed = SingleUseLabels(np.array([0, 1]), "accuracy")
    score, by_class = sealed.score(np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert score == 50 and by_class.tolist() == [100, 0]
    with pytest.raises(RuntimeError, match="already"):
        sealed.score(np.array([[0.9, 0.1], [0.8, 0.2]]))


def test_too_few_images_for_the_shots_names_the_class(photos, tmp_path, environment):
    with pytest.raises(Exception, match="blue"):
        run(config(photos, shots=9), tmp_path / "runs", environment)


def test_all_shots_take_every_training_image(photos, tmp_path, environment):
    record = run(config(photos, shots=None), tmp_path / "runs", environment)
    assert len(record.images["train"]) == 24 and record.split == "given"


def test_frozen_features_are_computed_once(photos, tmp_path, environment, monkeypatch):
    from vitadapt.training import features

    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return forward_batches(*arguments, **options)

    monkeypatch.setattr(features, "forward_batches", counted)
    run(config(photos, LinearProbe()), tmp_path / "a", environment)
    assert len(calls) == 2
    run(config(photos, LinearProbe(), recipe=Recipe(epochs=3)), tmp_path / "b", environment)
    assert len(calls) == 2


@pytest.mark.parametrize("protocol", ["fixed", "elevater", "halving", "cv", "few-shot-clip"])
def test_no_protocol_sees_the_test_images(photos, tmp_path, environment, protocol):
    """Other test images and labels: the same adapter, of the same bytes, by the same search."""
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    for path in sorted((other / "test" / "blue").iterdir())[:3]:
        path.rename(other / "test" / "red" / f"blue-{path.name}")
    runs = []
    for root in (photos, other):
        recipe = dataclasses.replace(recipe_for(protocol, LinearProbe()), epochs=2)
        cell = config(root, LinearProbe(), recipe=recipe, shots=2, protocol=protocol, head=ZERO)
        store = Store(tmp_path / root.name)
        record = run(cell, store, environment)
        adapter = load_adapter(store.path("adapters", record.digest), load_backbone("random:tiny"))
        runs.append((record, adapter.head.state_dict()))
        assert not store.path("trials", record.digest).exists()
    (first, head), (second, again) = runs
    assert first.chosen == second.chosen and first.losses == second.losses
    assert all(torch.equal(head[name], again[name]) for name in head)
    assert first.images["test"] != second.images["test"]


def test_one_shot_of_the_published_search_says_that_it_draws_two(photos, tmp_path, environment):
    recipe = dataclasses.replace(recipe_for("halving", LinearProbe()), epochs=2)
    record = run(config(photos, LinearProbe(), recipe=recipe, shots=1, protocol="halving"), tmp_path, environment)
    assert len(record.images["train"]) == 6
    assert record.notes[-1] == "2 labelled images per class: 1 to train on, the rest to choose by"
    plain = run(config(photos, LinearProbe(), shots=1), tmp_path, environment)
    assert len(plain.images["train"]) == 3 and not any("to choose by" in note for note in plain.notes)


def test_a_subset_decides_which_images_are_used(photos, tmp_path, environment):
    dataset = open_dataset(photos)
    manifest = make_manifest(dataset, 2, 7)
    path = tmp_path / "subset.json"
    path.write_text(json.dumps(manifest))
    chosen = config(photos, shots=2, subset=manifest_digest(manifest))
    drawn = config(photos, shots=2, seed=0)
    assert RunConfig.from_dict(chosen.to_dict()) == chosen
    assert chosen.digest() != drawn.digest() and "subset" not in drawn.to_dict()
    pool = training_pool(chosen, dataset, dataclasses.replace(environment, subset=path))
    assert [ref.digest() for ref in pool.refs] == [entry["content"] for entry in manifest["images"]]
    assert [ref.name for ref in pool.refs] != [ref.name for ref in training_pool(drawn, dataset, environment).refs]
    by_hand = {key: value for key, value in manifest.items() if key != "checksum"}
    path.write_text(json.dumps(by_hand))
    assert training_pool(chosen, dataset, dataclasses.replace(environment, subset=path)).refs == pool.refs
    path.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="give its file with --subset"):
        training_pool(chosen, dataset, environment)
    record = run(chosen, Store(tmp_path / "runs"), dataclasses.replace(environment, subset=path))
    assert record.status == "ok" and len(record.images["train"]) == 6


def test_a_table_with_several_labels_per_image_is_scored_by_mean_average_precision(photos, tmp_path, environment):
    files = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    lines = [f"{path},{path.parts[1]}{'|warm' if path.parts[1] == 'red' else ''},{path.parts[0]}" for path in files]
    table = photos / "several.csv"
    table.write_text("\n".join(["path,label,split", *lines]))
    dataset = open_dataset(str(table))
    assert dataset.metric == "11-point-map" and "14 images have several labels" in dataset.notes[-1]
    record = run(config(table), Store(tmp_path / "runs"), environment)
    probabilities, labels = Store(tmp_path / "runs").predictions(record)
    assert record.metric == "11-point-map" and labels.shape == (18, 4)
    assert record.score == pytest.approx(100 * METRICS["11-point-map"](labels, probabilities))
    with pytest.raises(DataError, match="accuracy needs one label per image"):
        dataclasses.replace(dataset, metric="accuracy")

"""What every protocol promises: it repeats, it survives a kill, it never chooses what diverged, it keeps its budget."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.protocols.few_shot_clip import FewShotCLIP
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.protocols.search import Grid
from vitadapt.benchmark.protocols.standard import CrossValidation, Elevater, Fixed, Halving
from vitadapt.benchmark.protocols.steps import SEARCHED_SHOTS, States, published_split
from vitadapt.benchmark.protocols.trials import Trials
from vitadapt.data.sampling.few_shot import validation_split
from vitadapt.data.sampling.folds import stratified_folds
from vitadapt.methods import BitFit, LinearProbe, ZeroShot
from vitadapt.nn.head_spec import ZERO
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import trainable_state
from vitadapt.training.loop import TensorInputs
from vitadapt.training.recipe import Recipe, recipe_for
from vitadapt.training.task import Task
from vitadapt.utils.errors import ConfigError, Diverged
from vitadapt.weights import load_backbone

GRID = Grid(lrs=(1e-2, 1e-1), decays=Grid().decays[::8], stride=4)
SMALL = {
    "fixed": Fixed(),
    "elevater": Elevater(GRID, epochs=2),
    "halving": Halving(GRID, per_lr=3, rungs=(2, 3, 4)),
    "few-shot-clip": FewShotCLIP(),
    "cv": CrossValidation(folds=3, lr_factors=(1.0, 3.0), decay_factors=(1.0,)),
}
SEARCHES = [name for name in SMALL if name not in ("fixed", "few-shot-clip")]


@pytest.fixture(scope="module")
def images():
    """(backbone, 15 images of 3 classes (15, 3, S, S), their features)."""
    backbone = load_backbone("random:tiny")
    generator = torch.Generator().manual_seed(0)
    size = backbone.image_size
    images = torch.randint(0, 160, (15, 3, size, size), generator=generator, dtype=torch.uint8)
    for i in range(15):
        images[i, i % 3] += 80
    with torch.no_grad():
        return backbone, images, backbone(images)


class Counted(TensorInputs):
    """Counts the images that are asked for."""

    asked = 0

    def gather(self, rows):
        Counted.asked += len(rows)
        return super().gather(rows)


def configured(protocol, method=None, shots=5):
    recipe = dataclasses.replace(recipe_for(protocol, method or LinearProbe()), epochs=5, head_start="zero")
    if protocol == "few-shot-clip":  # as many steps for each of 5 shots as an epoch of 15 images has
        recipe = dataclasses.replace(recipe, batch_size=3)
    method = method or LinearProbe()
    head = ZERO if protocol == "few-shot-clip" and method.trains_head else None
    return RunConfig("random:tiny", method, "x", shots=shots, protocol=protocol, recipe=recipe, head=head)


def task(images, protocol, method=None, *, labels=None, progress=None, **fields):
    backbone, pixels, features = images
    config = configured(protocol, method).training
    labels = torch.arange(15) % 3 if labels is None else labels
    return Task(config, backbone, Counted(pixels), labels, 3, features, Setting(progress=progress), **fields)


def train(protocol, images, name, method=None, *, shots=5, **fields):
    """What `protocol` makes of a task, under the configuration of the protocol `name`."""
    return protocol(task(images, name, method, **fields), configured(name, method, shots))


def log_files(folder):
    return {"checkpoint": folder / "checkpoints" / "x.checkpoints", "trials": folder / "trials" / "x.jsonl"}


def assert_same(a, b):
    first, second = trainable_state(a.model), trainable_state(b.model)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert (a.chosen, a.log) == (b.chosen, b.log)


def test_every_protocol_is_tested_here_or_breaks_laws_by_its_name():
    assert {name for name in PROTOCOLS if not name.endswith("-released")} == set(SMALL)
    for name, small in SMALL.items():
        assert type(PROTOCOLS[name]) is type(small)


@pytest.mark.parametrize("method", [LinearProbe(), BitFit()], ids=["head", "backbone"])
@pytest.mark.parametrize("name", SMALL)
def test_a_protocol_trains_and_repeats_to_the_bit(images, name, method):
    first = train(SMALL[name], images, name, method)
    torch.randn(3)
    assert_same(first, train(SMALL[name], images, name, method))
    assert len(first.log.losses) == 5 and all(map(math.isfinite, first.log.losses))
    json.dumps(first.chosen)
    if name in SEARCHES:
        trace = first.chosen["trace"]
        best = max(row[3] for row in trace if row[3] is not None)
        assert first.chosen["trials"] == len({tuple(row[:3]) for row in trace})
        if name != "halving":  # which compares the candidates of one rung only
            winner = next(row for row in trace if row[3] == best)
            assert [first.chosen["lr"], first.chosen["weight_decay"], first.chosen["validation"]] == [
                *winner[:2],
                best,
            ]


@pytest.mark.parametrize("method", [LinearProbe(), BitFit()], ids=["head", "backbone"])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_killed_search_goes_on_to_the_same_bytes(images, tmp_path, name, method):
    class Killed(Exception):
        pass

    def seen(labels, die_at=None):
        def progress(label, done, total):
            labels.setdefault(label)
            if len(labels) == die_at:
                raise Killed

        return progress

    every, before, rest = {}, {}, {}
    whole = train(SMALL[name], images, name, method, progress=seen(every))
    searched = [label for label in every if label.startswith("search ")]
    assert len(searched) == whole.chosen["trials"]
    middle = len(searched) // 2 + 1
    with pytest.raises(Killed):
        train(SMALL[name], images, name, method, progress=seen(before, middle), **log_files(tmp_path))
    log = log_files(tmp_path)["trials"]
    log.write_bytes(log.read_bytes()[:-3])  # the last line was torn as well
    assert_same(train(SMALL[name], images, name, method, progress=seen(rest), **log_files(tmp_path)), whole)
    again = [label for label in rest if label.startswith("search ")]
    assert again[-len(searched[middle - 1 :]) :] == searched[middle - 1 :], "what had no line is trained"
    assert set(again) <= set(searched[middle - 2 :]), "and what had a whole one is not"
    assert list((tmp_path / "checkpoints").glob("*")) == []


def test_scores_are_kept_per_identity_and_a_damaged_line_counts_as_absent(tmp_path):
    path, ran = tmp_path / "trials" / "x.jsonl", []

    def scored(value):
        def run(label):
            ran.append(label)
            if value is None:
                raise Diverged("no number")
            return (value,)

        return run

    def open_trials(identity="a"):
        return Trials(path, identity, 9)

    trials = open_trials()
    assert trials.score([1, 2.5], scored(0.1 + 0.2)) == (0.1 + 0.2,) and trials.score([2], scored(None)) is None
    assert open_trials().score([1, 2.5], scored(7.0)) == (0.1 + 0.2,) and open_trials().score([2], scored(7.0)) is None
    assert ran == ["search 1/9", "search 2/9"]
    assert open_trials("b").score([1, 2.5], scored(8.0)) == (8.0,)
    lines = path.read_bytes()
    path.write_bytes(lines.replace(b"[2]", b"[3]"))
    assert open_trials().score([2], scored(9.0)) == (9.0,) and open_trials().scores.keys() == {"[1, 2.5]", "[2]"}
    assert len(ran) == 4


@pytest.mark.parametrize("name", ["elevater", "halving"])
def test_a_diverged_trial_is_recorded_and_never_chosen(images, name):
    grid = Grid(lrs=(1e-2, 1e20), decays=GRID.decays, stride=4)
    trained = train(dataclasses.replace(SMALL[name], grid=grid), images, name, BitFit())
    diverged = [row for row in trained.chosen["trace"] if row[3] is None]
    assert any(row[0] == 1e20 for row in diverged) and trained.chosen["lr"] == 1e-2
    assert [trained.chosen["lr"], trained.chosen["weight_decay"]] not in [row[:2] for row in diverged]


@pytest.mark.parametrize("name", SEARCHES)
def test_when_everything_diverges_it_is_said(images, name):
    if name == "cv":
        wild = dataclasses.replace(SMALL[name], lr_factors=(1e30,))
    else:
        wild = dataclasses.replace(SMALL[name], grid=Grid(lrs=(1e30,), decays=GRID.decays, stride=4))
    with pytest.raises(Diverged):
        train(wild, images, name, BitFit())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_final_run_that_diverges_leaves_what_the_search_found(images, name, monkeypatch):
    whole = train(SMALL[name], images, name, BitFit()).chosen

    def diverge(*_, **__):
        raise Diverged("no number")

    monkeypatch.setattr("vitadapt.benchmark.protocols.steps.train_final", diverge)
    with pytest.raises(Diverged, match="no number") as stop:
        train(SMALL[name], images, name, BitFit())
    assert stop.value.chosen == whole and whole["trace"]


def test_another_error_in_a_trial_stops_the_search(images):
    labels = torch.tensor([0, 1, 7] * 5)
    with pytest.raises((IndexError, RuntimeError)):
        train(SMALL["elevater"], images, "elevater", labels=labels)


def test_survivors_that_go_on_are_as_good_as_trained_anew(images, tmp_path):
    went_on = train(Halving(GRID, 3, (2, 3, 4)), images, "halving", BitFit(), **log_files(tmp_path))
    anew = train(Halving(GRID, 3, (2, 3, 4)), images, "halving", BitFit())
    assert_same(went_on, anew)


def test_survivors_that_go_on_save_the_epochs_behind_them(images, tmp_path):
    counts = []
    for files in (log_files(tmp_path), {}):
        Counted.asked = 0
        train(SMALL["halving"], images, "halving", BitFit(), **files)
        counts.append(Counted.asked)
    assert counts[0] < counts[1]


def test_states_that_would_fill_the_disk_are_not_kept(images, tmp_path):
    made = task(images, "halving", **log_files(tmp_path))
    assert States(made, 10**6).path(0.1, 0.2) != States(made, 10**6).path(0.1, 0.3)
    assert States(made, 10**9).path(0.1, 0.2) is None


@pytest.mark.parametrize("name", SMALL)
def test_the_budget_holds(images, tmp_path, name):
    made = task(images, name, BitFit(), **log_files(tmp_path))
    budget = SMALL[name].budget(configured(name, BitFit()), made.labels)
    Counted.asked = 0
    trained = SMALL[name](made, configured(name, BitFit()))
    seen = Counted.asked
    assert 0 < seen <= budget.trained + budget.scored
    assert seen >= 0.5 * (budget.trained + budget.scored), "a budget that nobody uses is no estimate"
    if name in ("fixed", "few-shot-clip", "cv"):
        assert seen == budget.trained + budget.scored
    assert trained.chosen.get("trials", 0) <= budget.trials


def test_the_published_budget():
    """5 shots of 10 classes: 40 images train and 10 validate for 10 epochs in at most 90 trials; 50 for 50 epochs."""
    config = RunConfig("random:tiny", LinearProbe(), "x", protocol="elevater")
    budget = PROTOCOLS["elevater"].budget(config, torch.arange(50) % 10)
    assert (budget.trials, budget.trained, budget.scored) == (90, 90 * 10 * 40 + 50 * 50, 90 * 10 * 10)


def test_the_published_recipe():
    recipe = recipe_for("elevater", BitFit())
    assert (recipe.optimizer, recipe.momentum, recipe.batch_size, recipe.epochs) == ("sgd", 0.9, 64, 50)
    assert (recipe.schedule, recipe.warmup, recipe.clip_norm, recipe.label_smoothing) == ("constant", 0, 0, 0)
    assert recipe.decays == "all" and recipe_for("halving", BitFit()) == recipe
    assert recipe_for("cv", BitFit()) == recipe_for("fixed", BitFit())


def split_of(shots, labels, dataset="x"):
    return published_split(RunConfig("random:tiny", LinearProbe(), dataset, shots=shots), torch.as_tensor(labels))


@pytest.mark.parametrize(("shots", "held"), [(5, 1), (20, 4), (50, 10)])
def test_a_fifth_of_every_class_validates_and_the_final_run_takes_all(shots, held):
    labels = np.random.default_rng(0).permutation(np.arange(3 * shots) % 3)
    split = split_of(shots, labels)
    assert np.bincount(labels[split.held]).tolist() == [held] * 3
    assert sorted([*split.train.tolist(), *split.held.tolist()]) == split.final.tolist() == list(range(3 * shots))


def test_at_one_shot_two_images_are_drawn_and_one_of_them_only_validates():
    for name in ("elevater", "halving"):
        assert [PROTOCOLS[name].draws(shots) for shots in (1, 2, 5, None)] == [2, 2, 5, None]
    for name in ("fixed", "cv"):
        assert [PROTOCOLS[name].draws(shots) for shots in (1, 2, 5, None)] == [1, 2, 5, None]
    split = split_of(1, [0, 1, 1, 0])
    assert split.held.tolist() == [0, 1] and split.train.tolist() == split.final.tolist() == [2, 3]
    with pytest.raises(ConfigError, match="two images per class"):
        split_of(1, [0, 1, 2])


def test_all_of_patch_camelyon_is_searched_on_a_part(monkeypatch):
    assert SEARCHED_SHOTS == {"patch-camelyon": 10_000}
    monkeypatch.setitem(SEARCHED_SHOTS, "patch-camelyon", 50)
    labels = np.arange(300) % 2
    for name in ("patch-camelyon", "pcam"):
        split = split_of(None, labels, name)
        assert np.bincount(labels[split.train]).tolist() == [40, 40]
        assert np.bincount(labels[split.held]).tolist() == [10, 10]
        assert len(split.final) == 300 and not set(split.train.tolist()) & set(split.held.tolist())
    assert len(split_of(None, labels, "x").train) == len(split_of(50, labels, "pcam").train) == 240


@pytest.mark.parametrize("shots", [1, None])
@pytest.mark.parametrize("name", SEARCHES)
def test_one_shot_and_all_images(images, name, shots):
    backbone, pixels, features = images
    rows = slice(0, 6 if SMALL[name].draws(shots) == 2 else 3) if shots else slice(0, 15)
    part = (backbone, pixels[rows], features[rows])
    trained = train(SMALL[name], part, name, shots=shots, labels=torch.arange(15)[rows] % 3)
    assert len(trained.log.losses) == 5
    assert ("trace" in trained.chosen) == (name != "cv" or shots is None)


@pytest.mark.parametrize("name", SMALL)
def test_several_labels(images, name):
    labels = torch.zeros(15, 3, dtype=torch.uint8)
    for i in range(15):
        labels[i, [i % 3, (i // 5) % 3]] = 1
    trained = train(SMALL[name], images, name, labels=labels, metric="11-point-map")
    assert all(0 <= row[3] <= 100 for row in trained.chosen.get("trace", []) if row[3] is not None)


@pytest.mark.parametrize("name", SEARCHES)
def test_what_trains_nothing_searches_nothing(images, name):
    made, config = task(images, name), configured(name, ZeroShot())
    backbone, features = load_backbone("random:tiny-clip"), made.features
    with torch.no_grad():
        features = backbone(made.images.tensor) if backbone.image_size == made.backbone.image_size else features
    from vitadapt.nn.head import TextStart

    text = TextStart(torch.randn(3, features.shape[1], generator=torch.Generator().manual_seed(0)), 7.0)
    made = dataclasses.replace(made, config=config.training, backbone=backbone, features=features, text=text)
    trained = SMALL[name](made, config)
    assert trained.chosen == {} and trained.log.steps == 0


@pytest.mark.parametrize("field", ["lr", "head_lr", "weight_decay"])
def test_a_recipe_cannot_set_what_is_searched(images, field):
    config = configured("elevater")
    config = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, **{field: 0.5}))
    with pytest.raises(ConfigError, match=f"searches for {field}"):
        SMALL["elevater"](task(images, "elevater"), config)


def test_a_tie_in_cross_validation_keeps_the_recipe(images):
    recipe = recipe_for("cv", LinearProbe())
    trained = train(SMALL["cv"], images, "cv", labels=torch.arange(15) % 3)
    scores = [row[3] for row in trained.chosen["trace"]]
    if scores[0] == max(scores):
        assert trained.chosen["lr"] == recipe.lr
    constant = train(CrossValidation(3, (1.0, 1.0 + 1e-9), (1.0,)), images, "cv")
    assert constant.chosen["trace"][0][3] == constant.chosen["trace"][1][3] and constant.chosen["lr"] == recipe.lr


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_spread_every_class_evenly(folds):
    labels = np.random.default_rng(0).permutation(np.arange(35) % 7)
    fold = stratified_folds(labels, folds, 0)
    counts = np.array([np.bincount(labels[fold == f], minlength=7) for f in range(folds)])
    assert np.ptp(counts, axis=0).max() <= 1 and np.ptp(counts.sum(axis=1)) <= 1
    assert np.array_equal(fold, stratified_folds(labels, folds, 0))
    assert not np.array_equal(fold, stratified_folds(labels, folds, 1))


def test_folds_of_several_labels_each_hold_the_rare_class():
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 4)) < [0.6, 0.4, 0.2, 0.0]).astype(np.int64)
    labels[:5, 3] = 1
    fold = stratified_folds(labels, 5, 0)
    assert [labels[fold == f, 3].sum() for f in range(5)] == [1] * 5
    assert np.ptp(np.bincount(fold)) <= 3
    with pytest.raises(ConfigError, match="folds"):
        stratified_folds(labels, 41, 0)


def test_the_validation_split_does_not_look_at_the_seed():
    labels = np.arange(20) % 4
    train, held = validation_split(labels)
    split = split_of(5, labels)
    assert split.train.tolist() == train.tolist() and split.held.tolist() == held.tolist()


def test_the_likelihood_tells_apart_what_the_metric_rates_alike(images):
    made = task(images, "fixed", labels=torch.tensor([0, 1, 2] * 5))
    sure, unsure = torch.eye(3)[[0, 1, 2] * 5], torch.eye(3)[[0, 1, 2] * 5] * 0.1 + 0.3
    assert made.score_of(sure) == made.score_of(unsure) == 100
    assert made.likelihood_of(sure) > made.likelihood_of(unsure) == pytest.approx(math.log(0.4))
    several = dataclasses.replace(made, labels=torch.eye(3, dtype=torch.uint8)[[0, 1, 2] * 5])
    assert several.likelihood_of(unsure) == pytest.approx((math.log(0.4) + 2 * math.log(0.7)) / 3)


def test_the_recipe_is_the_one_of_the_cell(images):
    made = task(images, "fixed")
    assert isinstance(made.recipe, Recipe) and made.take(torch.tensor([3, 4])).labels.tolist() == [0, 1]
    part = made.take(torch.tensor([5, 2])).take(torch.tensor([1]))
    assert torch.equal(part.images.gather(torch.tensor([0])), made.images.tensor[[2]])

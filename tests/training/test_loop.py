"""The loop: it learns, repeats to the bit, resumes to the bit, accumulates exactly, and says when it diverges."""

import dataclasses

import pytest
import torch
from torch import nn

from vitadapt.nn.head import Head
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import trainable_state
from vitadapt.training.checkpoint import Checkpoint
from vitadapt.training.loop import TensorInputs, epoch_order, fit, forward_all, loss_of, make_optimizer, rate
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import Diverged, StorageError

RECIPE = Recipe(lr=0.05, head_lr=0.05, epochs=12, batch_size=8)


def problem(seed=0, count=30):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=generator)
    return TensorInputs(features), (features[:, 0] > 0).long()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x).tanh())


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = Network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def trained(recipe=RECIPE, seed=0, **options):
    model, (inputs, labels) = network(), problem()
    log = fit(model, inputs, labels, recipe, seed=seed, **options)
    return trainable_state(model), log


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_it_learns(optimizer, schedule):
    _, log = trained(dataclasses.replace(RECIPE, optimizer=optimizer, schedule=schedule, epochs=40))
    assert log.losses[-1] < 0.6 * log.losses[0]
    assert log.steps == 40 * 4


def test_same_seed_same_bytes_whatever_ran_before():
    first, _ = trained()
    torch.randn(7)
    second, _ = trained()
    other, _ = trained(seed=1)
    assert same(first, second) and not same(first, other)


def test_accumulated_batches_are_one_large_batch():
    whole, _ = trained(dataclasses.replace(RECIPE, batch_size=16))
    parts, _ = trained(dataclasses.replace(RECIPE, batch_size=4, accumulate=4))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-5, rtol=1e-4)


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr("vitadapt.training.checkpoint.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))
    recipe, path = dataclasses.replace(RECIPE, optimizer=optimizer), tmp_path / "c" / "x.checkpoint"
    whole, log = trained(recipe)

    def stop_in_the_middle(label, done, total):
        if done > total // 2:
            raise Killed

    model, (inputs, labels) = network(), problem()
    with pytest.raises(Killed):
        fit(model, inputs, labels, recipe, setting=Setting(progress=stop_in_the_middle), checkpoint=path)
    assert path.exists()
    steps = []
    setting = Setting(progress=lambda label, done, total: steps.append(done))
    model = network(seed=5)  # what it starts from no longer matters
    resumed = fit(model, inputs, labels, recipe, setting=setting, checkpoint=path)
    assert min(steps) > 12 * 4 // 2 - 4
    assert same(trainable_state(model), whole) and resumed.losses == log.losses
    assert not path.exists()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_in_stints_ends_as_one_without_a_break(tmp_path, optimizer):
    recipe, path = dataclasses.replace(RECIPE, optimizer=optimizer), tmp_path / "x.checkpoint"
    whole, log = trained(recipe, checkpoint=None)
    first, stint = trained(recipe, checkpoint=path, until=5)
    assert path.exists() and stint.losses == log.losses[:5] and stint.steps == 5 * 4
    assert not same(first, whole)
    epochs = []
    again, _ = trained(recipe, checkpoint=path, until=5, after_epoch=lambda: epochs.append(1))
    assert same(again, first) and not epochs, "what is trained already is not trained again"
    shorter, _ = trained(recipe, checkpoint=path, until=2)
    assert same(shorter, trained(recipe, until=2)[0]), "a longer stint is of no use for a shorter one"
    rest, done = trained(recipe, checkpoint=path, after_epoch=lambda: epochs.append(1))
    assert same(rest, whole) and done.losses == log.losses and len(epochs) == 12 - 2
    assert not path.exists()


def test_a_stint_keeps_what_batch_norms_have_seen(tmp_path):
    def normed():
        generator = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(6, affine=False), network())
        model[1].body.weight.data = torch.randn(8, 6, generator=generator)
        return model

    inputs, labels = problem()
    whole, broken, path = normed(), normed(), tmp_path / "x.checkpoint"
    fit(whole, inputs, labels, RECIPE)
    fit(normed(), inputs, labels, RECIPE, checkpoint=path, until=3)
    fit(broken, inputs, labels, RECIPE, checkpoint=path)
    assert same(whole.state_dict(), broken.state_dict())


def test_a_damaged_checkpoint_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))
    model = network()
    saver = Checkpoint(tmp_path / "x", model, make_optimizer(model, RECIPE), torch.Generator())
    saver.save([1.0])
    data = bytearray((tmp_path / "x").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x").write_bytes(bytes(data))
    assert saver.resume() == []
    whole, _ = trained()
    again, _ = trained(checkpoint=tmp_path / "x")
    assert same(whole, again)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        trained(checkpoint=tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_reported():
    with pytest.raises(Diverged, match="learning rate"):
        trained(dataclasses.replace(RECIPE, optimizer="sgd", lr=1e30, head_lr=1e30))


def test_clipping_bounds_the_step():
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", momentum=0.0, epochs=1, warmup=0.0, schedule="constant")
    recipe = dataclasses.replace(recipe, batch_size=30, weight_decay=0.0, clip_norm=1e-3)
    before = trainable_state(network())
    after, _ = trained(recipe)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before]).norm()
    assert float(moved) == pytest.approx(0.05 * 1e-3, rel=1e-3)


def test_the_learning_rate_warms_up_and_ends_near_zero():
    rates = [rate(step, 100, 10, "cosine") for step in range(100)]
    assert rates[:11] == sorted(rates[:11]) and rates[10] == max(rates) == 1.0
    assert rates[-1] < 0.01
    assert {rate(step, 100, 0, "constant") for step in range(100)} == {1.0}


def test_an_epoch_is_a_permutation_and_moves_on():
    generator = torch.Generator().manual_seed(0)
    first, second = epoch_order(20, generator), epoch_order(20, generator)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(20))
    assert first.tolist() != second.tolist()


def test_vectors_do_not_decay():
    model = network()
    groups = make_optimizer(model, RECIPE).param_groups
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == 4


def test_everything_decays_where_the_recipe_says_so():
    groups = make_optimizer(network(), dataclasses.replace(RECIPE, decays="all")).param_groups
    assert all(group["weight_decay"] > 0 for group in groups)


def test_the_head_has_a_learning_rate_of_its_own():
    model = network()
    groups = make_optimizer(model, dataclasses.replace(RECIPE, lr=0.1, head_lr=0.2)).param_groups
    heads = {id(p) for p in model.head.parameters()}
    assert all(group["lr"] == (0.2 if id(p) in heads else 0.1) for group in groups for p in group["params"])


def test_loss_of_one_label_and_of_many():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = -torch.log_softmax(logits, dim=1)[[0, 1], [0, 1]].mean()
    torch.testing.assert_close(loss_of(logits, torch.tensor([0, 1])), expected)
    many = loss_of(logits, torch.tensor([[1, 0], [1, 1]], dtype=torch.uint8))
    p = logits.sigmoid()
    torch.testing.assert_close(many, -(p[0, 0].log() + (1 - p[0, 1]).log() + p[1, 0].log() + p[1, 1].log()) / 4)


def test_forward_all_does_not_depend_on_the_batch_size():
    model, (inputs, _) = network(), problem()
    one = forward_all(model, inputs, Setting(), "test", batch_size=1)
    torch.testing.assert_close(forward_all(model, inputs, Setting(), "test", batch_size=7), one)


def test_a_folded_head_is_the_same_head():
    generator = torch.Generator().manual_seed(0)
    features = 50 + 9 * torch.randn(40, 6, generator=generator)
    head = Head(6, 3)
    head.standardise(features)
    with torch.no_grad():
        head.linear.weight.normal_(generator=generator)
        head.linear.bias.normal_(generator=generator)
    torch.testing.assert_close(head.to_linear()(features), head(features), atol=1e-4, rtol=1e-4)
    scaled = (features - head.centre) / head.spread
    assert abs(float(scaled.mean())) < 1e-4 and float(scaled.square().mean()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("shape", [(11, 6), (2, 11, 6)])
def test_how_many_features_are_normalised_at_a_time_does_not_matter(shape, monkeypatch):
    features = 50 + 9 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    head = Head(6, 3, HeadSpec(length="unit"))
    head.standardise(features.reshape(-1, 6))
    monkeypatch.setattr("vitadapt.nn.head.ROWS", 4)
    assert torch.equal(torch.from_numpy(head.all_normalised(features)), head.normalised(features))


def test_constant_features_do_not_divide_by_zero():
    head = Head(6, 3)
    head.standardise(torch.ones(5, 6))
    assert torch.isfinite(head(torch.ones(2, 6))).all()


class Pixels(nn.Module):
    """Images (B, 3, 4, 4), uint8 or 0..1 -> logits (B, 2)."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Linear(48, 2)
        with torch.no_grad():
            self.head.weight.copy_(0.1 * torch.randn(2, 48, generator=generator))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head((x.float() / (255 if x.dtype == torch.uint8 else 1)).flatten(1))


def test_jitter_changes_images_by_the_seed_alone_also_in_stints_and_leaves_features_alone(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels, path = torch.arange(12) % 2, tmp_path / "x.checkpoint"

    def seen(recipe, *stints):
        model = Pixels()
        for until in (*stints, None):
            fit(model, images, labels, recipe, checkpoint=path, until=until)
        return trainable_state(model)

    plain, moved, mirrored = (dataclasses.replace(RECIPE, jitter=j, flip=f) for j, f in ((0, 0), (0.2, 0), (0, 1)))
    assert same(seen(moved), seen(moved)) and same(seen(moved), seen(moved, 3, 7))
    assert not same(seen(moved), seen(plain)) and not same(seen(mirrored), seen(plain))
    assert same(trained(dataclasses.replace(RECIPE, jitter=0.2, flip=True))[0], trained()[0])

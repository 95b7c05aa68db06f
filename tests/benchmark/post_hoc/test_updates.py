"""What a run changed: sizes and ranks of its updates, their intrinsic dimension, and how the features moved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build, random_images
from typer.testing import CliRunner

import vitadapt as va
from vitadapt.benchmark.post_hoc.updates import analyse, cka, intrinsic_dimension, updates_of
from vitadapt.cli.main import app
from vitadapt.methods import AdaptFormer, BitFit, DoRA, LayerNorm, LoRA, Method
from vitadapt.methods.testing import Case
from vitadapt.nn.surgery import merge
from vitadapt.utils.errors import NotApplicable


@pytest.mark.parametrize("dimension", [2, 5])
def test_the_dimension_of_points_in_a_subspace_is_found(dimension: int) -> None:
    draw = np.random.default_rng(0)
    points = draw.uniform(size=(600, dimension)) @ draw.normal(size=(dimension, 30))
    assert intrinsic_dimension(points) == pytest.approx(dimension, rel=0.2)
    curved = np.stack([np.cos(3 * points[:, 0]), np.sin(3 * points[:, 0])], axis=1)
    assert intrinsic_dimension(curved) == pytest.approx(1.0, rel=0.2)
    assert intrinsic_dimension(points[:22]) and intrinsic_dimension(points[:21]) is None
    assert intrinsic_dimension(np.ones((100, 3))) is None


def test_features_that_are_turned_and_scaled_are_the_same() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 6))
    turn, _ = np.linalg.qr(draw.normal(size=(6, 6)))
    assert cka(x, 3 * x @ turn + 1) == pytest.approx(1.0)
    assert cka(x, draw.normal(size=(50, 6))) < 0.5


def analysed(method: Method):
    bare = build("deit-like")
    adapted = Case(method, bare).perturbed()
    return bare, adapted, updates_of(adapted, bare, [random_images(16, seed=i) for i in range(3)])


def test_an_update_has_the_size_and_rank_of_its_matrix_and_features_move_behind_it_alone() -> None:
    bare, adapted, found = analysed(LoRA(rank=3, targets=("v", "fc2"), blocks=(1,)))
    assert [(u.block, u.module, u.rank) for u in found.updates] == [(1, "v", 3), (1, "fc2", 3)]
    matrix = adapted.blocks[1].mlp.fc2.deltas["fc2"].matrix().detach()
    weight = bare.blocks[1].mlp.fc2.weight
    assert found.updates[1].norm == pytest.approx(float(matrix.norm() / weight.norm()), rel=1e-5)
    assert 1 <= found.updates[1].stable_rank <= 3 and 0 < found.updates[0].dimension < 6
    assert found.similarity[0] == pytest.approx(1.0) and found.similarity[1] < 1 - 1e-6 and found.images == 48
    merged = updates_of(merge(adapted), bare, [random_images(16, seed=i) for i in range(3)])
    for one, other in zip(found.updates, merged.updates, strict=True):
        assert other.norm == pytest.approx(one.norm, rel=1e-3)
        assert other.dimension == pytest.approx(one.dimension, rel=0.02)


def test_other_changes_are_measured_where_they_are() -> None:
    _, _, found = analysed(AdaptFormer())
    assert {(u.module, u.norm, u.rank) for u in found.updates} == {("mlp-residual", None, None)}
    assert all(u.dimension for u in found.updates)
    _, _, found = analysed(BitFit())
    assert {u.rank for u in found.updates} == {0} and {u.norm for u in found.updates} == {0.0}
    assert analysed(DoRA(rank=2))[2].updates[0].rank > 2, "every row has a length of its own"
    with pytest.raises(NotApplicable, match="changes no linear layer"):
        analysed(LayerNorm())


def test_the_command_prints_saves_and_draws(tmp_path: Path) -> None:
    recipe = va.Recipe(lr=3e-2, epochs=2, probe_epochs=1)
    record = va.run(va.RunConfig("random:tiny", LoRA(), "digits", 1, recipe=recipe), tmp_path / "runs")
    figure, runner = tmp_path / "a.svg", CliRunner()
    options = [str(tmp_path / "runs"), "--images", "40", "--cache", str(tmp_path / "cache")]
    shown = runner.invoke(app, ["analyse", *options, "--intrinsic-dimension", "--figure", str(figure)])
    assert shown.exit_code == 0 and "dimension" in shown.stdout and "CKA" in shown.stdout
    assert figure.read_text("utf-8").lstrip().startswith("<?xml")
    plain = json.loads(runner.invoke(app, ["analyse", *options, "--json"]).stdout)[record.digest]
    assert plain["images"] == 40 and len(plain["updates"]) == 2 * len(plain["similarity"])
    assert analyse(record, va.Store(tmp_path / "runs"), images=40).updates[0].rank <= 4
    torch.testing.assert_close(torch.tensor(plain["similarity"]), torch.tensor(plain["similarity"]).clamp(0, 1 + 1e-9))

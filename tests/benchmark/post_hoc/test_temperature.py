"""A temperature that never saw the test images, and reliability by method."""

import dataclasses
import json

import numpy as np
import pytest
from result_cases import record
from typer.testing import CliRunner

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.post_hoc.temperature import calibrate, final_recipe, reliability_of
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.cli.main import app
from vitadapt.methods.spec import parse_method
from vitadapt.metrics.calibration import measures_at, reliability
from vitadapt.training.features import Environment
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, NotApplicable

FAST = Recipe(epochs=2, batch_size=8, lr=1e-2, probe_epochs=2)


def cell(photos, method="linear-probe", **fields):
    return RunConfig("random:tiny", parse_method(method), str(photos), **{"shots": 3, "recipe": FAST, **fields})


def test_a_temperature_is_fitted_without_the_test_images_and_once(photos, tmp_path, monkeypatch):
    store, environment = Store(tmp_path / "runs"), Environment(tmp_path / "cache")
    made = run(cell(photos, "lora"), store, environment)
    first = calibrate(made, store, environment, folds=3)
    assert 0.01 <= first <= 100
    monkeypatch.setattr("vitadapt.benchmark.post_hoc.temperature.out_of_fold", None)  # nothing can be trained any more
    assert calibrate(made, store, environment, folds=3) == first
    (row,) = reliability_of([made], store)
    probabilities, labels = store.predictions(made)
    expected = {**reliability(labels, probabilities), "temperature": first}
    expected |= {f"{name}@T": value for name, value in measures_at(labels, probabilities, first).items()}
    assert row.measures == pytest.approx(expected) and set(row.runs) == {made.digest}


def test_the_temperature_does_not_change_with_the_test_images(photos, tmp_path):
    """The same training images with other test images: the same temperature."""
    environment = Environment()
    first = calibrate(run(cell(photos), tmp_path / "a", environment), Store(tmp_path / "a"), environment)
    for path in sorted((photos / "test").rglob("*.png"))[:4]:
        (tmp_path / "kept").mkdir(exist_ok=True)
        path.rename(tmp_path / "kept" / f"{path.parent.name}-{path.name}")
    try:
        second = calibrate(run(cell(photos), tmp_path / "b", environment), Store(tmp_path / "b"), environment)
    finally:
        for path in (tmp_path / "kept").iterdir():
            label, name = path.name.split("-")
            path.rename(photos / "test" / label / name)
    assert first == second


def test_what_cannot_be_calibrated_says_why(photos, tmp_path):
    store, environment = Store(tmp_path), Environment()
    with pytest.raises(NotApplicable, match="cannot be repeated"):
        calibrate(record("zero-shot"), store, environment)
    with pytest.raises(ConfigError, match="two images per class"):
        calibrate(run(cell(photos, shots=1), store, environment), store, environment)
    with pytest.raises(ConfigError, match="succeeded"):
        calibrate(record(score=None), store, environment)


def test_the_repetition_uses_what_the_run_chose():
    recipe = Recipe(lr=1e-3, head_lr=2e-3)
    assert final_recipe(recipe, {}) == recipe
    chosen = final_recipe(recipe, {"lr": 1e-2, "weight_decay": 0.5, "trace": []})
    assert (chosen.lr, chosen.head_lr, chosen.weight_decay) == pytest.approx((1e-2, 2e-2, 0.5))
    searched = final_recipe(dataclasses.replace(recipe, lr=0.0, head_lr=0.0), {"lr": 0.1, "weight_decay": 0.0})
    assert (searched.lr, searched.head_lr) == (0.1, 0.1)


def stored(store, made, probabilities, labels):
    return store.add(made, probabilities, labels, None)


def test_means_are_over_datasets_and_agreement_is_with_the_zero_shot_run(tmp_path):
    store, rng = Store(tmp_path), np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    drawn = [rng.dirichlet(np.ones(2), 40) for _ in range(4)]
    reference = stored(
        store, dataclasses.replace(record("zero-shot", trained=10), parameters={"trained": 0}), drawn[3], labels
    )
    runs = [("digits", 0), ("digits", 1), ("other", 0)]
    made = [stored(store, record("lora", d, s), p, labels) for (d, s), p in zip(runs, drawn, strict=False)]
    rows = {row.method: row for row in reliability_of([*made, reference], store)}
    by_run = [reliability(labels, store.predictions(one)[0]) for one in made]
    expected = (by_run[0]["nll"] + by_run[1]["nll"]) / 4 + by_run[2]["nll"] / 2
    assert rows["lora"].measures["nll"] == pytest.approx(expected)
    assert "zero-shot" not in rows["lora"].measures  # the other dataset has no zero-shot run
    assert rows["lora"].runs[made[0].digest]["zero-shot"] == pytest.approx(
        (drawn[0].argmax(1) == drawn[3].argmax(1)).mean()
    )
    assert rows["zero-shot"].measures["zero-shot"] == 1.0


def test_the_command_line_shows_them(photos, tmp_path):
    out = tmp_path / "runs"
    made = [
        run(cell(photos, method, seed=s), out, Environment()) for method in ("linear-probe", "bitfit") for s in (0, 1)
    ]
    runner = CliRunner()
    done = runner.invoke(app, ["calibrate", str(out), made[0].digest, "--folds", "2", "--cache", str(tmp_path / "c")])
    assert done.exit_code == 0 and f"{made[0].digest} linear-probe on" in done.stdout
    text = runner.invoke(app, ["results", str(out), "--reliability"]).stdout
    assert "AURC" in text and "15 bins of equal mass" in text
    plain = json.loads(runner.invoke(app, ["results", str(out), "--reliability", "-f", "json"]).stdout)
    assert {row["method"] for row in plain} == {"linear-probe", "bitfit"}
    assert "temperature" in plain[1]["runs"][made[0].digest] and "temperature" not in plain[1]["measures"]
    compared = runner.invoke(app, ["compare", str(out), "--baseline", "linear-probe"]).stdout
    assert "bitfit - linear-probe" in compared and "note: 2 pairs cannot be significant" in compared
    plain = json.loads(runner.invoke(app, ["compare", str(out), "--json"]).stdout)
    assert plain[0]["setting"]["backbone"] == "random:tiny" and len(plain[0]["differences"]) == 1
    curved = runner.invoke(app, ["curve", str(out), made[2].digest[:6], made[0].digest, "--cache", str(tmp_path / "c")])
    assert curved.exit_code == 0 and curved.stdout.count("0.75") == 1 and "changes nothing" in curved.stderr

"""`vitadapt submit`, `score` and `import` from end to end, with small copies of all 20 data sets."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from elevater_cases import make, write_hub
from leaderboard_cases import fill, probabilities, small_suite

from vitadapt.benchmark.leaderboard.suite import required, suite
from vitadapt.benchmark.results.store import Store
from vitadapt.metrics.scores import RELEASED_METRICS


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """(data root, records of a method on all 20, the labels of every data set); test sets of one image per class."""
    root = tmp_path_factory.mktemp("board")
    with small_suite(per_class=1):
        names = [suite()[name].name for name in required()]
        copies = {name: make(name, splits=("train", "test")) for name in names}
        for copy in copies.values():
            write_hub(root / "data", copy)
        truths = {name: copy.labels("test") for name, copy in copies.items()}
        fill(Store(root / "runs"), names, labels=lambda row: truths[row.name])
        yield root / "data", root / "runs", truths


def test_records_become_a_submission_that_is_sound_and_scored(board, vitadapt):
    data, runs, truths = board
    done = vitadapt("submit", runs, "--data-root", data, "-o", "mine.zip", "--model-name", "ours")
    assert (done.returncode, done.stderr) == (0, "") and "mine.zip" in done.stdout
    checked = vitadapt("submit", "--check", "mine.zip", "--data-root", data)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "mine.zip: no problems\n", "")
    scored = vitadapt("score", "mine.zip", "--data-root", data, "--json")
    whole = json.loads(scored.stdout)
    assert scored.returncode == 0 and whole["complete"] and whole["count"] == 20 and whole["trained"] == 1001
    means = []
    for each in whole["datasets"]:
        row = suite()[each["dataset"]]
        metric = RELEASED_METRICS[row.metric]
        matrices = [probabilities(row, 7 * seed).astype(float).round(6) for seed in range(3)]
        expected = [100 * metric(truths[row.name], matrix.astype(np.float32).astype(float)) for matrix in matrices]
        assert each["scores"] == pytest.approx(expected)
        means.append(np.mean(expected))
    assert whole["average"] == pytest.approx(np.mean(means))
    table = vitadapt("score", "mine.zip", "--data-root", data).stdout
    assert f"average {np.mean(means):.2f}, PE" in table and "partial" not in table


def test_what_cannot_be_scored_is_named_and_the_mean_is_called_partial(board, vitadapt, tmp_path):
    data, runs, _ = board
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "classification" / "dtd_20211007")
    vitadapt("submit", runs, "-o", "mine.zip")
    done = vitadapt("score", "mine.zip", "--data-root", tmp_path / "data")
    assert done.returncode == 1 and "dtd: labels not found" in done.stderr
    assert "partial, 19 of 20 data sets" in done.stdout


def test_without_the_leaderboards_own_copy_the_order_of_images_is_said_to_be_unknown(board, vitadapt):
    _, runs, _ = board
    done = vitadapt("submit", runs)
    assert (
        done.returncode == 0 and "order of test images was not compared" in done.stderr and "copy: all" in done.stderr
    )


def test_a_submission_with_gaps_is_written_only_when_asked_for(vitadapt, tmp_path):
    with small_suite():
        fill(Store(tmp_path / "runs"), ["mnist", "dtd"])
        done = vitadapt("submit", "runs")
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and len(lines) == 19 and "18 problems, nothing was written; --partial" in lines[-1]
        assert not (tmp_path / "submission.zip").exists()
        assert vitadapt("submit", "runs", "--partial").returncode == 0
        checked = vitadapt("submit", "--check", "submission.zip")
        assert checked.returncode == 1 and checked.stdout.splitlines()[-1] == "submission.zip: 18 problems"
        by_seed = vitadapt("submit", "runs", "-o", "seeds")
        assert by_seed.returncode == 0 and len(list((tmp_path / "seeds").glob("*.json"))) == 6
        assert vitadapt("submit", "seeds", "--partial", "-o", "again.zip").returncode == 0
        assert (tmp_path / "again.zip").stat().st_size > 1000
        assert vitadapt("submit", "seeds", "-o", "other").returncode == 2


def test_candidates_are_offered_with_the_option_that_takes_each(vitadapt, tmp_path):
    with small_suite():
        for method in ("lora", "bitfit"):
            fill(Store(tmp_path / "runs"), ["mnist"], method=method)
        done = vitadapt("submit", "runs")
        assert done.returncode == 2
        offered = [line.split()[1].rstrip(":") for line in done.stderr.splitlines()[1:]]
        assert len(offered) == 2
        for key in offered:
            assert vitadapt("submit", "runs", "--candidate", key, "--partial", "-o", f"{key}.zip").returncode == 0
        assert vitadapt("submit", "runs", "--method", "lora", "--partial").returncode == 0


def test_results_of_the_toolkit_are_imported_and_shown_as_such(vitadapt, tmp_path):
    folder = tmp_path / "theirs" / "kadapter" / "0" / "vitb32_CLIP" / "log" / "predictions" / "finetuning_5"
    folder.mkdir(parents=True)
    for name, score in (("cifar-10", 91.5), ("cifar-100", 64.0)):
        counts = "num_params is:9, n_trainable_params is:0.079699, backbone_params is:8."
        (folder / f"seed0_{name}.txt").write_text(f"best acc is:{score}, {counts}")
    done = vitadapt("import", "theirs", "-o", "runs")
    assert (done.returncode, done.stderr) == (0, "") and "2 runs imported" in done.stdout
    shown = vitadapt("results", "runs").stdout
    for expected in ("kadapter (imported) †", "† best epoch on the test set", "91.5", "64.0", "79,699"):
        assert expected in shown
    (folder / "seed1_cifar-10.txt").write_text("best acc is")
    damaged = vitadapt("import", "theirs", "-o", "runs")
    assert damaged.returncode == 1 and len(damaged.stderr.splitlines()) == 1 and "2 runs imported" in damaged.stdout


@pytest.mark.parametrize("command", [("submit",), ("submit", "--check"), ("score",), ("import",)])
def test_a_name_that_does_not_exist_is_one_line(vitadapt, command):
    done = vitadapt(*command, "nothing.zip")
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1 and "nothing.zip" in lines[0] and len(lines) <= 2 and "Traceback" not in done.stderr

"""Results of the published toolkit are read for what they say, and for nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from leaderboard_cases import FIELDS, labels_of, probabilities, small_suite
from toolkit_cases import DATE, line, log_text, write

from vitadapt.benchmark.analysis.groups import rows_of
from vitadapt.benchmark.leaderboard.collect import Collection, candidates, choose
from vitadapt.benchmark.leaderboard.import_results import import_results
from vitadapt.benchmark.leaderboard.score import score as scores_of
from vitadapt.benchmark.leaderboard.submission import SubmissionEntry, write_seed
from vitadapt.benchmark.leaderboard.suite import Truth, suite
from vitadapt.benchmark.leaderboard.toolkit_files import read_experiment, read_result
from vitadapt.benchmark.results.store import Store
from vitadapt.metrics.scores import RELEASED_METRICS, performance_efficiency
from vitadapt.report.table import columns_of
from vitadapt.utils.errors import DataError


@pytest.fixture(autouse=True)
def small():
    with small_suite():
        yield


def write_log(output: Path, dataset: str, text: str, experiment: str = "finetuning_5", date: str = DATE) -> Path:
    return write(output / dataset / f"{experiment}_{date}_rank0.txt", text)


def write_result(output: Path, dataset: str, seed: int, score: float, trained: str = "0.079699") -> Path:
    text = (
        f"best acc is:{score}, num_params is:151407362, n_trainable_params is:{trained}, backbone_params is:151277313."
    )
    return write(output / "predictions" / "finetuning_5" / f"seed{seed}_{dataset}.txt", text)


def write_predictions(folder: Path, dataset: str, seed: int, **fields) -> SubmissionEntry:
    plain = {"model_name": "clip", "dataset_name": dataset, **FIELDS, "n_shot": 5, "rnd_seeds": [seed], **fields}
    entry = SubmissionEntry(plain, (probabilities(suite()[dataset], seed),))
    write_seed(folder, entry)
    return entry


def imported(folder: Path, **options):
    return import_results(folder, Store(folder.parent / "runs"), **options)


def test_cifar_10_is_never_cifar_100(tmp_path):
    """Names are compared as wholes, whatever comes first in the folder and whichever of the two is missing."""
    output = tmp_path / "published" / "kadapter" / "0" / "vitb32_CLIP" / "log"
    write_result(output, "cifar-100", 0, 63.5)
    write_result(output, "cifar-10", 0, 91.25)
    write_log(output, "cifar-100", log_text(63.5))
    done = imported(tmp_path / "published")
    assert done.problems == done.skipped == []
    assert {r.config["dataset"]: r.score for r in done.records} == {"cifar-10": 91.25, "cifar-100": 63.5}
    (output / "predictions" / "finetuning_5" / "seed0_cifar-10.txt").unlink()
    assert [r.config["dataset"] for r in import_results(tmp_path / "published", Store(tmp_path / "b")).records] == [
        "cifar-100"
    ]


def test_the_files_of_a_run_become_one_record(tmp_path):
    output = tmp_path / "published" / "kadapter" / "2" / "vitb32_CLIP" / "log"
    write_result(output, "dtd", 2, 70.31914893617021)
    write_log(output, "dtd", log_text(70.319, 69.5))
    write_predictions(output / "predictions" / "finetuning_5", "dtd", 2)
    done = imported(tmp_path / "published")
    (record,) = done.records
    assert done.problems == []
    assert record.method == "kadapter (imported) †" and record.imported
    expected = {"backbone": "vitb32_CLIP", "dataset": "dtd", "shots": 5, "seed": 2, "protocol": "imported"}
    assert {name: record.config[name] for name in expected} == expected
    assert record.score == 70.31914893617021
    assert record.parameters == {"trained": 100, "total": 900, "visual": 800}  # predictions are the most exact
    assert record.chosen == {"lr": 0.01, "weight_decay": 0.0001} and record.created == DATE
    assert record.pe == pytest.approx(performance_efficiency(record.score, 100))
    notes = " ".join(record.notes)
    assert record.caveat == "best epoch on the test set" and "the last epoch had 69.500" in notes
    assert "kadapter/2/vitb32_CLIP/log/dtd" in notes and str(tmp_path) not in notes
    assert "predictions" not in record.files


def test_what_the_files_do_not_say_stays_unknown(tmp_path):
    write_log(tmp_path / "published" / "outputs", "dtd", log_text(70.319))
    (record,) = imported(tmp_path / "published").records
    config = record.config
    assert (config["backbone"], config["seed"], config["image_size"], config["recipe"]) == ("unknown", None, None, None)
    assert record.parameters == {"trained": 14346} and record.seconds == {} and record.versions == {}
    assert record.images == {} and record.losses == [] and record.per_class == []


def test_a_log_without_seed_goes_to_the_only_run_that_it_can_be_of(tmp_path):
    output = tmp_path / "published" / "lora" / "vitb16_CLIP" / "log"
    write_log(output, "dtd", log_text(70.5))
    write_result(output, "dtd", 1, 70.5)
    (record,) = imported(tmp_path / "published").records
    assert record.config["seed"] == 1 and record.chosen["lr"] == 0.01
    write_result(output, "dtd", 2, 60.5)
    records = import_results(tmp_path / "published", Store(tmp_path / "b")).records
    assert sorted(str(record.config["seed"]) for record in records) == ["1", "2", "None"]


def test_importing_twice_changes_nothing_and_the_latest_log_counts(tmp_path):
    output = tmp_path / "published" / "lora" / "0" / "vitb32_CLIP" / "log"
    write_log(output, "dtd", log_text(60.0))
    write_log(output, "dtd", log_text(62.0), date="2022-12-01-00-00")
    first, second = imported(tmp_path / "published"), imported(tmp_path / "published")
    assert first == second and [record.score for record in first.records] == [62.0]
    assert len(Store(tmp_path / "runs").records()[0]) == 1


@pytest.mark.parametrize(("trained", "count"), [("0.079699", 79699), ("7.7e-05", 77), ("77856", 77856), ("512", 512)])
def test_trainable_parameters_are_counts_or_millions(trained, count):
    text = f"best acc is:1.5, num_params is:9, n_trainable_params is:{trained}, backbone_params is:8."
    assert read_result(Path("x"), text).trained == count


@pytest.mark.parametrize(
    ("name", "kind", "shots", "variant"),
    [
        ("finetuning_5", "finetuning", 5, ""),
        ("finetuning_full_two_lr", "finetuning", None, "two_lr"),
        ("linear_probe_20", "linear_probe", 20, ""),
        ("zeroshot_eval_wiki_False_wnh_False_wnd_False_gpt3_Falseagg_WIKI_AND_GPT3_gpt3count_0", "zeroshot", 0, ""),
        ("zeroshot_eval_wiki_True_wnh_False_wnd_True_gpt3_Trueagg_X_gpt3count_5", "zeroshot", 0, "wiki+wnd+gpt3"),
    ],
)
def test_names_of_experiments(name, kind, shots, variant):
    found = read_experiment(name)
    assert (found.kind, found.shots, found.variant) == (kind, shots, variant)
    assert read_experiment(name[1:]) is None and read_experiment("finetuning_") is None


def test_every_kind_of_run_is_called_what_it_is(tmp_path):
    output = tmp_path / "published" / "{finetune}" / "0" / "vitb32_CLIP" / "log"
    write_log(output, "dtd", log_text(50.0))
    write_log(output, "dtd", log_text(51.0), "linear_probe_5")
    write_log(output, "dtd", log_text(52.0), "finetuning_5_two_lr")
    write_log(output, "dtd", line("=> TEST: accuracy 44.300% "), "zeroshot_eval_wiki_False_wnh_False")
    records = imported(tmp_path / "published").records
    assert {record.method: record.score for record in records} == {
        "finetune (imported) †": 50.0,
        "linear-probe (imported) †": 51.0,
        "finetune two_lr (imported) †": 52.0,
        "zero-shot (imported)": 44.3,
    }
    assert {r.config["shots"] for r in records if "zero-shot" in r.method} == {0}
    named = import_results(tmp_path / "published", Store(tmp_path / "b"), method="mine").records
    assert {record.method.removesuffix(" †") for record in named} == {
        f"{name} (imported)" for name in ("mine", "mine two_lr", "linear-probe", "zero-shot")
    }


DAMAGED = {
    "unfinished": (lambda o: write_log(o, "dtd", log_text(finished=False)), "was not finished"),
    "stopped": (lambda o: write_log(o, "dtd", log_text().rsplit("2022", 1)[0]), "was not finished"),
    "metric": (lambda o: write_log(o, "dtd", log_text(metric="roc_auc")), "is not that of dtd"),
    "set": (lambda o: write_log(o, "ping-whiskey-plus", log_text()), "'ping-whiskey-plus' is no data set"),
    "line": (lambda o: write(o / "predictions" / "finetuning_5" / "seed0_dtd.txt", "best acc is:"), "damaged"),
    "score": (lambda o: write_result(o, "dtd", 0, float("nan")), "is no percentage"),
    "million": (lambda o: write_result(o, "dtd", 0, 1.0, "1e300"), "cannot be"),
    "json": (lambda o: write(o / "predictions" / "finetuning_5" / "seed0_dtd.json", '{"model_name": "x'), "not JSON"),
    "no score": (lambda o: write_predictions(o / "predictions" / "finetuning_5", "dtd", 0), "without a score"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_line_and_the_others_are_read(tmp_path, case):
    output = tmp_path / "published" / "lora" / "0" / "vitb32_CLIP" / "log"
    write_log(output, "mnist", log_text(97.0))
    breaks, message = DAMAGED[case]
    breaks(output)
    done = imported(tmp_path / "published")
    (problem,) = done.problems
    assert message in problem and "\n" not in problem and str(output) in problem
    assert [record.config["dataset"] for record in done.records] == ["mnist"]


def test_names_that_lie_about_their_content_are_found(tmp_path):
    folder = tmp_path / "published" / "lora" / "0" / "vitb32_CLIP" / "log" / "predictions" / "finetuning_5"
    write_predictions(folder, "cifar-100", 0)
    (folder / "seed0_cifar-100.json").rename(folder / "seed0_cifar-10.json")
    write_predictions(folder, "dtd", 1)
    (folder / "seed1_dtd.json").rename(folder / "seed0_dtd.json")
    done = imported(tmp_path / "published")
    assert done.records == [] and len(done.problems) == 2
    assert all("its name and its content disagree" in problem for problem in done.problems)


def test_foreign_files_are_named_and_left_out(tmp_path):
    folder = tmp_path / "published"
    for name in ("README.txt", "x/notes.md", "predictions/other/seed0_dtd.txt", ".hidden/a.txt", ".DS_Store"):
        write(folder / name, "best acc is: nothing")
    done = imported(folder)
    assert done.records == done.problems == [] and len(done.skipped) == 3
    with pytest.raises(DataError, match="is no folder"):
        imported(tmp_path / "nothing")


def test_scores_that_disagree_are_told(tmp_path):
    output = tmp_path / "published" / "lora" / "0" / "vitb32_CLIP" / "log"
    write_log(output, "dtd", log_text(70.0))
    write_result(output, "dtd", 0, 61.0)
    done = imported(tmp_path / "published")
    assert [record.score for record in done.records] == [61.0]
    assert "70.000, but seed0_dtd.txt says 61.000" in done.problems[0]


def test_two_folders_with_the_same_run_are_not_mixed(tmp_path):
    for above in ("a", "b"):
        write_result(tmp_path / "published" / above / "lora" / "0" / "vitb32_CLIP" / "log", "dtd", 0, 50.0)
    done = imported(tmp_path / "published")
    assert done.records == [] and "the same run as" in done.problems[0]


def test_one_name_for_two_methods_does_not_mix_them(tmp_path):
    for method, score in (("lora", 50.0), ("adapter", 60.0)):
        write_result(tmp_path / "published" / method / "0" / "vitb32_CLIP" / "log", "dtd", 0, score)
    done = imported(tmp_path / "published", method="mine")
    assert len(done.records) == len(done.problems) == 1 and "each with its --method" in done.problems[0]
    assert len(imported(tmp_path / "published").records) == 2


def test_with_labels_predictions_are_scored_kept_and_can_be_handed_in(tmp_path):
    folder = tmp_path / "published" / "seeds"
    entries = [write_predictions(folder, name, seed) for name in ("dtd", "mnist") for seed in range(3)]
    done = imported(tmp_path / "published", truths=lambda row: Truth(labels_of(row), True, "hub"))
    assert done.problems == [] and len(done.records) == 6
    for record in done.records:
        row = suite()[record.config["dataset"]]
        scores = np.round(probabilities(row, record.config["seed"]).astype(float), 6).astype(np.float32)
        expected = 100 * RELEASED_METRICS[row.metric](labels_of(row), scores.astype(float))
        assert record.score == pytest.approx(expected)
    store = Store(tmp_path / "runs")
    made = list(Collection(store, choose(candidates(store.records()[0])), lambda _: None).entries())
    assert {entry.dataset: entry.seeds for entry in made} == {"dtd": [0, 1, 2], "mnist": [0, 1, 2]}
    for entry in made:
        before = [each for each in entries if each.dataset == entry.dataset]
        assert entry.fields["num_params"] == 900 and entry.fields["num_backbone_params"] == 800
        for first, second in zip(before, entry.predictions, strict=True):
            assert np.abs(first.predictions[0] - second).max() < 1e-6


def test_counts_that_no_file_gives_are_missing_in_a_submission_too(tmp_path):
    entry = write_predictions(tmp_path / "first", "dtd", 0)
    fields = {key: value for key, value in entry.fields.items() if not key.startswith("num_")}
    write_seed(tmp_path / "published", SubmissionEntry(fields, entry.predictions))
    (record,) = imported(tmp_path / "published", truths=lambda row: Truth(labels_of(row), True, "hub")).records
    assert record.parameters == {} and record.pe is None
    store = Store(tmp_path / "runs")
    (made,) = Collection(store, choose(candidates([record])), lambda _: None).entries()
    assert made.fields == fields


@pytest.mark.parametrize("count", [-(2**31), True, "many", 2**70, float("nan"), None])
def test_what_can_be_no_count_of_parameters_counts_as_not_given(tmp_path, count):
    entry = write_predictions(tmp_path / "published", "dtd", 0, num_trainable_params=count)
    truth = Truth(labels_of(suite()["dtd"]), True, "hub")
    (record,) = imported(tmp_path / "published", truths=lambda row: truth).records
    assert record.parameters == {} and record.pe is None and record.score is not None
    (found,) = scores_of([entry], lambda row: truth)
    assert found.trained is None and not found.problem


def test_labels_of_another_order_show_up_as_another_score(tmp_path):
    output = tmp_path / "published" / "lora" / "0" / "vitb32_CLIP" / "log"
    write_result(output, "dtd", 0, 99.0)
    write_predictions(output / "predictions" / "finetuning_5", "dtd", 0)
    done = imported(tmp_path / "published", truths=lambda row: Truth(labels_of(row), True, "hub"))
    assert len(done.problems) == 1 and "but seed0_dtd.txt says 99.000" in done.problems[0]
    assert "predictions" not in done.records[0].files


def test_imported_rows_are_marked_in_tables(tmp_path):
    write_log(tmp_path / "published" / "lora" / "0" / "vitb32_CLIP" / "log", "dtd", log_text(70.0))
    imported(tmp_path / "published")
    records, damaged = Store(tmp_path / "runs").records()
    head, body = columns_of(rows_of(records))
    assert damaged == [] and body[0][head.index("method")] == "lora (imported) †"
    assert json.loads(records[0].to_json())["config"]["protocol"] == "imported"

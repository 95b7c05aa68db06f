"""Statistics of paired differences against scipy and known cases, and what `compare` makes of records."""

import dataclasses
import itertools

import numpy as np
import pytest
from result_cases import record
from scipy import stats

from vitadapt.benchmark.analysis.comparison import compare, difference
from vitadapt.benchmark.analysis.pairing import RunKey, by_setting
from vitadapt.benchmark.analysis.ranking import Drop, Ranking, rank
from vitadapt.cli.analysis import print_ranking
from vitadapt.metrics.significance import (
    adjusted,
    average_ranks,
    bootstrap_interval,
    detectable_difference,
    friedman,
    paired_test,
)
from vitadapt.utils.errors import UnknownName

DATASETS = ("digits", "mnist-5k", "fashion", "cards")


def grid(methods, datasets=DATASETS, seeds=3, shift=0.0, spread=1.0):
    """Records of a full benchmark: method m has `methods[m]` points over a score that dataset and seed set."""
    rng, found = np.random.default_rng(0), []
    for dataset, seed in itertools.product(datasets, range(seeds)):
        level = 70 + shift + 5 * rng.normal()
        for method, gain in methods.items():
            found.append(record(method, dataset, seed, level + gain + spread * rng.normal()))
    return found


def cells(values, datasets=("a",)):
    """dataset, seed in turn -> value."""
    keys = [RunKey(d, s, "", "") for d in datasets for s in range(len(values) // len(datasets))]
    return dict(zip(keys, values, strict=True))


# numbers


@pytest.mark.parametrize("count", [6, 13, 14, 30])
def test_signed_rank_agrees_with_scipy_where_it_is_exact(count):
    values = np.random.default_rng(count).normal(0.4, 1, count)
    assert paired_test(values).p == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


def test_signed_rank_with_ties_and_zeros_is_the_share_of_all_signs():
    values = np.array([1.0, 1.0, -1.0, 2.0, 0.0, 3.0])
    ranks = stats.rankdata(np.abs(values)) * (values != 0)  # Pratt: zeros take part in the ranking, and have no sign
    signs = np.array(list(itertools.product([1, -1], repeat=6)))
    sums = (signs * ranks).sum(axis=1)
    observed = (np.sign(values) * ranks).sum()
    assert paired_test(values).p == pytest.approx(np.mean(np.abs(sums) >= abs(observed) - 1e-9))


def test_what_no_number_of_pairs_can_show():
    assert paired_test([1.0, 2.0, 3.0]).smallest == 0.25 == paired_test([1.0, 2.0, 3.0]).p
    assert paired_test([0.0] * 8).p == 1.0
    assert paired_test([5.0]).detectable is None


def test_rounding_errors_are_not_differences():
    assert paired_test([80.1 - 80.0 - 0.1] * 8).p == 1.0


def test_holm_by_hand():
    assert adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted([0.6, 0.7]) == [1.0, 1.0]
    assert adjusted([]) == []


@pytest.mark.parametrize("count", [5, 12, 60])
def test_the_detectable_difference_is_detected_four_times_in_five(count):
    values = np.random.default_rng(count).normal(0, 2, count)
    delta = detectable_difference(values)
    truth = stats.ttest_1samp(values, 0)  # only to name the test that is meant
    assert truth.df == count - 1
    rng = np.random.default_rng(1)
    drawn = rng.normal(delta, values.std(ddof=1), (4000, count))
    assert (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.025)


def test_the_detectable_difference_of_a_textbook():
    """Cohen 1988: 34 pairs find d = 0.5 with power 0.8 at the two-sided level 0.05."""
    values = stats.zscore(np.arange(34.0), ddof=1)
    assert detectable_difference(values) == pytest.approx(0.5, abs=0.01)


def test_the_interval_of_one_group_is_scipys():
    values = np.random.default_rng(0).normal(1, 1, 20)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9999, random_state=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_interval([values]) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(seeds, monkeypatch):
    """20 datasets whose effects spread by 1 around 0.5, seeds by 1 more: 95 % should hold 0.5."""
    monkeypatch.setattr("vitadapt.metrics.significance.RESAMPLES", 499)
    rng, covered, trials = np.random.default_rng(0), 0, 200
    for _ in range(trials):
        groups = 0.5 + rng.normal(size=(20, 1)) + rng.normal(size=(20, seeds))
        low, high = bootstrap_interval(groups)
        covered += low <= 0.5 <= high
    assert 0.9 <= covered / trials <= 0.99


def test_groups_of_different_size_count_the_same():
    even = bootstrap_interval([[1.0], [3.0], [1.0], [3.0], [2.0]])
    uneven = bootstrap_interval([[1.0] * 9, [3.0], [1.0] * 2, [3.0] * 4, [2.0]])
    assert even == pytest.approx(uneven)
    assert bootstrap_interval([[1.0, 2.0], [3.0, 4.0]]) == (None, None)


def test_ranks_and_friedman_agree_with_scipy():
    scores = np.random.default_rng(0).normal([0, 0.5, 1, 1.5], size=(8, 4))
    assert friedman(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert average_ranks(np.array([[3.0, 1.0, 3.0], [2.0, 1.0, 0.0]])).tolist() == [1.25, 2.5, 2.25]
    assert friedman(np.ones((4, 3))) == 1.0
    assert friedman(scores[:, :2]) is None is friedman(scores[:1])


# records


def test_pairs_are_the_cells_that_both_have():
    scores = {"a": cells([80.0, 82.0, 84.0]), "b": cells([79.0, 83.0])}
    found = difference("a", "b", scores)
    assert (found.mean, found.cells.count, found.left_out) == (0.0, 2, 1)
    assert (found.wins, found.ties, found.losses) == (1, 0, 1)
    assert difference("a", "c", {**scores, "c": cells([1.0], ["other"])}) is None


def test_every_dataset_counts_the_same():
    a = {
        RunKey("x", 0, "", ""): 3.0,
        RunKey("y", 0, "", ""): 0.0,
        RunKey("y", 1, "", ""): 0.0,
        RunKey("y", 2, "", ""): 0.0,
    }
    assert difference("a", "b", {"a": a, "b": dict.fromkeys(a, 0.0)}).mean == 1.5


def test_the_order_of_the_records_changes_nothing():
    records = grid({"lora": 2, "bitfit": 1, "linear-probe": 0})
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    assert compare(shuffled) == compare(records)


def test_what_all_methods_gain_alike_changes_scores_and_no_difference():
    (low,), (high,) = (compare(grid({"lora": 1, "bitfit": 0}, shift=s)) for s in (0, 10))
    assert [round(h.mean - s.mean, 6) for h, s in zip(high.summaries, low.summaries, strict=True)] == [10, 10]
    for mine, other in zip(high.differences, low.differences, strict=True):
        assert (mine.mean, mine.low, mine.high) == pytest.approx((other.mean, other.low, other.high))
        assert mine.cells.p == other.cells.p and mine.wins == other.wins
    assert high.ranking.ranks == low.ranking.ranks


def test_a_comparison_turned_round_has_the_opposite_sign():
    (first,) = compare(grid({"lora": 1, "bitfit": 0}), baseline="bitfit")
    (second,) = compare(grid({"lora": 1, "bitfit": 0}), baseline="lora")
    (one,), (two,) = first.differences, second.differences
    assert one.mean == pytest.approx(-two.mean) and one.cells.p == two.cells.p
    assert (one.wins, one.losses) == (two.losses, two.wins)


def test_a_real_gain_is_found_and_noise_is_not():
    (found,) = compare(grid({"lora": 3, "bitfit": 0, "linear-probe": 0}), baseline="linear-probe")
    gain = {d.method: d for d in found.differences}
    assert gain["lora"].low > 0 and gain["lora"].cells.holm < 0.05
    assert gain["bitfit"].low < 0 < gain["bitfit"].high and gain["bitfit"].cells.holm > 0.05
    assert found.ranking.ranks["lora"] == min(found.ranking.ranks.values())
    assert found.ranking.friedman < 0.05 and found.ranking.order[0] == "lora"


def test_settings_are_never_mixed():
    records = grid({"lora": 1, "bitfit": 0}, seeds=2)
    other = [
        dataclasses.replace(r, config={**r.config, "shots": 20}, digest=r.digest[::-1], score=r.score + 20)
        for r in records
    ]
    both = compare(records + other)
    assert len(both) == 2 and {len(c.differences) for c in both} == {1}
    assert [c.differences[0].mean for c in both] == pytest.approx([both[0].differences[0].mean] * 2)
    assert set(by_setting(records + other)) == {c.setting for c in both}


def test_runs_on_other_test_images_are_not_paired():
    records = grid({"lora": 1, "bitfit": 0}, seeds=2)
    images = {"train": [], "test": "other", "test_count": 1}
    moved = [dataclasses.replace(r, images=images) if r.method == "bitfit" else r for r in records]
    (found,) = compare(moved)
    assert found.differences == () and any("share no dataset and seed" in note for note in found.notes)


def test_the_same_method_with_two_recipes_is_two():
    one = record(score=80.0)
    recipe = {**one.config["recipe"], "lr": 0.5}
    two = dataclasses.replace(one, config={**one.config, "recipe": recipe}, digest="f" * 16, score=81.0)
    (found,) = compare([one, two])
    assert "lora [lr=0.5]" in {s.method for s in found.summaries}


def test_a_diverged_run_is_left_out_and_told():
    (found,) = compare([*grid({"lora": 1, "bitfit": 0}), record("lora", "extra", 0, score=None)])
    assert any("lora: 1 diverged" in note for note in found.notes)
    assert {s.method: s.diverged for s in found.summaries} == {"lora": 1, "bitfit": 0}


def test_too_few_pairs_are_told_with_the_remedy():
    (found,) = compare(grid({"lora": 1, "bitfit": 0, "attention": 0}, datasets=["digits"], seeds=3))
    notes = " ".join(found.notes)
    assert "3 pairs cannot be significant among 3 comparisons" in notes and "7 pairs can" in notes
    assert "at least five pairs" in notes and "one dataset" in notes
    assert 2.0 ** (1 - 7) * 3 <= 0.05 < 2.0 ** (1 - 6) * 3  # 7 is the least


def test_one_method_alone_is_told():
    (found,) = compare(grid({"lora": 0}))
    assert found.ranking is None and "nothing to compare" in found.notes[0]


def test_an_unknown_baseline_is_named():
    with pytest.raises(UnknownName, match="did you mean lora"):
        compare(grid({"lora": 1, "bitfit": 0}), baseline="lara")


def test_the_order_that_one_dataset_decides_is_shown():
    a, b = cells([80.0, 80.0, 60.0], ["x", "y", "z"]), cells([79.0, 79.0, 70.0], ["x", "y", "z"])
    ranking = rank({"a": a, "b": b})
    assert ranking.order == ("b", "a")
    (change,) = ranking.changes
    assert change.without == "dataset z" and change.swapped == (("a", "b"),) and change.order == ("a", "b")
    assert change.tau == pytest.approx(-1.0)
    assert [drop.without for drop in ranking.drops] == ["dataset x", "dataset y", "dataset z"]  # one seed: none to drop


def test_an_order_that_all_cells_share_does_not_change():
    (found,) = compare(grid({"lora": 9, "bitfit": 5, "linear-probe": 0}, spread=0.1))
    assert found.ranking.changes == [] and len(found.ranking.drops) == len(DATASETS) + 3
    assert all(drop.tau == 1.0 for drop in found.ranking.drops)


def test_ranks_are_over_cells_that_all_have():
    assert rank({"a": cells([1.0]), "b": cells([1.0], ["other"])}) is None
    ranking = rank({"a": cells([1.0, 2.0, 3.0]), "b": cells([1.0, 1.0])})
    assert ranking.cells == 2 and ranking.ranks == {"a": 1.25, "b": 1.75}


def test_runs_whose_seed_is_not_known_are_compared_by_dataset():
    known = grid({"linear-probe": 0.0, "lora": 2.0})
    unknown = [dataclasses.replace(r, config={**r.config, "seed": None}) for r in known if r.config["seed"] == 0]
    found = compare([*known, *unknown])
    assert found
    assert compare([*reversed(unknown), *known]) == found


def test_pairs_that_change_places_are_named_when_few_and_counted_when_many(capsys):
    names = tuple("abcde")
    few, many = (("a", "b"),), tuple(itertools.combinations(names, 2))
    drops = (Drop("seed 0", names, few, 0.8), Drop("seed 1", names[::-1], many, -1.0))
    print_ranking(Ranking(2, 2, {}, None, None, names, drops))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "  without seed 0: a / b change places",
        "  without seed 1: 10 of 10 pairs (Kendall's tau -1.00; --json lists them) change places",
    ]

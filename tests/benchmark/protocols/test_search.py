"""The searches against the published traces, and the laws that every search keeps."""

import itertools
import math

import pytest

from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.protocols.search import (
    Grid,
    Trial,
    coarse_to_fine,
    draw_points,
    halve,
    neighbours,
    rung_sizes,
    search_decays,
    try_all,
)
from vitadapt.benchmark.protocols.standard import Halving
from vitadapt.utils.errors import Diverged

COARSE = [0, 16, 32, 48, 64, 80, 96]
GRID = Grid()


def left_only(peak, span, last):
    """Both neighbours are tried with the weight decay of the left one."""
    return [(max(peak - span, 0), credited) for _, credited in neighbours(peak, span, last)]


def index_of(decay):
    return round(8 * (math.log10(decay) + 6))


def ridge_of(score, refine=neighbours):
    """The trace, as indices after the coarse pass, and the outcome of the search at one learning rate."""
    ridge = search_decays(lambda lr, decay: score(index_of(decay)), 1e-3, GRID, refine)
    trace = [index_of(trial.weight_decay) for trial in ridge.trials]
    assert trace[:7] == COARSE
    return trace[7:], ridge


def test_the_grid_is_the_published_one():
    assert GRID.lrs == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    assert len(GRID.decays) == 97 and list(GRID.coarse) == COARSE
    assert [GRID.decays[i] for i in (0, 37, 96)] == pytest.approx([1e-6, 10**-1.375, 1e6])
    assert GRID.most_trials == 90


@pytest.mark.parametrize(
    ("peak", "trace", "exponent"),
    [
        (0, [8, 4, 2, 1], -6),
        (96, [88, 92, 94, 95], 6),
        (16, [8, 24, 12, 20, 14, 18, 15, 17], -4),
        (37, [24, 40, 36, 44, 34, 38, 35, 37], -1.375),
        (3, [8, 4, 2, 6, 3, 5], -5.625),
    ],
)
def test_published_traces(peak, trace, exponent):
    seen, ridge = ridge_of(lambda index: 100 - abs(index - peak))
    assert seen == trace
    assert ridge.index == peak and GRID.decays[ridge.index] == pytest.approx(10**exponent)


def test_published_traces_with_the_left_neighbours_weight_decay():
    seen, ridge = ridge_of(lambda index: 100 - abs(index - 37), left_only)
    assert seen == [24, 24, 28, 28, 30, 30, 31, 31] and GRID.decays[ridge.index] == pytest.approx(1e-2)
    assert ridge_of(lambda index: 100 - index, left_only)[0] == [0, 0, 0, 0]


def test_the_point_for_which_a_score_counts_wins_even_if_another_was_tried():
    rising = iter(range(1, 100))
    _, ridge = ridge_of(lambda index: float(next(rising)), left_only)  # a training that is not repeatable
    best = ridge.trials[-1]
    assert (ridge.index, ridge.score) == (index_of(best.credited), best.score) == (95, 14.0)
    assert index_of(best.weight_decay) == 93


def test_ties_go_to_the_first():
    assert ridge_of(lambda index: 50.0)[1].index == 0
    choice = coarse_to_fine(lambda lr, decay: 50.0)
    assert (choice.lr, choice.weight_decay) == (1e-6, GRID.decays[0])


@pytest.mark.parametrize("score", [0.0, None])
def test_published_trace_when_nothing_scores(score):
    seen, ridge = ridge_of(lambda index: score)
    assert seen == [0, 7, 0, 3, 0, 1, 0, 0]
    assert GRID.decays[ridge.index] == pytest.approx(1e6) and ridge.score == 0


def test_zero_everywhere_chooses_the_first_trial_and_divergence_everywhere_is_said():
    choice = coarse_to_fine(lambda lr, decay: 0.0 if lr >= 1e-3 else None)
    assert (choice.lr, choice.weight_decay, choice.score) == (1e-3, GRID.decays[0], 0.0)
    for search in (
        lambda: coarse_to_fine(lambda lr, decay: None),
        lambda: try_all(lambda lr, decay: None, [(1.0, 1.0)]),
        lambda: halve(lambda lr, decay, epochs: None, [(1.0, 1.0)], [1, 2], 3),
    ):
        with pytest.raises(Diverged, match="all"):
            search()


@pytest.mark.parametrize("lr", GRID.lrs)
@pytest.mark.parametrize("peak", [0, 5, 50, 96])
def test_a_single_summit_is_found(lr, peak):
    def score(rate, decay):
        if decay > GRID.decays[min(peak + 30, 96)]:
            return None
        return 100 - abs(index_of(decay) - peak) - 50 * abs(math.log10(rate / lr))

    choice = coarse_to_fine(score)
    assert choice.lr == lr and choice.weight_decay == GRID.decays[peak]
    assert choice.score == max(trial.score for trial in choice.trials if trial.score is not None)
    assert choice.runs <= len(choice.trials) <= GRID.most_trials
    assert not any(trial.tie for trial in choice.trials)


def test_try_all_keeps_the_first_of_equals():
    choice = try_all(
        lambda lr, decay: {1.0: 3.0, 2.0: 5.0, 3.0: 5.0, 4.0: None}[lr], [(i, 0.0) for i in (1.0, 2, 3, 4)]
    )
    assert choice.lr == 2 and [trial.score for trial in choice.trials] == [3, 5, 5, None]


def test_points_are_spread_over_the_grid_and_depend_on_the_seed_alone():
    points = draw_points(GRID, 6, 0)
    assert points == draw_points(GRID, 6, 0) != draw_points(GRID, 6, 1)
    assert len(points) == len(set(points)) == 36
    for lr in GRID.lrs:
        indices = [index_of(decay) for rate, decay in points if rate == lr]
        edges = [0, 16, 32, 48, 65, 81, 97]
        assert all(low <= index < high for index, (low, high) in zip(indices, itertools.pairwise(edges), strict=True))


def test_halving_goes_on_with_the_best_and_never_with_a_diverged_one():
    points = [(float(i), 0.0) for i in range(9)]
    asked = []

    def score(lr, decay, epochs):
        asked.append((lr, epochs))
        return None if lr == 8 else (lr, 0.0)

    choice = halve(score, points, [2, 6, 18], 3)
    assert rung_sizes(9, [2, 6, 18], 3) == [9, 3, 1]
    assert asked[9:] == [(7, 6), (6, 6), (5, 6), (7, 18)]
    assert (choice.lr, choice.score) == (7, 7) and len(choice.trials) == 13


def test_halving_falls_back_to_the_last_rung_that_anyone_finished():
    choice = halve(lambda lr, decay, epochs: (lr, 0.0) if epochs == 2 else None, [(1.0, 0.0), (2.0, 0.0)], [2, 6], 2)
    assert choice.lr == 2 and choice.trials[-1] == Trial(2.0, 0.0, None, "rung 2", 0.0, 6, tie=0.0)


def test_halving_ties_go_to_the_first():
    points = [(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]
    assert halve(lambda lr, decay, epochs: (1.0, -5.0), points, [1, 2], 2).lr == 1
    assert halve(lambda lr, decay, epochs: (1.0, lr), points, [1, 2], 2).lr == 3
    assert halve(lambda lr, decay, epochs: (-lr, lr), points, [1, 2], 2).lr == 1


def test_what_halving_keeps_is_trained_as_many_times_longer():
    halving = PROTOCOLS["halving"]
    assert isinstance(halving, Halving) and halving.rungs == tuple(halving.rungs[0] * halving.keep**i for i in range(3))

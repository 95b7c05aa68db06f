"""Selection among candidates: nothing that answers for an image has seen it, and hopeless candidates stop early."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from vitadapt.classifier.effort import FINAL, Schedule
from vitadapt.classifier.model_selection import Candidate, _cannot_win, cross_selected, odds, select
from vitadapt.utils.progress import EVERY, ProgressLines, duration


def candidate(name: str, answers: list[int], sure: float = 0.9) -> Candidate:
    """One that gives `sure` to its answers among two classes."""
    probabilities = np.full((len(answers), 2), 1 - sure)
    probabilities[np.arange(len(answers)), answers] = sure
    labels = np.zeros(len(answers), dtype=int)
    score = 100 * float((np.array(answers) == labels).mean())
    return Candidate(name, cast(Any, None), 1, probabilities, score=score)


def test_an_image_is_answered_by_the_candidate_that_is_best_on_the_others():
    groups, labels = np.array([0, 0, 1, 1]), np.zeros(4, dtype=int)
    a, b = candidate("a", [0, 0, 1, 1]), candidate("b", [1, 1, 0, 0])  # each is right where it may not answer
    assert (cross_selected([a, b], labels, groups).argmax(axis=1) == 1).all()
    c = candidate("c", [0, 0, 0, 1])
    assert select([a, b, c]) is c
    assert cross_selected([c, a, b], labels, groups).argmax(axis=1).tolist() == [1, 1, 0, 1]
    assert cross_selected([c, a, b], labels, np.arange(4)).argmax(axis=1).tolist() == [0, 0, 0, 1]


def test_odds_are_even_for_equals_and_sure_for_one_that_is_always_better():
    labels = np.zeros(20, dtype=int)
    good, bad = candidate("good", [0] * 20), candidate("bad", [1] * 20)
    assert odds(good, good, labels) == 0.5 and odds(good, bad, labels) == 1.0
    assert odds(good, Candidate("x", cast(Any, None), 1), labels) is None


def test_a_candidate_stops_when_it_has_made_more_mistakes_than_the_leader_makes_in_all_or_is_surely_less_likely():
    labels, seen = np.zeros(40, dtype=int), np.arange(40) < 20
    leader = candidate("leader", [1] * 2 + [0] * 38).probabilities
    worse, equal = candidate("w", [1] * 3 + [0] * 37).probabilities, candidate("e", [1, 1] + [0] * 38).probabilities
    assert leader is not None and worse is not None and equal is not None
    assert _cannot_win(worse, leader, labels, seen, 0.05)
    assert not _cannot_win(equal, leader, labels, seen, 0.05)
    labels, seen = np.zeros(200, dtype=int), np.arange(200) < 100
    leader = candidate("leader", [1] * 2 + [0] * 186 + [1] * 12, 0.98).probabilities
    behind = candidate("b", [1] * 10 + [0] * 190).probabilities  # fewer mistakes than the leader makes in all
    assert leader is not None and behind is not None
    assert _cannot_win(behind, leader, labels, seen, 0.05) and not _cannot_win(leader, leader, labels, seen, 0.05)
    little = candidate("l", [1] * 3 + [0] * 197).probabilities
    assert little is not None
    assert _cannot_win(little, leader, labels, seen, 0.5) and not _cannot_win(little, leader, labels, seen, 0.05)


def test_a_schedule_refuses_what_does_not_fit_and_learns_its_pace():
    now = [0.0]
    schedule = Schedule(limit=100, longest=None, now=lambda: now[0])
    schedule.steps |= {("probe", 0): 10, ("lora", 0): 5, ("lora", 1): 50, (FINAL, 0): 20}
    assert not schedule.refusal("lora") and schedule.left() == 85
    schedule.begin()
    now[0] = 30.0
    schedule.finished("probe")
    assert schedule.left("lora") == pytest.approx(3 * 55) and "time limit" in schedule.refusal("lora")
    schedule.drop("lora")
    assert schedule.left() == pytest.approx(60) and schedule.text() == "about 60 s left"
    brief = Schedule(limit=60, now=lambda: 0.0)
    brief.steps["long", 1] = 1000.0  # for which there is no time: it takes part in no promise
    assert brief.text() == "about 60 s left"
    long = Schedule(longest=1000, now=lambda: 0.0)
    long.steps["lora", 0] = 7200
    assert "2.0 h; --effort best" in long.refusal("lora")


def test_without_a_terminal_a_long_step_gets_lines_with_the_time_left_and_a_short_one_none():
    now, lines = [0.0], list[str]()
    report = ProgressLines(lines.append, now=lambda: now[0])
    for done in range(1, 101):
        now[0] += 0.1
        report("short", done, 100)
    assert not lines
    for done in range(1, 101):
        now[0] += 1.0
        report("long", done, 100)
    assert len(lines) == 100 // EVERY - (100 % EVERY == 0) and lines[0].startswith("long: 21 %, about 80 s left")
    assert [duration(seconds) for seconds in (0.2, 4, 44, 150, 7200)] == ["1 s", "4 s", "40 s", "2 min", "2.0 h"]

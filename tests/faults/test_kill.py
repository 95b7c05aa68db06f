"""SIGKILL at every kind of step and at random moments: nothing half-written counts, nothing is lost, doubled or left.

Four times here; `make test-faults` does hundreds, VITADAPT_KILLS=12 a dozen. docs/faults.md says what is promised.
"""

from __future__ import annotations

import random
import signal
import time

import pytest
from fault_cases import KILLS, SCENARIOS, SHORT, TASTE, Prepared, prepared, spread, with_forks

pytestmark = with_forks

WEIGHT = {"caching": 4, "training": 4, "benching": 4, "recording": 3, "fitting": 3}
OTHERS = 2
FEW = ("caching", "benching") if TASTE else ("caching", "training", "searching", "benching")
SHARES = dict.fromkeys(FEW, 1) if KILLS <= SHORT else {name: WEIGHT.get(name, OTHERS) for name in SCENARIOS}


def kills(case: Prepared, share: int) -> list[dict]:
    """Two thirds spread over the steps of the command, the rest at random moments."""
    chance = random.Random(case.scenario.name)
    at_steps = spread(-(-2 * share // 3), range(len(case.steps)), chance)
    moments = [chance.uniform(0, case.seconds) for _ in range(share - len(at_steps))]
    return [{"fault": "kill", "at": at} for at in at_steps] + [{"send": (signal.SIGKILL, when)} for when in moments]


@pytest.mark.parametrize("name", SHARES)
def test_a_command_that_is_killed_goes_on_to_the_same_bytes(name):
    start, case = time.monotonic(), prepared(name)
    faults, cuts = kills(case, max(1, round(KILLS * SHARES[name] / sum(SHARES.values())))), 0
    for number, fault in enumerate(faults):
        place, chance = case.copy(), random.Random(number)
        recorded = place.records()
        cuts += place.call(case.scenario, **fault).status == -signal.SIGKILL
        place.check_halfway()
        recorded |= {path: data for path, data in place.records().items() if path not in recorded}
        if chance.random() < 0.3:  # again, somewhere on the way back
            cuts += place.call(case.scenario, fault="kill", at=chance.randrange(len(case.steps))).status < 0
            place.check_halfway()
        case.check_done(place, (name, fault, case.steps[fault["at"]] if "at" in fault else ""), recorded, killed=True)
    assert cuts >= len(faults) / 2
    print(f"{name}: {cuts} kills, {len(case.steps)} steps, {time.monotonic() - start:.0f} s")  # for docs/faults.md

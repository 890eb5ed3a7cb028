"""Bugs that the simulation found, by the seed that found them. A seed tells the same story only as long as the world and
its faults are drawn in the same order: where that changes, tests/unit/test_machine_defects.py still holds each of them.
"""

from __future__ import annotations

import pytest

from tests.simulation import faults as f
from tests.simulation.scenario import Options, play

SCALED = (f.scale, f.crash, f.scale, f.crash_replica, f.rogue, f.delete_pod, f.freeze_replica)

FOUND: dict[str, tuple[int, Options]] = {
    "a witness that held more and was unfit was lost after the fence, and another promoted without its commits": (
        8011,
        Options(faults=SCALED),
    ),
}


@pytest.mark.parametrize("bug", FOUND)
def test_a_bug_that_was_found_stays_found(bug: str) -> None:
    seed, options = FOUND[bug]
    assert not play(seed, options).violation

"""Bugs that the simulation found, each by a seed that breaks an invariant while the rule that mends it is taken out again.

A seed tells the same story only as long as the world and its faults are drawn in the same order. Where that changes, the
first half of a test fails: look for another seed. tests/unit/test_machine_defects.py holds each of them without a world.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.simulation import faults as f
from tests.simulation.mutations import Break, always
from tests.simulation.scenario import Options, play
from tests.simulation.world import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A bug, the seed that shows it, and the invariant that it breaks."""

    taken_out: Break
    seed: int
    options: Options
    violates: str


UNEQUAL = (
    f.crash,
    f.crash_replica,
    f.rogue,
    f.rogue,
    f.delete_pod,
    f.freeze_replica,
    f.crash_behind,
    f.isolate_replica,
)

FOUND = {
    # It held more than the others and was unfit; when it missed one probe another one was promoted.
    "a witness lost after the fence was promoted over": Found(
        taken_out=always("witnesses_heard", True),
        seed=55,
        options=Options(faults=UNEQUAL, shape=Shape(pause=0.2, operators=1)),
        violates="2",
    ),
}


@pytest.mark.parametrize("bug", FOUND)
def test_a_bug_that_was_found_is_gone(bug: str) -> None:
    found = FOUND[bug]
    with pytest.MonkeyPatch.context() as patch:
        found.taken_out(patch)
        assert play(found.seed, found.options).violation.startswith(found.violates)
    assert not play(found.seed, found.options).violation

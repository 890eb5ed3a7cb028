"""The real clock and the back-off keep their words."""

from __future__ import annotations

import random
from datetime import UTC

import pytest

from mariadb_operator.runtime.backoff import Backoff
from mariadb_operator.runtime.clock import SystemClock


async def test_the_system_clock_goes_forward_and_knows_its_zone() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(-1)
    assert clock.monotonic() >= before
    assert clock.wall().tzinfo is UTC


def test_a_back_off_never_exceeds_its_limit_however_often_it_failed() -> None:
    backoff = Backoff(base=0.1, limit=7, rng=random.Random(1))
    delays = [backoff.next() for _ in range(2000)]
    assert max(delays) <= 7
    assert min(delays[10:]) >= 3.5


@pytest.mark.parametrize(("base", "limit"), [(0, 1), (-1, 1), (2, 1)])
def test_a_back_off_that_can_not_work_is_refused(base: float, limit: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(base=base, limit=limit, rng=random.Random(1))

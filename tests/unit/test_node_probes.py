"""What counts as a change among the local probes' answers."""

from __future__ import annotations

import pytest

from mariadb_operator.node.probes import Limits, Settled, judge_space
from mariadb_operator.node.protocol import Space

LIMITS = Limits(low=0.10, none=0.01, slack=0.02)


def test_a_value_changes_when_another_was_seen_often_enough_in_a_row() -> None:
    settled = Settled("good", needed=lambda value: 1 if value == "good" else 2)
    assert not settled.see("bad")
    assert not settled.see("good")
    assert not settled.see("bad")
    assert not settled.see("worse")
    assert settled.see("worse")
    assert settled.value == "worse"
    assert settled.see("good")
    assert not settled.see("good")


@pytest.mark.parametrize(
    ("share", "known", "judged"),
    [
        (0.5, Space.UNKNOWN, Space.ENOUGH),
        (0.05, Space.UNKNOWN, Space.LOW),
        (0.0, Space.UNKNOWN, Space.NONE),
        (0.09, Space.ENOUGH, Space.LOW),
        (0.005, Space.ENOUGH, Space.NONE),
        (0.11, Space.LOW, Space.LOW),
        (0.13, Space.LOW, Space.ENOUGH),
        (0.02, Space.NONE, Space.NONE),
        (0.04, Space.NONE, Space.LOW),
        (0.11, Space.NONE, Space.LOW),
        (0.5, Space.NONE, Space.ENOUGH),
    ],
)
def test_space_gets_worse_at_once_and_better_with_slack(share: float, known: Space, judged: Space) -> None:
    assert judge_space(share, known=known, limits=LIMITS) is judged

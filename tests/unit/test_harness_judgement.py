"""The tests' own judge must find what it exists for: a lost, doubled, resurrected or diverging row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.local import Local
from tests.harness.verify import Row, Verdict, differences, judge
from tests.harness.writer import gaps, longest
from tests.harness.writing import Result, WriterResult


def result(*writers: WriterResult) -> Result:
    return Result(
        table="writes_x", writers=writers, acknowledged=0, rate=0, outage=0, outage_of_one=0,
        silent_at_end=0, gaps=(),
    )  # fmt: skip


def rows(*pairs: tuple[int, int]) -> list[Row]:
    return [(number, writer, n) for number, (writer, n) in enumerate(pairs, start=1)]


def test_rows_that_match_what_the_client_was_told_have_no_fault() -> None:
    seen = result(WriterResult(writer=1, last=3), WriterResult(writer=2, last=1))
    assert judge(seen, rows((1, 1), (2, 1), (1, 2), (1, 3))) == ([], 0, 0)


def test_an_acknowledged_row_that_is_missing_is_a_fault() -> None:
    faults, _, _ = judge(result(WriterResult(writer=1, last=3)), rows((1, 1), (1, 3)))
    assert faults == ["writer 1: 1 acknowledged rows missing: 2"]


def test_a_doubled_row_is_a_fault_also_when_its_reply_was_lost() -> None:
    seen = result(WriterResult(writer=1, last=2, unknown=frozenset({2})))
    faults, _, _ = judge(seen, rows((1, 1), (1, 2), (1, 2)))
    assert faults == ["1 rows doubled: (1, 2)"]


def test_a_row_whose_reply_was_lost_may_be_there_or_not() -> None:
    seen = result(WriterResult(writer=1, last=3, unknown=frozenset({2, 3})))
    assert judge(seen, rows((1, 1), (1, 3))) == ([], 1, 1)


def test_a_refused_row_that_is_there_is_a_fault() -> None:
    faults, _, _ = judge(result(WriterResult(writer=1, last=2, refused=frozenset({2}))), rows((1, 1), (1, 2)))
    assert faults == ["writer 1: 1 refused rows are there: 2"]


def test_a_row_that_nobody_wrote_is_a_fault() -> None:
    faults, _, _ = judge(result(WriterResult(writer=1, last=1)), rows((1, 1), (1, 2)))
    assert faults == ["1 rows that nobody wrote: (1, 2)"]


def test_instances_with_the_same_rows_do_not_differ() -> None:
    assert differences("shop-1", rows((1, 1), (1, 2)), rows((1, 1), (1, 2))) == []


@pytest.mark.parametrize(
    "other", [rows((1, 1)), rows((1, 1), (1, 3)), rows((1, 2), (1, 1)), rows((1, 1), (1, 2), (1, 3))]
)
def test_instances_with_other_rows_differ(other: list[Row]) -> None:
    [told] = differences("shop-1", rows((1, 1), (1, 2)), other)
    assert told.startswith("shop-1 differs")


def test_a_verdict_with_a_fault_raises() -> None:
    verdict = Verdict(rows=1, instances=("a",), unknown_kept=0, unknown_lost=0, faults=("1 rows doubled",))
    with pytest.raises(Exception, match="1 rows doubled"):
        verdict.require()


def test_the_outage_is_the_longest_pause_between_acknowledgements() -> None:
    assert longest([1.0, 1.01, 3.51, 3.6]) == pytest.approx(2.5)


def test_a_client_that_was_never_answered_has_no_pause() -> None:
    assert longest([]) == 0.0


def test_pauses_are_told_longest_first_by_wall_clock() -> None:
    found = gaps([0.0, 0.1, 0.11, 0.5], offset=1000.0)
    assert [gap["seconds"] for gap in found] == pytest.approx([0.39, 0.1])
    assert [gap["from"] for gap in found] == pytest.approx([1000.11, 1000.0])


def test_a_kubeconfig_from_elsewhere_is_no_local_cluster(tmp_path: Path) -> None:
    assert Local.behind(tmp_path / "mdb.kubeconfig") is None

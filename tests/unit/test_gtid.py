"""The algebra of GTID positions and histories: laws that hold for every history a cluster can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachines.gtid import Gtid, History, Position

GTIDS = st.builds(Gtid, st.integers(0, 2), st.integers(1, 3), st.integers(1, 6))
HISTORIES = st.lists(GTIDS, max_size=8).map(History.of)
ANY_POSITIONS = st.lists(GTIDS, max_size=5).map(lambda gtids: Position(tuple(gtids)))


@st.composite
def places_in_one_history(draw: st.DrawFn) -> Position:
    """A place in the one history in which each (domain, sequence) was written by one server only."""
    reached = draw(st.dictionaries(st.integers(0, 2), st.integers(1, 6), max_size=3))
    return Position(tuple(Gtid(domain, 1 + (domain + last) % 3, last) for domain, last in reached.items()))


PLACES = places_in_one_history()


@given(ANY_POSITIONS)
def test_a_position_survives_its_text(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(HISTORIES)
def test_a_history_survives_its_text(history: History) -> None:
    assert History.parse(str(history)) == history
    assert hash(History.parse(str(history))) == hash(history)


@given(GTIDS)
def test_a_gtid_survives_its_text(gtid: Gtid) -> None:
    assert Gtid.parse(str(gtid)) == gtid


@pytest.mark.parametrize("text", ["", "0-1", "0-1-2-3", "a-1-2", "0--1-2", "0-1-²", "0-1-2,0-1-3"])
def test_what_is_no_gtid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a GTID"):
        Gtid.parse(text)


@given(ANY_POSITIONS, st.randoms(use_true_random=False))
def test_a_position_does_not_depend_on_the_order_of_its_domains(position: Position, random: object) -> None:
    gtids = list(position.gtids)
    random.shuffle(gtids)  # type: ignore[attr-defined]  # random.Random
    assert Position(tuple(gtids)) == position


@given(ANY_POSITIONS)
def test_a_position_keeps_one_gtid_a_domain(position: Position) -> None:
    domains = [gtid.domain for gtid in position.gtids]
    assert len(domains) == len(set(domains))


@given(ANY_POSITIONS)
def test_a_position_covers_itself_and_nothing(position: Position) -> None:
    assert position.covers(position)
    assert position.covers(Position())
    assert Position().covers(position) == (not position)


@given(ANY_POSITIONS, ANY_POSITIONS, ANY_POSITIONS)
def test_covering_is_transitive(first: Position, second: Position, third: Position) -> None:
    if first.covers(second) and second.covers(third):
        assert first.covers(third)


@given(ANY_POSITIONS, ANY_POSITIONS)
def test_positions_that_cover_each_other_are_equal(first: Position, second: Position) -> None:
    if first.covers(second) and second.covers(first):
        assert first == second


def test_equal_sequences_of_two_servers_cover_each_other_never() -> None:
    ours, theirs = Position.parse("0-1-5"), Position.parse("0-2-5")
    assert not ours.covers(theirs)
    assert not theirs.covers(ours)


@given(PLACES, PLACES)
def test_merging_is_commutative_idempotent_and_covers_both(first: Position, second: Position) -> None:
    merged = first.merge(second)
    assert merged == second.merge(first)
    assert merged.merge(first) == merged
    assert merged.covers(first)
    assert merged.covers(second)


@given(PLACES, PLACES, PLACES)
def test_merging_is_associative(first: Position, second: Position, third: Position) -> None:
    assert first.merge(second).merge(third) == first.merge(second.merge(third))


@given(PLACES, PLACES)
def test_what_covers_another_is_their_merge(first: Position, second: Position) -> None:
    assert first.covers(second) == (first.merge(second) == first)


@given(HISTORIES)
def test_nothing_is_errant_against_itself(history: History) -> None:
    assert history.errant_against(history) == ()


@given(HISTORIES, HISTORIES)
def test_exactly_what_the_other_lacks_is_errant(ours: History, theirs: History) -> None:
    errant = ours.errant_against(theirs)
    assert (
        History.of([*_gtids(theirs), *errant]).sequences
        == History.of([*_gtids(theirs), *_gtids(ours)]).sequences
    )
    assert all(gtid.sequence > theirs.sequences.get((gtid.domain, gtid.server), 0) for gtid in errant)


@given(HISTORIES, HISTORIES)
def test_what_is_errant_does_not_shrink_when_we_write_more(ours: History, more: History) -> None:
    grown = History.of([*_gtids(ours), *_gtids(more)])
    before = {(gtid.domain, gtid.server) for gtid in ours.errant_against(more)}
    assert before <= {(gtid.domain, gtid.server) for gtid in grown.errant_against(more)}


@given(HISTORIES)
def test_the_position_of_a_history_is_its_last_gtid_of_each_domain(history: History) -> None:
    position = history.position()
    for (domain, _), sequence in history.sequences.items():
        last = position.in_domain(domain)
        assert last is not None
        assert last.sequence >= sequence


def test_a_position_hides_the_errant_transaction_that_the_history_shows() -> None:
    clean, errant = History.parse("0-1-5,0-2-9"), History.parse("0-1-5,0-2-9,0-3-7")
    assert clean.position() == errant.position()
    assert errant.errant_against(clean) == (Gtid(0, 3, 7),)


def _gtids(history: History) -> list[Gtid]:
    return [Gtid(domain, server, last) for (domain, server), last in history.sequences.items()]

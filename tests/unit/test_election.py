"""Who may be promoted: by what was received, never an errant, empty, foreign or incomplete one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachines import election
from statemachines.election import REASONS, Unfit
from statemachines.facts import InstanceFacts, IoThread, Reach
from statemachines.gtid import History, Position
from statemachines.record import Durability, Record, Recorded, Witness
from tests.unit.machine_cases import instance, member, met, record, replication, server, snapshot

DEAD = instance(0, **met(Reach.REFUSED))


def replica(number: int, gtid: str, *, received: str | None = None, **changes: Any) -> InstanceFacts:
    """A replica that applied up to `gtid` and received up to `received`, its IO thread stopped."""
    stopped = replication(received if received is not None else gtid, io_thread=IoThread.STOPPED)
    return instance(number, server=server(number, gtid, **({"replication": stopped} | changes)))


def reasons(known: Record, *replicas: InstanceFacts, by_policy: bool = False) -> dict[str, tuple[Unfit, ...]]:
    ranked = election.rank(known, snapshot(DEAD, *replicas), by_policy=by_policy)
    return {each.name: each.unfit for each in ranked}


def winner(known: Record, *replicas: InstanceFacts, by_policy: bool = False) -> str | None:
    best = election.elect(known, snapshot(DEAD, *replicas), by_policy=by_policy)
    return best.name if best is not None else None


def test_what_was_received_counts_not_what_is_applied() -> None:
    assert winner(record(), replica(1, "0-1-9"), replica(2, "0-1-4", received="0-1-12")) == "db-2"


def test_of_equals_the_lowest_ordinal_is_promoted() -> None:
    assert winner(record(), replica(1, "0-1-9"), replica(2, "0-1-9")) == "db-1"


SILENT = instance(1, **met(Reach.SILENT, pod_uid="pod-1"))
STOPPED = replication("0-1-9", io_thread=IoThread.STOPPED, sql_running=False)


@pytest.mark.parametrize(
    ("unfit", "known", "facts"),
    [
        (Unfit.NOT_ANSWERING, record(), SILENT),
        (
            Unfit.KEPT_OUT,
            record(members=(member(0), member(1, kept_out="errant"), member(2))),
            replica(1, "0-1-9"),
        ),
        (
            Unfit.LEAVING,
            record(
                members=(member(0), member(1, leaving=True), member(2)),
                durability=Durability(
                    recorded=Recorded.SEMI_SYNC, witnesses=(Witness(name="db-2", incarnation="start-2"),)
                ),
            ),
            replica(1, "0-1-9"),
        ),
        (Unfit.OTHER_CLUSTER, record(), replica(1, "0-1-9", cluster_id="uid-of-another")),
        (Unfit.ERRANT, record(), replica(1, "0-1-9", history=History.parse("0-1-9,0-2-8"))),
        (Unfit.EMPTY, record(), replica(1, "", epoch=0, cluster_id="")),
        (Unfit.RESTARTED, record(), replica(1, "0-1-9", incarnation="start-after")),
        (Unfit.APPLIER_STOPPED, record(), replica(1, "0-1-8", replication=STOPPED)),
        (Unfit.BEHIND_FLOOR, record(), replica(1, "0-1-3")),
        (Unfit.BEHIND_OTHER, record(), replica(1, "0-1-5")),
    ],
    ids=lambda value: str(value) if isinstance(value, Unfit) else "",
)
def test_each_reason_bars_from_promotion(unfit: Unfit, known: Record, facts: InstanceFacts) -> None:
    other = replica(2, "0-1-9")
    assert unfit in reasons(known, facts, other)["db-1"]
    assert winner(known, facts, other) != "db-1"


def test_every_reason_has_a_sentence() -> None:
    assert set(REASONS) == set(Unfit)


@pytest.mark.parametrize("unfit", [Unfit.RESTARTED, Unfit.BEHIND_FLOOR])
def test_onuncertaindata_promote_accepts_what_may_be_missing(unfit: Unfit) -> None:
    facts = replica(1, "0-1-9", incarnation="again") if unfit is Unfit.RESTARTED else replica(1, "0-1-3")
    assert winner(record(), facts) is None
    assert winner(record(), facts, by_policy=True) == "db-1"


@pytest.mark.parametrize(
    "facts",
    [
        replica(1, "0-1-9", history=History.parse("0-1-9,0-2-8")),
        replica(1, "", epoch=0, cluster_id=""),
        replica(1, "0-1-9", cluster_id="uid-of-another"),
    ],
    ids=["errant", "empty", "foreign"],
)
def test_no_policy_promotes_what_is_errant_empty_or_foreign(facts: InstanceFacts) -> None:
    assert winner(record(), facts, by_policy=True) is None


def test_an_errant_replica_does_not_stop_a_sound_one() -> None:
    errant = replica(2, "0-3-9", received="0-1-8", history=History.parse("0-1-8,0-3-9"))
    assert winner(record(), replica(1, "0-1-8"), errant) == "db-1"


LAST = st.integers(1, 6)


@st.composite
def replicas(draw: st.DrawFn) -> tuple[InstanceFacts, ...]:
    found = []
    for number in (1, 2):
        applied, more = draw(LAST), draw(st.integers(0, 3))
        history = f"0-1-{applied}" + draw(st.sampled_from(["", f",0-{number + 1}-{applied + 5}"]))
        facts = replica(
            number,
            f"0-1-{applied}",
            received=f"0-1-{applied + more}",
            history=History.parse(history),
            incarnation=draw(st.sampled_from([f"start-{number}", "again"])),
            epoch=draw(st.sampled_from([0, 1])),
        )
        silent = instance(number, **met(Reach.SILENT, pod_uid=f"pod-{number}"))
        found.append(draw(st.sampled_from([facts, facts, facts, silent])))
    return tuple(found)


@given(replicas(), st.booleans())
def test_the_winner_has_all_that_any_sound_replica_received(
    candidates: tuple[InstanceFacts, ...], by_policy: bool
) -> None:
    known = record(
        durability=Durability(recorded=Recorded.SEMI_SYNC, witnesses=record().durability.witnesses)
    )
    best = election.elect(known, snapshot(DEAD, *candidates), by_policy=by_policy)
    if best is None:
        return
    facts = next(each for each in candidates if each.name == best.name)
    assert facts.answering is not None
    assert facts.answering.epoch > 0
    assert not election.errant(known, facts.answering)
    assert by_policy or election.present(known, facts)
    for each in candidates:
        if each.answering is not None and each.answering.epoch > 0:
            assert best.received.covers(election.sound(known, each.answering))


@given(replicas())
def test_a_policy_only_adds_candidates(candidates: tuple[InstanceFacts, ...]) -> None:
    facts = snapshot(DEAD, *candidates)
    strict = election.elect(record(), facts, by_policy=False)
    lenient = election.elect(record(), facts, by_policy=True)
    assert strict is None or lenient is not None


def test_drained_means_that_everything_received_is_applied() -> None:
    assert election.drained(server(1, "0-1-9", replication=replication("0-1-9")))
    assert election.drained(server(1, "0-1-9", replication=None))
    assert not election.drained(server(1, "0-1-8", replication=replication("0-1-9")))
    assert election.received(server(1, "0-1-8", replication=replication("0-1-9"))) == Position.parse("0-1-9")

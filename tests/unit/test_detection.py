"""What is the matter with the primary: one row for every code and every proof; silence is never death."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachines.detection import ANALYSES, PROOFS, UNABLE_TO_WRITE, Analysis, Proof, analyse, proofs
from statemachines.facts import InstanceFacts, IoThread, Process, Reach, Snapshot
from statemachines.record import Record
from tests.unit.machine_cases import (
    NOW,
    instance,
    met,
    pod,
    record,
    replication,
    server,
    sidecar,
    snapshot,
)

LOST = (
    instance(1, server=server(1, replication=replication(io_thread=IoThread.CONNECTING))),
    instance(2, server=server(2, replication=replication(io_thread=IoThread.STOPPED))),
)
FED = (LOST[0], instance(2))
UNHEARD = tuple(instance(number, **met(Reach.SILENT, pod_uid=f"pod-{number}")) for number in (1, 2))
STALE = tuple(
    instance(
        number, server=server(number, asked_at=50.0, replication=replication(io_thread=IoThread.STOPPED))
    )
    for number in (1, 2)
)
SILENT = met(Reach.SILENT)
REFUSED = met(Reach.REFUSED)


def seen(primary: InstanceFacts | None, replicas: tuple[InstanceFacts, ...] = LOST) -> Snapshot:
    return snapshot(*((primary,) if primary is not None else ()), *replicas)


ROWS: list[tuple[str, Analysis, Record, Snapshot]] = [
    ("no epoch", Analysis.NO_PRIMARY, record(epoch=0), seen(instance(0))),
    ("nobody named", Analysis.NO_PRIMARY, record(primary=None), seen(instance(0))),
    ("it answers", Analysis.NO_PROBLEM, record(), seen(instance(0), FED)),
    ("it answers though replicas lost it", Analysis.NO_PROBLEM, record(), seen(instance(0), LOST)),
    ("not asked yet", Analysis.NOT_YET_OBSERVED, record(), seen(instance(0, **met(Reach.UNKNOWN)))),
    (
        "another start answers",
        Analysis.PRIMARY_RESTARTED,
        record(),
        seen(instance(0, server=server(0, incarnation="start-again"))),
    ),
    *(
        (
            f"it answers, and its sidecar finds writing {writing}",
            UNABLE_TO_WRITE[writing],
            record(),
            seen(instance(0, sidecar=sidecar(writing=writing))),
        )
        for writing in UNABLE_TO_WRITE
    ),
    (
        "its sidecar saw it end, nobody else noticed",
        Analysis.PRIMARY_DEAD,
        record(),
        seen(instance(0, sidecar=sidecar(process=Process.ENDED)), FED),
    ),
    (
        "silent, to its sidecar too",
        Analysis.PRIMARY_HUNG,
        record(),
        seen(instance(0, sidecar=sidecar(answers=False), **SILENT), FED),
    ),
    ("too many connections", Analysis.PRIMARY_PRESENT, record(), seen(instance(0, **met(Reach.PRESENT)))),
    ("refused and all replicas lost it", Analysis.PRIMARY_DEAD, record(), seen(instance(0, **REFUSED))),
    (
        "silent, its container was reported ended",
        Analysis.PRIMARY_DEAD,
        record(),
        seen(instance(0, **SILENT, ended_pods=frozenset({"pod-0"}))),
    ),
    (
        "refused, a replica still receives",
        Analysis.PRIMARY_REFUSING,
        record(),
        seen(instance(0, **met(Reach.REFUSED, since=NOW - 1.0)), FED),
    ),
    (
        "refused for long, a replica still receives",
        Analysis.PRIMARY_UNREACHABLE_BUT_REPLICATING,
        record(),
        seen(instance(0, **REFUSED), FED),
    ),
    (
        "refused, nobody else answers",
        Analysis.PRIMARY_REFUSING,
        record(),
        seen(instance(0, **REFUSED), UNHEARD),
    ),
    (
        "refused, replicas asked before",
        Analysis.PRIMARY_REFUSING,
        record(),
        seen(instance(0, **REFUSED), STALE),
    ),
    (
        "refused by a successor that waits for the lock",
        Analysis.PRIMARY_REFUSING,
        record(),
        seen(instance(0, pod=pod(0, uid="pod-new"), **met(Reach.REFUSED, pod_uid="pod-new"))),
    ),
    (
        "refused while its Pod is deleted",
        Analysis.PRIMARY_TERMINATING,
        record(),
        seen(instance(0, pod=pod(0, deleting=True), **REFUSED)),
    ),
    (
        "silent while its Pod is deleted",
        Analysis.PRIMARY_TERMINATING,
        record(),
        seen(instance(0, pod=pod(0, deleting=True), **SILENT)),
    ),
    ("its Pod object is gone", Analysis.PRIMARY_MISSING, record(), seen(instance(0, pod=None, **SILENT))),
    ("the instance is unknown", Analysis.PRIMARY_MISSING, record(), seen(None)),
    ("silent on a ready node", Analysis.PRIMARY_HUNG, record(), seen(instance(0, **SILENT))),
    (
        "silent on a node that is not ready",
        Analysis.PRIMARY_UNREACHABLE,
        record(),
        seen(instance(0, node_ready=False, **SILENT)),
    ),
    (
        "silent on a node nobody knows of",
        Analysis.PRIMARY_UNREACHABLE,
        record(),
        seen(instance(0, node_ready=None, **SILENT)),
    ),
    (
        "silent to us, feeding a replica",
        Analysis.PRIMARY_UNREACHABLE_BUT_REPLICATING,
        record(),
        seen(instance(0, **SILENT), FED),
    ),
    ("nobody answers us", Analysis.OPERATOR_ISOLATED, record(), seen(instance(0, **SILENT), UNHEARD)),
    ("nobody answered since", Analysis.OPERATOR_ISOLATED, record(), seen(instance(0, **SILENT), STALE)),
]


@pytest.mark.parametrize(("code", "known", "facts"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_facts_are_given_their_name(code: Analysis, known: Record, facts: Snapshot) -> None:
    assert analyse(known, facts) is code


def test_every_code_has_a_case_and_a_text() -> None:
    assert {row[1] for row in ROWS} == set(Analysis) == set(ANALYSES)


PROVEN: list[tuple[Proof, InstanceFacts]] = [
    (Proof.PROCESS_ENDED, instance(0, sidecar=sidecar(process=Process.ENDED))),
    (
        Proof.VOLUME_FREE,
        instance(
            0,
            pod=pod(0, uid="pod-new"),
            sidecar=sidecar(pod_uid="pod-new", process=Process.UNKNOWN, held=True, free=True),
            **met(Reach.REFUSED, pod_uid="pod-new"),
        ),
    ),
    (Proof.CONTAINER_TERMINATED, instance(0, **SILENT, ended_pods=frozenset({"pod-0"}))),
    (Proof.RESTARTED, instance(0, server=server(0, incarnation="start-again"))),
    (Proof.REFUSED_AND_DISCONNECTED, instance(0, **REFUSED)),
    (Proof.NODE_OFF, instance(0, node_ready=False, node_off=True, **SILENT)),
]


@pytest.mark.parametrize(("proof", "primary"), PROVEN, ids=[str(proof) for proof, _ in PROVEN])
def test_each_proof_stands_alone(proof: Proof, primary: InstanceFacts) -> None:
    assert proofs(record(), seen(primary)) == (proof,)


def test_what_was_proven_and_noted_stays_proven_until_that_server_answers() -> None:
    noted = record(primary_ended=True)
    assert proofs(noted, seen(instance(0, **SILENT))) == (Proof.ENDED_EARLIER,)
    assert proofs(noted, seen(instance(0))) == ()


def test_an_answer_from_another_node_proves_nothing_since_a_lock_is_of_one_kernel() -> None:
    elsewhere = instance(
        0, pod=pod(uid="pod-9", node="node-7"), server=server(0, incarnation="start-again", pod_uid="pod-9")
    )
    assert proofs(record(), seen(elsewhere)) == ()
    assert Proof.RESTARTED in proofs(record(primary_ended=True), seen(elsewhere))


def test_every_proof_has_a_case_and_a_text() -> None:
    assert {proof for proof, _ in PROVEN} | {Proof.ENDED_EARLIER} == set(Proof) == set(PROOFS)


HINTS = {
    "a report about another Pod": instance(0, **SILENT, ended_pods=frozenset({"pod-before"})),
    "a deleted Pod object": instance(0, pod=None, **SILENT),
    "a Pod being deleted": instance(0, pod=pod(0, deleting=True), **REFUSED),
    "a node that is not ready": instance(0, node_ready=False, **SILENT),
    "an answer that refuses us": instance(0, **met(Reach.PRESENT)),
    "a sidecar whose session broke": instance(0, sidecar=sidecar(connected=False), **SILENT),
    "a sidecar that knows nothing yet": instance(0, sidecar=sidecar(process=Process.UNKNOWN), **SILENT),
    "a free volume on another node": instance(
        0,
        pod=pod(0, uid="pod-new", node="node-7"),
        sidecar=sidecar(pod_uid="pod-new", process=Process.UNKNOWN, held=True, free=True),
        **met(Reach.REFUSED, pod_uid="pod-new"),
    ),
    "a volume that was free before its server might start": instance(
        0, sidecar=sidecar(process=Process.UNKNOWN, free=True), **SILENT
    ),
    "the end of another start": instance(
        0, sidecar=sidecar(process=Process.ENDED, incarnation="start-before"), **SILENT
    ),
    "a port closed at a successor's address": instance(
        0, pod=pod(0, uid="new"), **met(Reach.REFUSED, pod_uid="new")
    ),
}


@pytest.mark.parametrize("primary", HINTS.values(), ids=HINTS.keys())
def test_a_hint_proves_nothing(primary: InstanceFacts) -> None:
    assert proofs(record(), seen(primary)) == ()


def test_a_closed_port_proves_nothing_while_a_reachable_replica_is_connected_or_none_answers() -> None:
    for replicas in (FED, UNHEARD, STALE):
        assert proofs(record(), seen(instance(0, **REFUSED), replicas)) == ()


@st.composite
def silences(draw: st.DrawFn) -> Snapshot:
    """All that Kubernetes and silent servers can look like, without a word that a process ended."""
    primary = instance(
        0,
        pod=draw(st.sampled_from([None, pod(0), pod(0, deleting=True), pod(0, uid="pod-new")])),
        node_ready=draw(st.sampled_from([True, False, None])),
        ended_pods=draw(st.sampled_from([frozenset(), frozenset({"pod-before"})])),
        sidecar=draw(
            st.sampled_from([None, sidecar(), sidecar(connected=False), sidecar(answers=False, held=True)])
        ),
        **met(draw(st.sampled_from([Reach.SILENT, Reach.PRESENT, Reach.UNKNOWN]))),
    )
    return seen(primary, draw(st.sampled_from([LOST, FED, UNHEARD, STALE])))


@given(silences())
def test_silence_is_never_death(facts: Snapshot) -> None:
    assert proofs(record(), facts) == ()
    assert analyse(record(), facts) is not Analysis.PRIMARY_DEAD

"""What a sidecar says as facts: what it saw of the process, what it waits for, and since when something is so."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mariadb_operator.node.protocol import (
    DeathState,
    GateState,
    Greeting,
    LedgerState,
    NodeState,
    Phase,
    Ping,
    ProbeState,
    SalvagedState,
    ServerState,
    Sign,
    Space,
    WatchEvent,
    Write,
)
from mariadb_operator.observe.sidecars import InstanceSidecar, PodTarget, fact
from mariadb_operator.ssh.connection import Target
from mariadb_operator.ssh.errors import SidecarUnreachable
from statemachines.facts import Process, SidecarFact, Writing
from tests.unit.virtual_time import VirtualClock

START, NEXT = "00000000000000aa", "00000000000000bb"
LIVES = ServerState(incarnation=START, pid=7, started_at=1.0, seen_at=1.0)
DIED = DeathState(incarnation=START, pid=7, started_at=1.0, at=2.0, sign=Sign.EXITING)
WAITS = GateState(phase=Phase.WAITING, incarnation=NEXT, code=137)


def state(**changes: object) -> NodeState:
    whole = NodeState(
        server=None,
        death=None,
        gate=None,
        probes=ProbeState(),
        ledger=LedgerState(readable=True, cluster_id="c", epoch=1, term=3),
        lease=None,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def told(found: NodeState, *, before: SidecarFact | None = None, at: float = 10.0) -> SidecarFact:
    return fact(found, before=before, pod_uid="pod-0", at=at)


def test_a_server_that_lives_outweighs_the_death_of_the_one_before() -> None:
    assert told(state()).process is Process.UNKNOWN
    living = told(state(server=replace(LIVES, incarnation=NEXT), death=DIED))
    assert (living.process, living.incarnation) == (Process.RUNNING, NEXT)
    ended = told(state(death=DIED, gate=WAITS))
    assert (ended.process, ended.incarnation, ended.waiting) == (Process.ENDED, START, NEXT)


def test_a_server_that_its_supervisor_reaped_has_ended_though_the_sidecar_did_not_see_it() -> None:
    reaped = told(state(gate=replace(WAITS, ended=START)))
    assert (reaped.process, reaped.incarnation) == (Process.ENDED, START)
    later = told(state(death=DIED, gate=replace(WAITS, ended=NEXT)))
    assert later.incarnation == NEXT
    new_supervisor = told(state(gate=WAITS))
    assert (new_supervisor.process, new_supervisor.incarnation) == (Process.UNKNOWN, "")


def test_only_the_start_that_waits_is_named() -> None:
    for phase in set(Phase) - {Phase.WAITING}:
        assert told(state(gate=replace(WAITS, phase=phase))).waiting == ""


def test_a_fence_on_the_volume_holds() -> None:
    assert told(state(ledger=LedgerState(readable=True, fenced=True))).held


@pytest.mark.parametrize(
    ("probes", "writing"),
    [
        (ProbeState(), Writing.UNKNOWN),
        (ProbeState(write=Write.DONE), Writing.WORKS),
        (ProbeState(write=Write.DONE, space=Space.NONE), Writing.WORKS),
        (ProbeState(write=Write.BLOCKED), Writing.UNKNOWN),
        (ProbeState(write=Write.FAILED), Writing.READ_ONLY),
        (ProbeState(write=Write.FAILED, space=Space.NONE), Writing.DISK_FULL),
        (ProbeState(write=Write.STALLED, space=Space.NONE), Writing.DISK_FULL),
        (ProbeState(write=Write.STALLED, space=Space.LOW), Writing.STALLED),
    ],
)
def test_what_a_small_write_met_is_told_with_what_the_volume_has_left(
    probes: ProbeState, writing: Writing
) -> None:
    assert told(state(probes=probes)).writing is writing


def test_a_span_is_counted_from_when_it_was_first_heard_of_in_this_session() -> None:
    silent = state(server=LIVES, probes=ProbeState(ping=Ping.SILENT))
    first = told(silent, at=10.0)
    assert first.answers is False
    again = told(silent, before=first, at=12.0)
    assert (again.at, again.answers_since) == (12.0, 10.0)
    anew = told(silent, before=replace(first, connected=False), at=20.0)
    assert anew.answers_since == 20.0


class Listened:
    """An instance's sidecar without a network."""

    def __init__(self) -> None:
        self.news = 0
        self.uid = "pod-0"
        self.sidecar = InstanceSidecar(
            "demo-0", target=self.target, changed=self.changed, clock=VirtualClock(), rng=random.Random(1)
        )
        self.sidecar._target()

    def changed(self) -> None:
        self.news += 1

    def is_free(self) -> bool:
        assert self.sidecar.word is not None
        return self.sidecar.word.free

    def target(self) -> PodTarget | None:
        target = Target(host="10.0.0.1", port=33064, host_keys=("ssh-ed25519 A",), client_key="K")
        return PodTarget(target=target, pod_uid=self.uid)

    def hear(self, found: NodeState | None, at: float) -> None:
        self.sidecar.event(WatchEvent(now=at, sequence=1, state=found), at=at)


def test_news_wake_the_cluster_and_heartbeats_do_not() -> None:
    made = Listened()
    made.hear(state(server=LIVES), 1.0)
    assert made.news == 1
    made.hear(None, 2.0)
    made.hear(state(server=LIVES), 3.0)
    assert made.news == 1
    assert made.sidecar.word is not None
    assert made.sidecar.word.at == 3.0
    made.hear(state(death=DIED), 4.0)
    assert made.news == 2


def test_a_lost_session_is_told_once_and_what_was_seen_stays() -> None:
    made = Listened()
    made.hear(state(death=DIED), 1.0)
    for at in (2.0, 3.0):
        made.sidecar.lost(SidecarUnreachable("gone"), at=at)
    word = made.sidecar.word
    assert made.news == 2
    assert word is not None
    assert (word.connected, word.process, word.incarnation) == (False, Process.ENDED, START)


def test_a_word_is_of_the_pod_to_which_the_session_was_opened() -> None:
    made = Listened()
    made.uid = "pod-new"
    made.hear(state(server=LIVES), 1.0)
    assert made.sidecar.word is not None
    assert made.sidecar.word.pod_uid == "pod-0"


def test_a_volume_stays_free_as_long_as_its_server_is_held() -> None:
    made = Listened()
    held = LedgerState(readable=True, fenced=True)
    made.hear(state(gate=WAITS, ledger=held), 1.0)
    made.sidecar.note_fence(pod_uid="pod-other", freed=True)
    assert not made.is_free()
    made.sidecar.note_fence(pod_uid="pod-0", freed=True)
    made.hear(state(gate=WAITS, ledger=held), 2.0)
    assert made.is_free()
    made.hear(state(gate=WAITS), 3.0)
    made.hear(state(gate=WAITS, ledger=held), 4.0)
    assert not made.is_free(), "it was permitted to start in between"


VERBS = ("watch", "tail", "store", "give")


def greeting(*verbs: str) -> Greeting:
    return Greeting(protocol=1, sidecar="s", boot_id="b", now=0.0, verbs=verbs)


def test_what_was_stored_is_told_with_what_it_continues() -> None:
    kept = SalvagedState(operation="1-8", after="0-1-5", upto="0-1-7")
    salvaged = told(state(salvaged=kept)).salvaged
    assert salvaged is not None
    assert (salvaged.operation, str(salvaged.after), str(salvaged.upto)) == ("1-8", "0-1-5", "0-1-7")


def test_a_sidecar_salvages_if_it_knows_how_and_its_logs_did_not_fail() -> None:
    for verbs, salvages in ((VERBS, True), (("watch",), False)):
        made = Listened()
        hello = WatchEvent(now=1.0, sequence=1, greeting=greeting(*verbs), state=state(death=DIED))
        made.sidecar.event(hello, at=1.0)
        assert made.sidecar.word is not None
        assert made.sidecar.word.salvages is salvages
        made.sidecar.note_unsalvageable(NEXT)
        assert made.sidecar.word.salvages is salvages, "that was another start of the server"
        made.sidecar.note_unsalvageable(START)
        assert not made.sidecar.word.salvages

"""Effects that go to a sidecar: each request carries who asks, once; an answer from the past's future ends leading."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mariadb_operator.act.sidecars import SidecarEffects
from mariadb_operator.node.protocol import (
    FenceReply,
    FenceRequest,
    GiveReply,
    PermitRequest,
    Reason,
    Refusal,
    Role,
    Verb,
)
from mariadb_operator.runtime.errors import Transient
from mariadb_operator.sql.errors import StaleTerm
from mariadb_operator.ssh.errors import SidecarUnreachable, refused
from statemachines import effects as e
from statemachines.facts import Process, SidecarFact
from statemachines.gtid import Position

START = "00000000000000aa"
FENCE = e.FenceServer("demo-0", 4, "cluster")
PERMIT = e.PermitServer("demo-0", START, 4, "cluster")


class Session:
    """A sidecar and its session; remembers what was asked."""

    def __init__(self, refusal: Reason | None = None, *, process: Process = Process.ENDED) -> None:
        self.asked: list[tuple[Verb, Any]] = []
        self.noted: list[tuple[str, bool]] = []
        self.unsalvageable: list[str] = []
        self.word = SidecarFact(at=1.0, connected=True, pod_uid="pod-0", process=process, incarnation=START)
        self._refusal = refusal

    @property
    def session(self) -> Session:
        return self

    async def ask(self, verb: Verb, request: Any, kind: type[Any], *, deadline_seconds: float) -> Any:
        self.asked.append((verb, request))
        if self._refusal is not None:
            raise refused(Refusal(refused=self._refusal, detail="no"), what="test")
        match verb:
            case Verb.FENCE:
                return FenceReply(dead=True, freed=True, recorded=True)
            case Verb.GIVE:
                return GiveReply(port=4, user="tail", password="once")
            case _:
                return None

    async def bring_tail(self, ask: Any, recipient: Session, store: Any, *, silence_seconds: float) -> None:
        self.asked.append((Verb.TAIL, ask))
        recipient.asked.append((Verb.STORE, store))
        if self._refusal is not None:
            raise refused(Refusal(refused=self._refusal, detail="no"), what="test")

    def note_unsalvageable(self, incarnation: str) -> None:
        self.unsalvageable.append(incarnation)

    def note_fence(self, *, pod_uid: str, freed: bool) -> None:
        self.noted.append((pod_uid, freed))


def effects(session: Session | None, **others: Session) -> SidecarEffects:
    ids = (f"request-{number}" for number in itertools.count())
    found: dict[str, Any] = {"demo-0": session, **others}
    return SidecarEffects(found.get, term=9, new_id=lambda: next(ids))


async def test_each_request_says_who_asks_and_is_new() -> None:
    session = Session()
    made = effects(session)
    await made.run(FENCE)
    await made.run(PERMIT)
    (verb, fence), (_, permit) = session.asked
    assert (verb, type(fence), type(permit)) == (Verb.FENCE, FenceRequest, PermitRequest)
    assert (fence.authority.cluster_id, fence.authority.epoch, fence.authority.term) == ("cluster", 4, 9)
    assert fence.authority.request_id != permit.authority.request_id
    # Crash recovery keeps all that is in the binary log: nothing is cut off before it was salvaged.
    assert (permit.incarnation, permit.role) == (START, Role.PRIMARY)


async def test_the_lock_is_waited_for_where_nobody_saw_the_server_end() -> None:
    for process, waits in ((Process.ENDED, False), (Process.UNKNOWN, True)):
        session = Session(process=process)
        await effects(session).run(FENCE)
        [(_, fence)] = session.asked
        assert fence.until_freed is waits
        assert session.noted == [("pod-0", True)]


async def test_a_newer_leader_is_not_an_instances_fault() -> None:
    with pytest.raises(StaleTerm):
        await effects(Session(Reason.STALE)).run(FENCE)


async def test_a_start_that_is_over_is_asked_for_again_as_what_waits_now() -> None:
    with pytest.raises(Transient):
        await effects(Session(Reason.ANOTHER_START)).run(PERMIT)


async def test_without_a_session_nothing_was_done() -> None:
    with pytest.raises(SidecarUnreachable):
        await effects(None).run(FENCE)


SALVAGE = e.Salvage("replica", "demo-0", Position.parse("0-1-5"), "4-9", 4, "cluster")


async def test_a_tail_is_asked_of_the_dead_primarys_sidecar_and_stored_by_the_candidates() -> None:
    source, recipient = Session(), Session()
    await effects(source, replica=recipient).run(SALVAGE)
    [(_, ask)], [(_, store)] = source.asked, recipient.asked
    assert ask.received == "0-1-5"
    assert store.operation == "4-9"
    assert ask.authority.request_id != store.authority.request_id


async def test_logs_that_can_not_give_what_is_missing_are_noted_and_are_nobodys_mistake() -> None:
    source = Session(Reason.UNSALVAGEABLE)
    await effects(source, replica=Session()).run(SALVAGE)
    assert source.unsalvageable == [START]
    again = Session(Reason.NOT_STORED)
    with pytest.raises(Transient):
        await effects(again, replica=Session()).run(SALVAGE)
    assert not again.unsalvageable


async def test_what_was_salvaged_is_offered_for_one_application() -> None:
    session = Session()
    effect = e.ApplySalvaged("demo-0", "4-9", Position.parse("0-1-7"), 4, "cluster")
    given = await effects(session).give(effect)
    assert (given.host, given.port, given.user) == ("127.0.0.1", 4, "tail")
    assert "once" not in repr(given)
    [(verb, request)] = session.asked
    assert (verb, request.operation) == (Verb.GIVE, "4-9")

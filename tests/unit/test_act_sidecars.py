"""Effects that go to a sidecar: each request carries who asks, once; an answer from the past's future ends leading."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mariadb_operator.act.sidecars import SidecarEffects
from mariadb_operator.node.protocol import (
    FenceReply,
    FenceRequest,
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

START = "00000000000000aa"
FENCE = e.FenceServer("demo-0", 4, "cluster")
PERMIT = e.PermitServer("demo-0", START, 4, "cluster")


class Session:
    """A sidecar and its session; remembers what was asked."""

    def __init__(self, refusal: Reason | None = None, *, process: Process = Process.ENDED) -> None:
        self.asked: list[tuple[Verb, Any]] = []
        self.noted: list[tuple[str, bool]] = []
        self.word = SidecarFact(at=1.0, connected=True, pod_uid="pod-0", process=process)
        self._refusal = refusal

    @property
    def session(self) -> Session:
        return self

    async def ask(self, verb: Verb, request: Any, kind: type[Any], *, deadline_seconds: float) -> Any:
        self.asked.append((verb, request))
        if self._refusal is not None:
            raise refused(Refusal(refused=self._refusal, detail="no"), what="test")
        return FenceReply(dead=True, freed=True, recorded=True) if verb is Verb.FENCE else None

    def note_fence(self, *, pod_uid: str, freed: bool) -> None:
        self.noted.append((pod_uid, freed))


def effects(session: Session | None) -> SidecarEffects:
    ids = (f"request-{number}" for number in itertools.count())
    return SidecarEffects(lambda _: session, term=9, new_id=lambda: next(ids))


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

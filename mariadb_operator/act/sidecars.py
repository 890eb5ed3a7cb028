"""Carries out the effects that a node sidecar does: fence its server, let it start, and, when it will know how, salvage.

Whether one worked is told by the sidecar's own watch, never by the reply. Not for standing sessions
(observe.sidecars) nor for statements (sql.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, assert_never

from mariadb_operator.node.protocol import (
    Authority,
    FenceReply,
    FenceRequest,
    PermitReply,
    PermitRequest,
    R,
    Reason,
    Request,
    Role,
    Verb,
)
from mariadb_operator.sql.errors import StaleTerm
from mariadb_operator.ssh.errors import Refused, SidecarUnreachable
from statemachines import effects as e
from statemachines.facts import Process, SidecarFact

SidecarEffect: TypeAlias = e.FenceServer | e.PermitServer | e.Salvage | e.ApplySalvaged

DEADLINE_SECONDS = 3.0
DEAD_SECONDS = 2.0  # how long a fence may take until the process is known to be past its end


class Asks(Protocol):
    """A standing session, as far as effects need it."""

    async def ask(self, verb: Verb, request: Request, kind: type[R], *, deadline_seconds: float) -> R:
        """One question, one answer."""
        ...


class Sidecar(Protocol):
    """The sidecar of an instance, as far as effects need it."""

    @property
    def session(self) -> Asks:
        """The way to it."""
        ...

    @property
    def word(self) -> SidecarFact | None:
        """What it said last."""
        ...

    def note_fence(self, *, pod_uid: str, freed: bool) -> None:
        """What a fence was answered with, which its watch does not tell."""
        ...


class SidecarEffects:
    """The sidecars of one cluster, asked by one leader."""

    def __init__(
        self, sidecar: Callable[[str], Sidecar | None], *, term: int, new_id: Callable[[], str]
    ) -> None:
        """`sidecar` gives an instance's, if it has one; `new_id` an id for each request."""
        self._sidecar = sidecar
        self._term = term
        self._new_id = new_id

    async def run(self, effect: SidecarEffect) -> None:
        """Ask the sidecar. Raises StaleTerm, and what SidecarSession.ask raises."""
        sidecar = self._sidecar(effect.instance)
        if sidecar is None:
            raise SidecarUnreachable(f"{effect.instance} has no sidecar")
        authority = Authority(
            cluster_id=effect.cluster_id, epoch=effect.epoch, term=self._term, request_id=self._new_id()
        )
        try:
            await self._ask(sidecar, effect, authority)
        except Refused as error:
            if error.reason is Reason.STALE:
                raise StaleTerm(str(error)) from error
            raise

    async def _ask(self, sidecar: Sidecar, effect: SidecarEffect, authority: Authority) -> None:
        session, word = sidecar.session, sidecar.word
        match effect:
            case e.FenceServer():
                # Of a Pod that was made anew, nobody saw the server before it end.
                unseen = word is None or word.process is not Process.ENDED
                fence = FenceRequest(authority=authority, wait_seconds=DEAD_SECONDS, until_freed=unseen)
                reply = await session.ask(Verb.FENCE, fence, FenceReply, deadline_seconds=DEADLINE_SECONDS)
                if word is not None:
                    sidecar.note_fence(pod_uid=word.pod_uid, freed=reply.freed)
            case e.PermitServer():
                permit = PermitRequest(authority=authority, incarnation=effect.start, role=Role.PRIMARY)
                await session.ask(Verb.PERMIT, permit, PermitReply, deadline_seconds=DEADLINE_SECONDS)
            case e.Salvage() | e.ApplySalvaged():
                # Asked for only where a sidecar says that it salvages, and none of this protocol's version does.
                raise SidecarUnreachable(f"the sidecar of {effect.instance} has no verb for {effect}")
            case _:
                assert_never(effect)

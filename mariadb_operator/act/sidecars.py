"""Carries out the effects that a node sidecar does: fence its server, let it start, bring over what only it has.

Whether one worked is told by the sidecar's own watch, never by the reply. Not for standing sessions
(observe.sidecars) nor for statements (sql.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias, assert_never

from mariadb_operator.node.protocol import (
    Authority,
    FenceReply,
    FenceRequest,
    GiveReply,
    GiveRequest,
    PermitReply,
    PermitRequest,
    Reason,
    Role,
    StoreRequest,
    TailRequest,
    Verb,
)
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.sql.errors import StaleTerm
from mariadb_operator.sql.tails import TailSource
from mariadb_operator.ssh.errors import Refused, SidecarUnreachable
from mariadb_operator.ssh.session import SidecarSession
from statemachines import effects as e
from statemachines.facts import Process, SidecarFact

logger = logging.getLogger(__name__)

SidecarEffect: TypeAlias = e.FenceServer | e.PermitServer | e.Salvage

DEADLINE_SECONDS = 3.0
SILENCE_SECONDS = 20.0  # of a tail's way, disks included
DEAD_SECONDS = 2.0  # how long a fence may take until the process is known to be past its end


class Sidecar(Protocol):
    """The sidecar of an instance, as far as effects need it."""

    @property
    def session(self) -> SidecarSession:
        """The way to it."""
        ...

    @property
    def word(self) -> SidecarFact | None:
        """What it said last."""
        ...

    def note_fence(self, *, pod_uid: str, freed: bool) -> None:
        """What a fence was answered with, which its watch does not tell."""
        ...

    def note_unsalvageable(self, incarnation: str) -> None:
        """What its logs were answered to lack."""
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
        sidecar, authority = self._of(effect.instance), self._authority(effect)
        try:
            await self._ask(sidecar, effect, authority)
        except Refused as error:
            raise _understood(error) from error

    async def give(self, effect: e.ApplySalvaged) -> TailSource:
        """Have the candidate's sidecar offer what was salvaged. Raises StaleTerm, and what SidecarSession.ask raises."""
        request = GiveRequest(authority=self._authority(effect), operation=effect.operation)
        session = self._of(effect.instance).session
        try:
            given = await session.ask(Verb.GIVE, request, GiveReply, deadline_seconds=DEADLINE_SECONDS)
        except Refused as error:
            raise _understood(error) from error
        return TailSource(port=given.port, user=given.user, password=given.password)

    def _of(self, instance: str) -> Sidecar:
        sidecar = self._sidecar(instance)
        if sidecar is None:
            raise SidecarUnreachable(f"{instance} has no sidecar")
        return sidecar

    def _authority(self, effect: SidecarEffect | e.ApplySalvaged) -> Authority:
        return Authority(
            cluster_id=effect.cluster_id, epoch=effect.epoch, term=self._term, request_id=self._new_id()
        )

    async def _salvage(self, recipient: Sidecar, effect: e.Salvage, authority: Authority) -> None:
        source = self._of(effect.source)
        incarnation = source.word.incarnation if source.word is not None else ""
        ask = TailRequest(authority=self._authority(effect), received=str(effect.after))
        store = StoreRequest(authority=authority, operation=effect.operation)
        try:
            await source.session.bring_tail(ask, recipient.session, store, silence_seconds=SILENCE_SECONDS)
        except Refused as error:
            if error.reason is not Reason.UNSALVAGEABLE:
                raise
            logger.warning("%s: %s", effect.source, error)
            source.note_unsalvageable(incarnation)

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
            case e.Salvage():
                await self._salvage(sidecar, effect, authority)
            case _:
                assert_never(effect)


def _understood(error: Refused) -> OperatorError:
    return StaleTerm(str(error)) if error.reason is Reason.STALE else error

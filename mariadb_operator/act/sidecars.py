"""Carries out the effects that a node sidecar does: fence its server, let it start, and, when it will know how, salvage.

Whether one worked is told by the sidecar's own watch, never by the reply. Not for standing sessions
(observe.sidecars) nor for statements (sql.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, assert_never

from mariadb_operator.node.protocol import (
    Authority,
    FenceReply,
    FenceRequest,
    PermitReply,
    PermitRequest,
    Reason,
    Role,
    Verb,
)
from mariadb_operator.sql.errors import StaleTerm
from mariadb_operator.ssh.errors import Refused, SidecarUnreachable
from mariadb_operator.ssh.session import SidecarSession
from statemachines import effects as e

SidecarEffect: TypeAlias = e.FenceServer | e.PermitServer | e.Salvage | e.ApplySalvaged

DEADLINE_SECONDS = 3.0
DEAD_SECONDS = 2.0  # how long a fence may take until the process is known to be past its end


class SidecarEffects:
    """The sidecars of one cluster, asked by one leader."""

    def __init__(
        self, session: Callable[[str], SidecarSession | None], *, term: int, new_id: Callable[[], str]
    ) -> None:
        """`session` gives the standing session with an instance's sidecar; `new_id` an id for each request."""
        self._session = session
        self._term = term
        self._new_id = new_id

    async def run(self, effect: SidecarEffect) -> None:
        """Ask the sidecar. Raises StaleTerm, and what SidecarSession.ask raises."""
        session = self._session(effect.instance)
        if session is None:
            raise SidecarUnreachable(f"{effect.instance} has no sidecar")
        authority = Authority(
            cluster_id=effect.cluster_id, epoch=effect.epoch, term=self._term, request_id=self._new_id()
        )
        try:
            await self._ask(session, effect, authority)
        except Refused as error:
            if error.reason is Reason.STALE:
                raise StaleTerm(str(error)) from error
            raise

    async def _ask(self, session: SidecarSession, effect: SidecarEffect, authority: Authority) -> None:
        match effect:
            case e.FenceServer():
                fence = FenceRequest(authority=authority, wait_seconds=DEAD_SECONDS)
                await session.ask(Verb.FENCE, fence, FenceReply, deadline_seconds=DEADLINE_SECONDS)
            case e.PermitServer():
                permit = PermitRequest(authority=authority, incarnation=effect.start, role=Role.PRIMARY)
                await session.ask(Verb.PERMIT, permit, PermitReply, deadline_seconds=DEADLINE_SECONDS)
            case e.Salvage() | e.ApplySalvaged():
                # Asked for only where a sidecar says that it salvages, and none of this protocol's version does.
                raise SidecarUnreachable(f"the sidecar of {effect.instance} has no verb for {effect}")
            case _:
                assert_never(effect)

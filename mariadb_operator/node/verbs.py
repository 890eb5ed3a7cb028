"""What a sidecar does when it is asked. Each change is admitted first, and on the volume before it is answered.

Not for who may ask (server.py) nor for what the words mean on the wire (protocol.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import assert_never

from mariadb_operator.node.admission import Admission, Refused
from mariadb_operator.node.gate import Gate
from mariadb_operator.node.observer import Observer
from mariadb_operator.node.protocol import (
    VERSION,
    FenceReply,
    FenceRequest,
    GiveRequest,
    Greeting,
    LeaseState,
    LedgerState,
    NodeState,
    PermitReply,
    PermitRequest,
    Phase,
    Reason,
    RenewReply,
    RenewRequest,
    Reply,
    Request,
    Role,
    StateReply,
    StateRequest,
    StoreReply,
    StoreRequest,
    TailRequest,
    Verb,
    WatchEvent,
    WatchRequest,
)
from mariadb_operator.node.salvaging import Salvaging
from mariadb_operator.node.volume import Ledger, NotRecorded, Volume
from mariadb_operator.runtime.clock import Clock

logger = logging.getLogger(__name__)

RECORD_SECONDS = 2.0
# A fence is real before it is recorded: without a permit nothing starts anyway. So a sick disk delays it little.
FENCE_RECORD_SECONDS = 0.5
_LOOK_SECONDS = 0.02  # at the volume's lock, whose end nothing announces when another process has it
_ASKED = 1024


class Verbs:
    """Answers requests. Without a `readable` ledger the only change that is done is a fence."""

    def __init__(
        self,
        *,
        observer: Observer,
        gate: Gate,
        volume: Volume,
        admission: Admission,
        salvaging: Salvaging,
        readable: bool,
        clock: Clock,
        sidecar: str,
        boot_id: str,
    ) -> None:
        self._observer = observer
        self._gate = gate
        self._volume = volume
        self._admission = admission
        self._salvaging = salvaging
        self._readable = readable
        self._clock = clock
        self._sidecar = sidecar
        self._boot_id = boot_id
        self._asked: deque[float] = deque(maxlen=_ASKED)
        self._fences = 0
        self._sequence = 0
        observer.listen(self._count)

    @property
    def holds(self) -> bool:
        """Whether no server may live here."""
        return self._admission.ledger.fenced

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call it at each change, until the function that is returned is called."""
        return self._observer.listen(listener)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return self._observer.listeners

    def changed(self) -> None:
        """Tell all who listen."""
        self._observer.notify()

    async def answer(self, request: Request) -> Reply:
        """Do what is asked. Raises Refused, NotRecorded."""
        try:
            return await self._do(request)
        except Refused:
            # What it showed of the present counts even when there was nothing to do.
            await self._record_seen()
            raise

    async def _do(self, request: Request) -> Reply:
        match request:
            case WatchRequest():
                return self.first()
            case StateRequest():
                return StateReply(greeting=self._greeting(), state=self._state())
            case FenceRequest():
                return await self._fence(request)
            case PermitRequest():
                return await self._permit(request)
            case RenewRequest():
                return await self._renew(request)
            case GiveRequest():
                self._admission.admit(request.authority)
                return await self._salvaging.give(request.operation)
            case TailRequest() | StoreRequest():
                raise Refused(Reason.MALFORMED, "it needs a stream")
            case _:
                assert_never(request)

    def tail(self, request: TailRequest) -> AsyncGenerator[bytes]:
        """A tail, framed. Raises Refused, also from the loop."""
        self._admission.admit(request.authority)
        if not self.holds or self._observer.server is not None:
            raise Refused(Reason.BUSY, "only the logs of a server that is held are read")
        return self._salvaging.tail(request.received)

    async def store(self, request: StoreRequest, stream: asyncio.StreamReader) -> StoreReply:
        """Keep the tail that comes. Raises Refused."""
        self._admission.admit(request.authority)
        return await self._salvaging.store(request.operation, stream)

    def first(self) -> WatchEvent:
        """The first line of a watch."""
        return replace(self.heartbeat(), greeting=self._greeting(), state=self._state())

    def change(self) -> WatchEvent:
        """A line of a watch: something changed."""
        return replace(self.heartbeat(), state=self._state())

    def heartbeat(self) -> WatchEvent:
        """A line of a watch: nothing changed. Its time may be renewed from."""
        now = self._clock.monotonic()
        self._asked.append(now)
        return WatchEvent(now=now, sequence=self._sequence)

    def _count(self) -> None:
        self._sequence += 1

    def _greeting(self) -> Greeting:
        return Greeting(
            protocol=VERSION,
            sidecar=self._sidecar,
            boot_id=self._boot_id,
            now=self._clock.monotonic(),
            verbs=tuple(verb.value for verb in Verb),
        )

    def _state(self) -> NodeState:
        ledger = self._admission.ledger
        return NodeState(
            server=self._observer.server,
            death=self._observer.death,
            gate=self._observer.gate,
            probes=self._observer.probes,
            ledger=LedgerState(
                readable=self._readable,
                cluster_id=ledger.cluster_id,
                epoch=ledger.epoch,
                term=ledger.term,
                fenced=ledger.fenced,
                truncated=ledger.truncated,
            ),
            lease=self._gate.lease(),
            salvaged=self._salvaging.stored,
        )

    async def _fence(self, request: FenceRequest) -> FenceReply:
        self._admission.admit(request.authority)
        self._fences += 1
        ledger = self._admission.draft(request.authority, fenced=True)
        self._admission.take(ledger)
        # The order matters: a start whose permit was used up before this line has the volume's lock.
        self._gate.revoke()
        self._observer.kill()
        logger.warning("fenced for epoch %d, term %d", request.authority.epoch, request.authority.term)
        async with asyncio.TaskGroup() as group:
            recording = group.create_task(self._recorded(ledger))
            dead, freed = await self._confirm(request)
        self._observer.notify()
        return FenceReply(dead=dead, freed=freed, recorded=recording.result())

    async def _recorded(self, ledger: Ledger) -> bool:
        if not self._readable:
            return False
        try:
            await self._volume.write_ledger(ledger, deadline_seconds=FENCE_RECORD_SECONDS)
        except NotRecorded as error:
            logger.warning("the fence holds, but: %s", error)
            return False
        return True

    async def _confirm(self, request: FenceRequest) -> tuple[bool, bool]:
        end = self._clock.monotonic() + request.wait_seconds
        while True:
            dead, freed = self._judge()
            left = end - self._clock.monotonic()
            if freed or (dead and not request.until_freed) or left <= 0:
                return dead, freed
            await self._observer.change(timeout=min(left, _LOOK_SECONDS))

    def _judge(self) -> tuple[bool, bool]:
        """Whether no server runs here and none can start; and whether nothing has the volume any more."""
        if self._observer.server is not None:
            return False, False
        # No permit is out: who gets the lock now knows that no start is under way.
        if self._volume.is_free():
            return True, True
        death = self._observer.death
        return death is not None and death.incarnation == self._gate.used, False

    async def _permit(self, request: PermitRequest) -> PermitReply:
        authority = request.authority
        self._admission.admit(authority)
        self._check_waiting(request.incarnation)
        if self._volume.held:
            raise Refused(Reason.BUSY, "the volume is being worked on")
        fences = self._fences
        truncated = request.incarnation if request.role is Role.REPLICA else ""
        ledger = self._admission.draft(authority, fenced=False, truncated=truncated)
        await self._record(ledger)
        if fences != self._fences or not self._admission.is_current(authority):
            raise Refused(Reason.STALE, "something newer came in between")
        self._check_waiting(request.incarnation)
        self._admission.take(ledger)
        self._gate.permit(incarnation=request.incarnation, role=request.role)
        logger.info("permitted start %s as %s", request.incarnation, request.role.value)
        self._observer.notify()
        return PermitReply(incarnation=request.incarnation)

    def _check_waiting(self, incarnation: str) -> None:
        gate = self._observer.gate
        if gate is None or gate.phase is not Phase.WAITING or gate.incarnation != incarnation:
            raise Refused(Reason.ANOTHER_START, "the supervisor does not wait for that start")

    async def _renew(self, request: RenewRequest) -> RenewReply:
        self._admission.admit(request.authority)
        if request.asked_at not in self._asked:
            raise Refused(Reason.NOT_ASKED, "asked_at is of no heartbeat of this sidecar")
        self._check_renewable(request)
        await self._record_seen()
        self._check_renewable(request)
        if not self._admission.is_current(request.authority):
            raise Refused(Reason.STALE, "something newer came in between")
        return self._extend(request)

    def _check_renewable(self, request: RenewRequest) -> None:
        if self.holds:
            raise Refused(Reason.FENCED, "no server may live here")
        server = self._observer.server
        if server is None or server.incarnation != request.incarnation:
            raise Refused(Reason.ANOTHER_START, "that server does not live")

    def _extend(self, request: RenewRequest) -> RenewReply:
        known = self._gate.lease()
        if not request.seconds:
            self._gate.end_lease()
            if known is not None:
                self._observer.notify()
            return RenewReply(deadline=0.0)
        # What was granted is not taken back by an answer that comes late.
        deadline = request.asked_at + request.seconds
        if known is not None and known.incarnation == request.incarnation:
            deadline = max(deadline, known.deadline)
        if deadline <= self._clock.monotonic():
            raise Refused(Reason.NOT_ASKED, "the time that was asked for is over")
        lease = self._gate.let_live(LeaseState(incarnation=request.incarnation, deadline=deadline))
        if known is None or known.incarnation != request.incarnation:
            self._observer.notify()
        return RenewReply(deadline=lease.deadline)

    async def _record_seen(self) -> None:
        """Cluster, epoch and term, if they are others than those on the volume: a renewal costs no disk."""
        ledger = self._admission.ledger
        known = self._volume.recorded
        if known is None or (known.cluster_id, known.epoch, known.term) != (
            ledger.cluster_id,
            ledger.epoch,
            ledger.term,
        ):
            await self._record(ledger)

    async def _record(self, ledger: Ledger) -> None:
        if not self._readable:
            raise NotRecorded("the record on the volume can't be read; a person has to look at it")
        await self._volume.write_ledger(ledger, deadline_seconds=RECORD_SECONDS)

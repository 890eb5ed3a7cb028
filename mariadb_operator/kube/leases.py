"""Who of several operator processes leads: an election on a Lease object that is safe without common clocks.

A candidate takes the Lease when it has not seen it change for a whole lease time on its own monotonic clock; the
holder's time stamps are for people. The holder counts from the *sending* of its last confirmed renewal and stops at
two thirds of the lease time, so it has stopped before anybody may take over. What was sent before and arrives late is
refused by the term (DESIGN.md, late effects). Not for leases between database servers: those are the sidecars'.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mariadb_operator.kube.errors import Conflict, NotFound
from mariadb_operator.kube.kinds import LEASE, Kind, Manifest
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.errors import OperatorError, Transient

logger = logging.getLogger(__name__)

FIELD_MANAGER = "mariadb-operator-election"
HIGHEST_FIRST_TERM = 2**31 - 2**20
"""leaseTransitions is an int32: a clock far in the future must leave room for later terms."""
GIVEN_BACK_SECONDS = 1
"""leaseDurationSeconds of a Lease that its holder gave back (client-go's convention): free at once."""


class LeadershipLost(Transient):
    """This process does not lead, or can't be sure of it any more."""


class LeaseApi(Protocol):
    """What an election needs of the client."""

    async def get(
        self, kind: Kind, namespace: str | None, name: str, *, deadline: float | None = None
    ) -> Manifest:
        """Read an object."""
        ...

    async def create(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        """Create an object."""
        ...

    async def replace(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        """Replace an object, guarded by its resourceVersion."""
        ...


class Leadership:
    """One period in which this process leads. Everything that acts asks `check()` first."""

    __slots__ = ("_clock", "_until", "identity", "term")

    def __init__(self, *, identity: str, term: int, until: float, clock: Clock) -> None:
        self.identity = identity
        self.term = term
        """The fencing token: greater than that of every earlier leader."""
        self._until = until
        self._clock = clock

    def remaining(self) -> float:
        """Seconds for which leadership is certain, without another renewal; 0 when it is lost."""
        return max(0.0, self._until - self._clock.monotonic())

    def check(self) -> None:
        """LeadershipLost when leadership is not certain any more, as after this process stood still."""
        if self.remaining() <= 0:
            raise LeadershipLost(f"{self.identity} does not lead term {self.term} any more")

    def extend(self, until: float) -> None:
        """For the elector: a renewal was confirmed."""
        self._until = max(self._until, until)

    def revoke(self) -> None:
        """For the elector: somebody else holds the Lease, or it is given back."""
        self._until = -math.inf


@dataclass(slots=True)
class _Observation:
    """The Lease as last read, None if absent, and when that was first seen (monotonic seconds)."""

    version: str | None
    since: float


class LeaseElector:
    """Takes part in the election and runs the work while elected.

    `identity` must be unique to this process (Pod name and a random part), not to its Pod: a restarted container is
    another candidate.
    """

    def __init__(
        self,
        client: LeaseApi,
        namespace: str,
        name: str,
        identity: str,
        *,
        clock: Clock,
        rng: random.Random,
        lease_seconds: float = 5.0,
        renew_every: float | None = None,
    ) -> None:
        """All times in seconds; `renew_every` is a fifth of the lease time by default, at most a quarter of it.

        Leadership ends two thirds of the lease time after the last renewal; one call may take `renew_every`.
        """
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._rng = rng
        self._lease_seconds = lease_seconds
        self._renew_every = lease_seconds / 5 if renew_every is None else renew_every
        if lease_seconds <= GIVEN_BACK_SECONDS:
            raise ValueError(f"lease_seconds must be more than {GIVEN_BACK_SECONDS}, got {lease_seconds}")
        if not 0 < self._renew_every <= lease_seconds / 4:
            raise ValueError(f"renew_every must be within 0 and a quarter of {lease_seconds} s")
        self._renew_deadline = lease_seconds * 2 / 3
        self._observation: _Observation | None = None
        self._highest_term = 0  # of all that were ever seen, also on a Lease that was deleted since
        self._own_term: int | None = None  # of this process's latest attempt, granted or not
        self._lease: Manifest | None = None  # as of the last confirmed write; None when that is unknown

    async def run(self, work: Callable[[Leadership], Awaitable[None]]) -> None:
        """Wait to be elected, run the work, and again after leadership was lost; returns when the work returns.

        When leadership is lost the work is cancelled and its end awaited before another try. When this is cancelled
        the work is too; the Lease is renewed until the work ended and then given back. An error of the work ends
        this as an ExceptionGroup, the Lease given back.
        """
        while True:
            leadership = await self._acquire()
            logger.info("%s leads, term %d", self._identity, leadership.term)
            if await self._lead(leadership, work):
                return

    async def _lead(self, leadership: Leadership, work: Callable[[Leadership], Awaitable[None]]) -> bool:
        """Whether the work came to its end by itself."""
        finished = True
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep(leadership), name=f"keep lease {self._name}")
                try:
                    # Awaited here, not as a task of the group: cancelled from outside, the work ends first and
                    # the keeper renews meanwhile; a keeper that fails cancels this very task.
                    await work(leadership)
                finally:
                    keeper.cancel()
        except* LeadershipLost as lost:
            finished = False
            logger.warning("%s lost term %d: %s", self._identity, leadership.term, lost.exceptions[0])
        finally:
            await self._release(leadership)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # TaskGroup before 3.13 reports the lost leadership and drops a cancellation that came with it.
            raise asyncio.CancelledError
        return finished

    async def _acquire(self) -> Leadership:
        while True:
            try:
                leadership = await self._try_to_acquire()
            except OperatorError as error:
                logger.warning("%s can't take part in the election: %s", self._identity, error)
                leadership = None
            if leadership is not None:
                return leadership
            await self._clock.sleep(self._renew_every * self._rng.uniform(0.4, 0.6))

    async def _try_to_acquire(self) -> Leadership | None:
        lease = await self._read()
        # The time after the reply: the Lease can't have been that old for longer.
        now = self._clock.monotonic()
        version = None if lease is None else str(lease["metadata"]["resourceVersion"])
        if self._observation is None or self._observation.version != version:
            self._observation = _Observation(version, now)
        spec = {} if lease is None else lease.get("spec") or {}
        self._highest_term = max(self._highest_term, int(spec.get("leaseTransitions") or 0))
        if not self._may_take(spec, now - self._observation.since):
            return None
        return await self._take(lease)

    def _may_take(self, spec: Manifest, unchanged: float) -> bool:
        holder = spec.get("holderIdentity")
        if not holder and spec.get("leaseDurationSeconds") == GIVEN_BACK_SECONDS:
            return True
        if holder == self._identity and spec.get("leaseTransitions") == self._own_term:
            return True  # this process's own former term, whose work has ended
        # One that is absent, or empty in another way, may have been deleted or edited under a living leader.
        return unchanged >= max(self._lease_seconds, float(spec.get("leaseDurationSeconds") or 0))

    async def _take(self, lease: Manifest | None) -> Leadership:
        wall = self._clock.wall()
        # Seconds since 1970 as the lowest term: it grows even if nobody remembers the Lease that was deleted.
        term = max(self._highest_term + 1, min(int(wall.timestamp()), HIGHEST_FIRST_TERM))
        self._own_term = term
        self._lease = None
        stamp = _micro_time(wall)
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._lease_seconds),
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": term,
        }
        sent = self._clock.monotonic()
        if lease is None:
            manifest: Manifest = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"namespace": self._namespace, "name": self._name},
                "spec": spec,
            }
            self._lease = await self._client.create(
                manifest, field_manager=FIELD_MANAGER, deadline=self._renew_every
            )
        else:
            self._lease = await self._write(lease, spec)
        self._highest_term = term
        return Leadership(
            identity=self._identity, term=term, until=sent + self._renew_deadline, clock=self._clock
        )

    async def _keep(self, leadership: Leadership) -> None:
        """Renew until cancelled; LeadershipLost at the moment when it is not certain any more."""
        while True:
            await self._clock.sleep(min(self._renew_every, leadership.remaining()))
            while not await self._renewed(leadership):
                leadership.check()
                await self._clock.sleep(min(self._renew_every / 5, leadership.remaining()))

    async def _renewed(self, leadership: Leadership) -> bool:
        leadership.check()
        try:
            if self._lease is None:
                self._lease = self._own(await self._read(leadership.remaining()), leadership)
            lease, self._lease = self._lease, None
            spec = {**lease["spec"], "renewTime": _micro_time(self._clock.wall())}
            sent = self._clock.monotonic()
            self._lease = await self._write(lease, spec, leadership.remaining())
        except LeadershipLost:
            leadership.revoke()
            raise
        except OperatorError as error:
            logger.warning("%s could not renew: %s", self._identity, error)
            return False
        leadership.extend(sent + self._renew_deadline)
        return True

    def _own(self, lease: Manifest | None, leadership: Leadership) -> Manifest:
        """The Lease if it is still that of this leadership, LeadershipLost otherwise."""
        spec = {} if lease is None else lease.get("spec") or {}
        holder, term = spec.get("holderIdentity"), spec.get("leaseTransitions")
        if lease is None or holder != leadership.identity or term != leadership.term:
            raise LeadershipLost(f"lease {self._name} is held by {holder!r} in term {term}")
        return lease

    async def _release(self, leadership: Leadership) -> None:
        """Give the Lease back, so that the next leader need not wait; silent when it is not ours any more."""
        until = self._clock.monotonic() + leadership.remaining()
        leadership.revoke()
        while (remaining := until - self._clock.monotonic()) > 0:
            try:
                await self._give_back(leadership, remaining)
            except Conflict:
                self._lease = None  # the keeper's last renewal, cancelled on its way, came after the read
            except OperatorError as error:
                logger.warning("%s could not give the lease back: %s", self._identity, error)
                return
            else:
                return

    async def _give_back(self, leadership: Leadership, remaining: float) -> None:
        if self._lease is None:
            self._lease = self._own(await self._read(remaining), leadership)
        lease, self._lease = self._lease, None
        spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": GIVEN_BACK_SECONDS}
        await self._write(lease, spec, remaining)

    async def _read(self, remaining: float = math.inf) -> Manifest | None:
        try:
            return await self._client.get(
                LEASE, self._namespace, self._name, deadline=min(self._renew_every, remaining)
            )
        except NotFound:
            return None

    async def _write(self, lease: Manifest, spec: Manifest, remaining: float = math.inf) -> Manifest:
        """Replace the spec of exactly the version that was read."""
        try:
            return await self._client.replace(
                {**lease, "spec": spec},
                field_manager=FIELD_MANAGER,
                deadline=min(self._renew_every, remaining),
            )
        except NotFound as error:
            raise Conflict(f"lease {self._name} was deleted") from error


def _micro_time(wall: datetime) -> str:
    """MicroTime of the Kubernetes API."""
    return f"{wall:%Y-%m-%dT%H:%M:%S.%fZ}"

"""The operator's own connections to the servers of one cluster, opened ahead so that a failover does not wait for TLS.

One standing connection per instance for statements, and fresh ones for those that may wait long. Not for probing:
observe.probes has connections and an account of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mariadb_operator.runtime.errors import Transient
from mariadb_operator.sql.connection import Connection, Endpoint
from mariadb_operator.sql.errors import StatementLost

CONNECT_SECONDS = 1.0


class NoAddress(Transient):
    """The instance has no Pod, or its Pod no address."""


class Servers:
    """Connections by instance; closed by `close`."""

    def __init__(self, endpoint: Callable[[str], Endpoint | None]) -> None:
        """`endpoint` gives an instance's present address and the operator's account."""
        self._endpoint = endpoint
        self._standing: dict[str, Connection] = {}
        self._extra: dict[str, set[Connection]] = {}
        self._spare: dict[str, Connection] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._watches: set[asyncio.Task[None]] = set()

    async def standing(self, instance: str) -> Connection:
        """The standing connection, opened if there is none. Raises what Connection.open does, and NoAddress."""
        async with self._locks.setdefault(instance, asyncio.Lock()):
            endpoint = self._address(instance)
            known = self._standing.get(instance)
            if known is not None and not known.is_closed and known.endpoint == endpoint:
                return known
            if known is not None:
                known.close()
            opened = await Connection.open(endpoint, deadline_seconds=CONNECT_SECONDS)
            self._standing[instance] = opened
            self._watch(opened)
            return opened

    def _watch(self, connection: Connection) -> None:
        """Close it when the server does: a statement on a dead wire would count as lost, and cost its settling."""
        task = asyncio.create_task(connection.wait_closed(), name="watch a standing connection")
        self._watches.add(task)
        task.add_done_callback(lambda ended: self._ended(connection, ended))

    def _ended(self, connection: Connection, watch: asyncio.Task[None]) -> None:
        self._watches.discard(watch)
        if not connection.is_closed and not connection.is_busy:  # a statement under way finds out by itself
            connection.close()

    async def fresh(self, instance: str) -> Connection:
        """A connection of the caller's own, who gives it back by `give_back`."""
        spare = self._spare.pop(instance, None)
        if spare is not None and not spare.is_closed and spare.endpoint == self._endpoint(instance):
            return spare
        if spare is not None:
            self.give_back(instance, spare)
        return await self._open_extra(instance)

    async def prepare(self, instance: str) -> None:
        """Have a connection ready for the next `fresh`."""
        spare = self._spare.get(instance)
        if spare is None or spare.is_closed:
            self._spare[instance] = await self._open_extra(instance)
            self._watch(self._spare[instance])

    def is_prepared(self, instance: str) -> bool:
        """Whether `fresh` would find one."""
        spare = self._spare.get(instance)
        return spare is not None and not spare.is_closed

    async def _open_extra(self, instance: str) -> Connection:
        connection = await Connection.open(self._address(instance), deadline_seconds=CONNECT_SECONDS)
        self._extra.setdefault(instance, set()).add(connection)
        return connection

    def give_back(self, instance: str, connection: Connection) -> None:
        """Close a fresh connection."""
        connection.close()
        self._extra.get(instance, set()).discard(connection)

    def own_ids(self, instance: str) -> frozenset[int]:
        """Connection ids of this process on that server."""
        connections = {*self._extra.get(instance, ())}
        if instance in self._standing:
            connections.add(self._standing[instance])
        return frozenset(each.connection_id for each in connections if not each.is_closed)

    def is_warm(self, instance: str) -> bool:
        """Whether a standing connection to the present address is open."""
        known = self._standing.get(instance)
        return known is not None and not known.is_closed and known.endpoint == self._endpoint(instance)

    def interrupted(self, instance: str) -> StatementLost | None:
        """What was cut off on the standing connection: it was closed with a statement under way, and not replaced."""
        known = self._standing.get(instance)
        if known is None or not known.is_closed:
            return None
        return StatementLost(
            f"a statement to {instance} was cut off: it may still run",
            connection_id=known.connection_id,
            incarnation=known.incarnation,
        )

    def forget(self, instance: str) -> None:
        """Close all connections to an instance that is none any more."""
        known = self._standing.pop(instance, None)
        self._spare.pop(instance, None)
        for connection in (*([known] if known is not None else []), *self._extra.pop(instance, ())):
            connection.close()

    def close(self) -> None:
        """Close all."""
        for watch in self._watches:
            watch.cancel()
        for connection in (
            *self._standing.values(),
            *(each for held in self._extra.values() for each in held),
        ):
            connection.close()
        self._standing.clear()
        self._extra.clear()
        self._spare.clear()

    def _address(self, instance: str) -> Endpoint:
        endpoint = self._endpoint(instance)
        if endpoint is None:
            raise NoAddress(f"instance {instance} has no address")
        return endpoint

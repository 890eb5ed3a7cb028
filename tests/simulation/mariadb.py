"""One start of a simulated mariadbd: commits and who acknowledges them, and the two threads of a replica.

Each rule is one of FACTS.md: AFTER_SYNC waits for one replica and never falls back by itself; relay logs are wiped by
the first START after both threads had stopped; a query killed in its wait answers OK; what was sent to a frozen server
runs when it thaws. Not for SQL (statements.py), nor for Pods and supervisors (kubelets.py).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from statemachines.facts import IoThread
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.volumes import Kind, Place, Transaction, Volume

if TYPE_CHECKING:
    from tests.simulation.statements import Execution, Session

NOT_IN_BINLOG, OUT_OF_ORDER, READ_ONLY, NO_SOURCE, KILLED = 1236, 1950, 1290, 1200, 1927
CONNECT_RETRY = 1.0
CONNECT_TIMEOUT = 4.0  # slave_net_timeout, for a connection that is not answered
SILENCE = (3.2, 4.2)  # until a replica gives up a source that says nothing


class SqlError(Exception):
    """What a server answers when it does not do it."""

    def __init__(self, errno: int, text: str = "") -> None:
        super().__init__(errno, text)
        self.errno = errno
        self.text = text


class Witness(Protocol):
    """Who hears what servers do: the judge."""

    def written(self, server: Server, transaction: Transaction) -> None: ...
    def released(self, server: Server, transaction: Transaction, *, by: str | None, killed: bool) -> None: ...
    def wiped(self, server: Server, relay: list[Transaction]) -> None: ...
    def opened(self, server: Server) -> None: ...


class Surroundings(Protocol):
    """What a server needs of its world."""

    loop: SimulatedLoop
    network: Network
    rng: random.Random

    @property
    def judge(self) -> Witness: ...

    def dial(
        self,
        host: str,
        address: str,
        accepted: Callable[[Server], None],
        refused: Callable[[], None],
    ) -> None: ...


@dataclass(slots=True)
class Waiting:
    """A commit that is logged and waits for its acknowledgement."""

    transaction: Transaction
    end: int
    done: Callable[[SqlError | None], None]
    session: object = None


class Stream:
    """A dump thread at the source and the connection to the IO thread that it feeds."""

    __slots__ = ("closed", "cursor", "in_flight", "open", "replica", "semi_sync", "source")

    def __init__(self, source: Server, replica: Server, *, cursor: int) -> None:
        self.source = source
        self.replica = replica
        self.cursor = cursor
        self.semi_sync = replica.replica_semi_sync
        self.in_flight = False
        self.open = False  # the replica knows that it is let in
        self.closed = False

    def pump(self) -> None:
        """Send what is logged; one batch is under way at a time."""
        log = self.source.volume.log
        if self.in_flight or self.closed or not self.open or self.cursor >= len(log) or not self.source.alive:
            return
        self.in_flight = True
        batch, end = log[self.cursor :], len(log)
        network = self.source.world.network
        network.send(self.source.host, self.replica.host, self.replica.deliver, self._arrive, batch, end)

    def _arrive(self, batch: list[Transaction], end: int) -> None:
        replica, source = self.replica, self.source
        if replica.stream is not self:
            return
        self.cursor, self.in_flight = end, False
        replica.receive(batch)
        if self.semi_sync:
            network = source.world.network
            network.send(replica.host, source.host, source.deliver, source.acknowledged, self, end)
        source.deliver(self.pump)


class Server:
    """One start of mariadbd on a volume, from boot to death."""

    def __init__(
        self,
        world: Surroundings,
        *,
        name: str,
        ordinal: int,
        volume: Volume,
        address: str,
        host: str,
        pod_uid: str,
    ) -> None:
        volume.starts += 1
        volume.in_use = self
        self.world = world
        self.name = name
        self.ordinal = ordinal
        self.server_id = ordinal + 1
        self.volume = volume
        self.address = address
        self.host = host
        self.pod_uid = pod_uid
        self.incarnation = f"{name}-start-{volume.starts}"
        self.alive = True
        self.frozen = False
        self.inbox: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.read_only = True
        self.semi_sync = True
        self.replica_semi_sync = True
        self.waiting: deque[Waiting] = deque()
        self.acknowledged_count = 0
        self.unacknowledged_count = 0
        self.streams: dict[int, Stream] = {}
        self.sessions: dict[int, Session] = {}
        self.pending: list[Execution] = []
        self.opened_epoch = 0
        self.too_many_connections = False
        self.access_denied = False
        # As a replica.
        self.io_wanted = False
        self.io_errno = 0
        self.stream: Stream | None = None
        self.received: dict[int, Place] | None = None
        self.sql_running = False
        self.sql_errno = 0
        self.sql_broken = False  # an error ends its SQL thread whenever it has something to do
        self.apply_delay = 0.001
        self._attempt = 0
        self._applying = False
        self._hung = False
        self._next_session = world.rng.randrange(5, 50)
        self.on_death: list[Callable[[], None]] = []

    # --- the process ---

    def deliver(self, act: Callable[..., object], *args: Any) -> None:
        """Something arrives: done now, when the server thaws, or never."""
        if not self.alive:
            return
        if self.frozen:
            self.inbox.append((act, args))
        else:
            act(*args)

    def later(self, delay: float, act: Callable[..., object], *args: Any) -> None:
        self.world.loop.in_world(delay, self.deliver, act, *args)

    def freeze(self) -> None:
        """SIGSTOP. What arrives is kept by the kernel."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT: it goes on with all that has come meanwhile."""
        if self.frozen and self.alive:
            self.frozen = False
            inbox, self.inbox = self.inbox, []
            for act, args in inbox:
                self.deliver(act, *args)

    def die(self, *, power: bool = False) -> None:
        """SIGKILL, or the machine without power. Only the volume stays; nobody hears of it where there is no power."""
        if not self.alive:
            return
        self.alive = False
        self.volume.in_use = None
        network, rng = self.world.network, self.world.rng
        for stream in self.streams.values():
            stream.closed = True
        if not power:
            for stream in self.streams.values():
                later = rng.uniform(0.0, 0.1)
                replica = stream.replica
                self.world.loop.in_world(
                    later, network.send, self.host, replica.host, replica.deliver, replica.stream_lost, stream
                )
            if self.stream is not None:
                source = self.stream.source
                network.send(self.host, source.host, source.deliver, source.drop_stream, self.stream)
            for session in list(self.sessions.values()):
                session.server_gone()
        self.sessions.clear()
        self.waiting.clear()
        self.pending.clear()
        self.inbox.clear()
        for act in self.on_death:
            act()

    # --- as a primary ---

    def write(
        self,
        kind: Kind,
        done: Callable[[SqlError | None], None],
        *,
        row: str = "",
        epoch: tuple[int, str, str] | None = None,
        privileged: bool = False,
        rogue: bool = False,
        session: object = None,
    ) -> Transaction | None:
        """A logged transaction: in the binary log, then sent, then acknowledged, then its client hears OK."""
        if self.read_only and not privileged:
            done(SqlError(READ_ONLY, "read-only"))
            return None
        volume = self.volume
        last = volume.last.get(0)
        sequence = last.sequence + 1 if last is not None else 1
        transaction = Transaction(0, self.server_id, sequence, kind, row=row, epoch=epoch, rogue=rogue)
        self.world.judge.written(self, transaction)
        volume.append(transaction)
        for stream in self.streams.values():
            stream.pump()
        if self.semi_sync:
            self.waiting.append(Waiting(transaction, len(volume.log), done, session))
        else:
            self.world.judge.released(self, transaction, by=None, killed=False)
            done(None)
        return transaction

    def acknowledged(self, stream: Stream, end: int) -> None:
        """A replica has everything up to there in its relay log."""
        if self.streams.get(stream.replica.ordinal) is not stream:
            return
        self._release(end, by=stream.replica.name)

    def _release(self, end: int, *, by: str) -> None:
        waiting, released = self.waiting, False
        while waiting and waiting[0].end <= end:
            each = waiting.popleft()
            self.acknowledged_count += 1
            released = True
            self.world.judge.released(self, each.transaction, by=by, killed=False)
            each.done(None)
        if released:
            self.wake()

    def set_semi_sync(self, enabled: bool) -> None:
        """Turning it off frees the sessions that wait: they hear OK."""
        self.semi_sync = enabled
        if enabled:
            return
        waiting, self.waiting = self.waiting, deque()
        for each in waiting:
            self.unacknowledged_count += 1
            self.world.judge.released(self, each.transaction, by=None, killed=False)
            each.done(None)
        if self._hung:
            self._hung = False
            self._applied()
        self.wake()

    def kill_query(self, waiting: Waiting) -> None:
        """KILL QUERY of a session that waits: its client hears OK though nobody has acknowledged."""
        if waiting in self.waiting:
            self.waiting.remove(waiting)
            self.unacknowledged_count += 1
            self.world.judge.released(self, waiting.transaction, by=None, killed=True)
            waiting.done(None)
            self.wake()

    def drop_stream(self, stream: Stream) -> None:
        """The other end is gone, or the dump thread was killed."""
        stream.closed = True
        if self.streams.get(stream.replica.ordinal) is stream:
            del self.streams[stream.replica.ordinal]
            replica = stream.replica
            self.world.network.send(self.host, replica.host, replica.deliver, replica.stream_lost, stream)
        self.wake()

    @property
    def clients(self) -> int:
        """Rpl_semi_sync_master_clients."""
        return sum(stream.semi_sync for stream in self.streams.values())

    # --- as a replica: receiving ---

    @property
    def io_thread(self) -> IoThread:
        if not self.io_wanted:
            return IoThread.STOPPED
        return IoThread.RUNNING if self.stream is not None else IoThread.CONNECTING

    def start_slave(self, *, io: bool, sql: bool) -> None:
        """START SLAVE. The first one after both threads had stopped wipes what was received and not applied."""
        volume = self.volume
        if volume.source is None:
            raise SqlError(NO_SOURCE, "no source")
        if not self.io_wanted and not self.sql_running:
            if volume.relay:
                self.world.judge.wiped(self, list(volume.relay))
                volume.relay.clear()
            self.received = dict(volume.slave_position)
        if io and not self.io_wanted:
            self.io_wanted, self.io_errno = True, 0
            self._connect()
        if sql and not self.sql_running:
            self.sql_running, self.sql_errno = True, 0
            self._apply_soon()

    @property
    def source_is_silent(self) -> bool:
        """Whether the machine or process at the other end says nothing, not even that the connection is gone."""
        if self.stream is None:
            return False
        source, network = self.stream.source, self.world.network
        return not network.talks(self.host, source.host) or (source.alive and source.frozen)

    def stop_io(self) -> None:
        """The end of STOP SLAVE IO_THREAD, or of an error."""
        stream, self.stream = self.stream, None
        self.io_wanted = False
        self._attempt += 1
        if stream is not None:
            self.world.network.send(
                self.host, stream.source.host, stream.source.deliver, stream.source.drop_stream, stream
            )
        self.wake()

    def stop_sql(self) -> None:
        self.sql_running = False
        self.wake()

    def receive(self, batch: list[Transaction]) -> None:
        """Into the relay log."""
        self.volume.relay.extend(batch)
        received = self.received if self.received is not None else {}
        for transaction in batch:
            received[transaction.domain] = transaction.place
        self.received = received
        self._apply_soon()

    def _connect(self) -> None:
        source = self.volume.source
        if not self.io_wanted or source is None:
            return
        self._attempt += 1
        attempt = self._attempt
        self.world.dial(
            self.host, source.host, partial(self._ask, attempt), partial(self._again, attempt, CONNECT_RETRY)
        )
        self.later(CONNECT_TIMEOUT, self._unanswered, attempt)

    def _again(self, attempt: int, delay: float) -> None:
        """It was refused: another attempt in a second."""
        self.deliver(self._retry, attempt, delay)

    def _retry(self, attempt: int, delay: float) -> None:
        if attempt == self._attempt and self.io_wanted and self.stream is None:
            self.later(delay, self._reconnect, attempt)

    def _unanswered(self, attempt: int) -> None:
        self._reconnect(attempt)

    def _reconnect(self, attempt: int) -> None:
        if attempt == self._attempt and self.io_wanted and self.stream is None:
            self._connect()

    def _ask(self, attempt: int, source: Server) -> None:
        """At the source: whether this replica is let in, and from where it goes on."""
        network = self.world.network
        position = self.received if self.received is not None else {}
        if not source.volume.accounts or self.ordinal in source.volume.locked:
            network.send(source.host, self.host, self._again, attempt, CONNECT_RETRY)
            return
        if any(place not in source.volume.index for place in position.values()):
            network.send(source.host, self.host, self.deliver, self._purged, attempt)
            return
        known = source.streams.get(self.ordinal)
        if known is not None:  # a dump thread of the same server_id is killed
            source.drop_stream(known)
        start = max((source.volume.index[place] for place in position.values()), default=-1) + 1
        stream = Stream(source, self, cursor=start)
        source.streams[self.ordinal] = stream
        network.send(source.host, self.host, self.deliver, self._established, attempt, stream)

    def _purged(self, attempt: int) -> None:
        if attempt == self._attempt and self.io_wanted:
            self.stop_io()
            self.io_errno = NOT_IN_BINLOG

    def _established(self, attempt: int, stream: Stream) -> None:
        if attempt == self._attempt and stream.closed:  # ended before it was heard of
            self._retry(attempt, CONNECT_RETRY)
            return
        if attempt != self._attempt or not self.io_wanted or self.stream is not None:
            self.world.network.send(
                self.host, stream.source.host, stream.source.deliver, stream.source.drop_stream, stream
            )
            return
        self.stream = stream
        stream.open = True
        self._attempt += 1
        if stream.semi_sync:  # what it asked to go on from, it has
            source = stream.source
            self.world.network.send(
                self.host, source.host, source.deliver, source.acknowledged, stream, stream.cursor
            )
        stream.source.deliver(stream.pump)
        self.listen_for_silence()  # its source may have died before the wire had healed
        self.wake()

    def stream_lost(self, stream: Stream) -> None:
        """The connection broke: it is opened again at once."""
        if self.stream is stream:
            self.stream = None
            self._connect()
            self.wake()

    def listen_for_silence(self) -> None:
        """Something happened to its source or the wire: if it says nothing, that is noticed after seconds."""
        if self.stream is not None:
            self.later(self.world.rng.uniform(*SILENCE), self._check_silence, self.stream)

    def _check_silence(self, stream: Stream) -> None:
        if self.stream is not stream:
            return
        source = stream.source
        heard = self.world.network.passes(source.host, self.host) and source.alive and not source.frozen
        if not heard:
            self.stream_lost(stream)

    # --- as a replica: applying ---

    def _apply_soon(self) -> None:
        if self.sql_running and not self._applying and self.volume.relay:
            self._applying = True
            self.later(self.apply_delay * self.world.rng.uniform(0.5, 1.5), self._apply)

    def _apply(self) -> None:
        self._applying = False
        if self._hung or not self.sql_running:
            return
        relay, volume = self.volume.relay, self.volume
        count = len(relay) if self.apply_delay < 0.01 else min(1, len(relay))
        for done in range(count):
            transaction = relay[done]
            last = volume.last.get(transaction.domain)
            if self.sql_broken or (last is not None and transaction.sequence <= last.sequence):
                del relay[:done]
                self.sql_errno = OUT_OF_ORDER
                self.stop_sql()
                return
            volume.append(transaction)
            for stream in self.streams.values():
                stream.pump()
            if self.semi_sync:  # its SQL thread waits for an acknowledgement, for ever
                del relay[:done]
                self._hung = True
                return
            volume.slave_position[transaction.domain] = transaction.place
        del relay[:count]
        self._apply_soon()
        self.wake()

    def _applied(self) -> None:
        """The one that hung has got through."""
        transaction = self.volume.relay.pop(0)
        self.volume.slave_position[transaction.domain] = transaction.place
        self._apply_soon()

    # --- sessions ---

    def new_session_id(self) -> int:
        self._next_session += 1
        return self._next_session

    def wake(self) -> None:
        """Something changed: statements that wait for it may go on."""
        if self.pending:
            for execution in list(self.pending):
                execution.look()

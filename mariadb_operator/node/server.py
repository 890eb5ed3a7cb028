"""The SSH server of a sidecar: a closed set of verbs for the holders of some keys, and nothing else that SSH can do.

One exec request is one verb: its command is the verb's name, one line of JSON comes in, one goes out (`watch`: until
the session ends). No password, shell, terminal, forwarding, agent, environment, file transfer. Not for what the verbs
do (verbs.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, NoReturn

import asyncssh

from mariadb_operator.node.keys import ALGORITHM, Keys
from mariadb_operator.node.protocol import USERNAME, Counts, Reason
from mariadb_operator.node.session import Session
from mariadb_operator.node.verbs import Verbs
from mariadb_operator.runtime.clock import Clock

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is let in at once and per second; seconds where nothing else is said."""

    connections: int = 16
    logins: int = 8  # connections that have not logged in yet
    sessions: int = 16  # of one connection
    keys: int = 3  # offered in one login
    connection_rate: float = 20.0
    connection_burst: int = 40
    request_rate: float = 50.0
    request_burst: int = 100
    login_seconds: float = 5.0
    request_seconds: float = 5.0  # for the line to come
    stuck_seconds: float = 10.0  # of a watch whose reader does not read
    keepalive_seconds: float = 5.0


@dataclass(slots=True)
class Tally:
    """What was not let in since the start."""

    refused: Counter[Reason] = field(default_factory=Counter)
    bad_keys: int = 0
    turned_away: int = 0

    def counts(self) -> Counts:
        """As the protocol tells it."""
        return Counts(refused=self.refused.total(), bad_keys=self.bad_keys, turned_away=self.turned_away)


class Rate:
    """A token bucket."""

    def __init__(self, *, rate: float, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock.monotonic()

    def take(self) -> bool:
        """Whether one more is within the rate."""
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Server:
    """Lets clients in and hands their requests to the verbs."""

    def __init__(self, *, verbs: Verbs, keys: Keys, limits: Limits, clock: Clock) -> None:
        self.tally = Tally()
        self.verbs = verbs
        self.keys = keys
        self.limits = limits
        self.clock = clock
        self.requests = Rate(rate=limits.request_rate, burst=limits.request_burst, clock=clock)
        self._connections = Rate(rate=limits.connection_rate, burst=limits.connection_burst, clock=clock)
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._logging_in = 0
        self._open = 0

    @staticmethod
    def listen(*, address: str, port: int) -> socket.socket:
        """The socket for `run`; an empty address means all, IPv6 included where there is."""
        dual = not address and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual or ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family, backlog=64, dualstack_ipv6=dual)
        listener.setblocking(False)
        return listener

    async def run(self, listener: socket.socket) -> NoReturn:
        """Serve a listening, non-blocking socket for ever; it is closed at the end."""
        loop = asyncio.get_running_loop()
        with listener:
            async with self._group:
                while True:
                    try:
                        accepted, address = await loop.sock_accept(listener)
                    except OSError as error:  # too many open files, or gone before it was accepted
                        logger.warning("a connection was not accepted: %s", error.strerror)
                        await asyncio.sleep(0.1)
                        continue
                    self._let_in(accepted, str(address[0]))
        raise RuntimeError("the listener ended by itself")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run to its end even when whoever asked is gone."""
        self._tasks.add(task := self._group.create_task(work))
        task.add_done_callback(self._tasks.discard)

    def refuse(self, reason: Reason, *, peer: str, what: str, detail: str) -> None:
        """Count and log it."""
        self.tally.refused[reason] += 1
        logger.warning("refused %s from %s: %s: %s", what, peer, reason.value, detail)

    def _let_in(self, accepted: socket.socket, peer: str) -> None:
        if (
            self._open >= self.limits.connections
            or self._logging_in >= self.limits.logins
            or not self._connections.take()
        ):
            self.tally.turned_away += 1
            logger.warning("turned away a connection from %s: too many", peer)
            accepted.close()
            return
        self._open += 1
        self.spawn(self._connection(accepted, peer))

    async def _connection(self, accepted: socket.socket, peer: str) -> None:
        connection = None
        try:
            connection = await self._login(accepted, peer)
            if connection is not None:
                await connection.wait_closed()
        except Exception:
            # One peer's oddity ends one connection.
            logger.exception("the connection from %s failed", peer)
        finally:
            self._open -= 1
            if connection is None:
                accepted.close()
            else:
                connection.abort()

    async def _login(self, accepted: socket.socket, peer: str) -> asyncssh.SSHServerConnection | None:
        self._logging_in += 1
        try:
            async with asyncio.timeout(self.limits.login_seconds):
                return await asyncssh.run_server(
                    accepted,
                    config=None,
                    server_factory=lambda: Guest(self, peer),
                    server_host_keys=[self.keys.host_key],
                    **self._options(),
                )
        except (asyncssh.Error, OSError, TimeoutError) as error:
            logger.info("no login from %s: %s", peer, type(error).__name__)
            return None
        finally:
            self._logging_in -= 1

    def _options(self) -> dict[str, Any]:
        return {
            "public_key_auth": True,
            "password_auth": False,
            "kbdint_auth": False,
            "host_based_auth": False,
            "gss_auth": False,
            "gss_kex": False,
            "gss_host": None,
            "allow_pty": False,
            "agent_forwarding": False,
            "x11_forwarding": False,
            "allow_scp": False,
            "line_editor": False,
            "rdns_lookup": False,
            "kex_algs": ["curve25519-sha256"],
            "encryption_algs": ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"],
            "signature_algs": [ALGORITHM],
            "compression_algs": None,
            "encoding": None,
            "login_timeout": self.limits.login_seconds,
            "keepalive_interval": self.limits.keepalive_seconds,
            "keepalive_count_max": 3,
            "server_version": "mariadb-operator",
        }


class Guest(asyncssh.SSHServer):
    """One connection: which key it came with, and how many sessions it has. What is not named here is refused."""

    def __init__(self, server: Server, peer: str) -> None:
        self._server = server
        self._peer = peer
        self._connection: asyncssh.SSHServerConnection | None = None
        self._offered = 0
        self._key = b""
        self._sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """It began."""
        self._connection = conn

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 - asyncssh's signature
        """Nobody gets in without."""
        return True

    def public_key_auth_supported(self) -> bool:
        """The only way in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether it is one of ours; it still has to be proven."""
        if username == USERNAME and self._server.keys.accepts(key.public_data):
            self._key = key.public_data
            return True
        self._server.tally.bad_keys += 1
        self._offered += 1
        logger.warning("a key from %s is none of ours", self._peer)
        if self._offered >= self._server.limits.keys and self._connection is not None:
            self._connection.abort()
        return False

    def session_requested(self) -> Any:
        """One verb each."""
        if self._connection is None or not self.welcome():
            return False
        if self._sessions >= self._server.limits.sessions:
            self._server.tally.turned_away += 1
            logger.warning("turned away a session from %s: too many", self._peer)
            return False
        self._sessions += 1
        channel = self._connection.create_server_channel(encoding=None, window=16384, max_pktsize=16384)
        return channel, Session(self._server, peer=self._peer, welcome=self.welcome, left=self._left)

    def welcome(self) -> bool:
        """Whether its key is still one of ours; the connection ends otherwise."""
        if self._server.keys.accepts(self._key):
            return True
        logger.warning("the key that %s came with is none of ours any more", self._peer)
        if self._connection is not None:
            self._connection.abort()
        return False

    def _left(self) -> None:
        self._sessions -= 1

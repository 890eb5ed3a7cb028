"""Real sidecars for tests: the process next to a gated server, its keys, and the operator's side of the wire."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from mariadb_operator.node.protocol import (
    Authority,
    FenceReply,
    FenceRequest,
    NodeState,
    PermitReply,
    PermitRequest,
    Phase,
    RenewReply,
    RenewRequest,
    Role,
    StateReply,
    StateRequest,
    Verb,
    WatchEvent,
)
from mariadb_operator.runtime.clock import SystemClock
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.ssh.connection import SidecarConnection, Target
from mariadb_operator.ssh.errors import SidecarUnreachable
from mariadb_operator.ssh.session import Pace, SidecarSession
from tests.integration.servers import DEADLINE, Server, eventually

PORT = 33064
REPOSITORY = Path(__file__).parents[2]
_request_ids = itertools.count()


def new_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def public(*keys: asyncssh.SSHKey) -> str:
    return "".join(key.export_public_key().decode() for key in keys)


def authority(
    *, cluster_id: str = "c", epoch: int = 1, term: int = 1, request_id: str | None = None
) -> Authority:
    return Authority(
        cluster_id=cluster_id,
        epoch=epoch,
        term=term,
        request_id=request_id or f"{os.getpid()}.{next(_request_ids)}",
    )


@dataclass
class Sidecar:
    """The sidecar of one server."""

    server: Server
    host_key: asyncssh.SSHKey = field(default_factory=new_key)
    client_key: asyncssh.SSHKey = field(default_factory=new_key)
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.server.folder / "ssh"

    def write_keys(self, *, host: asyncssh.SSHKey, clients: str) -> None:
        """As the kubelet does: whole files at once."""
        self.folder.mkdir(exist_ok=True)
        for name, data in (("host-key", host.export_private_key()), ("authorized-keys", clients.encode())):
            path = self.folder / f"{name}.new"
            path.write_bytes(data)
            self._own(path)
            path.rename(self.folder / name)
        self._own(self.folder)

    def _own(self, path: Path) -> None:
        if self.server.uid is not None:
            os.chown(path, self.server.uid, self.server.uid)

    def start(self) -> None:
        if not self.folder.exists():
            self.write_keys(host=self.host_key, clients=public(self.client_key))
        with (self.server.folder / "sidecar.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._as_server(), sys.executable, "-m", "mariadb_operator.node"],
                env={
                    **self.server.environment(),
                    "NODE_ADDRESS": self.server.address,
                    "SSH_DIR": str(self.folder),
                },
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )

    def _as_server(self) -> list[str]:
        """Like the server's user, but able to read an interpreter that is in another user's home."""
        if self.server.uid is None:
            return []
        capability = "+dac_read_search"
        return [
            "setpriv",
            f"--reuid={self.server.uid}",
            f"--regid={self.server.uid}",
            "--clear-groups",
            f"--inh-caps={capability}",
            f"--ambient-caps={capability}",
            "--",
        ]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return (self.server.folder / "sidecar.log").read_text(errors="replace")

    def resident(self) -> int:
        """Bytes."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def target(
        self, *, client_key: asyncssh.SSHKey | None = None, host_keys: tuple[asyncssh.SSHKey, ...] = ()
    ) -> Target:
        return Target(
            host=self.server.address,
            port=PORT,
            host_keys=tuple(public(key) for key in host_keys or (self.host_key,)),
            client_key=(client_key or self.client_key).export_private_key().decode(),
        )

    async def connect(self, target: Target | None = None) -> SidecarConnection:
        """As soon as it answers."""
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    return await SidecarConnection.open(target or self.target(), deadline_seconds=DEADLINE)
                except SidecarUnreachable:
                    assert self.process is not None
                    assert self.process.poll() is None, self.log()
                    await asyncio.sleep(0.05)

    async def state(self) -> NodeState:
        async with await self.connect() as connection:
            reply = await connection.ask(Verb.STATE, StateRequest(), StateReply, deadline_seconds=DEADLINE)
        return reply.state

    async def fence(self, *, by: Authority | None = None, until_freed: bool = True) -> FenceReply:
        request = FenceRequest(
            authority=by or authority(),
            wait_seconds=10.0,
            until_freed=until_freed,
        )
        async with await self.connect() as connection:
            return await connection.ask(Verb.FENCE, request, FenceReply, deadline_seconds=DEADLINE)

    async def permit(
        self, incarnation: str, *, by: Authority | None = None, role: Role = Role.PRIMARY
    ) -> PermitReply:
        request = PermitRequest(
            authority=by or authority(),
            incarnation=incarnation,
            role=role,
        )
        async with await self.connect() as connection:
            return await connection.ask(Verb.PERMIT, request, PermitReply, deadline_seconds=DEADLINE)

    async def renew(
        self, incarnation: str, *, asked_at: float, seconds: float, by: Authority | None = None
    ) -> RenewReply:
        request = RenewRequest(
            authority=by or authority(),
            incarnation=incarnation,
            asked_at=asked_at,
            seconds=seconds,
        )
        async with await self.connect() as connection:
            return await connection.ask(Verb.RENEW, request, RenewReply, deadline_seconds=DEADLINE)

    async def waiting(self, *, after: str = "") -> str:
        """The start that the supervisor waits to make, of another name than `after`."""
        async with asyncio.timeout(DEADLINE):
            while True:
                gate = (await self.state()).gate
                if gate is not None and gate.phase is Phase.WAITING and gate.incarnation != after:
                    return gate.incarnation
                await asyncio.sleep(0.02)

    async def admit(self, *, after: str = "") -> str:
        """Permit the next start and wait until the server answers; which start it was."""
        incarnation = await self.waiting(after=after)
        await self.permit(incarnation)
        (await self.server.answering()).close()
        await eventually_async("the sidecar knows of it", self.state, lambda state: state.server is not None)
        return incarnation


async def eventually_async(
    what: str,
    look: Callable[[], Awaitable[NodeState]],
    holds: Callable[[NodeState], object],
) -> NodeState:
    """Ask until it holds; what was answered then."""
    async with asyncio.timeout(DEADLINE):
        while True:
            state = await look()
            if holds(state):
                return state
            await asyncio.sleep(0.02)
    raise AssertionError(what)


class News:
    """What a standing session told, in its order."""

    def __init__(self) -> None:
        self.events: list[tuple[WatchEvent, float]] = []
        self.losses: list[OperatorError] = []
        self.state: NodeState | None = None

    def event(self, event: WatchEvent, *, at: float) -> None:
        self.events.append((event, at))
        self.state = event.state or self.state

    def lost(self, reason: OperatorError, *, at: float) -> None:
        self.losses.append(reason)

    async def seen(self, what: str, condition: Callable[[NodeState], object]) -> NodeState:
        await eventually(what, lambda: self.state is not None and condition(self.state))
        assert self.state is not None
        return self.state


@asynccontextmanager
async def watching(sidecar: Sidecar) -> AsyncIterator[tuple[News, SidecarSession]]:
    """The operator's standing session."""
    news = News()
    session = SidecarSession(
        target=sidecar.target,
        listener=news,
        clock=SystemClock(),
        rng=random.Random(0),
        pace=Pace(base=0.05, limit=0.2),
    )
    running = asyncio.create_task(session.run())
    try:
        yield news, session
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def stop(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, as the kubelet does."""
    process.send_signal(signal.SIGTERM)
    return process.wait(DEADLINE)

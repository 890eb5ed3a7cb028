"""The supervisor's gate on real servers: no start without its permit, whoever is away, and the lease it enforces."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from pathlib import Path

import pytest

from mariadb_operator.node.gate import Gate
from mariadb_operator.node.protocol import LeaseState, Phase, Role
from mariadb_operator.runtime.clock import SystemClock
from tests.integration.servers import DEADLINE, Server, Servers, eventually, root, supervisor_looked


@pytest.fixture
def gated(servers: Servers) -> Server:
    return servers.make(0, gated=True)


class Attendant:
    """What the sidecar does at the gate, by hand."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.gate = Gate(server.gate)
        self._said = asyncio.Event()
        self.gate.open(self._said.set)

    async def waits_for(self, phase: Phase, *, after: str = "") -> str:
        """Wait until it is announced; of which start."""
        async with asyncio.timeout(DEADLINE):
            while True:
                self._said.clear()
                said = self.gate.announcement()
                if said is not None and said.phase is phase and said.incarnation != after:
                    return said.incarnation
                await self._said.wait()

    async def admits(self, *, after: str = "", role: Role = Role.PRIMARY) -> str:
        incarnation = await self.waits_for(Phase.WAITING, after=after)
        self.give(incarnation, role=role)
        await self.waits_for(Phase.RUNNING)
        (await self.server.answering()).close()
        return incarnation

    def give(self, incarnation: str, *, role: Role = Role.PRIMARY) -> None:
        self.gate.permit(incarnation=incarnation, role=role)

    def leaves(self) -> None:
        self.gate.close()


async def started(server: Server) -> Attendant:
    attendant = Attendant(server)
    for path in server.gate.iterdir():
        own(path, server)
    server.start()
    return attendant


def own(path: Path, server: Server) -> None:
    """The tests run as root, the sidecar as the server's user."""
    if server.uid is not None:
        os.chown(path, server.uid, server.uid)


def arguments(server: Server) -> list[str]:
    return Path(f"/proc/{server.pid()}/cmdline").read_text().split("\0")


def lock_is_free(server: Server) -> bool:
    with (server.volume / "volume.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def test_a_start_waits_for_its_permit_and_is_announced(gated: Server) -> None:
    attendant = await started(gated)
    incarnation = await attendant.waits_for(Phase.WAITING)
    assert gated.pid() is None
    assert await attendant.admits() == incarnation
    said = attendant.gate.announcement()
    assert said is not None
    assert said.pid == gated.pid()
    assert (await gated.look()).incarnation == incarnation
    assert not attendant.gate.permitted
    attendant.leaves()


async def test_the_permit_of_another_start_opens_nothing(gated: Server) -> None:
    attendant = await started(gated)
    incarnation = await attendant.waits_for(Phase.WAITING)
    attendant.give("0" * 16)
    await supervisor_looked(gated)
    assert gated.pid() is None
    attendant.give(incarnation)
    await attendant.waits_for(Phase.RUNNING)
    attendant.leaves()


async def test_a_crash_needs_a_permit_of_its_own_and_frees_the_volume(gated: Server) -> None:
    attendant = await started(gated)
    first = await attendant.admits()
    assert not lock_is_free(gated)
    gated.signal(signal.SIGKILL)
    second = await attendant.waits_for(Phase.WAITING, after=first)
    said = attendant.gate.announcement()
    assert said is not None
    assert said.code == 128 + signal.SIGKILL
    assert lock_is_free(gated)
    await supervisor_looked(gated)
    assert gated.pid() is None
    attendant.give(second)
    await attendant.waits_for(Phase.RUNNING)
    (await gated.answering()).close()
    attendant.leaves()


async def test_a_permit_survives_the_sidecar_and_a_crash_meets_nobody(gated: Server) -> None:
    attendant = await started(gated)
    incarnation = await attendant.waits_for(Phase.WAITING)
    assert gated.process is not None
    gated.process.send_signal(signal.SIGSTOP)
    attendant.give(incarnation)
    attendant.leaves()
    gated.process.send_signal(signal.SIGCONT)
    (await gated.answering()).close()
    gated.signal(signal.SIGKILL)
    await eventually("it waits", lambda: "ended with code 137" in gated.log())
    later = Attendant(gated)
    second = await later.admits(after=incarnation)
    assert second != incarnation
    later.leaves()


async def test_a_start_waits_for_whoever_works_on_the_volume(gated: Server) -> None:
    attendant = await started(gated)
    incarnation = await attendant.waits_for(Phase.WAITING)
    with (gated.volume / "volume.lock").open("ab") as lock:
        own(gated.volume / "volume.lock", gated)
        fcntl.flock(lock, fcntl.LOCK_EX)
        attendant.give(incarnation)
        await eventually("it waits for the lock", lambda: "another server holds the volume" in gated.log())
        # Withdrawn before it was used up: with the lock in hand nothing can start.
        attendant.gate.revoke()
    await supervisor_looked(gated)
    assert gated.pid() is None
    attendant.give(incarnation)
    await attendant.waits_for(Phase.RUNNING)
    attendant.leaves()


async def test_term_ends_the_wait_whenever_it_comes(gated: Server) -> None:
    attendant = await started(gated)
    last = ""
    # The first moments of the wait are what was missed once: a child that had not yet dropped our handler.
    for _ in range(20):
        last = await attendant.waits_for(Phase.WAITING, after=last)
        assert await gated.terminate() == 0
        assert await attendant.waits_for(Phase.LEFT) == last
        gated.start()
    attendant.leaves()


async def test_a_supervisor_that_starts_anew_asks_anew(gated: Server) -> None:
    attendant = await started(gated)
    first = await attendant.waits_for(Phase.WAITING)
    assert await gated.terminate() == 0
    attendant.give(first)
    gated.start()
    second = await attendant.waits_for(Phase.WAITING, after=first)
    await supervisor_looked(gated)
    assert gated.pid() is None
    attendant.give(second)
    await attendant.waits_for(Phase.RUNNING)
    attendant.leaves()


async def test_an_empty_volume_is_made_only_with_a_permit(servers: Servers) -> None:
    server = servers.make(0, empty=True, gated=True)
    attendant = await started(server)
    await attendant.waits_for(Phase.WAITING)
    assert not list(server.volume.glob("data*"))
    await attendant.admits()
    attendant.leaves()


async def test_the_role_of_the_permit_decides_what_recovery_may_do(gated: Server) -> None:
    attendant = await started(gated)
    first = await attendant.admits()
    assert "--init-rpl-role=SLAVE" not in arguments(gated)
    gated.signal(signal.SIGKILL)
    await attendant.admits(after=first, role=Role.REPLICA)
    assert "--init-rpl-role=SLAVE" in arguments(gated)
    attendant.leaves()


async def test_the_sidecars_account_can_write_its_probe_and_is_made_once(gated: Server) -> None:
    attendant = await started(gated)
    first = await attendant.admits()
    grants = root(gated, "SHOW GRANTS FOR mariadb_node@localhost")
    assert "write_probe" in grants
    gated.signal(signal.SIGKILL)
    await attendant.admits(after=first)
    assert root(gated, "SHOW GRANTS FOR mariadb_node@localhost") == grants
    assert root(gated, "SHOW BINLOG EVENTS").count("Query") == 0
    attendant.leaves()


async def test_a_server_without_a_lease_lives_and_one_with_a_lease_dies_at_its_end(gated: Server) -> None:
    clock = SystemClock()
    attendant = await started(gated)
    incarnation = await attendant.admits()
    attendant.gate.let_live(LeaseState(incarnation="f" * 16, deadline=clock.monotonic() - 5))
    await supervisor_looked(gated, "leased")
    assert gated.pid() is not None
    first = clock.monotonic() + 2
    attendant.gate.let_live(LeaseState(incarnation=incarnation, deadline=first))
    attendant.gate.let_live(LeaseState(incarnation=incarnation, deadline=first + 60))
    await asyncio.sleep(first + 1.1 - clock.monotonic())  # it has looked again after the first one's end
    assert gated.pid() is not None
    attendant.gate.let_live(LeaseState(incarnation=incarnation, deadline=clock.monotonic()))
    attendant.leaves()  # it is enforced without the sidecar
    await eventually("it is killed", lambda: "the lease of mariadbd is over" in gated.log())
    await eventually("it waits", lambda: "ended with code 137" in gated.log())


async def test_a_lease_can_be_ended(gated: Server) -> None:
    clock = SystemClock()
    attendant = await started(gated)
    incarnation = await attendant.admits()
    attendant.gate.let_live(LeaseState(incarnation=incarnation, deadline=clock.monotonic() + 5))
    attendant.gate.end_lease()
    await supervisor_looked(gated, "leased")
    assert gated.pid() is not None
    attendant.gate.let_live(LeaseState(incarnation=incarnation, deadline=clock.monotonic() + 0.3))
    await eventually("it is killed", lambda: "the lease of mariadbd is over" in gated.log())
    attendant.leaves()

"""The process watch on real servers: which process is the server, and when its end is known."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mariadb_operator.node import processes
from mariadb_operator.node.processes import Death, DeathWatch, ServerProcess
from mariadb_operator.node.protocol import Sign
from mariadb_operator.runtime.clock import SystemClock
from tests.integration.servers import DEADLINE, Server, Servers, eventually, root


def identified(server: Server) -> ServerProcess:
    [found] = processes.find(server.data, uid=server.uid if server.uid is not None else os.getuid())
    return found


class Watched:
    """A watch, and the death that it told of."""

    def __init__(self, process: ServerProcess) -> None:
        self.death: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self.watch = DeathWatch(process, died=self.death.set_result, gone=self.gone.set, clock=SystemClock())
        self.watch.watch_threads()

    async def ended(self) -> Death:
        async with asyncio.timeout(DEADLINE):
            return await self.death


async def test_each_server_of_this_machine_is_found_by_its_own_volume(servers: Servers) -> None:
    made = [servers.make(ordinal) for ordinal in range(2)]
    for server in made:
        server.start()
    for server in made:
        (await server.answering()).close()
        found = identified(server)
        assert found.pid == server.pid()
        assert found.incarnation == (await server.look()).incarnation
    assert not processes.find(made[0].data, uid=made[0].uid + 1 if made[0].uid else 1)
    assert not processes.find(Path("/another/volume"), uid=made[0].uid or os.getuid())


async def test_death_is_known_by_the_threads(server: Server) -> None:
    watched = Watched(identified(server))
    assert watched.watch.watched_threads == processes.WATCHED_THREADS
    server.signal(signal.SIGKILL)
    death = await watched.ended()
    assert death.sign is Sign.EXITING
    assert death.process.pid == watched.watch.process.pid
    async with asyncio.timeout(DEADLINE):
        await watched.gone.wait()


async def test_a_crash_is_a_death_too(server: Server) -> None:
    watched = Watched(identified(server))
    server.signal(signal.SIGSEGV)
    await watched.ended()


async def test_a_kill_of_our_own_is_told_of_a_stopped_server_too(server: Server) -> None:
    watched = Watched(identified(server))
    server.signal(signal.SIGSTOP)
    watched.watch.kill()
    await watched.ended()
    assert not watched.watch.alive


async def test_a_thread_that_ends_by_itself_is_no_death_and_another_takes_its_place(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await server.connect()
    pid = identified(server).pid
    chosen = processes.threads

    def newest_first(of: int) -> list[int]:
        return list(reversed(chosen(of)))  # a client's thread among them

    monkeypatch.setattr(processes, "threads", newest_first)
    root(server, "SET GLOBAL thread_cache_size = 0")
    watched = Watched(identified(server))
    before = set(watched.watch._threads.values())
    client.close()
    await eventually("the client's thread ends", lambda: before - set(chosen(pid)))
    await eventually(
        "another is watched",
        lambda: (
            set(watched.watch._threads.values()) - before
            and watched.watch.watched_threads == processes.WATCHED_THREADS
        ),
    )
    assert not watched.death.done()
    server.signal(signal.SIGKILL)
    await watched.ended()


async def test_a_shutdown_is_not_cut_short_by_the_watch(server: Server) -> None:
    watched = Watched(identified(server))
    assert await server.terminate() == 0
    await watched.ended()
    assert "Shutdown complete" in server.log()
    assert "ended with code 0 after TERM" in server.log()


async def test_a_kernel_without_pidfds_of_threads_tells_by_the_process(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_PIDFD_THREAD", 1 << 30)  # refused as an old kernel refuses it
    watched = Watched(identified(server))
    assert watched.watch.watched_threads == 0
    server.signal(signal.SIGKILL)
    assert (await watched.ended()).sign is Sign.PROCESS


async def test_a_process_number_that_was_given_again_is_not_watched(server: Server) -> None:
    process = identified(server)
    with pytest.raises(ProcessLookupError):
        DeathWatch(
            ServerProcess(pid=process.pid, started=process.started - 1, incarnation=process.incarnation),
            died=lambda death: None,
            gone=lambda: None,
            clock=SystemClock(),
        )

"""A server whose volume is a file system of its own that freezes or fills up, and what its sidecar makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mariadb_operator.node.protocol import Phase, Ping, Space, Write
from tests.integration.servers import Server, Servers, eventually, processes_naming
from tests.integration.sidecars import Sidecar, authority, watching


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def own_file_system(server: Server) -> None:
    """An ext4 in a file, mounted as the volume, with the data on it."""
    image, data = server.folder / "image", server.folder / "data"
    server.data.rename(data)
    run("truncate", "-s", "400M", image)
    run("mkfs.ext4", "-q", "-F", image)
    run("mount", "-o", "loop", image, server.volume)
    shutil.copytree(data, server.data)
    for path in (server.volume, *server.volume.rglob("*")):
        os.chown(path, server.uid or 0, server.uid or 0)


@pytest.fixture
def sidecar(servers: Servers) -> Iterator[Sidecar]:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices, for a file system that can be frozen")
    server = servers.make(0, gated=True)
    own_file_system(server)
    made = Sidecar(server)
    made.start()
    server.start()
    try:
        yield made
    finally:
        made.kill()
        subprocess.run(["fsfreeze", "-u", server.volume], check=False, capture_output=True)
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        for pid in processes_naming(str(server.folder)):
            os.kill(pid, signal.SIGKILL)
        run("umount", "--lazy", server.volume)


async def test_a_frozen_disk_is_a_stall_and_no_hindrance_to_a_fence(sidecar: Sidecar) -> None:
    await sidecar.admit()
    volume = sidecar.server.volume
    async with watching(sidecar) as (news, _):
        await news.seen("it writes", lambda state: state.probes.write is Write.DONE)
        run("fsfreeze", "-f", volume)
        stalled = await news.seen("it stalls", lambda state: state.probes.write is Write.STALLED)
        assert stalled.probes.ping is Ping.ANSWERS
        fenced = await sidecar.fence(by=authority(), until_freed=False)
        assert fenced.dead
        assert not fenced.recorded
        assert not news.losses
        run("fsfreeze", "-u", volume)
        await news.seen(
            "the next start waits",
            lambda state: state.gate and state.gate.phase is Phase.WAITING and state.gate.code == 137,
        )
    record = volume / "node.json"
    await eventually("the record is made up for", lambda: '"fenced":true' in record.read_text())


async def test_a_full_disk_is_known_and_so_is_its_end(sidecar: Sidecar) -> None:
    await sidecar.admit()
    volume = sidecar.server.volume
    async with watching(sidecar) as (news, _):
        await news.seen("there is space", lambda state: state.probes.space is Space.ENOUGH)
        free = os.statvfs(volume)
        run("fallocate", "-l", free.f_bavail * free.f_frsize - 2**20, volume / "filling")
        full = await news.seen("there is none", lambda state: state.probes.space is Space.NONE)
        assert full.probes.free_bytes < 2**21
        assert full.probes.ping is Ping.ANSWERS
        (volume / "filling").unlink()
        await news.seen("there is again", lambda state: state.probes.space is Space.ENOUGH)

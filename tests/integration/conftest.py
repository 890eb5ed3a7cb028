"""Fixtures: an authority, a volume installed once by the supervisor, servers and clusters made from it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.certificates import Authority
from tests.integration.servers import SUPERVISOR, Cluster, Server, Servers

SERVER_UID = 60999  # has no account, as in a container


def _server_uid() -> int | None:
    """mariadbd refuses to run as root."""
    return SERVER_UID if os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.make("cluster")


@pytest.fixture(scope="session", autouse=True)
def other_root() -> Iterator[None]:
    """MARIADB_ROOT: the unpacked files of an image whose MariaDB is tested instead of this machine's (as root)."""
    root = os.environ.get("MARIADB_ROOT")
    if root is None:
        yield
        return
    inside = [Path(root + path) for path in (tempfile.gettempdir(), str(SUPERVISOR.parent), "/proc", "/dev")]
    try:
        for target in inside:
            target.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--rbind", str(target).removeprefix(root), target], check=True)
            subprocess.run(["mount", "--make-rslave", target], check=True)
        yield
    finally:
        for target in inside:
            subprocess.run(["umount", "--recursive", "--lazy", target], check=False)


@pytest.fixture(scope="session")
def template(authority: Authority, other_root: None) -> Iterator[Path]:
    """A data folder as the supervisor leaves it after its first start, shut down cleanly."""
    if shutil.which("mariadbd", path=os.environ.get("MARIADB_PATH")) is None:
        pytest.fail("mariadbd is missing: apt-get install mariadb-server-core, or set MARIADB_PATH")
    folder = Path(tempfile.mkdtemp(prefix="mariadb-template-"))
    folder.chmod(0o755)
    server = Server(folder, 0, "127.0.0.1", authority, uid=_server_uid())
    server.address = f"127.254.{os.getpid() % 250}.1"
    server.prepare()
    server.start()

    async def install() -> None:
        (await server.answering()).close()
        assert await server.terminate() == 0, server.log()

    try:
        asyncio.run(install())
        # It wrote nothing to its binary log; copies begin with none.
        for path in server.data.glob("binlog.*"):
            path.unlink()
        yield server.data
    finally:
        server.destroy()


@pytest.fixture
def servers(authority: Authority, template: Path) -> Iterator[Servers]:
    made = Servers(authority, template, _server_uid())
    try:
        yield made
    finally:
        made.destroy()


@pytest.fixture
async def cluster(servers: Servers) -> Cluster:
    """Three instances, replicating, semi-sync on."""
    return await Cluster.make(servers)


@pytest.fixture
async def server(servers: Servers) -> Server:
    """One fresh server that answers."""
    made = servers.make(0)
    made.start()
    (await made.answering()).close()
    return made

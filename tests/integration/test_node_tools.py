"""The server's own tools, out of its container's files, while mariadbd is dead and as the server's own user."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mariadb_operator.node.binary_log import inspect
from mariadb_operator.node.tools import Tool, ToolFailed, find
from tests.integration.servers import DEADLINE, PASSWORDS, Server, processes_naming, root


def newest_log(server: Server) -> Path:
    return server.data / inspect(server.data / "binlog.index").files[-1]


ALONE = "SET GLOBAL rpl_semi_sync_master_enabled = OFF"


def root_of(server: Server) -> Path:
    """The files that its supervisor sees: another image's, where MARIADB_ROOT names one."""
    assert server.process is not None
    return Path(f"/proc/{server.process.pid}/root")


async def test_the_server_s_version_of_a_tool_reads_its_log_while_it_is_dead(
    server: Server, tmp_path: Path
) -> None:
    version = root(server, "SELECT @@version").split("-")[0]
    root(server, f"{ALONE}; CREATE DATABASE IF NOT EXISTS seen")
    await server.kill_and_hold()
    tool = await find(root_of(server), "mariadb-binlog")
    log = newest_log(server)
    with (tmp_path / "text").open("w+b") as text:
        await tool.run(str(log), deadline_seconds=DEADLINE, stdout=text)
        text.seek(0)
        said = text.read().decode()
    assert f"server v {version}-" in said
    assert "CREATE DATABASE IF NOT EXISTS seen" in said


async def test_a_torn_log_is_said_on_stderr_with_success(server: Server) -> None:
    """Why nothing here goes by the tool's exit code."""
    root(server, f"{ALONE}; CREATE DATABASE IF NOT EXISTS seen")
    await server.kill_and_hold()
    log = newest_log(server)
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 5)
    tool = await find(root_of(server), "mariadb-binlog")
    said = await tool.run(str(log), deadline_seconds=DEADLINE)
    assert "truncated" in said


async def test_a_password_reaches_a_tool_and_no_argument_list(server: Server) -> None:
    tool = await find(root_of(server), "mariadb")
    password = PASSWORDS["root"].replace("\\", "\\\\").replace('"', '\\"')
    options = f'[client]\nuser=root\nsocket={server.run}/mysqld.sock\npassword="{password}"\n'
    asked = asyncio.create_task(
        tool.run("-e", "SELECT SLEEP(2) AS asked_as_root", options=options, deadline_seconds=DEADLINE)
    )
    await server.seen(lambda _: asked.done() or processes_naming("asked_as_root"))
    assert not asked.done()
    assert not processes_naming(PASSWORDS["root"])
    await asked


async def test_a_tool_that_fails_says_why(server: Server) -> None:
    tool = await find(root_of(server), "mariadb-binlog")
    with pytest.raises(ToolFailed, match="not found"):
        await tool.run("/nothing/there", deadline_seconds=DEADLINE)


def test_no_privilege_is_needed_but_the_server_s_own_user(server: Server) -> None:
    async def look() -> None:
        tool: Tool = await find(root_of(server), "mariadb-binlog")
        await tool.run("--version", deadline_seconds=DEADLINE)

    uid = server.uid
    if uid is None:
        pytest.skip("the tests run as that user already")
    assert _as_user(uid, lambda: asyncio.run(look())) == ""


def _as_user(uid: int, do: Callable[[], None]) -> str:
    """What went wrong when a child that gave up all privileges did it."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on it warns of threads, of which this child needs none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        message = b""
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            do()
        except BaseException as error:  # noqa: BLE001  # reported to the parent, whatever it is
            message = repr(error).encode()
        os.write(writer, message)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said

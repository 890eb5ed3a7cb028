"""What the sidecar's SSH server lets in: one verb per session for holders of its keys, and nothing else of SSH.

No mariadbd here: the clients are what counts, ours and wrong ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from mariadb_operator.node.__main__ import Settings, build
from mariadb_operator.node.protocol import (
    USERNAME,
    Counts,
    FenceRequest,
    Reason,
    Refusal,
    StateReply,
    StateRequest,
    Verb,
    WatchEvent,
    WatchRequest,
    read_reply,
    write,
)
from mariadb_operator.node.server import Limits, Server
from mariadb_operator.node.volume import Volume
from mariadb_operator.node.wire import LINE_LIMIT
from mariadb_operator.ssh.connection import SidecarConnection, Target
from mariadb_operator.ssh.errors import (
    AnswerLost,
    RefusedNow,
    SidecarUnproven,
    SidecarUnreachable,
)
from tests.integration.servers import DEADLINE, eventually
from tests.integration.sidecars import REPOSITORY, authority, new_key, public

STATE = write(StateRequest())


@dataclass
class Served:
    """A server in this process, and its keys."""

    server: Server
    folder: Path
    port: int
    host_key: asyncssh.SSHKey
    client_key: asyncssh.SSHKey

    def target(
        self,
        *,
        client_key: asyncssh.SSHKey | None = None,
        host_keys: tuple[asyncssh.SSHKey, ...] | None = None,
    ) -> Target:
        return Target(
            host="127.0.0.1",
            port=self.port,
            host_keys=tuple(public(key) for key in host_keys or (self.host_key,)),
            client_key=(client_key or self.client_key).export_private_key().decode(),
        )

    def write_keys(self, *, host: asyncssh.SSHKey | None = None, clients: str | None = None) -> None:
        if host is not None:
            self._replace("host-key", host.export_private_key())
        if clients is not None:
            self._replace("authorized-keys", clients.encode())

    def _replace(self, name: str, data: bytes) -> None:
        path = self.folder / f"{name}.new"
        path.write_bytes(data)
        path.rename(self.folder / name)

    async def open(self, **keys: Any) -> SidecarConnection:
        return await SidecarConnection.open(self.target(**keys), deadline_seconds=DEADLINE)

    async def works(self, **keys: Any) -> None:
        async with await self.open(**keys) as connection:
            await connection.ask(Verb.STATE, StateRequest(), StateReply, deadline_seconds=DEADLINE)

    @contextlib.asynccontextmanager
    async def raw(self, **options: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A client that does what it likes."""
        settings: dict[str, Any] = {
            "username": USERNAME,
            "client_keys": [self.client_key],
            "known_hosts": ([self.host_key.convert_to_public()], [], []),
            "config": None,
            "agent_path": None,
            **options,
        }
        async with asyncio.timeout(DEADLINE):
            connection = await asyncssh.connect("127.0.0.1", self.port, **settings)
        try:
            yield connection
        finally:
            connection.abort()

    async def says(self, verb: str, sent: bytes, **options: Any) -> tuple[bytes, int | None]:
        """The output and the exit status of one session."""
        async with asyncio.timeout(DEADLINE), self.raw() as connection:
            process = await connection.create_process(verb, encoding=None, **options)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(sent)
                process.stdin.write_eof()
            done = await process.wait()
        assert isinstance(done.stdout, bytes)
        return done.stdout, done.exit_status


def refusal(said: tuple[bytes, int | None]) -> Refusal:
    line, status = said
    assert status == 1
    read = read_reply(WatchEvent, line)
    assert isinstance(read, Refusal)
    return read


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
async def served(tmp_path: Path, limits: Limits) -> AsyncIterator[Served]:
    for name in ("gate", "volume", "run", "secrets", "ssh"):
        (tmp_path / name).mkdir()
    host_key, client_key = new_key(), new_key()
    (tmp_path / "ssh/host-key").write_bytes(host_key.export_private_key())
    (tmp_path / "ssh/authorized-keys").write_text(public(client_key))
    settings = Settings(
        server_id=1,
        address="127.0.0.1",
        port=0,
        gate=tmp_path / "gate",
        volume=tmp_path / "volume",
        run=tmp_path / "run",
        secrets=tmp_path / "secrets",
        ssh=tmp_path / "ssh",
    )
    volume = Volume(settings.volume)
    _, built, _ = build(settings, volume)
    server = Server(verbs=built.verbs, keys=built.keys, limits=limits, clock=built.clock)
    listener = server.listen(address="127.0.0.1", port=0)
    running = asyncio.create_task(server.run(listener))
    yield Served(server, tmp_path / "ssh", listener.getsockname()[1], host_key, client_key)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    volume.close()


async def test_holders_of_the_keys_get_answers(served: Served) -> None:
    await served.works()
    assert json.loads((await served.says("state", STATE))[0])["greeting"]["protocol"] == 1


async def test_another_key_is_refused_counted_and_logged_without_the_key(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mariadb_operator")
    stranger = new_key()
    with pytest.raises(SidecarUnproven):
        await served.open(client_key=stranger)
    assert served.server.tally.bad_keys == 1
    assert "a key from 127.0.0.1 is none of ours" in caplog.text
    async with await served.open() as connection:
        reply = await connection.ask(Verb.STATE, StateRequest(), StateReply, deadline_seconds=DEADLINE)
    assert reply.counts == Counts(bad_keys=1)
    assert public(stranger).split()[1] not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"username": "root"},
        {"client_keys": None, "password": "secret"},
        {"client_keys": [asyncssh.generate_private_key("ecdsa-sha2-nistp256")]},
    ],
    ids=["another user", "a password", "another kind of key"],
)
async def test_no_other_way_in(served: Served, options: dict[str, Any]) -> None:
    with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost)):
        async with served.raw(**options):
            pass


async def test_guessing_keys_ends_the_connection(served: Served) -> None:
    with pytest.raises(asyncssh.Error):
        async with served.raw(client_keys=[new_key() for _ in range(20)]):
            pass
    await eventually("it was cut off", lambda: served.server.tally.bad_keys == 3)


async def test_another_host_key_is_never_talked_to(served: Served) -> None:
    with pytest.raises(SidecarUnproven):
        await served.open(host_keys=(new_key(),))
    with pytest.raises(ValueError, match="pinned"):
        dataclasses.replace(served.target(), host_keys=())


async def test_nothing_of_the_clients_machine_has_a_say(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/config").write_text("Host *\n  User root\n  Port 1\n  ProxyCommand false\n")
    (home / ".ssh/known_hosts").write_text(f"127.0.0.1 {public(new_key())}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    await served.works()


SESSIONS: dict[str, Callable[[asyncssh.SSHClientConnection], Awaitable[object]]] = {
    "shell": lambda client: client.create_process(request_pty=False),
    "subsystem": lambda client: client.create_process(subsystem="netconf"),
    "sftp": lambda client: client.start_sftp_client(),
    "environment": lambda client: client.create_process("state", env={"LD_PRELOAD": "/tmp/x.so"}),
    "terminal": lambda client: client.create_process("state", request_pty="force", term_type="vt100"),
}
FORWARDINGS: dict[str, Callable[[asyncssh.SSHClientConnection], Awaitable[object]]] = {
    "local": lambda client: client.open_connection("127.0.0.1", 22),
    "local socket": lambda client: client.open_unix_connection("/tmp/socket"),
    "remote": lambda client: client.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 22),
    "remote socket": lambda client: client.forward_remote_path("/tmp/socket", "/tmp/other"),
}


@pytest.mark.parametrize("what", SESSIONS)
async def test_a_session_is_for_verbs_only(served: Served, what: str) -> None:
    async with served.raw() as connection, asyncio.timeout(DEADLINE):
        with pytest.raises(asyncssh.Error):
            await SESSIONS[what](connection)


@pytest.mark.parametrize("what", FORWARDINGS)
async def test_nothing_is_forwarded(served: Served, what: str) -> None:
    async with served.raw() as connection, asyncio.timeout(DEADLINE):
        with pytest.raises((asyncssh.Error, asyncssh.ChannelListenError)):
            await FORWARDINGS[what](connection)


@pytest.mark.parametrize(
    "command", ["reboot", "state ", "state; id", "state\nfence", "STATE", "/bin/sh -c state"]
)
async def test_an_unknown_verb_is_refused_by_name(served: Served, command: str) -> None:
    refused = refusal(await served.says(command, STATE))
    assert refused.refused is Reason.UNKNOWN_VERB
    assert "fence" in refused.detail
    assert served.server.tally.refused == {Reason.UNKNOWN_VERB: 1}


FENCE = write(FenceRequest(authority=authority(), wait_seconds=0))


@pytest.mark.parametrize(
    ("verb", "sent"),
    [
        ("fence", b""),
        ("fence", b"\n"),
        ("fence", FENCE[:-1]),
        ("fence", FENCE[:40] + b"\n"),
        ("fence", FENCE + FENCE),
        ("fence", STATE),
        ("fence", b"x" * (LINE_LIMIT + 1)),
        ("fence", FENCE.replace(b'"epoch":1', b'"epoch":-1')),
        ("state", b'{"protocol":"one"}\n'),
    ],
)
async def test_malformed_requests_are_refused_and_counted(served: Served, verb: str, sent: bytes) -> None:
    assert refusal(await served.says(verb, sent)).refused is Reason.MALFORMED
    assert served.server.tally.refused == {Reason.MALFORMED: 1}
    state = json.loads((await served.says("state", STATE))[0])["state"]
    assert not state["ledger"]["fenced"]


@pytest.mark.parametrize("limits", [Limits(request_seconds=0.1, login_seconds=0.3)])
async def test_who_says_nothing_is_not_waited_for(served: Served) -> None:
    async with served.raw() as connection, asyncio.timeout(DEADLINE):
        process = await connection.create_process("fence", encoding=None)
        line = await process.stdout.readline()
    assert refusal((line, 1)).refused is Reason.MALFORMED
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(DEADLINE):
        await reader.read()  # ended by the server
    writer.close()


async def test_client_keys_are_rotated_without_a_restart(served: Served) -> None:
    new = new_key()
    served.write_keys(clients=public(served.client_key, new))
    await served.works()
    await served.works(client_key=new)
    standing = await served.open()
    served.write_keys(clients=public(new))
    await served.works(client_key=new)
    with pytest.raises(SidecarUnproven):
        await served.open()
    # A connection from before gets no further either.
    with pytest.raises(AnswerLost):
        await standing.ask(Verb.STATE, StateRequest(), StateReply, deadline_seconds=DEADLINE)
    standing.close()


async def test_a_watch_ends_with_its_key(served: Served) -> None:
    async with (
        await served.open() as standing,
        contextlib.aclosing(standing.watch(WatchRequest(), silence_seconds=DEADLINE)) as events,
    ):
        await anext(events)
        served.write_keys(clients=public(new_key()))
        with pytest.raises(AnswerLost):
            await anext(events)


async def test_the_host_key_is_rotated_without_a_restart(served: Served) -> None:
    old, new = served.host_key, new_key()
    standing = await served.open()
    served.write_keys(host=new)
    await served.works(host_keys=(old, new))
    with pytest.raises(SidecarUnproven):
        await served.open(host_keys=(old,))
    await served.works(host_keys=(new,))
    await standing.ask(Verb.STATE, StateRequest(), StateReply, deadline_seconds=DEADLINE)
    standing.close()


@pytest.mark.parametrize("broken", ["", "ssh-ed25519 nonsense\n", None])
async def test_broken_key_files_lock_nobody_out(served: Served, broken: str | None) -> None:
    if broken is None:
        for name in ("authorized-keys", "host-key"):
            (served.folder / name).unlink()
    else:
        for name in ("authorized-keys", "host-key"):
            (served.folder / name).write_text(broken)
    await served.works()


@pytest.mark.parametrize("limits", [Limits(connections=2)])
async def test_connections_are_limited_and_given_back(served: Served) -> None:
    first, second = await served.open(), await served.open()
    with pytest.raises(SidecarUnreachable):
        await served.open()
    assert served.server.tally.turned_away == 1
    first.close()
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(SidecarUnreachable):
                await served.works()
                break
            await asyncio.sleep(0.01)
    second.close()


@pytest.mark.parametrize("limits", [Limits(logins=2, login_seconds=DEADLINE)])
async def test_who_has_not_logged_in_takes_no_place_of_who_has(served: Served) -> None:
    async with await served.open() as standing:
        idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        async with asyncio.timeout(DEADLINE):
            assert await idle[2][0].read() == b""  # turned away
        await standing.ask(Verb.STATE, StateRequest(), StateReply, deadline_seconds=DEADLINE)
        for _, writer in idle:
            writer.close()


@pytest.mark.parametrize("limits", [Limits(sessions=3)])
async def test_sessions_of_a_connection_are_limited_and_given_back(served: Served) -> None:
    async with served.raw() as connection, asyncio.timeout(DEADLINE):
        watches = [await connection.create_process("watch", encoding=None) for _ in range(3)]
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process("state", encoding=None)
        watches[0].channel.abort()
        await watches[0].channel.wait_closed()
        await connection.create_process("state", encoding=None)


@pytest.mark.parametrize("limits", [Limits(request_rate=0.001, request_burst=2)])
async def test_requests_above_the_rate_are_refused(served: Served) -> None:
    await served.works()
    await served.works()
    with pytest.raises(RefusedNow) as caught:
        await served.works()
    assert caught.value.reason is Reason.BUSY


@pytest.mark.parametrize("limits", [Limits(connection_rate=0.001, connection_burst=2)])
async def test_connections_above_the_rate_are_turned_away(served: Served) -> None:
    await served.works()
    await served.works()
    with pytest.raises(SidecarUnreachable):
        await served.open()


async def test_a_watch_has_a_first_line_and_cheap_heartbeats(served: Served) -> None:
    async with await served.open() as connection:
        seen: list[WatchEvent] = []
        async with contextlib.aclosing(
            connection.watch(WatchRequest(heartbeat_seconds=0.1), silence_seconds=DEADLINE)
        ) as events:
            async for event in events:
                seen.append(event)
                if len(seen) == 3:
                    break
    assert seen[0].greeting is not None
    assert set(seen[0].greeting.verbs) == {verb.value for verb in Verb}
    assert seen[0].state is not None
    assert [event.state for event in seen[1:]] == [None, None]
    assert seen[0].now < seen[1].now < seen[2].now
    assert len(write(seen[1])) < 100


@pytest.mark.parametrize("limits", [Limits(stuck_seconds=0.2, keepalive_seconds=60)])
async def test_a_watch_that_nobody_reads_ends(served: Served) -> None:
    async with served.raw() as connection, asyncio.timeout(DEADLINE):
        process = await connection.create_process("watch", encoding=None, window=2048, max_pktsize=1024)
        process.stdin.write(write(WatchRequest()))
        process.channel.pause_reading()
        await eventually("it watches", lambda: served.server.verbs.listeners == 2)
        # Many changes, as if something flapped: they are not stored for who does not read.
        for _ in range(2000):
            served.server.verbs.changed()
        await eventually("it was ended", lambda: served.server.verbs.listeners == 1)


async def test_silence_of_a_sidecar_is_no_answer_and_says_nothing(served: Served) -> None:
    async with await served.open() as connection:
        with pytest.raises(AnswerLost):
            await connection.ask(
                Verb.FENCE,
                FenceRequest(authority=authority(), wait_seconds=10, until_freed=True),
                WatchEvent,  # not what comes
                deadline_seconds=0.0001,
            )


@pytest.mark.parametrize(
    ("missing", "named"),
    [("SERVER_ID", "SERVER_ID"), ("host-key", "no private key"), ("authorized-keys", "public keys")],
)
def test_a_setting_that_cant_be_used_is_named(tmp_path: Path, missing: str, named: str) -> None:
    files = {"host-key": new_key().export_private_key(), "authorized-keys": public(new_key()).encode()}
    for name, data in files.items():
        if name != missing:
            (tmp_path / name).write_bytes(data)
    environment = {"SERVER_ID": "1", "SSH_DIR": str(tmp_path), "VOLUME_DIR": str(tmp_path)}
    environment.pop(missing, None)
    done = subprocess.run(
        [sys.executable, "-m", "mariadb_operator.node"],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert named in json.loads(done.stderr)["event"]

"""One SSH connection to one sidecar: its host key is one that was pinned, ours is given, and nothing of the machine we
run on (agent, config files, known hosts) has a say. A deadline on everything.

Not for reconnecting (session.py) nor for what is asked (node/protocol.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import asyncssh

from mariadb_operator.node.protocol import (
    USERNAME,
    R,
    Refusal,
    Reply,
    Request,
    StoreReply,
    StoreRequest,
    TailReply,
    TailRequest,
    Verb,
    WatchEvent,
    WatchRequest,
    read_reply,
    write,
)
from mariadb_operator.node.wire import LINE_LIMIT, Malformed
from mariadb_operator.ssh.errors import AnswerLost, SidecarUnproven, SidecarUnreachable, refused

_WINDOW = 4 * LINE_LIMIT
_TAIL_WINDOW = 1 << 20
_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a sidecar is, how it proves itself, and how we do."""

    host: str
    port: int
    host_keys: tuple[str, ...]  # public keys, any of which it may show: two while they are rotated
    client_key: str = field(repr=False)  # a private key

    def __post_init__(self) -> None:
        if not self.host_keys:
            raise ValueError("a sidecar without a pinned host key is never connected to")


class SidecarConnection:
    """An open connection; several requests may be under way at once."""

    def __init__(self, connection: asyncssh.SSHClientConnection, *, target: Target) -> None:
        self._connection = connection
        self.target = target

    @classmethod
    async def open(cls, target: Target, *, deadline_seconds: float) -> Self:
        """Connect and prove both sides.

        Raises:
            SidecarUnreachable: refused, or silence.
            SidecarUnproven: another host key, or ours is not taken.
        """
        where = f"{target.host}:{target.port}"
        try:
            pinned = [asyncssh.import_public_key(key) for key in target.host_keys]
            client_key = asyncssh.import_private_key(target.client_key)
        except asyncssh.KeyImportError:
            raise SidecarUnproven(f"the keys for the sidecar at {where} can't be read") from None
        try:
            async with asyncio.timeout(deadline_seconds):
                connection = await asyncssh.connect(
                    target.host,
                    target.port,
                    config=None,  # here too: the options' own would be read anew with the default files
                    options=_options(pinned, client_key, deadline_seconds=deadline_seconds),
                )
        except (
            asyncssh.HostKeyNotVerifiable,
            asyncssh.KeyExchangeFailed,
            asyncssh.PermissionDenied,
        ) as error:
            raise SidecarUnproven(f"the sidecar at {where}: {type(error).__name__}") from error
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise SidecarUnreachable(f"the sidecar at {where}: {type(error).__name__}") from error
        return cls(connection, target=target)

    async def ask(self, verb: Verb, request: Request, kind: type[R], *, deadline_seconds: float) -> R:
        """One question, one answer.

        Raises:
            SidecarUnreachable: the connection was closed before.
            AnswerLost: no answer in time or none that can be read; it may have been done.
            Refused: it was not done, and why.
        """
        what = self._what(verb)
        try:
            async with asyncio.timeout(deadline_seconds), self._session(verb, request) as reader:
                line = await _line(reader)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise AnswerLost(f"{what}: {type(error).__name__}") from error
        return _read(kind, line, what=what)

    async def watch(self, request: WatchRequest, *, silence_seconds: float) -> AsyncGenerator[WatchEvent]:
        """Lines of a watch as they come, until it ends; `silence_seconds` is more than those of its heartbeat.

        Raises:
            SidecarUnreachable: the connection was closed before.
            AnswerLost: silence for that long, the connection broke, or a line could not be read.
            Refused: too many at once.
        """
        what = self._what(Verb.WATCH)
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(silence_seconds):
                    reader = await stack.enter_async_context(self._session(Verb.WATCH, request))
                while True:
                    async with asyncio.timeout(silence_seconds):
                        line = await _line(reader)
                    yield _read(WatchEvent, line, what=what)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise AnswerLost(f"{what}: {type(error).__name__}") from error

    async def bring_tail(
        self, ask: TailRequest, recipient: SidecarConnection, store: StoreRequest, *, silence_seconds: float
    ) -> StoreReply:
        """Have what somebody lacks of the logs here stored by another sidecar; it goes through us, piece by piece.

        Raises:
            SidecarUnreachable: a connection was closed before.
            AnswerLost: silence for that long, a connection broke, or an answer could not be read.
            Refused: by either of them, and why.
        """
        here, there = self._what(Verb.TAIL), recipient._what(Verb.STORE)
        try:
            async with self._stream(Verb.TAIL, ask, window=_TAIL_WINDOW) as (_, source):
                async with asyncio.timeout(silence_seconds):
                    _read(TailReply, await _line(source), what=here)
                keeping = recipient._stream(Verb.STORE, store, window=_WINDOW)
                async with keeping as (sink, answer):
                    await _pass_on(source, sink, silence_seconds=silence_seconds)
                    async with asyncio.timeout(silence_seconds):
                        return _read(StoreReply, await _line(answer), what=there)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise AnswerLost(f"{here}, to {there}: {type(error).__name__}") from error

    async def wait_closed(self) -> None:
        """Return when it has ended, by either side."""
        await self._connection.wait_closed()

    @property
    def is_closed(self) -> bool:
        """Whether it is known to have ended."""
        return self._connection.is_closed()

    def close(self) -> None:
        """Leave; waits for nobody."""
        self._connection.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _what(self, verb: Verb) -> str:
        if self.is_closed:
            raise SidecarUnreachable(f"the connection to {self.target.host}:{self.target.port} is closed")
        return f"{verb.value} of {self.target.host}:{self.target.port}"

    @contextlib.asynccontextmanager
    async def _session(self, verb: Verb, request: Request) -> AsyncIterator[asyncssh.SSHReader[bytes]]:
        async with self._stream(verb, request, window=_WINDOW) as (writer, reader):
            with contextlib.suppress(BrokenPipeError):
                writer.write_eof()
            yield reader

    @contextlib.asynccontextmanager
    async def _stream(
        self, verb: Verb, request: Request, *, window: int
    ) -> AsyncIterator[tuple[asyncssh.SSHWriter[bytes], asyncssh.SSHReader[bytes]]]:
        writer, reader, _ = await self._connection.open_session(
            verb.value, encoding=None, request_pty=False, window=window, max_pktsize=LINE_LIMIT
        )
        try:
            # A refusal may have come, and the session ended, before anything was asked.
            with contextlib.suppress(BrokenPipeError):
                writer.write(write(request))
            yield writer, reader
        finally:
            writer.channel.abort()


async def _pass_on(
    source: asyncssh.SSHReader[bytes], sink: asyncssh.SSHWriter[bytes], *, silence_seconds: float
) -> None:
    """Everything that comes, until it ends or is not taken any more: why, the taker says."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            async with asyncio.timeout(silence_seconds):
                piece = await source.read(_PIECE_BYTES)
                if not piece:
                    break
                sink.write(piece)
                await sink.drain()
        sink.write_eof()


async def _line(reader: asyncssh.SSHReader[bytes]) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the session ended")
    return line


def _read(kind: type[R], line: bytes, *, what: str) -> R:
    try:
        reply: Reply | Refusal = read_reply(kind, line)
    except Malformed as error:
        raise AnswerLost(f"{what}: {error}") from error
    if isinstance(reply, Refusal):
        raise refused(reply, what=what)
    assert isinstance(reply, kind)
    return reply


def _options(
    pinned: list[asyncssh.SSHKey], client_key: asyncssh.SSHKey, *, deadline_seconds: float
) -> asyncssh.SSHClientConnectionOptions:
    return asyncssh.SSHClientConnectionOptions(
        config=None,
        known_hosts=(pinned, [], []),
        server_host_key_algs=["ssh-ed25519"],
        x509_trusted_certs=None,
        username=USERNAME,
        client_keys=[client_key],
        agent_path=None,
        agent_forwarding=False,
        client_host_keysign=False,
        preferred_auth="publickey",
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_auth=False,
        gss_kex=False,
        gss_host=None,
        disable_trivial_auth=True,
        kex_algs=["curve25519-sha256"],
        encryption_algs=["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"],
        compression_algs=None,
        connect_timeout=deadline_seconds,
        login_timeout=deadline_seconds,
        keepalive_interval=0,  # the watch has heartbeats
        send_env=None,
        request_pty=False,
        client_version="mariadb-operator",
    )

"""One SSH session of a sidecar: a verb, its line, its answer; or a watch until it ends.

Not for connections and keys (server.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import asyncssh

from mariadb_operator.node.admission import Refused
from mariadb_operator.node.protocol import (
    Reason,
    Refusal,
    Reply,
    StateReply,
    StoreRequest,
    TailReply,
    TailRequest,
    Verb,
    WatchRequest,
    read_request,
    write,
)
from mariadb_operator.node.volume import NotRecorded
from mariadb_operator.node.wire import LINE_LIMIT, Malformed

if TYPE_CHECKING:
    from mariadb_operator.node.server import Server

logger = logging.getLogger(__name__)

INTAKE_BYTES = 256 << 10
_DONE = 0
_REFUSED = 1
_BROKEN = 70  # of us, not of the request


class Session(asyncssh.SSHServerSession[bytes]):
    """Reads one request and answers it."""

    def __init__(
        self, server: Server, *, peer: str, welcome: Callable[[], bool], left: Callable[[], None]
    ) -> None:
        self._server = server
        self._peer = peer
        self._welcome = welcome
        self._left = left
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._verb: Verb | None = None
        self._line = b""
        self._asked = False
        self._late: asyncio.TimerHandle | None = None
        self._watch: Watch | None = None
        self._intake: asyncio.StreamReader | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is there."""
        self._channel = chan

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncssh's signature
        """The channel is gone; what was asked for goes on."""
        self._channel = None
        if self._late is not None:
            self._late.cancel()
        if self._watch is not None:
            self._watch.end()
        if self._intake is not None:
            self._intake.set_exception(ConnectionResetError("the session ended"))
        self._writable.set()
        self._left()

    def pty_requested(self, *args: object) -> bool:  # noqa: ARG002
        """No terminal."""
        return False

    def exec_requested(self, command: str) -> bool:
        """One verb and nothing else; no environment comes with it."""
        if self._channel is None or self._channel.get_environment_bytes():
            self._server.refuse(
                Reason.MALFORMED, peer=self._peer, what="a session", detail="it brings an environment"
            )
            return False
        try:
            self._verb = Verb(command)
        except ValueError:
            self._verb = None
        return True

    def session_started(self) -> None:
        """Wait for the line, not for ever."""
        if not self._server.requests.take():
            self._refuse(Reason.BUSY, "too many requests")
        elif self._verb is None:
            # What it was called is somebody else's text and stays out of the log.
            self._refuse(Reason.UNKNOWN_VERB, f"it is none of {', '.join(verb.value for verb in Verb)}")
        else:
            seconds = self._server.limits.request_seconds
            self._late = asyncio.get_running_loop().call_later(
                seconds, self._refuse, Reason.MALFORMED, f"no line within {seconds} s"
            )

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:  # noqa: ARG002
        """A piece of the line, or of the stream after it."""
        if self._intake is not None:
            self._intake.feed_data(data)
        if self._asked:
            return
        self._line += data
        if len(self._line) > LINE_LIMIT:
            self._refuse(Reason.MALFORMED, f"a line of more than {LINE_LIMIT} bytes")
        elif b"\n" in self._line:
            self._request()

    def eof_received(self) -> bool:
        """Nothing more comes; the answer still goes out."""
        if self._intake is not None:
            self._intake.feed_eof()
        if not self._asked:
            self._refuse(Reason.MALFORMED, "it ended before its line did")
        return True

    def pause_writing(self) -> None:
        """The reader is slow."""
        self._writable.clear()
        if self._watch is not None:
            self._watch.pause()

    def resume_writing(self) -> None:
        """It reads again."""
        self._writable.set()
        if self._watch is not None:
            self._watch.resume()

    def _request(self) -> None:
        self._settle()
        assert self._verb is not None
        line, _, rest = self._line.partition(b"\n")
        if rest and self._verb is not Verb.STORE:
            self._refuse(Reason.MALFORMED, "more than one line")
            return
        try:
            request = read_request(self._verb, line)
        except Malformed as error:
            self._refuse(Reason.MALFORMED, str(error))
            return
        match request:
            case WatchRequest():
                self._begin_watch(request)
            case TailRequest():
                self._server.spawn(self._answer(self._send_tail(request)))
            case StoreRequest():
                stream = self._begin_intake(rest)
                self._server.spawn(self._answer(self._server.verbs.store(request, stream)))
            case _:
                self._server.spawn(self._answer(self._server.verbs.answer(request)))

    def _begin_intake(self, first: bytes) -> asyncio.StreamReader:
        """What comes after the line; a sender that is faster than the disk waits."""
        assert self._channel is not None
        self._intake = asyncio.StreamReader(limit=INTAKE_BYTES)
        # Of a transport it uses what a channel has: to pause reading, and to go on.
        self._intake.set_transport(cast(asyncio.ReadTransport, self._channel))
        self._intake.feed_data(first)
        return self._intake

    async def _send_tail(self, request: TailRequest) -> None:
        """The answer and the stream after it; a refusal in the middle ends it without its end."""
        head = write(TailReply(after=request.received))
        async with aclosing(self._server.verbs.tail(request)) as frames:
            try:
                async for frame in frames:
                    await self._send(head + frame)
                    head = b""
            except Refused as error:
                if head:
                    raise
                self._server.refuse(
                    error.reason, peer=self._peer, what="the rest of a tail", detail=str(error)
                )
                raise ConnectionResetError("a stream without an end") from error

    async def _send(self, data: bytes) -> None:
        channel = self._channel
        if channel is None or channel.is_closing():
            raise ConnectionResetError("the session ended")
        channel.write(data)
        async with asyncio.timeout(self._server.limits.stuck_seconds):
            await self._writable.wait()

    def _begin_watch(self, request: WatchRequest) -> None:
        assert self._channel is not None
        self._watch = Watch(
            self._server,
            self._channel,
            welcome=self._welcome,
            heartbeat_seconds=request.heartbeat_seconds,
        )
        self._watch.begin()

    async def _answer(self, answering: Awaitable[Reply | None]) -> None:
        try:
            reply = await answering
        except (ConnectionResetError, TimeoutError):
            self._end(b"", _BROKEN)
        except Refused as error:
            self._refuse(error.reason, str(error))
        except NotRecorded as error:
            self._refuse(Reason.NOT_RECORDED, str(error))
        except Exception:
            logger.exception("verb %s failed", self._verb)
            self._end(b"", _BROKEN)
        else:
            if isinstance(reply, StateReply):
                reply = replace(reply, counts=self._server.tally.counts())
            self._end(write(reply) if reply is not None else b"", _DONE)

    def _refuse(self, reason: Reason, detail: str) -> None:
        self._settle()
        what = "an unknown verb" if self._verb is None else self._verb.value
        self._server.refuse(reason, peer=self._peer, what=what, detail=detail)
        self._end(write(Refusal(refused=reason, detail=detail)), _REFUSED)

    def _settle(self) -> None:
        self._asked = True
        if self._late is not None:
            self._late.cancel()

    def _end(self, line: bytes, status: int) -> None:
        channel = self._channel
        if channel is not None and not channel.is_closing():
            if line:
                channel.write(line)
            channel.exit(status)


class Watch:
    """Sends what changes, and heartbeats; a reader that does not read gets the newest state when it does."""

    def __init__(
        self,
        server: Server,
        channel: asyncssh.SSHServerChannel[bytes],
        *,
        welcome: Callable[[], bool],
        heartbeat_seconds: float,
    ) -> None:
        self._server = server
        self._channel = channel
        self._welcome = welcome
        self._heartbeat_seconds = heartbeat_seconds
        self._loop = asyncio.get_running_loop()
        self._beat: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._missed = False
        self._unlisten: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Send the first line."""
        self._unlisten = self._server.verbs.listen(self._changed)
        self._send(write(self._server.verbs.first()))

    def end(self) -> None:
        """Send no more."""
        self._unlisten()
        for timer in (self._beat, self._stuck):
            if timer is not None:
                timer.cancel()

    def pause(self) -> None:
        """Send nothing for now."""
        self._stuck = self._loop.call_later(self._server.limits.stuck_seconds, self._channel.abort)

    def resume(self) -> None:
        """Send again, first what was missed."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if self._missed:
            self._missed = False
            self._changed()

    def _changed(self) -> None:
        if self._stuck is not None:
            self._missed = True
        else:
            self._send(write(self._server.verbs.change()))

    def _heartbeat(self) -> None:
        if self._welcome() and self._stuck is None:
            self._send(write(self._server.verbs.heartbeat()))
        else:
            self._schedule()

    def _send(self, line: bytes) -> None:
        if not self._channel.is_closing():
            self._channel.write(line)
            self._schedule()

    def _schedule(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self._loop.call_later(self._heartbeat_seconds, self._heartbeat)

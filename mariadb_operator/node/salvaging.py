"""How a sidecar brings transactions over: of a held server's binary logs what somebody lacks, as a stream; such a stream
into a file; and that file to the server here.

On the wire a tail is pieces, each after its length, and at the end what was sent. Not for logs and tails themselves
(salvage.py, tails.py, tail_source.py), nor for who may ask (verbs.py) and how it is sent (session.py).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from mariadb_operator.node.admission import Refused
from mariadb_operator.node.protocol import GiveReply, Reason, SalvagedState, StoreReply, TailEnd
from mariadb_operator.node.salvage import salvage
from mariadb_operator.node.tail_source import TailAddress, serve
from mariadb_operator.node.tails import (
    PIECE_BYTES,
    Summary,
    Tail,
    TailBroken,
    TailTooLong,
    in_thread,
    receive,
)
from mariadb_operator.node.volume import Volume, VolumeBusy
from mariadb_operator.node.wire import Malformed, Unknown, decode, encode
from mariadb_operator.runtime.errors import Permanent, Transient
from statemachines.gtid import Gtid, Position

logger = logging.getLogger(__name__)

INDEX = "binlog.index"
FOLDER = "salvage"
GIVE_SECONDS = 900.0  # as long as an effect may take that waits for it
_READ_SECONDS = 10.0
_STORE_SECONDS = 30.0
_PIECE_LIMIT = PIECE_BYTES
_KEPT_FREE = 0.1  # of what is free on the volume


def framed(piece: bytes) -> bytes:
    """A piece as it is sent."""
    return len(piece).to_bytes(4) + piece


class Salvaging:
    """Of one volume; `run()` owns what is given."""

    def __init__(self, volume: Volume, *, changed: Callable[[], None]) -> None:
        self.stored: SalvagedState | None = None
        self._volume = volume
        self._changed = changed
        self._group = asyncio.TaskGroup()
        self._giving: asyncio.Task[None] | None = None

    async def run(self) -> NoReturn:
        """Own what is given, for ever."""
        async with self._group:
            await asyncio.Event().wait()
        raise RuntimeError("an event came that nobody sets")

    async def tail(self, received: str) -> AsyncGenerator[bytes]:
        """What somebody lacks who received up to there, framed. No server may live on the volume meanwhile.

        Raises Refused, before the first frame or in the middle.
        """
        tail = salvage(self._volume.data / INDEX, received=Position.parse(received))
        try:
            with self._volume.hold():
                async for piece in in_thread(iter(tail), deadline_seconds=_READ_SECONDS):
                    for start in range(0, len(piece), PIECE_BYTES):
                        yield framed(piece[start : start + PIECE_BYTES])
        except (VolumeBusy, Transient) as error:
            raise Refused(Reason.BUSY, str(error)) from error
        except Permanent as error:
            raise Refused(Reason.UNSALVAGEABLE, str(error)) from error
        yield framed(b"") + encode(_end(tail))

    async def store(self, operation: str, stream: asyncio.StreamReader) -> StoreReply:
        """Keep what comes, when it came whole; other operations' files go. Raises Refused."""
        folder = self._volume.folder / FOLDER
        path = folder / f"{operation}.tail"
        incoming = _Incoming(stream)
        try:
            folder.mkdir(exist_ok=True)
            summary = await receive(
                incoming.pieces(),
                path,
                expected=incoming.summary,
                limit_bytes=int(shutil.disk_usage(folder).free * (1 - _KEPT_FREE)),
                deadline_seconds=_STORE_SECONDS,
            )
            for other in folder.iterdir():
                if other != path:
                    other.unlink(missing_ok=True)
        except (TailBroken, TailTooLong, Malformed, OSError, EOFError) as error:
            raise Refused(Reason.NOT_STORED, f"{type(error).__name__}: {error}") from error
        upto = summary.after.merge(summary.last)
        self.stored = SalvagedState(operation=operation, after=str(summary.after), upto=str(upto))
        logger.info("stored %d transactions of operation %s, up to %s", summary.count, operation, upto)
        self._changed()
        return StoreReply(after=str(summary.after), upto=str(upto), count=summary.count)

    async def give(self, operation: str) -> GiveReply:
        """Offer the file of that operation to the server here; what was offered before is not any more. Raises Refused."""
        if self.stored is None or self.stored.operation != operation:
            raise Refused(Reason.NOT_STORED, "no tail of that operation was stored here")
        if self._giving is not None:
            self._giving.cancel()
        offered: asyncio.Future[TailAddress] = asyncio.get_running_loop().create_future()
        path = self._volume.folder / FOLDER / f"{operation}.tail"
        self._giving = self._group.create_task(_offer(path, offered))
        try:
            address = await offered
        except (Permanent, Transient) as error:
            raise Refused(Reason.NOT_STORED, str(error)) from error
        return GiveReply(port=address.port, user=address.user, password=address.password)


async def _offer(path: Path, offered: asyncio.Future[TailAddress]) -> None:
    try:
        async with serve(path) as address:
            offered.set_result(address)
            await asyncio.sleep(GIVE_SECONDS)
    except (Permanent, Transient, OSError) as error:
        if not offered.done():
            offered.set_exception(error if not isinstance(error, OSError) else TailBroken(str(error)))
        else:
            logger.warning("a tail is not given any more: %s", error)


class _Incoming:
    """Takes the frames apart."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._end: TailEnd | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Until the end, which is kept. Raises TailBroken."""
        try:
            while size := int.from_bytes(await self._stream.readexactly(4)):
                if size > _PIECE_LIMIT:
                    raise TailBroken(f"a piece of {size} bytes")
                yield await self._stream.readexactly(size)
            self._end = decode(TailEnd, await self._stream.readline(), unknown=Unknown.IGNORED)
        except (EOFError, ConnectionError, ValueError) as error:
            raise TailBroken(f"it ended before its end: {type(error).__name__}") from error

    def summary(self) -> Summary | None:
        """What was sent, by the sender's word."""
        end = self._end
        if end is None:
            return None
        with suppress(ValueError):
            return Summary(
                after=Position.parse(end.after),
                count=end.count,
                first=Gtid.parse(end.first) if end.first else None,
                last=Position.parse(end.last),
                bytes=end.bytes,
                digest=end.digest,
            )
        return None


def _end(tail: Tail) -> TailEnd:
    """Raises Refused: behind a hole there may be what was acknowledged."""
    torn, summary = tail.torn, tail.summary
    assert summary is not None
    if torn is not None and torn.beyond is not None:
        raise Refused(Reason.UNSALVAGEABLE, f"the log is damaged in its middle: {torn}")
    return TailEnd(
        after=str(summary.after),
        count=summary.count,
        first=str(summary.first) if summary.first is not None else "",
        last=str(summary.last),
        bytes=summary.bytes,
        digest=summary.digest,
        torn=str(torn) if torn is not None else "",
    )

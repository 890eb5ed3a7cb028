"""The little of MariaDB's protocol that a replica's IO thread speaks with its source: greeting, login by password,
replies, the stream of events. Pure bytes. Not for what is answered (tail_source.py).

Source: https://mariadb.com/kb/en/clientserver-protocol/, https://mariadb.com/kb/en/com_binlog_dump/
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence

COM_QUIT = 1
COM_QUERY = 3
COM_BINLOG_DUMP = 18
COM_REGISTER_SLAVE = 21
LONGEST_FRAME = 0xFF_FFFF
_LONGEST_REQUEST = 64 << 10
_PLUGIN = b"mysql_native_password"
_UTF8 = 33
_AUTOCOMMIT = 2
_TEXT = 253
# LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH. No TLS: it is for one machine's loopback.
_CAPABILITIES = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x80000
NONCE_BYTES = 20


class WireError(Exception):
    """The other side does not speak the protocol as an IO thread does."""


async def read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Sequence number and payload of one request. Raises WireError, and IncompleteReadError at the end."""
    head = await reader.readexactly(4)
    length = int.from_bytes(head[:3], "little")
    if length > _LONGEST_REQUEST:
        raise WireError(f"a request of {length} bytes")
    return head[3], await reader.readexactly(length)


def packet(sequence: int, payload: bytes) -> bytes:
    """One short packet."""
    return len(payload).to_bytes(3, "little") + bytes([sequence & 0xFF]) + payload


def greeting(*, version: str, nonce: bytes) -> bytes:
    """The first packet's payload. Replicas take a version below 10 for an old MySQL's, hence the prefix."""
    return (
        b"\x0a5.5.5-"
        + version.encode("ascii", "replace")
        + b"\0"
        + bytes(4)
        + nonce[:8]
        + b"\0"
        + (_CAPABILITIES & 0xFFFF).to_bytes(2, "little")
        + bytes([_UTF8])
        + _AUTOCOMMIT.to_bytes(2, "little")
        + (_CAPABILITIES >> 16).to_bytes(2, "little")
        + bytes([len(nonce) + 1])
        + bytes(10)
        + nonce[8:]
        + b"\0"
        + _PLUGIN
        + b"\0"
    )


def login(payload: bytes) -> tuple[str, bytes]:
    """Name and scrambled password of a reply to the greeting. Raises WireError."""
    end = payload.find(b"\0", 32)
    if end < 0 or end + 1 >= len(payload):
        raise WireError("a login that is too short")
    length = payload[end + 1]
    return payload[32:end].decode("utf-8", "replace"), payload[end + 2 : end + 2 + length]


def scramble(password: str, nonce: bytes) -> bytes:
    """What mysql_native_password sends for a password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    twice = hashlib.sha1(once, usedforsecurity=False).digest()
    mask = hashlib.sha1(nonce + twice, usedforsecurity=False).digest()
    return bytes(one ^ other for one, other in zip(once, mask, strict=True))


def admitted(payload: bytes, *, user: str, password: str, nonce: bytes) -> bool:
    """Whether a login is that user's with that password. Raises WireError."""
    name, proof = login(payload)
    return hmac.compare_digest(name.encode(), user.encode()) & hmac.compare_digest(
        proof, scramble(password, nonce)
    )


def ok() -> bytes:
    """The payload that says: done."""
    return b"\0\0\0" + _AUTOCOMMIT.to_bytes(2, "little") + b"\0\0"


def failure(errno: int, message: str) -> bytes:
    """The payload that says: no."""
    return b"\xff" + errno.to_bytes(2, "little") + b"#HY000" + message.encode()[:512]


def rows(names: Sequence[str], answers: Sequence[Sequence[str]], *, sequence: int) -> bytes:
    """The packets of a result set, all columns text."""
    payloads = [bytes([len(names)])]
    payloads += [_column(name) for name in names]
    end = b"\xfe\0\0" + _AUTOCOMMIT.to_bytes(2, "little")
    payloads.append(end)
    payloads += [b"".join(_text(value) for value in row) for row in answers]
    payloads.append(end)
    return b"".join(packet(sequence + number, each) for number, each in enumerate(payloads))


def _column(name: str) -> bytes:
    words = b"".join(_text(word) for word in ("def", "", "", "", name, ""))
    return (
        words
        + b"\x0c"
        + _UTF8.to_bytes(2, "little")
        + (1024).to_bytes(4, "little")
        + bytes([_TEXT])
        + bytes(5)
    )


def _text(value: str) -> bytes:
    data = value.encode()
    return bytes([len(data)]) + data  # ours are all shorter than 251 bytes


class EventFrames:
    """Numbers the packets of one stream of events."""

    def __init__(self, sequence: int, *, longest: int = LONGEST_FRAME) -> None:
        self._sequence = sequence
        self._longest = longest

    def frames(self, length: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """An event of that length as packets, piece by piece: one longer than a packet goes on in the next."""
        left = length + 1  # each event begins with the mark that it is no error
        room = self._room(left)
        yield self._head(room) + b"\0"
        left -= 1
        room -= 1
        for piece in pieces:
            view = memoryview(piece)
            while view:
                if room == 0:
                    room = self._room(left)
                    yield self._head(room)
                part = view[:room]
                yield bytes(part)
                room -= len(part)
                left -= len(part)
                view = view[len(part) :]
        # A packet of the greatest length is never the last of an event.
        if (length + 1) % self._longest == 0:
            yield self._head(0)

    def error(self, payload: bytes) -> bytes:
        """An error in place of an event."""
        return self._head(len(payload)) + payload

    def _room(self, left: int) -> int:
        return min(left, self._longest)

    def _head(self, length: int) -> bytes:
        head = length.to_bytes(3, "little") + bytes([self._sequence & 0xFF])
        self._sequence += 1
        return head

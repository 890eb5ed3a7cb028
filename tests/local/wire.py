"""Listens on every link of the host but those into local clusters, for packets to addresses that must stay inside."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address

_EVERY_PROTOCOL = 0x0003
_FRAME = 2048


@contextlib.contextmanager
def listening(addresses: Collection[IPv4Address]) -> Iterator[set[IPv4Address]]:
    """Those of `addresses` that a frame named, ARP included; complete when the block has ended."""
    heard: set[IPv4Address] = set()
    done = threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL)) as wire:
        wire.settimeout(0.2)
        listener = threading.Thread(target=_listen, args=(wire, addresses, heard, done))
        listener.start()
        try:
            yield heard
        finally:
            done.set()
            listener.join()


def _listen(
    wire: socket.socket,
    addresses: Collection[IPv4Address],
    heard: set[IPv4Address],
    done: threading.Event,
) -> None:
    while True:
        try:
            frame, (link, *_) = wire.recvfrom(_FRAME)
        except TimeoutError:
            # What was sent before the end is in the socket by then.
            if done.is_set():
                return
            continue
        if not link.startswith("k8s-"):
            heard |= {address for address in addresses if address.packed in frame}

"""The keys that are mounted into the sidecar, read anew when their files change: rotation needs no restart.

Not for making keys: the operator does, per cluster.
"""

from __future__ import annotations

import logging
from pathlib import Path

import asyncssh

logger = logging.getLogger(__name__)

ALGORITHM = "ssh-ed25519"


class KeysUnusable(Exception):
    """A key file is not there or holds no key of the one kind that we use. The message holds nothing of it."""


class _File:
    """One file, and whether it is another one than when it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        try:
            # Of what the link leads to: the kubelet changes a mounted Secret by moving a link.
            found = self.path.stat()
        except OSError:
            return False
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp == self._seen:
            return False
        self._seen = stamp
        return True


class Keys:
    """The host key, and the keys of clients that may log in: one or, while they are rotated, several."""

    def __init__(self, *, host_key: Path, authorized_keys: Path) -> None:
        """Raises KeysUnusable."""
        self._host_file = _File(host_key)
        self._client_file = _File(authorized_keys)
        self._host_file.changed()
        self._client_file.changed()
        self._host_key = read_host_key(host_key)
        self._clients = read_authorized_keys(authorized_keys)

    @property
    def host_key(self) -> asyncssh.SSHKey:
        """Ours, as it is now."""
        if self._host_file.changed():
            try:
                self._host_key = read_host_key(self._host_file.path)
                logger.info("a new host key is in use")
            except KeysUnusable as error:
                logger.warning("the host key stays the old one: %s", error)
        return self._host_key

    def accepts(self, public_data: bytes) -> bool:
        """Whether a client with this public key may log in now."""
        if self._client_file.changed():
            try:
                self._clients = read_authorized_keys(self._client_file.path)
                logger.info("%d client keys may log in from now on", len(self._clients))
            except KeysUnusable as error:
                logger.warning("client keys stay the old ones: %s", error)
        return public_data in self._clients


def read_host_key(path: Path) -> asyncssh.SSHKey:
    """The private key in a file. Raises KeysUnusable."""
    try:
        key = asyncssh.import_private_key(path.read_bytes())
    except (OSError, asyncssh.KeyImportError) as error:
        raise KeysUnusable(f"{path} holds no private key ({type(error).__name__})") from None
    if key.get_algorithm() != ALGORITHM:
        raise KeysUnusable(f"{path} holds a key that is not {ALGORITHM}")
    return key


def read_authorized_keys(path: Path) -> frozenset[bytes]:
    """The public keys in a file, one a line. Raises KeysUnusable: none at all would lock everybody out."""
    try:
        lines = [
            line for line in path.read_bytes().splitlines() if line.strip() and not line.startswith(b"#")
        ]
        keys = [asyncssh.import_public_key(line) for line in lines]
    except (OSError, asyncssh.KeyImportError) as error:
        raise KeysUnusable(f"{path} holds something else than public keys ({type(error).__name__})") from None
    if not keys or any(key.get_algorithm() != ALGORITHM for key in keys):
        raise KeysUnusable(f"{path} needs {ALGORITHM} keys, one a line")
    return frozenset(key.public_data for key in keys)

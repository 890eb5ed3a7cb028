"""The Secret with the keys by which the operator and the node sidecars of one cluster know each other.

Ed25519, one key for all sidecars of the cluster and one for the operator; made once and kept. A Pod mounts its own
private key and the public one of whom it lets in, never the operator's private key. Not for what is done over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mariadb_operator.resources.labels import Manifest, Owner
from mariadb_operator.resources.secrets import SecretKeyMissing, encoded, opaque_secret, secret_text

HOST_KEY: Final = "host-key"
AUTHORIZED_KEYS: Final = "authorized-keys"
CLIENT_KEY: Final = "client-key"
HOST_PUBLIC_KEY: Final = "host-key.pub"
MOUNTED: Final = (HOST_KEY, AUTHORIZED_KEYS)


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key pair as OpenSSH writes it."""

    private: str = field(repr=False)
    public: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SshKeys:
    """What the operator needs to reach the sidecars of one cluster."""

    client_key: str = field(repr=False)
    host_keys: tuple[str, ...]


def new_key() -> KeyText:
    """An ed25519 key pair without a passphrase."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyText(private.decode(), public.decode())


def ssh_secret(
    owner: Owner, *, current: Mapping[str, Any] | None, new: Callable[[], KeyText] = new_key
) -> Manifest:
    """The Secret: keys that `current` holds whole stay; anything less is made anew."""
    data = dict((current or {}).get("data") or {})
    keys = (HOST_KEY, HOST_PUBLIC_KEY, CLIENT_KEY, AUTHORIZED_KEYS)
    if not all(data.get(key) for key in keys):
        host, client = new(), new()
        texts = (host.private, host.public, client.private, client.public)
        data = {key: encoded(text) for key, text in zip(keys, texts, strict=True)}
    return opaque_secret(owner, owner.names.ssh_secret, data={key: data[key] for key in keys})


def read_keys(secret: Mapping[str, Any]) -> SshKeys | None:
    """The operator's part of the Secret; None where it is not whole."""
    try:
        hosts = secret_text(secret, HOST_PUBLIC_KEY)
        return SshKeys(
            client_key=secret_text(secret, CLIENT_KEY),
            host_keys=tuple(line for line in hosts.splitlines() if line.strip()),
        )
    except SecretKeyMissing:
        return None

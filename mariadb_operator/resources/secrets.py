"""The Secrets with passwords: the operator's own, and the one that an application reads.

Passwords are generated once and kept: a key that exists is never changed here. Where randomness comes from is the
caller's to say.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.resources.labels import Manifest, Owner, metadata
from mariadb_operator.resources.names import MAX_INSTANCES, replication_password_key
from mariadb_operator.resources.volumes import outlives_resource
from mariadb_operator.runtime.errors import Permanent

OPERATOR_PASSWORD: Final = "operator-password"  # noqa: S105 - the key's name
PROBE_PASSWORD: Final = "probe-password"  # noqa: S105
ROOT_PASSWORD: Final = "root-password"  # noqa: S105
APP_PASSWORD: Final = "app-password"  # noqa: S105
CA_CERTIFICATE: Final = "ca.crt"

PasswordSource: TypeAlias = Callable[[], str]


def random_password() -> str:
    """A password of 192 bits in letters, digits, `-` and `_`."""
    return secrets.token_urlsafe(24)


class SecretKeyMissing(Permanent):
    """A Secret has not the key that is asked of it, or holds no text there."""


def secret_text(secret: Mapping[str, Any], key: str) -> str:
    """The text under a key of a Secret. Raises SecretKeyMissing, which names Secret and key, never the value."""
    name = secret.get("metadata", {}).get("name", "?")
    encoded = (secret.get("data") or {}).get(key)
    try:
        text = base64.b64decode(encoded or "", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise SecretKeyMissing(
            f"Secret {name} holds no text under key {key}: store UTF-8 text there"
        ) from None
    if not text:
        raise SecretKeyMissing(f"Secret {name} has no key {key}, or it is empty: add it")
    return text


def password_in(secret: Mapping[str, Any], key: str) -> str:
    """The password under a key: its first line, since tools like to end a file with a newline.

    Raises SecretKeyMissing.
    """
    password = secret_text(secret, key).partition("\n")[0].removesuffix("\r")
    if not password:
        raise SecretKeyMissing(
            f"Secret {secret.get('metadata', {}).get('name', '?')} has an empty first line under key {key}: write the"
            " password there"
        )
    return password


def credentials_secret(
    owner: Owner, spec: MariaDBClusterSpec, *, current: Mapping[str, Any] | None, new_password: PasswordSource
) -> Manifest:
    """The operator's Secret: what `current` holds stays, what is missing is generated."""
    data: dict[str, str] = dict((current or {}).get("data") or {})
    for key in _wanted_keys(spec):
        if not data.get(key):
            data[key] = encoded(new_password())
    return opaque_secret(owner, owner.names.credentials_secret, data=data, owned=not outlives_resource(spec))


def lost_keys(spec: MariaDBClusterSpec, current: Mapping[str, Any] | None) -> list[str]:
    """The keys that stand for accounts which a cluster that has served already has, and that are not there."""
    data = (current or {}).get("data") or {}
    # The application's can be made anew: its account gets the password that its Secret tells.
    return [key for key in _wanted_keys(spec) if key != APP_PASSWORD and not data.get(key)]


def _wanted_keys(spec: MariaDBClusterSpec) -> list[str]:
    keys = [OPERATOR_PASSWORD, PROBE_PASSWORD]
    keys += [replication_password_key(ordinal) for ordinal in range(MAX_INSTANCES)]
    if spec.root_password_secret_key_ref is None:
        keys.append(ROOT_PASSWORD)
    if spec.username is not None and spec.password_secret_key_ref is None:
        keys.append(APP_PASSWORD)
    return keys


def app_secret(
    owner: Owner, spec: MariaDBClusterSpec, *, password: str, ca_certificate: str
) -> Manifest | None:
    """What an application needs to connect; None when the spec asks for no account."""
    if spec.username is None or spec.database is None:
        return None
    names = owner.names
    host = names.host(names.primary_service)
    login = f"{quote(spec.username, safe='')}:{quote(password, safe='')}"
    values = {
        "host": host,
        "port": str(spec.port),
        "database": spec.database,
        "user": spec.username,
        "username": spec.username,
        "password": password,
        "uri": f"mysql://{login}@{host}:{spec.port}/{quote(spec.database, safe='')}",
        CA_CERTIFICATE: ca_certificate,
    }
    return opaque_secret(owner, names.app_secret, data={key: encoded(value) for key, value in values.items()})


def opaque_secret(owner: Owner, name: str, *, data: Mapping[str, str], owned: bool = True) -> Manifest:
    """A Secret of this cluster; the data is encoded already."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(owner, name, owned=owned),
        "type": "Opaque",
        "data": dict(data),
    }


def encoded(text: str) -> str:
    """Text as a Secret's data holds it."""
    return base64.b64encode(text.encode()).decode()

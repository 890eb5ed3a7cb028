"""What the operator needs to talk to the servers of one cluster, read from its own Secrets."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mariadb_operator.resources.names import MAX_INSTANCES, replication_account, replication_password_key
from mariadb_operator.resources.secrets import (
    CA_CERTIFICATE,
    OPERATOR_PASSWORD,
    PROBE_PASSWORD,
    SecretKeyMissing,
    secret_text,
)
from mariadb_operator.runtime.errors import Transient
from mariadb_operator.sql.connection import tls_context

OPERATOR_ACCOUNT = "mariadb_operator"
PROBE_ACCOUNT = "mariadb_probe"


class CredentialsMissing(Transient):
    """The Secrets are not there, or not complete; they are made or mended first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Accounts and trust of one cluster."""

    operator_password: str = field(repr=False)
    probe_password: str = field(repr=False)
    replication_passwords: Mapping[str, str] = field(repr=False)  # by account
    application_password: str = field(repr=False)
    tls: ssl.SSLContext = field(repr=False, compare=False)


def read_credentials(
    generated: Mapping[str, Any], tls: Mapping[str, Any], *, application_password: str
) -> Credentials:
    """Read the Secrets <name>-credentials and <name>-tls. Raises CredentialsMissing."""
    try:
        return _read(generated, tls, application_password=application_password)
    except SecretKeyMissing as error:
        raise CredentialsMissing(str(error)) from error
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsMissing(
            f"ca.crt of Secret {tls['metadata']['name']} is no certificate: {error}"
        ) from error


def _read(generated: Mapping[str, Any], tls: Mapping[str, Any], *, application_password: str) -> Credentials:
    return Credentials(
        operator_password=secret_text(generated, OPERATOR_PASSWORD),
        probe_password=secret_text(generated, PROBE_PASSWORD),
        replication_passwords={
            replication_account(number): secret_text(generated, replication_password_key(number))
            for number in range(MAX_INSTANCES)
        },
        application_password=application_password,
        tls=tls_context(secret_text(tls, CA_CERTIFICATE)),
    )

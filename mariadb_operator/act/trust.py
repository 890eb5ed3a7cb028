"""The authority and the certificate of one cluster: made, kept, renewed, and restored when somebody deletes them.

Not for what a certificate says (resources/certificates.py) nor for reloading it in a running server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509

from mariadb_operator.act.ours import InputProblem, OwnObjects
from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.kube.kinds import SECRET, Manifest
from mariadb_operator.resources import certificates as tls
from mariadb_operator.resources import secrets as passwords

AUTHORITIES_KEPT = 2
_END = "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The Secret <name>-tls as written, and the authority behind it."""

    secret: Manifest = field(repr=False)
    authority: tls.KeyPair = field(repr=False)
    addresses: frozenset[str] = frozenset()  # that the servers' certificate names

    @property
    def ca_certificate(self) -> str:
        """Whom to trust, PEM."""
        return passwords.secret_text(self.secret, passwords.CA_CERTIFICATE)

    @property
    def server_certificate(self) -> str:
        """What servers show, PEM."""
        return passwords.secret_text(self.secret, tls.CERTIFICATE)

    @property
    def fingerprint(self) -> str:
        """Tells one certificate from another."""
        return hashlib.sha256(self.server_certificate.encode()).hexdigest()[:16]

    @property
    def issued_at(self) -> datetime:
        """Since when the servers' certificate is valid."""
        return x509.load_pem_x509_certificate(self.server_certificate.encode()).not_valid_before_utc


class TrustKeeper:
    """Ensures the Secrets <name>-ca and <name>-tls."""

    def __init__(self, own: OwnObjects, *, cluster_domain: str, now: Callable[[], datetime]) -> None:
        self._own = own
        self._names = own.owner.names
        self._domain = cluster_domain
        self._now = now

    async def ensure(
        self, spec: MariaDBClusterSpec, *, known: Trust | None, addresses: Collection[str]
    ) -> Trust:
        """The certificate, signed by the present authority, for Pods of these addresses. Raises InputProblem."""
        authority = await self._authority(spec, known)
        current = await self._own.read_ours(SECRET, self._names.tls_secret)
        if current is None and known is not None:
            current = known.secret
        server = self._valid_pair(current, authority, addresses) or self._new_pair(spec, authority, addresses)
        trusted = trusted_certificates(authority.certificate, before=_text(current))
        secret = await self._own.apply(tls.tls_secret(self._own.owner, server, ca_certificate=trusted))
        return Trust(secret=secret, authority=authority, addresses=tls.named_addresses(server.certificate))

    def _valid_pair(
        self, secret: Manifest | None, authority: tls.KeyPair, addresses: Collection[str]
    ) -> tls.KeyPair | None:
        if secret is None:
            return None
        try:
            pair = tls.key_pair_in(secret)
        except passwords.SecretKeyMissing:
            return None
        due = tls.renewal_reason(
            pair.certificate,
            authority=authority.certificate,
            names=self._names,
            addresses=addresses,
            cluster_domain=self._domain,
            now=self._now(),
        )
        return None if due else pair

    def _new_pair(
        self, spec: MariaDBClusterSpec, authority: tls.KeyPair, addresses: Collection[str]
    ) -> tls.KeyPair:
        try:
            return tls.new_server_certificate(
                authority,
                self._names,
                addresses=addresses,
                cluster_domain=self._domain,
                now=self._now(),
            )
        except tls.InvalidAuthority as error:
            given = spec.tls.ca_secret_name
            where = (
                f"spec.tls.caSecretName: Secret {given!r}" if given else f"Secret {self._names.ca_secret!r}"
            )
            raise InputProblem("InvalidAuthority", f"{where}: {error}") from error

    async def _authority(self, spec: MariaDBClusterSpec, known: Trust | None) -> tls.KeyPair:
        given = spec.tls.ca_secret_name
        if given is not None:
            return await self._given_authority(given)
        secret = await self._own.read_ours(SECRET, self._names.ca_secret)
        if secret is not None:
            try:
                pair = tls.key_pair_in(secret)
            except passwords.SecretKeyMissing as error:
                raise InputProblem("SecretKeyMissing", str(error)) from error
        elif known is not None:
            pair = known.authority
        else:
            pair = tls.new_authority(self._own.owner.name, now=self._now())
        await self._own.apply(tls.authority_secret(self._own.owner, spec, pair))
        return pair

    async def _given_authority(self, name: str) -> tls.KeyPair:
        secret = await self._own.read(SECRET, name)
        if secret is None:
            raise InputProblem(
                "SecretMissing",
                f"spec.tls.caSecretName: Secret {name!r} does not exist in namespace {self._own.owner.namespace};"
                " create it with keys tls.crt and tls.key",
            )
        try:
            return tls.key_pair_in(secret)
        except passwords.SecretKeyMissing as error:
            raise InputProblem("SecretKeyMissing", f"spec.tls.caSecretName: {error}") from error


def trusted_certificates(authority: str, *, before: str) -> str:
    """The present authority and the one before it: running servers show the old certificate until they reload."""
    blocks = [f"{block.strip()}\n{_END}\n" for block in before.split(_END) if block.strip()]
    present = authority.strip() + "\n"
    others = [block for block in blocks if block.strip() not in present]
    return "".join([present, *others][:AUTHORITIES_KEPT])


def _text(secret: Mapping[str, Any] | None) -> str:
    if secret is None:
        return ""
    try:
        return passwords.secret_text(secret, passwords.CA_CERTIFICATE)
    except passwords.SecretKeyMissing:
        return ""

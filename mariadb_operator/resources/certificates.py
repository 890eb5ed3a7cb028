"""Certificates: an authority per cluster (or one that is given), and the servers' certificate signed by it.

The certificate names the Services, for applications, and the addresses of the instances' Pods, for replicas.
Not for reloading a renewed certificate in a running server (sql does).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.resources.labels import Manifest, Owner
from mariadb_operator.resources.names import Names
from mariadb_operator.resources.secrets import CA_CERTIFICATE, encoded, opaque_secret, secret_text
from mariadb_operator.resources.volumes import outlives_resource
from mariadb_operator.runtime.errors import Permanent

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
AUTHORITY_LIFETIME: Final = timedelta(days=3650)
SERVER_LIFETIME: Final = timedelta(days=365)
RENEW_BEFORE: Final = timedelta(days=120)
_CLOCK_SKEW: Final = timedelta(minutes=5)

_SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class InvalidAuthority(Permanent):
    """A certificate authority that can't sign: no PEM, no authority, expired, or key and certificate differ."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both PEM."""

    certificate: str
    key: str = field(repr=False)


def new_authority(cluster: str, *, now: datetime) -> KeyPair:
    """A certificate authority of its own for a cluster: ECDSA P-256, ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{cluster} CA")
    builder = (
        _builder(name, issuer=name, now=now, lifetime=AUTHORITY_LIFETIME)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_server_certificate(
    authority: KeyPair, names: Names, *, addresses: Collection[str], cluster_domain: str, now: datetime
) -> KeyPair:
    """The servers' certificate, signed by the authority, valid for a year but never longer than the authority.

    `addresses`: of the Pods that it shall name.

    Raises InvalidAuthority.
    """
    issuer, signing_key = load_authority(authority, now=now)
    key = ec.generate_private_key(ec.SECP256R1())
    lifetime = min(SERVER_LIFETIME, issuer.not_valid_after_utc - now)
    builder = (
        _builder(_name(names.cluster), issuer=issuer.subject, now=now, lifetime=lifetime)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName(_alternatives(names, addresses, cluster_domain)), critical=False
        )
    )
    return _pair(builder.sign(signing_key, hashes.SHA256()), key)


def load_authority(authority: KeyPair, *, now: datetime) -> tuple[x509.Certificate, _SigningKey]:
    """The authority's certificate and key. Raises InvalidAuthority with what is wrong and what to do."""
    try:
        certificate = x509.load_pem_x509_certificate(authority.certificate.encode())
        key = serialization.load_pem_private_key(authority.key.encode(), password=None)
    except (ValueError, TypeError):
        raise InvalidAuthority(f"{CERTIFICATE} or {KEY} is no unencrypted PEM: store one of each") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidAuthority(f"{KEY} is neither an EC nor an RSA key: use one of them")
    if certificate.public_key() != key.public_key():
        raise InvalidAuthority(f"{KEY} is not the key of {CERTIFICATE}: store a pair")
    if not _may_sign(certificate):
        raise InvalidAuthority(
            f"{CERTIFICATE} is no certificate authority (basicConstraints CA:TRUE is missing)"
        )
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise InvalidAuthority(
            f"{CERTIFICATE} is not valid now, only until {certificate.not_valid_after_utc:%F}"
        )
    return certificate, key


def renewal_reason(
    certificate: str,
    *,
    authority: str,
    names: Names,
    addresses: Collection[str],
    cluster_domain: str,
    now: datetime,
) -> str | None:
    """Why the servers' certificate has to be made anew; None while it serves. All arguments are PEM."""
    try:
        server = x509.load_pem_x509_certificate(certificate.encode())
        issuer = x509.load_pem_x509_certificate(authority.encode())
    except ValueError:
        return "it can't be read"
    try:
        server.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return "another authority signed it"
    if server.not_valid_after_utc - now < min(RENEW_BEFORE, _lifetime(server) / 3):
        return f"it expires on {server.not_valid_after_utc:%F}"
    try:
        present = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "it names no host"
    missing = [each for each in _alternatives(names, addresses, cluster_domain) if each not in present]
    return f"it does not name {missing[0].value}" if missing else None


def authority_secret(owner: Owner, spec: MariaDBClusterSpec, authority: KeyPair) -> Manifest:
    """The Secret with the cluster's own authority."""
    data = {CERTIFICATE: encoded(authority.certificate), KEY: encoded(authority.key)}
    return opaque_secret(owner, owner.names.ca_secret, data=data, owned=not outlives_resource(spec))


def tls_secret(owner: Owner, server: KeyPair, *, ca_certificate: str) -> Manifest:
    """The Secret that Pods mount: the servers' certificate and key, and whom to trust."""
    data = {CERTIFICATE: server.certificate, KEY: server.key, CA_CERTIFICATE: ca_certificate}
    return opaque_secret(
        owner, owner.names.tls_secret, data={name: encoded(text) for name, text in data.items()}
    )


def key_pair_in(secret: Mapping[str, Any]) -> KeyPair:
    """The pair that a Secret holds. Raises SecretKeyMissing."""
    return KeyPair(secret_text(secret, CERTIFICATE), secret_text(secret, KEY))


def named_addresses(certificate: str) -> frozenset[str]:
    """The addresses that a certificate (PEM) names."""
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(str(each) for each in names.get_values_for_type(x509.IPAddress))


def _alternatives(names: Names, addresses: Collection[str], cluster_domain: str) -> list[x509.GeneralName]:
    services = (names.primary_service, names.replicas_service)
    hosts = [
        *(
            f"{service}{rest}"
            for service in services
            for rest in ("", f".{names.namespace}", f".{names.namespace}.svc")
        ),
        *(f"{names.host(service)}.{cluster_domain}" for service in services),
        f"*.{names.host(names.instances_service)}",
        f"*.{names.host(names.instances_service)}.{cluster_domain}",
        "localhost",
    ]
    numbers = ("127.0.0.1", *sorted(addresses))
    return [
        *(x509.DNSName(host) for host in hosts),
        *(x509.IPAddress(ipaddress.ip_address(number)) for number in numbers),
    ]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, *, issuer: x509.Name, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _lifetime(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )

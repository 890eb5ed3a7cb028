"""The cluster's own certificate authority, the API server's certificates, and everybody's tokens.

Not for the operator's certificates: those are MariaDB's.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from localkube.addresses import CONTROL, NODES, Addresses

_LIFE = datetime.timedelta(days=365)
ADMINISTRATOR = "administrator"
CONTROLLER_MANAGER = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
PROXY = "system:kube-proxy"
PROVISIONER = "local-path-provisioner"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that exists only in memory and in the cluster's folder."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write(folder: Path, addresses: Addresses) -> dict[str, str]:
    """Write every certificate, key and the token file; returns the tokens by user."""
    folder.mkdir(parents=True, mode=0o700)
    authority = _authority(addresses.name)
    _write_certificate(folder / "ca.crt", authority.certificate)
    _write_key(folder / "service-accounts.key", ec.generate_private_key(ec.SECP256R1()))
    server_names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    server_addresses = [
        addresses.machine(CONTROL),
        addresses.gateway,
        addresses.api_service,
        IPv4Address("127.0.0.1"),
    ]
    server = [*map(x509.DNSName, server_names), *map(x509.IPAddress, server_addresses)]
    _issue(folder, "apiserver", authority, _name("kube-apiserver"), server)
    # The kubelets let this name do everything, as Kubernetes' own set-up tool has it.
    _issue(folder, "kubelet-client", authority, _name("kube-apiserver", "system:masters"), [])
    tokens = {user: secrets.token_hex(24) for user in _users()}
    lines = [f'{token},{user},{user},"{_groups(user)}"' for user, token in tokens.items()]
    _write_private(folder / "tokens.csv", ("\n".join(lines) + "\n").encode())
    return tokens


def node_user(node: str) -> str:
    """The user that a kubelet is."""
    return f"system:node:{node}"


def _users() -> list[str]:
    return [ADMINISTRATOR, CONTROLLER_MANAGER, SCHEDULER, PROXY, PROVISIONER, *map(node_user, NODES)]


def _groups(user: str) -> str:
    if user in (ADMINISTRATOR, PROVISIONER):
        return "system:masters"
    return "system:nodes" if user.startswith("system:node:") else ""


def _authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"local cluster {name}")
    certificate = (
        _unsigned(subject, key.public_key())
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key=key, certificate=certificate)


def _issue(
    folder: Path, file: str, authority: Authority, subject: x509.Name, names: Sequence[x509.GeneralName]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.key.public_key()
    builder = (
        _unsigned(subject, key.public_key())
        .issuer_name(authority.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    _write_certificate(folder / f"{file}.crt", builder.sign(authority.key, hashes.SHA256()))
    _write_key(folder / f"{file}.key", key)


def _unsigned(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)

"""Certificates: signed by the cluster's authority, naming its hosts, renewed in time; a bad authority is named."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import verification

from mariadb_operator.api.cluster import read_spec
from mariadb_operator.resources import certificates, secrets
from mariadb_operator.resources.certificates import InvalidAuthority, KeyPair
from mariadb_operator.resources.labels import Owner

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = Owner(name="db", namespace="shop", uid="u")
NAMES = OWNER.names
DOMAIN = "cluster.local"


@pytest.fixture(scope="module")
def authority() -> KeyPair:
    return certificates.new_authority("db", now=NOW)


@pytest.fixture(scope="module")
def server(authority: KeyPair) -> KeyPair:
    return certificates.new_server_certificate(authority, NAMES, addresses=(), cluster_domain=DOMAIN, now=NOW)


def reason(
    server: KeyPair,
    authority: KeyPair,
    *,
    days: float = 0,
    domain: str = DOMAIN,
    addresses: tuple[str, ...] = (),
) -> str | None:
    return certificates.renewal_reason(
        server.certificate,
        authority=authority.certificate,
        names=NAMES,
        addresses=addresses,
        cluster_domain=domain,
        now=NOW + timedelta(days=days),
    )


@pytest.mark.parametrize(
    "host",
    [
        "db-primary",
        "db-primary.shop",
        "db-primary.shop.svc",
        "db-primary.shop.svc.cluster.local",
        "db-replicas.shop.svc",
        "db-0.db-instances.shop.svc",
        "db-8.db-instances.shop.svc.cluster.local",
        "localhost",
    ],
)
def test_a_client_that_verifies_chain_and_host_is_content(
    server: KeyPair, authority: KeyPair, host: str
) -> None:
    store = verification.Store([x509.load_pem_x509_certificate(authority.certificate.encode())])
    verifier = verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName(host))
    assert len(verifier.verify(x509.load_pem_x509_certificate(server.certificate.encode()), [])) == 2


def test_another_clusters_certificate_is_not_trusted(authority: KeyPair) -> None:
    other = certificates.new_authority("other", now=NOW)
    stranger = certificates.new_server_certificate(other, NAMES, addresses=(), cluster_domain=DOMAIN, now=NOW)
    store = verification.Store([x509.load_pem_x509_certificate(authority.certificate.encode())])
    verifier = (
        verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("db-primary"))
    )
    with pytest.raises(verification.VerificationError):
        verifier.verify(x509.load_pem_x509_certificate(stranger.certificate.encode()), [])
    assert reason(stranger, authority) == "another authority signed it"


def test_a_certificate_is_renewed_before_it_expires_and_not_long_before(
    server: KeyPair, authority: KeyPair
) -> None:
    assert reason(server, authority) is None
    assert reason(server, authority, days=200) is None
    assert "expires on 2027-01-01" in (reason(server, authority, days=300) or "")


def test_a_certificate_with_other_hosts_is_renewed(server: KeyPair, authority: KeyPair) -> None:
    assert "does not name" in (reason(server, authority, domain="example.org") or "")


def test_a_certificate_names_the_addresses_of_pods_and_is_renewed_when_one_has_another(
    authority: KeyPair,
) -> None:
    named = certificates.new_server_certificate(
        authority, NAMES, addresses=("10.0.0.1", "10.0.0.2"), cluster_domain=DOMAIN, now=NOW
    )
    assert {"10.0.0.1", "10.0.0.2"} <= certificates.named_addresses(named.certificate)
    assert reason(named, authority, addresses=("10.0.0.2",)) is None
    assert "does not name 10.0.0.3" in (reason(named, authority, addresses=("10.0.0.1", "10.0.0.3")) or "")


def test_garbage_is_renewed(authority: KeyPair) -> None:
    assert reason(KeyPair("nonsense", ""), authority) == "it can't be read"


def test_a_server_never_outlives_its_authority(authority: KeyPair) -> None:
    late = NOW + certificates.AUTHORITY_LIFETIME - timedelta(days=10)
    server = certificates.new_server_certificate(
        authority, NAMES, addresses=(), cluster_domain=DOMAIN, now=late
    )
    ends = x509.load_pem_x509_certificate(server.certificate.encode()).not_valid_after_utc
    assert ends <= x509.load_pem_x509_certificate(authority.certificate.encode()).not_valid_after_utc


def test_a_certificate_of_an_old_authority_is_not_renewed_without_end(authority: KeyPair) -> None:
    late = NOW + certificates.AUTHORITY_LIFETIME - timedelta(days=10)
    server = certificates.new_server_certificate(
        authority, NAMES, addresses=(), cluster_domain=DOMAIN, now=late
    )
    days = (late - NOW).total_seconds() / 86_400
    assert reason(server, authority, days=days) is None


def pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, *, password: bytes = b""
) -> str:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode()


def test_an_authority_that_is_given_may_have_an_rsa_key() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Company CA")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=900))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    company = KeyPair(certificate.public_bytes(serialization.Encoding.PEM).decode(), pem(key))
    server = certificates.new_server_certificate(company, NAMES, addresses=(), cluster_domain=DOMAIN, now=NOW)
    assert reason(server, company) is None


def test_a_bad_authority_is_named_with_its_remedy(authority: KeyPair, server: KeyPair) -> None:
    other_key = pem(ec.generate_private_key(ec.SECP256R1()))
    locked = pem(ec.generate_private_key(ec.SECP256R1()), password=b"x")
    bad = {
        "no unencrypted PEM": replace(authority, key="nonsense"),
        r"tls\.crt or tls\.key is no unencrypted": replace(authority, certificate="nonsense"),
        "store one of each": replace(authority, key=locked),
        "not the key of": replace(authority, key=other_key),
        "neither an EC nor an RSA": replace(authority, key=pem(ed25519.Ed25519PrivateKey.generate())),
        "no certificate authority": server,
    }
    for words, pair in bad.items():
        with pytest.raises(InvalidAuthority, match=words):
            certificates.load_authority(pair, now=NOW)
    with pytest.raises(InvalidAuthority, match="not valid now, only until 2035"):
        certificates.load_authority(authority, now=NOW + certificates.AUTHORITY_LIFETIME)


def test_keys_never_show_in_a_text_of_the_pair(authority: KeyPair) -> None:
    assert "PRIVATE" not in repr(authority)


def test_the_secrets_hold_what_pods_and_the_operator_read(authority: KeyPair, server: KeyPair) -> None:
    spec = read_spec({"spec": {"version": "11.8", "storage": {"size": "1Gi"}}})
    stored = certificates.authority_secret(OWNER, spec, authority)
    assert "ownerReferences" not in stored["metadata"]
    assert certificates.key_pair_in(stored) == authority
    mounted = certificates.tls_secret(OWNER, server, ca_certificate=authority.certificate)
    assert "ownerReferences" in mounted["metadata"]
    assert secrets.secret_text(mounted, "ca.crt") == authority.certificate
    assert certificates.key_pair_in(mounted) == server
    assert re.fullmatch(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n", authority.certificate)

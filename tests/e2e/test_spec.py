"""What the spec asks for is in force on real servers, not only in the manifests."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.harness.cluster import Cluster
from tests.harness.kube import Kube, Object
from tests.harness.local import Local
from tests.harness.verify import verify
from tests.harness.writing import write_for

PORT = 3317
ROOT_PASSWORD = 'it\'s "my" own \\ 1'


def authority() -> tuple[str, str]:
    """A certificate authority as a company may have one: certificate and key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of my own")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def made(kind: str, name: str, namespace: str, **content: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **content,
    }


def as_root(cluster: Cluster, instance: str, statement: str) -> str:
    """Logs in as root with the password that was given, not with what the operator made of it."""
    escaped = ROOT_PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    options = f'[client]\nuser=root\nsocket=/run/mysqld/mysqld.sock\npassword="{escaped}"\n'
    script = (
        'umask 077; f=$(mktemp /run/mysqld/root.XXXXXX); cat > "$f";'
        ' mariadb --defaults-file="$f" --batch --skip-column-names -e "$1"; code=$?; rm -f "$f"; exit $code'
    )
    return cluster.kube.execute(
        cluster.namespace, instance, "sh", "-c", script, "sh", statement, stdin=options
    )


def test_port_root_password_authority_and_my_cnf_are_in_force_on_every_server(
    kube: Kube, local: Local | None, own_namespace: str
) -> None:
    certificate, key = authority()
    kube.create(
        "secrets",
        made("Secret", "my-root", own_namespace, stringData={"root": ROOT_PASSWORD}),
        own_namespace,
    )
    kube.create(
        "secrets",
        made("Secret", "my-ca", own_namespace, stringData={"tls.crt": certificate, "tls.key": key}),
        own_namespace,
    )
    kube.create(
        "configmaps",
        made("ConfigMap", "my-cnf", own_namespace, data={"my.cnf": "[mariadbd]\nmax-connections = 77\n"}),
        own_namespace,
    )
    spec = {
        "replicas": 2,
        "port": PORT,
        "rootPasswordSecretKeyRef": {"name": "my-root", "key": "root"},
        "tls": {"caSecretName": "my-ca"},
        "myCnfConfigMapKeyRef": {"name": "my-cnf"},
    }
    cluster = Cluster(kube=kube, local=local, namespace=own_namespace, name="asked", spec=spec)
    cluster.apply()
    cluster.wait_healthy()
    # The writers take port and authority from the application's Secret, and connect through the Service.
    secret = cluster.app_secret()
    assert (secret["port"], secret["ca.crt"].strip()) == (str(PORT), certificate.strip())
    assert len(verify(cluster, write_for(cluster, 0.5)).require().instances) == 2
    for instance in cluster.instances():
        assert as_root(cluster, instance, "SELECT @@port, @@max_connections").split() == [str(PORT), "77"]
    found = kube.get("secrets", "my-root", own_namespace)
    assert found is not None
    assert base64.b64decode(found["data"]["root"]).decode() == ROOT_PASSWORD, "what was given is left alone"

"""What a client may and may not do: never in plaintext, reads on replicas, nothing written there."""

from __future__ import annotations

import base64

import pytest

from tests.harness.cluster import Cluster
from tests.harness.diagnose import operator_logs
from tests.harness.local import HarnessError


def client(cluster: Cluster, service: str, *options: str, statement: str) -> str:
    """Runs the image's client in a Pod of the cluster, as the application's account through a Service, by its name.

    The certificate's names are compared, too: the client of 11.8 does so by itself.
    """
    secret = cluster.app_secret()
    host = secret["host"].replace("-primary", f"-{service}", 1)
    text = (
        f"[client]\nhost={host}\nport={secret['port']}\nuser={secret['username']}\n"
        f'password="{secret["password"]}"\n'
    )
    script = (
        'umask 077; f=$(mktemp /run/mysqld/client.XXXXXX); cat > "$f"; statement=$1; shift;'
        ' mariadb --defaults-file="$f" "$@" --connect-timeout=5 --batch --skip-column-names -e "$statement";'
        ' code=$?; rm -f "$f"; exit $code'
    )
    return cluster.kube.execute(
        cluster.namespace, cluster.instances()[0], "sh", "-c", script, "sh", statement, *options, stdin=text
    )


CA = "--ssl-ca=/etc/mariadb-operator/tls/ca.crt"


@pytest.mark.parametrize("service", ["primary", "replicas"])
def test_a_plaintext_client_is_refused(trio: Cluster, service: str) -> None:
    assert "1" in client(trio, service, "--ssl", CA, statement="SELECT 1")
    with pytest.raises(HarnessError, match=r"ERROR (1045|3159|2026)"):
        client(trio, service, "--skip-ssl", statement="SELECT 1")


def test_the_application_reads_from_replicas_and_can_not_write_there(trio: Cluster) -> None:
    server = client(trio, "replicas", "--ssl", CA, statement="SELECT @@global.server_id").strip()
    primary = int(trio.primary.rpartition("-")[2])
    assert int(server) != primary + 1
    with pytest.raises(HarnessError, match="ERROR 1290"):
        client(trio, "replicas", "--ssl", CA, statement="CREATE TABLE app.never (n INT)")


def test_the_application_owns_its_database_and_nothing_else(trio: Cluster) -> None:
    client(trio, "primary", "--ssl", CA, statement="CREATE OR REPLACE TABLE app.own (n INT PRIMARY KEY)")
    with pytest.raises(HarnessError, match=r"ERROR (1044|1142)"):
        client(trio, "primary", "--ssl", CA, statement="DELETE FROM mariadb_operator.epoch")


def test_no_password_is_in_status_events_or_arguments(trio: Cluster) -> None:
    credentials = trio.kube.get("secrets", f"{trio.name}-credentials", trio.namespace)
    assert credentials is not None
    passwords = [base64.b64decode(value).decode() for value in credentials["data"].values()]
    passwords.append(trio.app_secret()["password"])
    assert all(len(password) >= 16 for password in passwords), "too short to be looked for"
    shown = trio.kube.kubectl(
        "get", "mdc,pods,events,configmaps", "--namespace", trio.namespace, "-o", "yaml"
    )
    shown += operator_logs(trio.kube, lines=400)
    look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2> /dev/null | tr '\\0' ' '"
    for instance in trio.instances():
        shown += trio.kube.execute(trio.namespace, instance, "sh", "-c", look)
        shown += trio.kube.kubectl("logs", "--namespace", trio.namespace, instance)
    assert "mariadbd" in shown
    assert not [password for password in passwords if password in shown]

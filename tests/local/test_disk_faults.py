"""Faults of one volume under a Pod that writes to it, in a local cluster of their own.

Not for volumes as such: test_disks.py does without Kubernetes and is faster.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from localkube import disks
from localkube.addresses import CONTROL, NODES, Addresses
from localkube.cluster import Cluster
from localkube.layout import layout

from tests.harness.faults import disk_fault, volume_of
from tests.harness.kube import Kube, Object, holds_for, opened, wait_for
from tests.harness.local import HarnessError, Local, cache_folder
from tests.local.clusters import SECONDS, command, free_names, local
from tests.local.traces import mentions, traces

# The same faults without a Kubernetes are in test_disks.py.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes machines"),
]

NAMESPACE = "default"
WRITE = "n=0; while :; do n=$((n + 1)); echo $n >>/data/lines; sleep 0.05; done"
QUARTER_MEBIBYTE = "dd if=/dev/zero of=/data/new bs=64k count=4"


@pytest.fixture(scope="module")
def before() -> dict[str, set[str]]:
    return traces()


@pytest.fixture(scope="module")
def cluster(before: dict[str, set[str]]) -> Iterator[Local]:
    name, *_ = free_names()
    local("up", name=name)
    yield Local(name)
    local("down", name=name)


@pytest.fixture(scope="module")
def kube(cluster: Local) -> Iterator[Kube]:
    (kubectl,) = cache_folder().glob("programs/kubernetes-*/kubectl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(kubectl.parent), prepend=os.pathsep)
        with opened(cache_folder() / f"{cluster.name}.kubeconfig") as kube:
            yield kube


@pytest.fixture(scope="module")
def one(kube: Kube) -> str:
    return start(kube, "one")


@pytest.fixture(scope="module")
def other(kube: Kube) -> str:
    return start(kube, "other")


def start(kube: Kube, name: str) -> str:
    """A Pod that writes to a volume of its own, as nobody special, and has begun to."""
    kube.apply(claim(name), pod(name))
    wait_for(f"{name} writing", lambda: lines(kube, name) > 0, seconds=60)
    return name


def claim(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    }


def pod(name: str) -> Object:
    container = {
        "name": "writer",
        "image": "localhost/busybox:1",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", WRITE],
        "securityContext": {"runAsUser": 1000},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
        },
    }


def execute(kube: Kube, name: str, script: str) -> str:
    return kube.kubectl("exec", "--namespace", NAMESPACE, name, "--", "sh", "-c", script, seconds=20)


def lines(kube: Kube, name: str) -> int:
    """How many it has written; 0 while it does not run."""
    with contextlib.suppress(HarnessError):
        return int(execute(kube, name, "wc -l </data/lines"))
    return 0


def goes_on(kube: Kube, name: str, *, after: int) -> None:
    wait_for(f"{name} writing again", lambda: lines(kube, name) > after, seconds=30)


def test_a_full_volume_refuses_its_own_pod_and_no_other(
    cluster: Local, kube: Kube, one: str, other: str
) -> None:
    with disk_fault(cluster, "fill", volume_of(kube, NAMESPACE, one)):
        with pytest.raises(HarnessError, match="No space left on device"):
            execute(kube, one, QUARTER_MEBIBYTE)
        execute(kube, other, QUARTER_MEBIBYTE)
        assert " fill" in local("status", name=cluster.name)
    execute(kube, one, QUARTER_MEBIBYTE)
    assert " fill" not in local("status", name=cluster.name)


def test_a_broken_volume_is_read_only_and_its_pod_goes_on_once_it_is_mended(
    cluster: Local, kube: Kube, one: str
) -> None:
    execute(kube, one, "sync")
    written = lines(kube, one)
    with disk_fault(cluster, "readonly", volume_of(kube, NAMESPACE, one)):
        with pytest.raises(HarnessError, match="Read-only file system"):
            execute(kube, one, "echo more >>/data/lines")
        with pytest.raises(HarnessError, match="Read-only file system"):
            execute(kube, one, "echo more >/data/another")
        assert lines(kube, one) >= written
    goes_on(kube, one, after=written)
    found = kube.get("pods", one, NAMESPACE)
    assert found is not None
    assert [each["restartCount"] for each in found["status"]["containerStatuses"]] == [1]


def test_writes_to_a_frozen_volume_hang_and_go_on_once_it_is_healed(
    cluster: Local, kube: Kube, one: str, other: str
) -> None:
    with disk_fault(cluster, "freeze", volume_of(kube, NAMESPACE, one)):
        written, elsewhere = lines(kube, one), lines(kube, other)
        holds_for("no write comes through", lambda: lines(kube, one) == written, seconds=1)
        goes_on(kube, other, after=elsewhere)
    goes_on(kube, one, after=written)


def test_up_heals_every_disk(cluster: Local, kube: Kube, one: str, other: str) -> None:
    cluster.disk("freeze", f"{NAMESPACE}/{one}")
    cluster.disk("readonly", f"{NAMESPACE}/{other}")
    written, elsewhere = lines(kube, one), lines(kube, other)
    cluster.repair()
    goes_on(kube, one, after=written)
    goes_on(kube, other, after=elsewhere)


def test_a_volume_that_is_not_there_is_named(cluster: Local) -> None:
    refused = subprocess.run(
        command("disk", "fill", "default/nobodys", name=cluster.name),
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "no volume 'default/nobodys'" in refused.stderr


def test_a_volume_goes_with_its_claim(kube: Kube) -> None:
    start(kube, "brief")
    volume = volume_of(kube, NAMESPACE, "brief")
    assert any(name.startswith(volume) for name in disks.attached())
    kube.delete("pods", "brief", NAMESPACE)
    kube.delete("persistentvolumeclaims", "brief", NAMESPACE)
    wait_for("its volume gone", lambda: kube.get("persistentvolumes", volume) is None, seconds=60)
    wait_for(
        "its device gone", lambda: not any(name.startswith(volume) for name in disks.attached()), seconds=5
    )


def test_down_leaves_nothing_where_all_died_with_frozen_and_broken_volumes(
    before: dict[str, set[str]], cluster: Local, kube: Kube, one: str, other: str
) -> None:
    cluster.disk("freeze", f"{NAMESPACE}/{one}")
    cluster.disk("readonly", f"{NAMESPACE}/{other}")
    found = Cluster(addresses=Addresses(cluster.name), layout=layout(cluster.name))
    firsts = [found.machine(machine).first_process() for machine in (CONTROL, *NODES)]
    for first in firsts:
        assert first is not None
        os.kill(first, signal.SIGKILL)
    assert disks.attached().keys() & {disk.image.name for _, disk in found.disks()}
    local("down", name=cluster.name)
    assert traces() == before
    assert mentions(cluster.name) == []

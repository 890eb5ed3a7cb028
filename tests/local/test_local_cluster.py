"""The local cluster itself: made, made again, killed while it is made, beside another one, and gone.

Its clusters have names of their own: the one that other tests use is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from localkube.addresses import CONTROL, NODES, Addresses

from tests.harness.kube import wait_for
from tests.harness.local import STATE_ROOT, Local
from tests.local.clusters import SECONDS, command, free_names, kubectl, local, ready_nodes
from tests.local.traces import Inhabitants, command_of, mentions, name_of, traces
from tests.local.wire import listening

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes machines")

SERVICES = {
    "etcd",
    "kube-apiserver",
    "kube-controller",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
}
# Nobody has it (RFC 5737); a packet to it would take the default route.
ELSEWHERE = IPv4Address("203.0.113.9")
CONNECT = """\
import socket, sys
for address in sys.argv[1:]:
    try:
        socket.create_connection((address, 80), timeout=0.5).close()
        print("connected", address)
    except OSError:
        pass
"""


def wires(cluster: Local, node: str) -> set[str]:
    """The node's ends of the wires to its Pods."""
    shown = [*cluster.enter(node), "ip", "-json", "link", "show", "type", "veth"]
    links = json.loads(subprocess.run(shown, capture_output=True, text=True, check=True).stdout)
    return {link["ifname"] for link in links} - {"eth0"}


def killed_up(name: str, reached: Callable[[], bool]) -> None:
    """An `up` that dies at a moment of its own."""
    with subprocess.Popen(
        command("up", name=name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as up:
        wait_for("the moment to kill it", lambda: reached() or up.poll() is not None, seconds=120, every=0.05)
        assert up.poll() is None, "it ended before that moment"
        up.send_signal(signal.SIGKILL)


def has_namespaces(name: str) -> bool:
    return Path(f"/run/netns/{name}-{NODES[-1]}").exists()


def has_booted(name: str) -> bool:
    return (STATE_ROOT / name / NODES[0] / "run/services/on").exists()


def has_kubelets(name: str) -> bool:
    return any("kubelet --config" in command_of(process) for process, _ in Inhabitants().look(name))


@pytest.fixture(scope="module")
def names() -> tuple[str, str]:
    first, second, *_ = free_names()
    return first, second


@pytest.fixture(scope="module")
def before(names: tuple[str, str]) -> dict[str, set[str]]:
    return traces()


@pytest.fixture(scope="module")
def two(before: dict[str, set[str]], names: tuple[str, str]) -> Iterator[Local]:
    name, _ = names
    local("up", name=name)
    yield Local(name)
    local("down", name=name)


@pytest.fixture(scope="module")
def three(before: dict[str, set[str]], names: tuple[str, str]) -> Iterator[Local]:
    _, name = names
    killed_up(name, lambda: has_booted(name))
    local("up", name=name)
    yield Local(name)
    local("down", name=name)


@pytest.mark.parametrize("reached", [has_namespaces, has_kubelets])
def test_down_clears_what_a_killed_up_left(
    before: dict[str, set[str]], names: tuple[str, str], reached: Callable[[str], bool]
) -> None:
    _, name = names
    killed_up(name, lambda: reached(name))
    local("down", name=name)
    assert traces() == before
    assert mentions(name) == []


def test_up_of_a_cluster_that_is_up_changes_nothing(two: Local) -> None:
    inhabitants = Inhabitants()
    # Without the helpers that kubelets and kube-proxies start for a moment.
    machines = {each for each in inhabitants.look(two.name) if name_of(each[0]) in SERVICES}
    assert ready_nodes(two.name) == set(NODES)
    assert machines
    local("up", name=two.name)
    assert machines <= inhabitants.look(two.name)
    assert ready_nodes(two.name) == set(NODES)


def test_up_begins_anew_where_a_killed_one_left_half_a_cluster(three: Local) -> None:
    assert ready_nodes(three.name) == set(NODES)
    boots = [command_of(process) for process, _ in Inhabitants().look(three.name)]
    assert sum(boot.startswith("unshare --mount") for boot in boots) == len((CONTROL, *NODES))


def test_a_second_command_does_not_change_a_cluster_that_another_one_changes(two: Local) -> None:
    handle = os.open(STATE_ROOT / two.name, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refused = subprocess.run(
            command("down", name=two.name), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    finally:
        os.close(handle)
    assert refused.returncode == 1
    assert "another command is changing the cluster" in refused.stderr
    assert ready_nodes(two.name) == set(NODES)


def test_two_clusters_stand_side_by_side_and_do_not_reach_each_other(two: Local, three: Local) -> None:
    for here, there in ((two, three), (three, two)):
        assert ready_nodes(here.name) == set(NODES)
        other = str(Addresses(there.name).machine(CONTROL))
        for machine in (CONTROL, *NODES):
            tried = subprocess.run(
                [*here.enter(machine), "ip", "route", "get", other],
                capture_output=True,
                text=True,
                check=False,
            )
            assert tried.returncode != 0, tried.stdout


def test_what_nothing_serves_does_not_leave_the_machine(two: Local) -> None:
    addresses = Addresses(two.name)
    inside = [addresses.services[-2], addresses.pods("node1")[-2], addresses.machines[-2]]
    pod = next(process for process, _ in Inhabitants().look(two.name) if "coredns" in command_of(process))
    places = [*(two.enter(machine) for machine in (CONTROL, *NODES)), ["nsenter", f"--target={pod}", "--net"]]
    with listening([*inside, ELSEWHERE]) as heard:
        tries = [(place, [*inside, ELSEWHERE]) for place in places]
        for place, targets in [([], inside), *tries]:
            whole = [*place, sys.executable, "-c", CONNECT, *map(str, targets)]
            done = subprocess.run(whole, capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout == ""
    assert heard == set()


def test_the_listener_hears_what_leaves_the_machine() -> None:
    routed = subprocess.run(["ip", "route", "get", str(ELSEWHERE)], capture_output=True, check=False)
    if routed.returncode != 0:
        pytest.skip("this machine has no way out")
    with listening([ELSEWHERE]) as heard:
        subprocess.run([sys.executable, "-c", CONNECT, str(ELSEWHERE)], timeout=60, check=True)
    assert heard == {ELSEWHERE}


def test_a_node_that_lost_its_power_boots_without_the_wires_of_dead_pods(two: Local) -> None:
    # CoreDNS has a connection to the API server: cut off first, its socket outlives it by minutes.
    pods = json.loads(kubectl(two.name, "get", "pods", "--namespace=kube-system", "--output=json"))["items"]
    node = pods[0]["spec"]["nodeName"]
    before = wires(two, node)
    assert before
    two.node("stop", node)
    two.node("start", node)
    assert not before & wires(two, node)


def test_down_leaves_nothing_whatever_was_done_to_the_cluster(
    before: dict[str, set[str]], two: Local, three: Local
) -> None:
    inhabitants = Inhabitants()
    for cluster in (two, three):
        inhabitants.look(cluster.name)
    two.node("stop", "node1")
    two.node("cut", "node2")
    two.link("cut", "node2", "node3")
    three.control("stop")
    # A client that somebody forgot in the cluster's network.
    client = subprocess.Popen([*two.enter(), "sleep", "600"])
    try:
        wait_for("the client", lambda: command_of(client.pid) == "sleep 600", seconds=10, every=0.01)
        for cluster in (two, three):
            local("down", name=cluster.name)
        assert client.wait(timeout=10) == -signal.SIGKILL
    finally:
        client.kill()
        client.wait()
    assert inhabitants.seen
    assert inhabitants.alive() == set()
    assert traces() == before
    for cluster in (two, three):
        assert mentions(cluster.name) == []

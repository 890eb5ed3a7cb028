"""Addresses, files and names of the local cluster follow from its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from localkube.addresses import CONTROL, NODES, Addresses, number_of
from localkube.errors import LocalClusterError
from localkube.layout import Layout, cache_folder
from localkube.network import drop_rules, overlaps

NAMES = ["mdb", "two", "e2e", "a", "demo-1"]


@pytest.mark.parametrize("name", NAMES)
def test_ranges_of_a_cluster_lie_in_its_network_and_do_not_overlap(name: str) -> None:
    addresses = Addresses(name)
    parts = [addresses.services, addresses.machines, addresses.host_link, *map(addresses.pods, NODES)]
    assert all(part.subnet_of(addresses.network) for part in parts)
    assert not any(left.overlaps(right) for number, left in enumerate(parts) for right in parts[number + 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_every_machine_has_an_address_of_its_own_on_the_bridge(name: str) -> None:
    addresses = Addresses(name)
    machines = [addresses.machine(machine) for machine in (CONTROL, *NODES)]
    assert len(set(machines)) == 4
    assert all(address in addresses.machines for address in machines)


def test_clusters_of_different_names_have_different_networks() -> None:
    assert Addresses("mdb").network != Addresses("two").network
    assert Addresses("mdb").network == Addresses("mdb").network


def test_the_hosts_link_is_no_part_of_the_bridge_so_that_answers_pass_the_control_machine() -> None:
    addresses = Addresses("mdb")
    assert addresses.host in addresses.host_link
    assert addresses.gateway in addresses.host_link
    assert addresses.host not in addresses.machines


@pytest.mark.parametrize("name", ["", "Big", "1st", "under_score", "elevenchars", "-a", "a-", "a/b"])
def test_a_name_that_does_not_fit_an_interface_is_refused(name: str) -> None:
    with pytest.raises(LocalClusterError, match="--name"):
        Addresses(name)


@pytest.mark.parametrize("name", NAMES)
def test_interface_names_fit_the_kernel(name: str) -> None:
    assert len(Addresses(name).host_interface) <= 15


def test_an_unknown_node_is_named_with_those_that_exist() -> None:
    with pytest.raises(LocalClusterError, match=r"node4.*node1, node2, node3"):
        number_of("node4")


def test_the_cache_follows_the_environment() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/mariadb-operator")
    assert cache_folder({"XDG_CACHE_HOME": "", "HOME": "/h"}) == Path("/h/.cache/mariadb-operator")


def test_what_down_removes_holds_nothing_that_clusters_share() -> None:
    layout = Layout(name="mdb", cache=Path("/cache"))
    for shared in (layout.image_store, layout.programs, layout.images):
        assert not shared.is_relative_to(layout.state)


def test_a_cut_link_drops_the_other_nodes_pods_too() -> None:
    addresses = Addresses("mdb")
    sources = [rule[rule.index("--source") + 1] for rule in drop_rules(addresses, "node1", "node2")]
    assert sources == [str(addresses.machine("node2")), str(addresses.pods("node2"))]


def test_a_link_cut_from_control_leaves_what_control_forwards_to_the_host() -> None:
    for rule in drop_rules(Addresses("mdb"), CONTROL, "node1"):
        assert rule[rule.index("--dst-type") + 1] == "LOCAL"
    for rule in drop_rules(Addresses("mdb"), "node1", CONTROL):
        assert "--dst-type" not in rule


NETWORK = Addresses("two").network


def test_a_route_into_the_range_is_refused_and_a_wider_one_shown() -> None:
    inside = f"{NETWORK.network_address + 256}/24"
    routes = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "192.0.2.0/24", "dev": "eth0"},
        {"dst": "10.0.0.0/8", "dev": "tun0"},
        {"dst": inside, "dev": "docker1"},
        {"type": "local", "dst": str(NETWORK[7]), "dev": "lo", "table": "local"},
    ]
    taken, hidden = overlaps(NETWORK, routes)
    assert taken == [f"{inside} dev docker1", f"{NETWORK[7]}/32 dev lo"]
    assert hidden == ["10.0.0.0/8 dev tun0"]


def test_the_very_range_is_taken_and_a_wider_one_that_leads_nowhere_is_no_loss() -> None:
    assert overlaps(NETWORK, [{"dst": str(NETWORK), "dev": "k8s-other"}]) == (
        [f"{NETWORK} dev k8s-other"],
        [],
    )
    assert overlaps(NETWORK, [{"type": "unreachable", "dst": "10.0.0.0/8"}]) == ([], [])

"""Configuration of the local cluster's programs: what the tests rely on, and what bites on such machines."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from localkube import certificates, manifests, services
from localkube.addresses import NODES, Addresses
from localkube.machine import DISK_PROGRAM, Machine, Service
from localkube.programs import BUILT, KUBERNETES

ADDRESSES = Addresses("mdb")


def tokens(folder: Path) -> dict[str, str]:
    return certificates.write(folder / "pki", ADDRESSES)


def test_nothing_is_masqueraded_so_that_servers_see_their_clients_addresses(tmp_path: Path) -> None:
    files = services.control_files(ADDRESSES, tokens(tmp_path))
    proxy = json.loads(files["lib/kubernetes/kube-proxy.json"])
    assert proxy["clusterCIDR"] == str(ADDRESSES.network)


def test_nodes_differ_in_identity_and_address_only(tmp_path: Path) -> None:
    secrets = tokens(tmp_path)
    files = [services.node_files(ADDRESSES, node, tokens=secrets, cgroup=f"/mdb-{node}") for node in NODES]
    kubelets = [json.loads(content["lib/kubernetes/kubelet.json"]) for content in files]
    assert len({kubelet.pop("cgroupRoot") for kubelet in kubelets}) == 3
    assert kubelets[0] == kubelets[1] == kubelets[2]
    assert kubelets[0]["failCgroupV1"] is False
    networks = [json.loads(content["lib/kubernetes/cni/10-pods.conflist"]) for content in files]
    ranges = [network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] for network in networks]
    assert ranges == [str(ADDRESSES.pods(node)) for node in NODES]
    users = {content["lib/kubernetes/kubelet.kubeconfig"] for content in files}
    assert len(users) == 3


def test_containerd_works_without_the_right_to_lower_oom_scores(tmp_path: Path) -> None:
    files = services.node_files(ADDRESSES, "node1", tokens=tokens(tmp_path), cgroup="/mdb-node1")
    configuration = tomllib.loads(files["lib/kubernetes/containerd.toml"])
    assert configuration["plugins"]["io.containerd.grpc.v1.cri"]["restrict_oom_score_adj"] is True


def test_no_token_is_on_a_command_line(tmp_path: Path) -> None:
    secrets = tokens(tmp_path)
    everything = [*services.control_services(ADDRESSES), *services.node_services(ADDRESSES, "node1")]
    arguments = " ".join(argument for service in everything for argument in service.command)
    assert not any(secret in arguments for secret in secrets.values())


def test_keys_and_tokens_are_for_their_owner_only(tmp_path: Path) -> None:
    tokens(tmp_path)
    for name in ("tokens.csv", "apiserver.key", "service-accounts.key", "kubelet-client.key"):
        assert (tmp_path / "pki" / name).stat().st_mode & 0o077 == 0


def test_only_kubelets_are_in_the_nodes_group(tmp_path: Path) -> None:
    tokens(tmp_path)
    lines = (tmp_path / "pki/tokens.csv").read_text().splitlines()
    groups = {user: group.strip('"') for _, user, _, group in (line.split(",") for line in lines)}
    nodes = {user for user, group in groups.items() if group == "system:nodes"}
    assert nodes == {"system:node:node1", "system:node:node2", "system:node:node3"}


def test_volumes_wait_for_their_pod_and_the_storage_class_is_the_default() -> None:
    objects = list(yaml.safe_load_all(manifests.render(ADDRESSES, own_disks=True)))
    (storage_class,) = [found for found in objects if found["kind"] == "StorageClass"]
    assert storage_class["volumeBindingMode"] == "WaitForFirstConsumer"
    assert storage_class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"


@pytest.mark.parametrize(("own_disks", "verb"), [(True, "make"), (False, "make-folder")])
def test_volumes_are_folders_where_they_can_not_be_file_systems(own_disks: bool, verb: str) -> None:
    objects = manifests.storage(own_disks=own_disks)
    (scripts,) = [found["data"] for found in objects if found["kind"] == "ConfigMap"]
    assert f"{DISK_PROGRAM} {verb} " in scripts["setup"]
    assert f"{DISK_PROGRAM} remove " in scripts["teardown"]


def test_pods_ask_the_name_service_where_it_is(tmp_path: Path) -> None:
    objects = list(yaml.safe_load_all(manifests.render(ADDRESSES, own_disks=True)))
    (service,) = [found for found in objects if found["kind"] == "Service"]
    files = services.node_files(ADDRESSES, "node1", tokens=tokens(tmp_path), cgroup="/x")
    kubelet = json.loads(files["lib/kubernetes/kubelet.json"])
    assert kubelet["clusterDNS"] == [service["spec"]["clusterIP"]]


def test_programs_are_kept_by_version() -> None:
    assert KUBERNETES.folder.endswith(KUBERNETES.version)
    assert len({programs.folder for programs in BUILT}) == len(BUILT)
    assert {"kubelet", "kubectl", "kube-apiserver"} <= set(KUBERNETES.names)


def test_a_machines_first_process_quotes_what_it_runs(tmp_path: Path) -> None:
    machine = Machine(namespace="mdb-node1", folder=tmp_path / "node1")
    machine.install([Service("one", ["/bin/one", "--say=a b; c"])], programs=tmp_path / "programs")
    script = (machine.folder / "first-process.sh").read_text()
    assert "service one /bin/one '--say=a b; c' &" in script
    assert not machine.is_on()

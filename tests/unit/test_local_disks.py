"""How a volume of the local cluster is named on the command line; what is done to it is tests/local."""

from __future__ import annotations

from pathlib import Path

import pytest
from localkube.addresses import Addresses
from localkube.cluster import Cluster
from localkube.disks import Fault
from localkube.errors import LocalClusterError
from localkube.layout import Layout


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    layout = Layout(name="it", cache=tmp_path / "cache", state_root=tmp_path / "state")
    for node, volume in (
        ("node1", "pvc-1_one_data-trio-0"),
        ("node2", "pvc-2_one_data-trio-1"),
        ("node3", "pvc-3_two_data-trio-0"),
        ("node3", "pvc-4_two_data-trio-0"),
    ):
        folder = layout.machine(node) / "var/disks"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{volume}.img").touch()
    return Cluster(addresses=Addresses("it"), layout=layout)


@pytest.mark.parametrize("wanted", ["one/data-trio-1", "pvc-2"])
def test_a_volume_is_found_by_its_claim_and_by_its_own_name(cluster: Cluster, wanted: str) -> None:
    node, disk = cluster.disk(wanted)
    assert (node, disk.volume, disk.claim) == ("node2", "pvc-2", "one/data-trio-1")


def test_a_claim_that_was_made_anew_has_to_be_told_from_the_old_one(cluster: Cluster) -> None:
    with pytest.raises(LocalClusterError, match="name one of pvc-3, pvc-4"):
        cluster.disk("two/data-trio-0")
    _, disk = cluster.disk("pvc-4")
    assert disk.volume == "pvc-4"


@pytest.mark.parametrize("wanted", ["data-trio-0", "one/data-trio-9", "pvc-", "pvc-1_one_data-trio-0", ""])
def test_what_names_no_volume_is_refused(cluster: Cluster, wanted: str) -> None:
    with pytest.raises(LocalClusterError, match="no volume"):
        cluster.disk(wanted)


def test_a_volume_that_is_not_mounted_can_not_be_harmed_and_is_not_noted_as_if(cluster: Cluster) -> None:
    _, disk = cluster.disk("pvc-1")
    with pytest.raises(LocalClusterError, match="not mounted"):
        disk.harm(Fault.FREEZE)
    assert disk.fault() is None

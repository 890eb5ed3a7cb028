"""The whole cluster dies and comes back: the primary of its epoch serves again, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.cluster import Cluster
from tests.harness.kube import wait_for
from tests.harness.reseed import wait_settled
from tests.harness.verify import verify
from tests.harness.writing import writing


def kill_every_server(cluster: Cluster) -> None:
    cluster.kill_together()


def delete_every_pod_by_force(cluster: Cluster) -> None:
    instances = cluster.instances()
    with ThreadPoolExecutor(len(instances)) as pool:
        list(pool.map(lambda instance: cluster.delete_pod(instance, force=True), instances))


@pytest.mark.parametrize("disaster", [kill_every_server, delete_every_pod_by_force])
def test_the_whole_cluster_killed_comes_back_with_the_primary_of_its_epoch_and_nothing_lost(
    trio: Cluster, disaster: Callable[[Cluster], None]
) -> None:
    before, old = trio.status(), trio.incarnations()
    assert set(old) == set(trio.instances()), "somebody does not answer"
    with writing(trio) as writers:
        writers.wait_acknowledged(150)
        disaster(trio)

        def all_anew() -> bool:
            new = trio.incarnations()
            return set(new) == set(old) and not any(new[each] == old[each] for each in old)

        wait_for("another start of every server", all_anew, seconds=120)
        writers.wait_acknowledged(150, seconds=120)
    wait_settled(trio)
    assert (trio.primary, trio.epoch) == (before["primary"], before["epoch"])
    verify(trio, writers.result).require()

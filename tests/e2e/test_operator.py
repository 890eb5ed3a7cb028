"""The operator itself dies, is frozen, is doubled, loses its API server: clusters notice nothing, or later than usual."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.harness import faults
from tests.harness.cluster import Cluster
from tests.harness.crashing import TO_BE_ENDED
from tests.harness.endpoints import primary_endpoints
from tests.harness.kube import wait_for
from tests.harness.local import HarnessError, Local
from tests.harness.operators import Operators, container
from tests.harness.reseed import reseed_kept_out, settled, wait_settled
from tests.harness.shell_operator import shell_operator, wait_leading
from tests.harness.verify import verify
from tests.harness.writing import writing

pytestmark = pytest.mark.node_faults

# Gentle writers: where a tail stays on the old primary it has to be seeded anew, which is not what is tested here.
PAUSE_SECONDS = 0.05
MORE_POINTS_THAN_ANY_FAILOVER = 80
AROUND_EFFECTS = tuple(f"{when} {effect}" for effect in TO_BE_ENDED for when in ("before", "after"))


@pytest.mark.timeout(900)
def test_an_operator_killed_at_any_step_of_a_failover_is_taken_over_from(
    trio: Cluster, operators: Operators, tmp_path: Path
) -> None:
    """Each next one goes on with the failover that it finds, and is killed at the step after. Who serves afterwards
    may be the old primary: when operators die early, that server is back, with everything, before the next one looks,
    and is reopened; then it is killed again. So it is after a failover that did not pass every point: effects overlap.
    """
    with (
        operators.absent(),
        writing(trio, writers=1, pause=PAUSE_SECONDS) as writers,
        shell_operator(trio, tmp_path, kill_each=True) as operator,
    ):
        survived, epoch, incarnation = False, 0, ""
        while (not survived or missing(operator.deaths())) and operator.said(
            "killed"
        ) < MORE_POINTS_THAN_ANY_FAILOVER:
            deaths, over = operator.said("killed"), operator.said("failover over")

            def died(deaths: int = deaths) -> bool:
                return operator.said("killed") > deaths

            wait_for(
                "an operator looks after the cluster",
                lambda deaths=deaths: operator.loaded_after(deaths),  # type: ignore[misc]
                seconds=60,
            )
            holder = operators.holder()
            if not trio.status().get("operation") and whole_unless(died, trio):
                epoch, over = trio.epoch, operator.said("failover over")
                incarnation = str(trio.status().get("primaryIncarnation"))
                trio.signal_mariadbd(trio.primary, "KILL")
            wait_for(
                "the failover over, or none, or the operator killed in it",
                lambda over=over, died=died, incarnation=incarnation: (  # type: ignore[misc]
                    died() or operator.said("failover over") > over or trio.reopened(incarnation)
                ),
                seconds=60,
            )
            if died():
                operators.give_lease_back(holder)
            else:
                # One that was rolled back has not passed all of its steps.
                survived = survived or trio.epoch > epoch
        writers.wait_acknowledged(20)
        killed = operator.deaths()
    print(f"killed {len(killed)} times: {killed}")  # noqa: T201
    assert survived, f"no failover came to its end: {killed}"
    assert not missing(killed), f"never killed {missing(killed)}: {killed}"
    wait_settled(trio)
    verify(trio, writers.result).require()


def missing(killed: list[str]) -> list[str]:
    """Where an operator has to die that none has died at yet."""
    steps = ("before write FailingOver_", "after write FailingOver_", *AROUND_EFFECTS)
    return [step for step in steps if not any(each.startswith(step) for each in killed)]


def whole_unless(died: Callable[[], bool], cluster: Cluster) -> bool:
    """Waits until the cluster is Healthy, all three following; or until an operator died in a failover of its own."""
    # Right after an operator's death the status may still say Healthy of a primary that is back and closed.
    wait_for("the primary open", lambda: died() or is_open(cluster, cluster.primary), seconds=60)
    cluster.wait("settled", lambda status: died() or settled(status))
    if died():
        return False
    reseed_kept_out(cluster)
    cluster.wait_healthy()
    return True


def is_open(cluster: Cluster, instance: str) -> bool:
    try:
        return cluster.value(instance, "@@global.read_only") == "0"
    except HarnessError:
        return False


@pytest.mark.parametrize(
    "step",
    [
        "before SwitchPrimary",
        pytest.param("after write FailingOver_Fencing", marks=pytest.mark.slow),
        pytest.param("before OpenPrimary", marks=pytest.mark.slow),
    ],
)
def test_an_operator_frozen_in_a_failover_does_nothing_when_it_thaws_after_another_took_over(
    trio: Cluster, operators: Operators, tmp_path: Path, step: str
) -> None:
    before = trio.wait_healthy()
    with (
        operators.absent(),
        writing(trio, pause=PAUSE_SECONDS) as writers,
        shell_operator(trio, tmp_path, stop_at=step) as frozen,
    ):
        wait_leading(trio, frozen)
        with shell_operator(trio, tmp_path) as successor:
            trio.wait_healthy()
            wait_leading(trio, frozen)
            trio.kill_primary_until(f"frozen {step}", lambda _: frozen.said("stopping"))
            wait_leading(trio, successor)
            trio.wait_epoch(before["epoch"] + 1)
            writers.wait_acknowledged(50)
            # The next primary too: what the frozen one is about to do belongs to an epoch that is over.
            wait_settled(trio)
            reseed_kept_out(trio)
            trio.kill_primary_until_replaced()
            assert trio.epoch == before["epoch"] + 2
            with primary_endpoints(trio) as endpoints:
                logged = frozen.logged()
                frozen.thaw()
                wait_for("the thawed operator to go on", lambda: frozen.logged() > logged, seconds=60)
                writers.wait_acknowledged(100)
                wait_settled(trio)
            assert set(endpoints.epochs) == {before["epoch"] + 2}, "it named a primary of the past"
            assert set(endpoints.addresses) == {address(trio, trio.primary)}
            assert trio.epoch == before["epoch"] + 2
    verify(trio, writers.result).require()


def address(cluster: Cluster, instance: str) -> str:
    pod = cluster.pod(instance)
    assert pod is not None
    return str(pod["status"]["podIP"])


def test_a_frozen_leader_is_replaced_and_both_together_do_no_harm(
    trio: Cluster, operators: Operators
) -> None:
    """Until the other one leads, the killed primary is back with everything: it is reopened, or replaced."""
    before = trio.wait_healthy()
    operators.wait_ready()
    leader = operators.leader()
    with writing(trio, pause=PAUSE_SECONDS) as writers, primary_endpoints(trio) as endpoints:
        writers.wait_acknowledged(20)
        try:
            operators.signal(leader, signal.SIGSTOP)
            trio.signal_mariadbd(before["primary"], "KILL")
            operators.wait_other_leader(leader)
            writers.wait_acknowledged(20)
        finally:
            # Before the kubelet takes it for dead, which it does after 25 s.
            operators.signal(leader, signal.SIGCONT)
        writers.wait_acknowledged(200)
        wait_settled(trio)
    assert operators.containers()[leader["metadata"]["name"]] == container(leader), (
        "the frozen one was restarted: it never thawed"
    )
    assert trio.epoch <= before["epoch"] + 1
    assert endpoints.epochs == sorted(endpoints.epochs), "it named a primary of the past"
    assert endpoints.epochs[-1:] in ([], [trio.epoch])
    verify(trio, writers.result).require()


def test_a_killed_leader_costs_a_lease_time_and_no_cluster_anything(
    trio: Cluster, operators: Operators
) -> None:
    before = trio.wait_healthy()
    operators.wait_ready()
    with writing(trio, pause=PAUSE_SECONDS) as writers:
        writers.wait_acknowledged(20)
        leader = operators.leader()
        operators.kill(leader)
        operators.wait_other_leader(leader)
        writers.wait_acknowledged(20)
    assert trio.epoch == before["epoch"]
    operators.wait_ready()
    trio.wait_healthy()
    verify(trio, writers.result).require()


def test_clusters_serve_while_the_api_server_is_away_and_the_operator_goes_on_when_it_is_back(
    trio: Cluster, operators: Operators, local: Local
) -> None:
    """Its restart also ends every watch with 410, since the versions that they ask to go on from are gone."""
    before = trio.wait_healthy()
    with writing(trio, pause=PAUSE_SECONDS) as writers:
        writers.wait_acknowledged(20)
        since = datetime.now(UTC)
        with faults.api_server_away(local):
            writers.wait_acknowledged(100)
        operators.wait_ready()
        assert trio.epoch == before["epoch"], "the API server's absence is no reason to promote"
        wait_for("a list after a 410", lambda: "listing again" in operators.leaders_log(since), seconds=60)
        service = f"{trio.name}-replicas"
        trio.kube.delete("services", service, trio.namespace)
        wait_for(
            "drift seen by a watch", lambda: trio.kube.get("services", service, trio.namespace), seconds=60
        )
        trio.wait_healthy()
        trio.kill_primary_until_replaced()
        writers.wait_acknowledged(20)
    wait_settled(trio)
    verify(trio, writers.result).require()

"""Fixtures that end-to-end tests and benchmarks share: the Kubernetes, the operator in it, one healthy cluster of three.

That cluster serves many tests, since making one costs as much as a failover. Each test gets it Healthy with all three
instances; one that a test leaves otherwise, beyond what reseeding mends, is made anew. So no test leans on what
another has left, in whatever order they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.harness import diagnose, faults
from tests.harness import kube as api
from tests.harness.cluster import Cluster
from tests.harness.kube import FIELD_MANAGER, Kube, Object
from tests.harness.local import HarnessError, Local, find_kubeconfig
from tests.harness.namespaces import (
    create_namespace,
    remove_leftovers,
    remove_namespace,
    temporary_namespace,
)
from tests.harness.operators import Operators
from tests.harness.reseed import reseed_kept_out, wait_settled


@pytest.fixture(scope="session")
def local() -> Local | None:
    """The local cluster, whole whatever an interrupted run did to it; None on another Kubernetes."""
    found = Local.behind(find_kubeconfig())
    if found is not None:
        found.repair()
    return found


@pytest.fixture(scope="session")
def kube(local: Local | None) -> Iterator[Kube]:
    with api.opened(find_kubeconfig()) as opened:
        faults.undo_what_is_left(opened)
        yield opened


@pytest.fixture(scope="session")
def operators(kube: Kube, local: Local | None) -> Operators:
    """The operator, deployed and leading, with nothing of an interrupted run to look after."""
    found = Operators(kube, local)
    found.ensure_deployed()
    remove_leftovers(kube)
    return found


@pytest.fixture(autouse=True)
def skip_what_needs_the_local_cluster(request: pytest.FixtureRequest) -> None:
    """Elsewhere than on the local cluster nodes can't be harmed, nor is there a way into its network."""
    if request.node.get_closest_marker("node_faults") and request.getfixturevalue("local") is None:
        pytest.skip("needs the local cluster: it harms nodes or processes on them")


LONG_HISTORY = 6000  # transactions: a new cluster costs about as much as applying them
WRITE_THE_SPEC = ("kubectl", FIELD_MANAGER)


@dataclass(slots=True)
class SharedCluster:
    """A cluster that is made when it is first needed, and anew when it can't be used any more."""

    kube: Kube
    local: Local | None
    namespace: str = ""
    cluster: Cluster | None = None
    spec: Object = field(default_factory=dict)

    def healthy(self) -> Cluster:
        """The cluster: Healthy, three instances on as many nodes, the default spec."""
        if self.cluster is not None:
            try:
                self._restore(self.cluster)
            except HarnessError as error:
                print(f"\nthe shared cluster is made anew: {error}")  # noqa: T201
                self.drop()
            else:
                return self.cluster
        self.namespace = create_namespace(self.kube, "e2e-shared")
        self.cluster = Cluster(kube=self.kube, local=self.local, namespace=self.namespace, name="trio")
        self.cluster.apply()
        self.cluster.wait_healthy()
        self.spec = self._stored_spec(self.cluster)
        self._require_spread(self.cluster)
        return self.cluster

    def _restore(self, cluster: Cluster) -> None:
        written = int(cluster.value(cluster.primary, "@@global.gtid_binlog_pos").rpartition("-")[2])
        if written > LONG_HISTORY:
            raise HarnessError(f"{written} transactions: who is seeded anew applies all of them")
        cluster.restore_spec()
        stored = self._stored_spec(cluster)
        if stored != self.spec:
            raise HarnessError(f"the spec is {stored} instead of {self.spec}")
        wait_settled(cluster, seconds=90)
        reseed_kept_out(cluster)
        cluster.wait_healthy(seconds=60)
        self._require_spread(cluster)

    def _stored_spec(self, cluster: Cluster) -> Object:
        found = cluster.object()
        assert found is not None
        spec: Object = found["spec"]
        return spec

    def _require_spread(self, cluster: Cluster) -> None:
        nodes = {cluster.node_of(instance) for instance in cluster.instances()}
        if len(nodes) < min(3, len(self.kube.list("nodes"))):
            raise HarnessError(f"the instances are not spread: they run on {', '.join(sorted(nodes))} only")

    def drop(self) -> None:
        """Forgets the cluster; its namespace goes at once, so that it takes no CPU."""
        namespace, self.namespace, self.cluster = self.namespace, "", None
        if namespace:
            remove_namespace(self.kube, namespace)


@pytest.fixture(scope="session")
def shared(kube: Kube, local: Local | None, operators: Operators) -> Iterator[SharedCluster]:
    shared = SharedCluster(kube, local)
    yield shared
    shared.drop()


@pytest.fixture
def trio(shared: SharedCluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of three, Healthy. What the test does to its spec is undone before the next."""
    cluster = shared.healthy()
    failed = request.session.testsfailed
    yield cluster
    if request.session.testsfailed > failed:
        print(diagnose.report(cluster.kube, cluster.namespace, cluster.name))  # noqa: T201
    strangers = [each for each in cluster.spec_managers() if each not in WRITE_THE_SPEC]
    assert not strangers, f"{strangers} wrote to the spec, which is the user's alone"


@pytest.fixture
def own_namespace(kube: Kube, operators: Operators, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for this test alone."""
    with temporary_namespace(kube, "e2e") as name:
        yield name


@pytest.fixture(scope="module")
def module_namespace(kube: Kube, operators: Operators) -> Iterator[str]:
    """A namespace for the tests of one module."""
    with temporary_namespace(kube, "e2e") as name:
        yield name


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace for a test that needs no operator: it goes when it goes."""
    name = create_namespace(kube, "e2e")
    yield name
    kube.delete("namespaces", name)

"""What runs Pods: one node with its kubelet per instance, the supervisor in each Pod, the node controller, volumes.

Volumes are of the node. A Pod's server is started again by its supervisor, behind the volume's lock. Not for the API
(kubernetes.py) nor for what mariadbd does (mariadb.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mariadb_operator.kube.errors import NotFound
from mariadb_operator.kube.kinds import NODE, POD, PVC, Manifest
from tests.simulation.kubernetes import HOST
from tests.simulation.mariadb import Server
from tests.simulation.volumes import Volume

if TYPE_CHECKING:
    from tests.simulation.world import World

RESPAWN = (0.2, 0.5)
START = (0.3, 1.5)  # of a container
CLOSING_SECONDS = 0.19  # a server in SHUTDOWN refuses and still acknowledges
SYNC_SECONDS = 0.5  # until a kubelet that can't reach the API tries again
NOTICE = (0.1, 2.0)  # until a kubelet ends what has no Pod any more
NOT_READY_SECONDS = 40.0


class Sandbox:
    """One Pod's processes on its node: supervisor and, if it has the volume's lock, mariadbd."""

    def __init__(self, node: Node, pod: Manifest, *, address: str) -> None:
        self.node = node
        self.world = node.world
        self.uid: str = pod["metadata"]["uid"]
        self.address = address
        self.server: Server | None = None
        self.ended = False
        self.held = False  # a fault keeps it from starting the server
        self.refuses = False  # the server shuts down: it acknowledges, and takes no new connections
        self.world.sandboxes[address] = self
        self._later(START, self._start)

    def _later(self, span: tuple[float, float], act: object) -> None:
        self.world.loop.in_world(self.world.rng.uniform(*span), act)  # type: ignore[arg-type]

    def _start(self) -> None:
        if self.ended or self.server is not None:
            return
        volume = self.node.volume
        if volume.in_use is not None or self.held:  # the lock is another's: wait for it
            self._later(RESPAWN, self._start)
            return
        self.server = Server(
            self.world,
            name=self.node.instance,
            ordinal=self.node.ordinal,
            volume=volume,
            address=self.address,
            host=self.node.name,
            pod_uid=self.uid,
        )
        self.server.apply_delay = self.node.apply_delay
        self.server.sql_broken = self.node.applier_broken
        self.server.on_death.append(self._died)
        self.world.trace(f"{self.node.instance} starts as {self.server.incarnation} at {self.address}")

    def _died(self) -> None:
        self.server = None
        self._later(RESPAWN, self._start)

    def close(self) -> None:
        self.refuses = True

    def end(self, *, power: bool = False) -> None:
        """All its processes are gone."""
        self.ended = True
        self.world.sandboxes.pop(self.address, None)
        server = self.server
        if server is not None:
            server.die(power=power)
        self.server = None


class Node:
    """A machine with one volume, its kubelet and the Pods it runs: at most one whose object is known."""

    def __init__(self, world: World, *, ordinal: int, instance: str) -> None:
        self.world = world
        self.ordinal = ordinal
        self.name = f"node{ordinal}"
        self.instance = instance
        self.volume = Volume()
        self.sandboxes: dict[str, Sandbox] = {}  # by uid of the Pod
        self.apply_delay = 0.001
        self.applier_broken = False
        self._silent_since: float | None = None
        self._generation = 0

    @property
    def server(self) -> Server | None:
        """The server that runs on its volume."""
        found = self.volume.in_use
        return found if isinstance(found, Server) else None

    @property
    def is_up(self) -> bool:
        return self.world.network.is_up(self.name)

    @property
    def reaches_api(self) -> bool:
        return self.is_up and self.world.network.talks(self.name, HOST) and self.world.weather.up

    # --- kubelet ---

    def sync(self) -> None:
        """Bring what runs in line with what the API server says; again later when it does not answer."""
        if not self.is_up:
            return
        if not self.reaches_api:
            self._sync_later(SYNC_SECONDS)
            return
        pod = self._pod()
        uid = pod["metadata"]["uid"] if pod is not None else None
        for known in [each for each in self.sandboxes if each != uid]:
            self._end_soon(known)
        if pod is None:
            return
        if pod["metadata"].get("deletionTimestamp"):
            self._terminate(pod)
        elif uid not in self.sandboxes:
            self._run(pod)
        else:
            self._report(pod, self.sandboxes[uid])

    def _sync_later(self, seconds: float) -> None:
        self._generation += 1
        generation = self._generation
        self.world.loop.in_world(seconds, lambda: self.sync() if generation == self._generation else None)

    def _pod(self) -> Manifest | None:
        return self.world.objects.find(POD, self.instance, self.world.namespace)

    def _run(self, pod: Manifest) -> None:
        sandbox = Sandbox(self, pod, address=self.world.new_address())
        self.sandboxes[sandbox.uid] = sandbox
        self._report(pod, sandbox)

    def _report(self, pod: Manifest, sandbox: Sandbox) -> None:
        if ((pod.get("status") or {}).get("podIP")) == sandbox.address:
            return
        self._status(pod, sandbox.address, {"running": {}})

    def _status(self, pod: Manifest, address: str | None, state: Manifest) -> None:
        status = {
            "phase": "Running",
            "podIP": address,
            "containerStatuses": [{"name": "mariadb", "ready": "running" in state, "state": state}],
        }
        patch = {"spec": {"nodeName": self.name}, "status": status}
        try:
            self.world.objects.merge(
                POD,
                self.instance,
                {"metadata": {"uid": pod["metadata"]["uid"]}, **patch},
                self.world.namespace,
            )
        except NotFound:
            return

    def _end_soon(self, uid: str) -> None:
        """Its Pod object is gone: its processes go too, after a while."""
        sandbox = self.sandboxes[uid]
        self.world.loop.in_world(self.world.rng.uniform(*NOTICE), self._end, uid, sandbox)

    def _end(self, uid: str, sandbox: Sandbox) -> None:
        if self.is_up and self.sandboxes.get(uid) is sandbox:
            del self.sandboxes[uid]
            sandbox.end()
            self.sync()

    def _terminate(self, pod: Manifest) -> None:
        """SIGTERM, which the supervisor turns into a SHUTDOWN that a frozen server never sees; SIGKILL after the grace."""
        uid, grace = pod["metadata"]["uid"], pod["metadata"].get("deletionGracePeriodSeconds", 30)
        sandbox = self.sandboxes.get(uid)
        server = sandbox.server if sandbox is not None else None
        if server is None or not server.frozen:
            seconds = min(grace, self.world.rng.uniform(0.3, 2.0))
        else:
            seconds = grace + self.world.rng.uniform(0.5, 1.5)
        if sandbox is not None:
            self.world.loop.in_world(max(0.0, seconds - CLOSING_SECONDS), sandbox.close)
        self.world.loop.in_world(seconds, self._terminated, uid)

    def _terminated(self, uid: str) -> None:
        if not self.is_up:
            return
        sandbox = self.sandboxes.pop(uid, None)
        if sandbox is not None:
            sandbox.end()
        self._tell_end(uid)

    def _tell_end(self, uid: str) -> None:
        """The report of its end, then the end of the object."""
        pod = self._pod()
        if not self.is_up or pod is None or pod["metadata"]["uid"] != uid:
            self.sync()
            return
        if not self.reaches_api:
            self.world.loop.in_world(SYNC_SECONDS, self._tell_end, uid)
            return
        address = (pod.get("status") or {}).get("podIP")
        self._status(pod, address, {"terminated": {"reason": "Completed"}})
        self.world.loop.in_world(0.1, self._forget, uid)

    def _forget(self, uid: str) -> None:
        pod = self._pod()
        if pod is not None and pod["metadata"]["uid"] == uid:
            if not self.reaches_api:
                self.world.loop.in_world(SYNC_SECONDS, self._forget, uid)
                return
            self.world.objects.delete(POD, self.instance, self.world.namespace, uid=uid)

    # --- the machine ---

    def power_off(self) -> None:
        """Everything on it is gone at once, and what was in memory: relay logs are not fsynced."""
        self.world.network.power_off(self.name)
        for sandbox in self.sandboxes.values():
            sandbox.end(power=True)
        self.sandboxes.clear()
        relay = self.volume.relay
        del relay[self.world.rng.randint(0, len(relay)) :]
        self.world.judge.forgotten(self.volume)
        self.world.hush()

    def power_on(self) -> None:
        self.world.network.power_on(self.name)
        self._sync_later(self.world.rng.uniform(0.5, 3.0))

    # --- the node controller ---

    def watch(self) -> None:
        """Ready is what it said last, until it has been silent for 40 s."""
        now = self.world.loop.now
        if self.reaches_api:
            self._silent_since = None
            ready = "True"
        else:
            self._silent_since = self._silent_since if self._silent_since is not None else now
            ready = "Unknown" if now - self._silent_since >= NOT_READY_SECONDS else "True"
        node = self.world.objects.get(NODE, self.name)
        if self.world.weather.up and node["status"]["conditions"][0]["status"] != ready:
            status = {"conditions": [{"type": "Ready", "status": ready}]}
            self.world.objects.merge(NODE, self.name, {"status": status})

    def bind(self, claim: Manifest) -> None:
        """The provisioner: a claim is bound to a volume at once; an empty one where there was none."""
        if (claim.get("status") or {}).get("phase") != "Bound":
            status = {"status": {"phase": "Bound"}}
            self.world.objects.merge(PVC, claim["metadata"]["name"], status, self.world.namespace)

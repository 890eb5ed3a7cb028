"""One MariaDBCluster under test: how it is made, awaited, harmed and looked at.

Times are in seconds. Waiting ends with everything that a person would want to see (diagnose.py). Not for writing to
it (writing.py) nor for comparing data (verify.py).
"""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from tests.harness import diagnose, faults, processes
from tests.harness.kube import ApiError, Kube, Object, wait_for
from tests.harness.local import HarnessError, Local

API_VERSION = "mariadb.fsm.dev/v1alpha1"
KIND = "MariaDBCluster"
HEALTHY_SECONDS = 180.0

# Signals every mariadbd that the container's sh can see; the supervisor, its process 1, lives on.
_SIGNAL_SCRIPT = """
for entry in /proc/[0-9]*; do
    name=; read -r name < "$entry/comm" 2> /dev/null || continue
    [ "$name" = mariadbd ] && kill -s "$1" "${entry#/proc/}" && found=1
done
[ -n "${found:-}" ]
"""

# The password is read from the mounted file into an option file in memory: it is in no argument.
_CLIENT_SCRIPT = r"""
set -eu
umask 077
file=$(mktemp /run/mysqld/harness.XXXXXX)
trap 'rm -f "$file"' EXIT
password=$(sed 's/["\\]/\\&/g' /etc/mariadb-operator/secrets/root-password)
printf '[client]\nuser=root\nsocket=/run/mysqld/mysqld.sock\npassword="%s"\n' "$password" > "$file"
mariadb --defaults-file="$file" --batch --raw --skip-column-names
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster by its name; it need not exist."""

    kube: Kube
    local: Local | None
    namespace: str
    name: str
    spec: Mapping[str, Any] = field(default_factory=dict)

    def manifest(self, **changes: Any) -> Object:
        """What is applied: three small instances with an application's account unless said otherwise."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "version": "11.8",
                "replicas": 3,
                "storage": {"size": "1Gi"},
                "database": "app",
                "username": "app",
                "terminationGracePeriodSeconds": 30,
                # Without a request a busy machine gives a Pod next to no CPU beside one that has one.
                "resources": {"requests": {"cpu": "200m", "memory": "192Mi"}},
                **self.spec,
                **changes,
            },
        }

    def with_spec(self, **changes: Any) -> Cluster:
        """The same cluster with another spec; nothing is applied."""
        return replace(self, spec={**self.spec, **changes})

    def apply(self, **changes: Any) -> None:
        """`kubectl apply`."""
        self.kube.apply(self.manifest(**changes))

    def restore_spec(self) -> None:
        """Makes the spec the manifest's again, whoever edited what."""
        self.kube.replace("mariadbclusters", self.name, "spec", self.manifest()["spec"], self.namespace)

    def edit(self, **spec: Any) -> None:
        """Changes fields of the spec as `kubectl edit` would."""
        self.kube.merge("mariadbclusters", self.name, {"spec": spec}, self.namespace)

    def delete(self) -> None:
        """Asks for the deletion of the resource."""
        self.kube.delete("mariadbclusters", self.name, self.namespace)

    def object(self) -> Object | None:
        """The resource, or None."""
        return self.kube.get("mariadbclusters", self.name, self.namespace)

    def status(self) -> Object:
        """The resource's status; empty when there is none."""
        found = self.object()
        status: Object = (found or {}).get("status") or {}
        return status

    @property
    def state(self) -> str:
        """The state, with its substate behind a slash."""
        status = self.status()
        state, substate = status.get("state") or "", status.get("substate") or ""
        return f"{state}/{substate}" if substate else state

    @property
    def primary(self) -> str:
        """The instance that the status names as primary."""
        primary = self.status().get("primary")
        if not primary:
            raise HarnessError(f"{self.name} has no primary")
        return str(primary)

    @property
    def epoch(self) -> int:
        """The status's epoch."""
        return int(self.status().get("epoch") or 0)

    def history(self, after: int = 0) -> list[Object]:
        """Transitions with a sequence number above `after`, oldest first."""
        return [entry for entry in self.status().get("history") or [] if entry["seq"] > after]

    def condition(self, kind: str) -> Object:
        """That condition; empty when absent."""
        found = (each for each in self.status().get("conditions") or [] if each["type"] == kind)
        return next(found, {})

    def kept_out(self) -> dict[str, str]:
        """Instances that must not follow, with why."""
        members = self.status().get("members") or []
        return {each["name"]: each["keptOut"] for each in members if each.get("keptOut")}

    def replicas(self) -> list[str]:
        """The members but the primary, by ordinal."""
        primary = self.primary
        return [each for each in self.instances() if each != primary]

    def instances(self) -> list[str]:
        """The names of the members, by ordinal."""
        members = self.status().get("members") or []
        return [each["name"] for each in sorted(members, key=lambda each: int(each["ordinal"]))]

    def pods(self) -> list[Object]:
        """The Pods that exist."""
        return self.kube.list("pods", self.namespace, f"mariadb.fsm.dev/cluster={self.name}")

    def pod(self, instance: str) -> Object | None:
        """The Pod of an instance, or None."""
        return self.kube.get("pods", instance, self.namespace)

    def node_of(self, instance: str) -> str:
        """The node on which an instance runs."""
        pod = self.pod(instance)
        if pod is None:
            raise HarnessError(f"{instance} has no Pod")
        return str(pod["spec"]["nodeName"])

    def events(self) -> list[Object]:
        """The Events about the resource, oldest first."""
        found = [
            each
            for each in self.kube.list("events", self.namespace)
            if each["involvedObject"].get("kind") == KIND and each["involvedObject"].get("name") == self.name
        ]
        return sorted(found, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))

    # --- waiting ------------------------------------------------------------------------------------------------

    def wait(self, what: str, holds: Callable[[Object], Any], *, seconds: float = HEALTHY_SECONDS) -> Object:
        """Waits until `holds(status)`; returns that status.

        Raises:
            HarnessError: not in time; with status, history, Events and logs.
        """

        def ask() -> Object | None:
            try:
                found = self.object()
                status: Object = (found or {}).get("status") or {}
                return status if found is not None and holds(status) else None
            except ApiError as error:
                if error.passes:
                    return None
                raise

        try:
            return wait_for(f"{self.name}: {what}", ask, seconds=seconds, every=0.1)
        except HarnessError as error:
            raise HarnessError(f"{error}\n{diagnose.report(self.kube, self.namespace, self.name)}") from None

    def wait_healthy(self, *, seconds: float = HEALTHY_SECONDS, after: int = 0, epoch: int = 0) -> Object:
        """Waits for Healthy about the present spec, with a sequence number above `after` and at least this epoch."""
        generation = int((self.object() or {}).get("metadata", {}).get("generation") or 0)
        return self.wait(
            "Healthy",
            lambda status: (
                status.get("state") == "Healthy"
                and int(status.get("observedGeneration") or 0) >= generation
                and int(status.get("sequence") or 0) > after
                and int(status.get("epoch") or 0) >= epoch
            ),
            seconds=seconds,
        )

    def wait_epoch(self, epoch: int, *, seconds: float = 60) -> Object:
        """Waits until that epoch's primary serves."""
        return self.wait(
            f"epoch {epoch} serving",
            lambda status: (
                int(status.get("epoch") or 0) >= epoch
                and status.get("state") in ("Replicating", "Healthy", "Degraded")
            ),
            seconds=seconds,
        )

    def wait_condition(
        self, kind: str, status: str, *mentions: str, seconds: float = 60, reason: str = ""
    ) -> Object:
        """Waits for a condition whose message mentions all of these texts; returns it."""

        def fits(whole: Object) -> bool:
            for each in whole.get("conditions") or []:
                if each["type"] == kind and each["status"] == status:
                    text = f"{each.get('reason')}: {each.get('message')}"
                    return all(word in text for word in mentions) and reason in ("", each.get("reason"))
            return False

        wanted = f"condition {kind}={status} {reason} mentioning {mentions}"
        self.wait(wanted, fits, seconds=seconds)
        return self.condition(kind)

    def wait_event(self, *mentions: str, seconds: float = 60) -> Object:
        """Waits for an Event about the resource that mentions all of these texts."""

        def ask() -> Object | None:
            for event in self.events():
                text = f"{event.get('reason')}: {event.get('message')}"
                if all(word in text for word in mentions):
                    return event
            return None

        try:
            return wait_for(f"{self.name}: Event mentioning {mentions}", ask, seconds=seconds)
        except HarnessError as error:
            raise HarnessError(f"{error}\n{diagnose.report(self.kube, self.namespace, self.name)}") from None

    def wait_gone(self, *, seconds: float = 90) -> None:
        """Waits until the resource and its Pods are gone."""

        def gone() -> bool:
            return self.object() is None and not self.pods()

        try:
            wait_for(f"{self.name} gone", gone, seconds=seconds)
        except HarnessError as error:
            raise HarnessError(f"{error}\n{diagnose.report(self.kube, self.namespace, self.name)}") from None

    # --- harm ---------------------------------------------------------------------------------------------------

    def signal_mariadbd(self, instance: str, name: str = "KILL") -> None:
        """Sends KILL, STOP or CONT to the instance's mariadbd; its supervisor lives on."""
        self.kube.execute(self.namespace, instance, "sh", "-c", _SIGNAL_SCRIPT, "sh", name, seconds=60)

    def kill_primary_until(self, what: str, holds: Callable[[Object], Any], *, seconds: float = 60) -> None:
        """Kills the primary's mariadbd until `holds(status)`; anew whenever it was reopened instead of replaced.

        It starts again within a second with everything: an operator that did not look meanwhile reopens it.
        """
        while True:
            before = self.status()
            self.signal_mariadbd(before["primary"], "KILL")
            incarnation = str(before.get("primaryIncarnation"))
            status = self.wait(
                f"{what}, or reopened",
                lambda status, incarnation=incarnation: (  # type: ignore[misc]
                    holds(status) or (_reopened(status, incarnation) and status)
                ),
                seconds=seconds,
            )
            if holds(status):
                return

    def kill_primary_until_replaced(self) -> Object:
        """Kills the primary's mariadbd; returns the status in which another one serves."""
        epoch = self.epoch + 1
        self.kill_primary_until("replaced", lambda status: int(status.get("epoch") or 0) >= epoch)
        return self.wait_epoch(epoch)

    def reopened(self, incarnation: str) -> bool:
        """Whether the primary is open in another start of its server than this one, and nothing is under way."""
        return _reopened(self.status(), incarnation)

    def kill_together(self) -> None:
        """Kills the mariadbd of every instance, all within the same moment."""
        instances = self.instances()
        if self.local is None:
            with ThreadPoolExecutor(len(instances)) as pool:
                list(pool.map(self.signal_mariadbd, instances))
            return
        uids = [pod["metadata"]["uid"] for pod in self.pods() if pod["metadata"]["name"] in instances]
        servers = [server for uid in uids for server in processes.of_pod(uid, program="mariadbd")]
        if len(servers) != len(instances):
            raise HarnessError(f"{len(servers)} servers of {', '.join(instances)} run on this machine")
        for server in servers:
            os.kill(server, signal.SIGKILL)

    def delete_pod(self, instance: str, *, force: bool = False) -> None:
        """Deletes the Pod, gracefully or by force, and does not wait."""
        self.kube.delete("pods", instance, self.namespace, grace=0 if force else None)

    @contextmanager
    def node_fault(self, fault: str, node: str) -> Iterator[None]:
        """A node without power (`stop`) or network (`cut`), whole again at the end."""
        with faults.node_fault(self.kube, self.local, fault, node):
            yield

    @contextmanager
    def disk_fault(self, fault: str, instance: str) -> Iterator[None]:
        """An instance's volume full (`fill`), broken (`readonly`) or hanging (`freeze`), whole again at the end."""
        with faults.disk_fault(self.local, fault, faults.volume_of(self.kube, self.namespace, instance)):
            yield

    # --- looking ------------------------------------------------------------------------------------------------

    def sql(self, instance: str, statement: str, *, seconds: float = 60) -> list[list[str]]:
        """Runs a statement as root over the instance's own socket; the rows as text."""
        printed = self.kube.execute(
            self.namespace, instance, "sh", "-c", _CLIENT_SCRIPT, stdin=statement, seconds=seconds
        )
        return [line.split("\t") for line in printed.splitlines()]

    def value(self, instance: str, expression: str) -> str:
        """One value."""
        rows = self.sql(instance, f"SELECT {expression}")
        if not rows:
            raise HarnessError(f"{instance} has no answer to SELECT {expression}")
        return rows[0][0]

    def incarnations(self) -> dict[str, str]:
        """Which start of its server each instance runs; those that do not answer are left out."""
        found = {}
        for instance in self.instances():
            try:
                found[instance] = self.value(instance, "@@global.pid_file")
            except HarnessError:
                continue
        return found

    def spec_managers(self) -> list[str]:
        """Who owns fields of the spec, by metadata.managedFields."""
        managed = (self.object() or {}).get("metadata", {}).get("managedFields") or []
        return [each["manager"] for each in managed if "f:spec" in each.get("fieldsV1", {})]

    def app_secret(self) -> dict[str, str]:
        """The Secret that tells the application how to connect, decoded."""
        found = self.kube.get("secrets", f"{self.name}-app", self.namespace)
        if found is None:
            raise HarnessError(f"Secret {self.name}-app is not there")
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def primary_address(self) -> str:
        """The ClusterIP of the primary's Service."""
        found = self.kube.get("services", f"{self.name}-primary", self.namespace)
        if found is None:
            raise HarnessError(f"Service {self.name}-primary is not there")
        return str(found["spec"]["clusterIP"])


def _reopened(status: Object, incarnation: str) -> bool:
    conditions: list[Object] = status.get("conditions") or []
    ready: Object = next((each for each in conditions if each["type"] == "Ready"), {})
    other = status.get("primaryIncarnation") not in (None, incarnation)
    return other and not status.get("operation") and ready.get("status") == "True"


def timestamp(text: str) -> float:
    """Seconds since 1970 of a time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()

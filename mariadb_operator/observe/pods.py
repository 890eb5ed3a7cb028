"""From objects of the API to facts about Pods, volumes and nodes. Pure; not for talking to servers (probes.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mariadb_operator.kube.kinds import Manifest
from mariadb_operator.resources.labels import SPEC_HASH_ANNOTATION
from statemachines.facts import Container, PodFact, Volume

CONTAINER = "mariadb"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"

_START_PROBLEMS = frozenset({
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
})  # fmt: skip


def pod_fact(pod: Manifest) -> PodFact:
    """The Pod of an instance; what is missing in its status is unknown, never an error."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    container = _container_status(status)
    state = container.get("state") or {}
    reason, problem = _problem(status, container)
    return PodFact(
        uid=metadata["uid"],
        ip=status.get("podIP"),
        node=spec.get("nodeName"),
        deleting=metadata.get("deletionTimestamp") is not None,
        container=_container(state),
        container_id=container.get("containerID", ""),
        ready=bool(container.get("ready")),
        failed=status.get("phase") in ("Failed", "Succeeded"),
        problem=problem,
        problem_reason=reason,
        spec_hash=(metadata.get("annotations") or {}).get(SPEC_HASH_ANNOTATION, ""),
        deletion_requested_at=_deletion(metadata),
    )


def server_ended(pod: Manifest) -> bool:
    """Whether the kubelet says that the server's container has ended and no other was started in its place.

    One that the kubelet lost track of (ContainerStatusUnknown) was not seen to end.
    """
    state = _container_status(pod.get("status") or {}).get("state") or {}
    return "terminated" in state and state["terminated"].get("reason") != "ContainerStatusUnknown"


def volume_fact(claim: Manifest | None) -> Volume:
    """The state of a volume claim."""
    if claim is None:
        return Volume.ABSENT
    phase = (claim.get("status") or {}).get("phase")
    return {"Bound": Volume.BOUND, "Lost": Volume.LOST}.get(str(phase), Volume.PENDING)


def node_ready(node: Manifest | None) -> bool | None:
    """The node's own word; None when there is none."""
    conditions = ((node or {}).get("status") or {}).get("conditions") or []
    for condition in conditions:
        if condition.get("type") == "Ready":
            return {"True": True, "False": False}.get(str(condition.get("status")))
    return None


def node_off(node: Manifest | None) -> bool:
    """Whether a person tainted the node out-of-service: it is off."""
    taints = ((node or {}).get("spec") or {}).get("taints") or []
    return any(taint.get("key") == OUT_OF_SERVICE for taint in taints)


def _container_status(status: dict[str, Any]) -> dict[str, Any]:
    statuses = status.get("containerStatuses") or []
    return next((each for each in statuses if each.get("name") == CONTAINER), {})


def _container(state: dict[str, Any]) -> Container:
    if "running" in state:
        return Container.RUNNING
    return Container.TERMINATED if "terminated" in state else Container.WAITING


def _problem(status: dict[str, Any], container: dict[str, Any]) -> tuple[str, str]:
    """Why it does not run: a CamelCase reason and a sentence; empty when it does."""
    state = container.get("state") or {}
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    message = str(ended.get("message") or "").strip()
    if "running" not in state and message:
        reason, separator, text = message.partition(": ")
        return (reason, text) if separator and reason.isalpha() else ("ServerNotStarted", message)
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in _START_PROBLEMS:
        return str(waiting["reason"]), str(waiting.get("message") or waiting["reason"])
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "Unschedulable"), str(condition.get("message") or "")
    return "", ""


def _deletion(metadata: dict[str, Any]) -> float | None:
    text = metadata.get("deletionTimestamp")
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None

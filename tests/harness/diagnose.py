"""What a person looks at when a test failed: status, history, Events, Pods, the logs of operators, servers and kubelets.

Never raises: a report that is incomplete says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.harness.kube import Kube, Object
from tests.harness.local import HarnessError, Local

OPERATOR_NAMESPACE = "mariadb-operator-system"
LOG_LINES = 25
SERVER_LINES = 12
MACHINES = ("node1", "node2", "node3", "control")


def report(kube: Kube, namespace: str, cluster: str) -> str:
    """All of it, as text."""
    parts: list[tuple[str, Callable[[], str]]] = [
        ("status", lambda: _status(kube.get("mariadbclusters", cluster, namespace))),
        ("events", lambda: _events(kube, namespace)),
        ("pods", lambda: kube.kubectl("get", "pods,pvc", "--namespace", namespace, "-o", "wide", seconds=20)),
        ("nodes", lambda: kube.kubectl("get", "nodes", seconds=20)),
        ("Pods that are not ready", lambda: _described(kube, namespace, cluster)),
        ("operators", lambda: operator_logs(kube, about=cluster)),
        ("servers", lambda: _server_logs(kube, namespace, cluster)),
        ("kubelets and provisioner", lambda: _machine_logs(kube, namespace, cluster)),
    ]
    return "\n".join(f"--- {title}\n{_safely(part)}" for title, part in parts)


def timeline(history: list[Object]) -> str:
    """Transitions, one a line."""
    return "\n".join(
        f"{each['at']} #{each['seq']} {each['from']} -> {each['to']} ({each.get('trigger', '')}:"
        f" {', '.join(each.get('guards') or [])}) {each.get('evidence', '')}"
        for each in history
    )


def operator_logs(kube: Kube, *, about: str = "", lines: int = LOG_LINES) -> str:
    """The last lines of each operator's log, those that name this cluster first of all."""
    texts = []
    for pod in kube.list("pods", OPERATOR_NAMESPACE):
        name = pod["metadata"]["name"]
        printed = _safely(
            lambda name=name: kube.kubectl(  # type: ignore[misc]
                "logs", "--namespace", OPERATOR_NAMESPACE, name, "--tail=400", seconds=20
            )
        ).splitlines()
        named = [line for line in printed if about in line]
        texts.append(f"{name}:\n" + "\n".join(line[:400] for line in (named or printed)[-lines:]))
    return "\n".join(texts)


def _status(found: Object | None) -> str:
    if found is None:
        return "there is no such resource"
    status = dict(found.get("status") or {})
    history = status.pop("history", None) or []
    return f"{json.dumps(status, indent=1)}\n{timeline(history)}"


def _events(kube: Kube, namespace: str) -> str:
    events = kube.list("events", namespace)
    events.sort(key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    return "\n".join(
        f"{each.get('lastTimestamp') or each.get('eventTime')} {each['involvedObject'].get('kind')}/"
        f"{each['involvedObject'].get('name')} {each.get('reason')}: {each.get('message')}"
        for each in events[-40:]
    )


def _pods(kube: Kube, namespace: str, cluster: str) -> list[Object]:
    return kube.list("pods", namespace, f"mariadb.fsm.dev/cluster={cluster}")


def _described(kube: Kube, namespace: str, cluster: str) -> str:
    texts = []
    for pod in _pods(kube, namespace, cluster):
        conditions = pod.get("status", {}).get("conditions") or []
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        if ready and not pod["metadata"].get("deletionTimestamp"):
            continue
        describe = ["describe", "pod", pod["metadata"]["name"], "--namespace", namespace]
        texts.append(_safely(lambda describe=describe: kube.kubectl(*describe, seconds=20)))  # type: ignore[misc]
    return "\n".join(texts)


def _server_logs(kube: Kube, namespace: str, cluster: str) -> str:
    """All that each supervisor said, and the last that its server did; of the container before, too."""
    texts = []
    for pod in _pods(kube, namespace, cluster):
        name = pod["metadata"]["name"]
        command = ["logs", "--namespace", namespace, name, "--tail=2000"]
        restarts = sum(each["restartCount"] for each in pod.get("status", {}).get("containerStatuses") or [])
        for which in [[], ["--previous"]] if restarts else [[]]:
            whole = [*command, *which]
            printed = _safely(lambda whole=whole: kube.kubectl(*whole, seconds=20)).splitlines()  # type: ignore[misc]
            shown = [
                line
                for number, line in enumerate(printed, start=1)
                if line.startswith("supervisor:") or number > len(printed) - SERVER_LINES
            ]
            texts.append(f"{name} {' '.join(which)}:\n" + "\n".join(line[:400] for line in shown[-60:]))
    return "\n".join(texts)


def _machine_logs(kube: Kube, namespace: str, cluster: str) -> str:
    """What the local cluster's kubelets and its provisioner said of these Pods and volumes."""
    local = Local.behind(kube.kubeconfig)
    if local is None:
        return "not the local cluster"
    names = {namespace, *(each["metadata"]["uid"] for each in _pods(kube, namespace, cluster))}
    texts = []
    for machine in MACHINES:
        for program in ("kubelet", "local-path-provisioner"):
            log = local.log(machine, program)
            if not log.exists():
                continue
            with log.open(errors="replace") as lines:
                # A kubelet's lines of level I tell each volume of each Pod, and no more.
                named = [
                    line.rstrip()[:400]
                    for line in lines
                    if any(name in line for name in names)
                    and not (program == "kubelet" and line.startswith("I"))
                ]
            texts.append(f"{machine} {program}:\n" + "\n".join(named[-LOG_LINES:]))
    return "\n".join(texts)


def _safely(part: Callable[[], str]) -> str:
    try:
        return part()
    except (HarnessError, OSError, KeyError, ValueError) as error:
        return f"could not be had: {str(error)[:400]}"

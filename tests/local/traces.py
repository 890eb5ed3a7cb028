"""What a local cluster may leave on a machine: sets to compare, and the processes that run in it.

What belongs to others (the cluster `mdb`, Docker) is left out: they may come and go meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from localkube.disks import attached

from tests.harness.local import STATE_ROOT, cache_folder

_OTHERS = re.compile(r"\bmdb\b|docker|\bveth|mariadb-operator-engine|\bbr-")
_CGROUPS = Path("/sys/fs/cgroup")

Process = tuple[int, str]


def traces() -> dict[str, set[str]]:
    """Everything on the host that a cluster makes, by kind."""
    kinds: dict[str, Callable[[], Iterator[str]]] = {
        "network namespaces": lambda: _names(Path("/run/netns")),
        "links": lambda: (link["ifname"] for link in _ip("link", "show")),
        "routes": _routes,
        "routing rules": lambda: (json.dumps(rule) for rule in _ip("rule", "show")),
        "firewall": _firewall,
        "mounts": _mounts,
        "disks": _disks,
        "cgroups": _cgroups,
        "state": lambda: _names(STATE_ROOT),
        "kubeconfigs": lambda: (path.name for path in cache_folder().glob("*.kubeconfig")),
    }
    return {kind: {found for found in find() if not _OTHERS.search(found)} for kind, find in kinds.items()}


def mentions(name: str) -> list[str]:
    """Processes whose command line or mounts still name something of the cluster."""
    of_cluster = re.compile(rf"{STATE_ROOT}/{name}/|/run/netns/{name}-|\bk8s-{name}\b")
    found = []
    for process in _all():
        for file in ("cmdline", "mountinfo"):
            content = _read(process, file).replace("\0", " ")
            if process != os.getpid() and (match := of_cluster.search(content)):
                found.append(f"{process} ({_read(process, 'comm').strip()}) {file}: {match[0]}")
    return found


@dataclass(slots=True)
class Inhabitants:
    """The processes of a cluster's machines, Pods included, as they were seen."""

    seen: set[Process] = field(default_factory=set)

    def look(self, name: str) -> set[Process]:
        """Note and return those that run now."""
        script = f"{STATE_ROOT}/{name}/"
        parents = {process: _parent(process) for process in _all()}
        inside = {process for process in parents if script in _read(process, "cmdline")}
        while more := {p for p, parent in parents.items() if parent in inside and p not in inside}:
            inside |= more
        # One that ended since it was listed has no start any more.
        now = {(process, started) for process in inside if (started := _started(process))}
        self.seen |= now
        return now

    def alive(self) -> set[Process]:
        """Those of all that were seen that still run."""
        return {(process, started) for process, started in self.seen if _started(process) == started}


def name_of(process: int) -> str:
    """The name of its program, cut after 15 characters as the kernel does."""
    return _read(process, "comm").strip()


def command_of(process: int) -> str:
    """Its command line."""
    return _read(process, "cmdline").replace("\0", " ").strip()


def _names(folder: Path) -> Iterator[str]:
    return (path.name for path in folder.iterdir()) if folder.is_dir() else iter(())


def _ip(*arguments: str) -> list[dict[str, str]]:
    printed = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True).stdout
    found: list[dict[str, str]] = json.loads(printed or "[]")
    return found


def _routes() -> Iterator[str]:
    for route in _ip("-4", "route", "show", "table", "all"):
        yield f"{route['dst']} dev {route.get('dev')} table {route.get('table', 'main')}"


def _firewall() -> Iterator[str]:
    printed = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    # Policies without their counters; comments hold the time.
    return (line.split(" [")[0] for line in printed.splitlines() if not line.startswith("#"))


def _mounts() -> Iterator[str]:
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    # The first `ip netns add` of a machine's life makes this one, and leaves it.
    return iter(points - {"/run/netns"})


def _disks() -> Iterator[str]:
    """Files of volumes that the kernel has open as devices; they do not name their cluster."""
    found = [name for name in attached() if name.startswith("pvc-")]
    others = {path.name for path in STATE_ROOT.glob("mdb/*/var/disks/*")}
    return (name for name in found if name not in others)


def _cgroups() -> Iterator[str]:
    """The groups at the top: those of cgroup v2, or of each hierarchy of v1."""
    unified = (_CGROUPS / "cgroup.controllers").exists()
    hierarchies = [_CGROUPS] if unified else [path for path in _CGROUPS.iterdir() if path.is_dir()]
    return (str(path) for hierarchy in hierarchies for path in hierarchy.iterdir() if path.is_dir())


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


def _read(process: int, file: str) -> str:
    try:
        return Path(f"/proc/{process}/{file}").read_text(errors="replace")
    except OSError:
        return ""


def _stat(process: int) -> list[str]:
    """The fields after the command's name, which may hold blanks."""
    return _read(process, "stat").rpartition(")")[2].split()


def _parent(process: int) -> int | None:
    fields = _stat(process)
    return int(fields[1]) if fields else None


def _started(process: int) -> str:
    """When it started, in ticks: together with its id this is one process and no later one. '' when it is gone."""
    fields = _stat(process)
    return fields[19] if fields and fields[0] not in "ZX" else ""

"""Control groups of the machines, under cgroup v1 (a hierarchy for each controller) and v2 (one for all)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from localkube import processes
from localkube.errors import LocalClusterError

# What the kubelet asks for, beside v1's devices; it takes hugetlb where the kernel has it.
_NEEDED = ("cpu", "cpuset", "memory", "pids")
_ENABLED = (*_NEEDED, "hugetlb")
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The control groups below `root`."""

    root: Path = Path("/sys/fs/cgroup")

    @property
    def unified(self) -> bool:
        """Whether this is cgroup v2."""
        return (self.root / "cgroup.controllers").exists()

    def missing(self) -> list[str]:
        """The controllers that nodes need and that are not there."""
        if self.unified:
            return [name for name in _NEEDED if name not in self._available()]
        return [name for name in (*_NEEDED, "devices") if not (self.root / name).is_dir()]

    def create(self, name: str) -> None:
        """Make the group in every hierarchy, fit to be a kubelet's cgroupRoot.

        Raises:
            LocalClusterError: a controller can't be given to it.
        """
        if self.unified:
            self._enable()
        for hierarchy in self._hierarchies():
            path = hierarchy / name
            path.mkdir(exist_ok=True)
            # In v1 nobody may enter a group before it has processors and memory.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if not self.unified and (path / setting).exists():
                    (path / setting).write_text((hierarchy / setting).read_text())

    def remove(self, name: str) -> None:
        """Kill what is still in the group, and remove it with all groups in it. No error when it is gone.

        Raises:
            LocalClusterError: the kernel keeps it.
        """
        for hierarchy in self._hierarchies():
            _remove(hierarchy / name)

    def _hierarchies(self) -> list[Path]:
        if self.unified:
            return [self.root]
        return [path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink()]

    def _available(self) -> list[str]:
        return (self.root / "cgroup.controllers").read_text().split()

    def _enable(self) -> None:
        """A group has the controllers that its parent hands down; systemd hands down those that it uses itself."""
        for controller in _ENABLED:
            if controller in self._available():
                try:
                    (self.root / "cgroup.subtree_control").write_text(f"+{controller}")
                except OSError as error:
                    raise LocalClusterError(
                        f"the cgroup controller {controller} can't be handed down from {self.root}: {error}; in a "
                        "container this needs the host's cgroup namespace"
                    ) from error


def _remove(path: Path) -> None:
    if not path.is_dir():
        return
    for child in path.iterdir():
        if child.is_dir():
            _remove(child)
    # A process that just died may hold its group for a moment longer.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _removed(path):
        inside = _processes(path)
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"the kernel keeps the cgroup {path}; processes in it: {inside or 'none'}"
            )
        for process in inside:
            processes.kill(process)
        time.sleep(0.02)


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _processes(path: Path) -> list[int]:
    try:
        return [int(line) for line in (path / "cgroup.procs").read_text().split()]
    except OSError:
        return []

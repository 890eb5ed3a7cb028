"""Says precisely what this machine lacks for a local cluster, before anything is changed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from localkube.cgroups import Cgroups
from localkube.commands import succeeds
from localkube.errors import LocalClusterError
from localkube.programs import BUILT, ELSEWHERE, go_problem, is_built, missing_packages

_GIB = 2**30
# Measured: what is compiled and kept, with Go's own caches; and what three nodes with clusters in them come to.
_DISK_TO_BUILD = 12 * _GIB
_DISK_TO_RUN = 4 * _GIB
_MEMORY = 4 * _GIB


def check(programs: Path) -> None:
    """Raise LocalClusterError with everything that is missing, and the other way there is.

    Args:
        programs: the folder of what is built; what is there already need not be compiled.
    """
    missing = list(_missing(programs))
    if missing:
        lines = "\n".join(f"  - {line}" for line in missing)
        raise LocalClusterError(f"a local cluster is not possible here:\n{lines}\nChange that, {ELSEWHERE}.")


def require_root() -> None:
    """Raise LocalClusterError unless root."""
    if os.geteuid() != 0:
        raise LocalClusterError(f"needs root (network namespaces, mounts): run it with sudo, {ELSEWHERE}.")


def _missing(programs: Path) -> Iterator[str]:
    if sys.platform != "linux":
        yield f"Linux: this is {sys.platform}"
        return
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        yield "util-linux: unshare and nsenter"
    elif os.geteuid() != 0:
        yield "root: it makes network namespaces and mounts; run it with sudo"
    elif not succeeds(["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "true"]):
        yield "the right to make namespaces: this root has not got it (a container that is not privileged?)"
    packages = missing_packages()
    if packages and shutil.which("apt-get") is None:
        yield f"Debian, for its packages {', '.join(packages)}; or these programs by other means"
    yield from cgroup_problems(Cgroups())
    if problem := go_problem(programs):
        yield problem
    built = all(is_built(each, programs) for each in BUILT)
    yield from room_problems(
        _nearest(programs),
        disk=_DISK_TO_RUN if built else _DISK_TO_BUILD,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _nearest(folder: Path) -> Path:
    """The folder, or the one above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def room_problems(folder: Path, *, disk: int, memory: int) -> Iterator[str]:
    """What there is too little of, in bytes: free below `folder`, and memory of the machine."""
    free = shutil.disk_usage(folder).free
    if free < disk:
        yield f"disk: {disk // _GIB} GiB free below {folder}, where {free / _GIB:.1f} GiB are"
    if memory < _MEMORY * 0.9:  # what firmware and kernel keep is not counted
        yield f"memory: {_MEMORY // _GIB} GiB, and this machine has {memory / _GIB:.1f} GiB"


def cgroup_problems(cgroups: Cgroups) -> Iterator[str]:
    """What is wrong with the control groups, and what to do."""
    missing = ", ".join(cgroups.missing())
    if not missing:
        return
    if cgroups.unified:
        yield f"cgroup v2 controllers {missing} in {cgroups.root}: boot with cgroup_enable={missing.replace(' ', '')}"
    else:
        yield f"cgroup controllers {missing} below {cgroups.root}: mount -t cgroup2 none {cgroups.root}, or v1's one by one"

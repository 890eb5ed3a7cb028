"""The programs a cluster is made of: Debian's packages, and what Go builds, kept by version in the cache."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from localkube.commands import run
from localkube.errors import LocalClusterError

_SOURCES = Path(__file__).parent.parent / "programs"
_INSTALLER = Path(__file__).resolve().parents[2] / "packages.py"
_GO = (1, 26)
# Where Go's own archive puts it; sudo leaves that out of PATH.
_OTHER_GO = "/usr/local/go/bin"
_GO_WANTED = (
    f"Go {_GO[0]}.{_GO[1]} or later, to compile Kubernetes once (https://go.dev/dl, unpacked in /usr/local)"
)
_ELF_INTERPRETER = 3
ELSEWHERE = "or set KUBECONFIG to any other cluster (kind, k3s, a real one)"

# What of each Debian package is used: its presence tells whether the package has to be installed.
DEBIAN = {
    "etcd-server": "/usr/bin/etcd",
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iptables": "/usr/sbin/iptables",
    "conntrack": "/usr/sbin/conntrack",
    "busybox-static": "/bin/busybox",
    "iproute2": "/usr/sbin/ip",
    "procps": "/usr/sbin/sysctl",
    "e2fsprogs": "/usr/sbin/mkfs.ext4",
    "mount": "/usr/sbin/losetup",
}


@dataclass(frozen=True, slots=True)
class GoPrograms:
    """Programs of one version, built together in the Go module programs/`source`."""

    source: str
    version: str
    packages: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of their folder in the cache."""
        return f"{self.source}-{self.version}"

    @property
    def names(self) -> list[str]:
        """The programs' names."""
        return [package.rsplit("/", 1)[-1] for package in self.packages]


def _kubernetes(version: str) -> GoPrograms:
    major, minor, _ = version.split(".")
    prefix = "k8s.io/component-base/version"
    programs = (
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubectl",
    )
    return GoPrograms(
        source="kubernetes",
        version=version,
        packages=tuple(f"k8s.io/kubernetes/cmd/{program}" for program in programs),
        variables={
            f"{prefix}.gitVersion": f"v{version}",
            f"{prefix}.gitMajor": major,
            f"{prefix}.gitMinor": minor,
            f"{prefix}.gitTreeState": "clean",
        },
    )


KUBERNETES = _kubernetes("1.36.2")
COREDNS = GoPrograms(source="coredns", version="1.14.7", packages=("local/coredns",))
LOCAL_PATH = GoPrograms(
    source="local-path-provisioner",
    version="0.0.30",
    packages=("github.com/rancher/local-path-provisioner",),
)
BUILT = (KUBERNETES, COREDNS, LOCAL_PATH)


def missing_packages() -> list[str]:
    """Debian packages that `install_packages` would install."""
    return [package for package, path in DEBIAN.items() if not _is_from(package, Path(path))]


def is_static(program: Path) -> bool:
    """Whether an ELF program asks for no dynamic loader, and so runs where there is nothing but itself."""
    content = program.read_bytes()
    if content[:5] != b"\x7fELF\x02":
        return False
    order = "<" if content[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}Q", content, 32)
    size, count = struct.unpack_from(f"{order}HH", content, 54)
    kinds = {struct.unpack_from(f"{order}I", content, table + size * entry)[0] for entry in range(count)}
    return _ELF_INTERPRETER not in kinds


def _is_from(package: str, path: Path) -> bool:
    # Debian's dynamic busybox has the same path; in an image of one file it would not start.
    return path.exists() and (package != "busybox-static" or is_static(path))


def install_packages(packages: list[str], *, say: Callable[[str], None]) -> None:
    """Install Debian packages.

    Raises:
        LocalClusterError: apt-get is absent or failed.
    """
    if shutil.which("apt-get") is None:
        raise LocalClusterError(
            f"not installed: {', '.join(packages)}; there is no apt-get here. Install them by hand, {ELSEWHERE}"
        )
    _follow([sys.executable, str(_INSTALLER), *packages], say=say, environment=dict(os.environ))
    if missing := missing_packages():
        raise LocalClusterError(
            f"apt-get installed {', '.join(packages)}, yet absent: {', '.join(DEBIAN[name] for name in missing)}"
        )


def is_built(programs: GoPrograms, cache: Path) -> bool:
    """Whether the cache has them all."""
    return all((cache / programs.folder / name).exists() for name in programs.names)


def build(programs: GoPrograms, cache: Path, *, say: Callable[[str], None]) -> None:
    """Build into the cache; the folder appears only when all of them are there.

    Raises:
        LocalClusterError: a build failed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever held the lock may have built the same.
        if not is_built(programs, cache):
            _build(programs, cache, say=say)


def _build(programs: GoPrograms, cache: Path, *, say: Callable[[str], None]) -> None:
    target = cache / programs.folder
    unfinished = cache / f".{programs.folder}.unfinished"
    unfinished.mkdir(exist_ok=True)
    variables = " ".join(f"-X {name}={value}" for name, value in programs.variables.items())
    count = 0

    def compiled(package: str) -> None:
        nonlocal count
        count += 1
        say(f"{count} packages compiled, now {package}")

    _follow(
        [
            *(_go() or "go", "build", "-v", "-buildvcs=false", "-trimpath", f"-ldflags=-s -w {variables}"),
            *("-o", f"{unfinished}/", *programs.packages),
        ],
        say=compiled,
        environment={**os.environ, "CGO_ENABLED": "0"},
        folder=_SOURCES / programs.source,
    )
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def go_problem(cache: Path) -> str | None:
    """What is wrong with Go on this machine, or None: also when everything is built and nobody needs it."""
    needing = [programs for programs in BUILT if not is_built(programs, cache)]
    if not needing:
        return None
    go = _go()
    if go is None:
        return f"{_GO_WANTED}: not on PATH"
    try:
        # In the module's folder: there a Go since 1.21 fetches the version that the module asks for.
        said = run([go, "version"], folder=_SOURCES / needing[0].source, timeout=300)
    except LocalClusterError as error:
        return f"{_GO_WANTED}: {error}"
    return None if is_new_enough(said) else f"{_GO_WANTED}: {go} is {said.strip()}"


def is_new_enough(said: str) -> bool:
    """Whether what `go version` said names a Go that can build Kubernetes."""
    found = re.search(r"go(\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= _GO


def _go() -> str | None:
    return shutil.which("go") or shutil.which("go", path=_OTHER_GO)


def _follow(
    command: list[str],
    *,
    say: Callable[[str], None],
    environment: dict[str, str],
    folder: Path | None = None,
) -> None:
    """Run a long command; every line it prints goes to `say`, the last ones into the error."""
    last: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last[-20:], line.rstrip()]
            say(line.strip())
    if process.returncode != 0:
        said = "\n".join(last)
        raise LocalClusterError(f"`{' '.join(command)}` ended with {process.returncode}:\n{said}")

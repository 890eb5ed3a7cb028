"""The Docker engine: the one that runs, or Debian's, installed and started by us.

An engine that was there before us is taken as it is. Ours is of Debian's docker.io, keeps its data in our cache
folder, listens where clients look for it, and goes on running after us: tests use it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.cache import Cache
from builder.process import BuildError, output_of, run_logged

SOCKET = Path("/var/run/docker.sock")
_EXEC_ROOT = "/run/mariadb-operator-engine"
_CGROUP = "mariadb-operator-engine"
_CGROUPS = Path("/sys/fs/cgroup")
LABEL = "dev.fsm.mariadb.engine=images"
STARTING_SECONDS = 60
STOPPING_SECONDS = 20
_INSTALLER = Path(__file__).resolve().parents[2] / "packages.py"
OTHER_WAYS = (
    "Other ways: start a Docker engine that you have (or point DOCKER_HOST at one), or build the images elsewhere "
    "with `docker build`, as each Dockerfile says, and give KUBECONFIG of a cluster that can pull them."
)


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine. `ours`: a run of this builder started it; it has the legacy builder, and no registry to ask."""

    ours: bool

    def environment(self) -> dict[str, str]:
        """What the client needs in its environment to build."""
        return {**os.environ, "DOCKER_BUILDKIT": "0"} if self.ours else dict(os.environ)

    def build_options(self) -> list[str]:
        """What a build needs to reach the packages: ours has no network but the host's."""
        return ["--network=host"] if self.ours else []

    def image_id(self, reference: str) -> str | None:
        """The image's id, None when the engine does not have it."""
        return output_of(["docker", "image", "inspect", "--format", "{{.Id}}", reference])


def ensure_engine(cache: Cache, on_line: Callable[[str], None]) -> Engine:
    """The running engine, or ours, installed and started.

    Raises:
        BuildError: none runs and none can be had here; the message says what is missing.
    """
    if engine := running_engine():
        return engine
    if os.environ.get("DOCKER_HOST"):
        raise BuildError(f"No Docker engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}. {OTHER_WAYS}")
    if os.geteuid() != 0:
        raise BuildError(f"No Docker engine runs, and starting one needs root. {OTHER_WAYS}")
    install_packages({"dockerd": "docker.io"}, log=cache.log("install-engine"), on_line=on_line)
    # Since trixie the client has a package of its own.
    install_packages({"docker": "docker-cli"}, log=cache.log("install-client"), on_line=on_line)
    for driver in ("overlay2", "vfs"):
        on_line(f"starting dockerd with {driver}")
        if _start(cache, driver):
            return Engine(ours=True)
    raise BuildError(f"dockerd does not start; log: {cache.log('dockerd')}. {OTHER_WAYS}")


def running_engine() -> Engine | None:
    """The engine that answers now, if any."""
    command = ["docker", "info", "--format", "{{.ServerVersion}} {{.Labels}}"]
    answer = output_of(command, timeout=20)
    return Engine(ours=LABEL in answer) if answer and answer[0].isdigit() else None


def stop_engine(cache: Cache) -> str:
    """Stop the engine that we started, unless somebody's containers run in it; returns what was done, in words.

    Raises:
        BuildError: it does not end.
    """
    pid = _our_pid(cache)
    if pid is None:
        return "no Docker engine of ours runs"
    if containers := output_of(["docker", "ps", "--format", "{{.Names}} ({{.Image}})"]):
        return f"the Docker engine stays, containers run in it: {', '.join(containers.splitlines())}"
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOPPING_SECONDS
    while _our_pid(cache) is not None:
        if time.monotonic() > deadline:
            raise BuildError(f"dockerd (process {pid}) does not end; log: {cache.log('dockerd')}")
        time.sleep(0.1)
    shutil.rmtree(_EXEC_ROOT, ignore_errors=True)
    # In cgroup v1 one for each controller.
    for group in [_CGROUPS / _CGROUP, *_CGROUPS.glob(f"*/{_CGROUP}")]:
        with contextlib.suppress(OSError):
            group.rmdir()
    return "the Docker engine is stopped"


def install_packages(programs: Mapping[str, str], *, log: Path, on_line: Callable[[str], None]) -> None:
    """Install the Debian package of each program that is absent.

    Raises:
        BuildError: there is no apt-get here, it failed, or a program is absent all the same.
    """
    missing = _absent(programs)
    if not missing:
        return
    packages = sorted(set(missing.values()))
    if shutil.which("apt-get") is None:
        raise BuildError(
            f"{', '.join(packages)} missing and this is not Debian: nothing to install with. {OTHER_WAYS}"
        )
    run_logged([sys.executable, str(_INSTALLER), *packages], log=log, on_line=on_line)
    if missing := _absent(programs):
        raise BuildError(f"{', '.join(missing)} not on PATH, though {', '.join(packages)} is installed")


def _absent(programs: Mapping[str, str]) -> dict[str, str]:
    return {program: package for program, package in programs.items() if shutil.which(program) is None}


def _start(cache: Cache, driver: str) -> bool:
    state = cache.engine
    state.mkdir(parents=True, exist_ok=True)
    (state / "pid").unlink(missing_ok=True)
    command = [
        # Its mounts end with it, however it ends; those that the host makes later are seen in it.
        *("unshare", "--mount", "--propagation=slave"),
        "dockerd",
        f"--host=unix://{SOCKET}",
        f"--data-root={state / 'data'}",
        f"--exec-root={_EXEC_ROOT}",
        f"--pidfile={state / 'pid'}",
        f"--storage-driver={driver}",
        f"--label={LABEL}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent=/{_CGROUP}",
        # No bridge and no firewall rule, which would outlive it: what we build and run has the host's network or none.
        *("--bridge=none", "--iptables=false", "--ip-forward=false"),
    ]
    log = cache.log("dockerd")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as record:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=record, stderr=record, start_new_session=True
        )
    deadline = time.monotonic() + STARTING_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if running_engine():
            return True
        time.sleep(0.2)
    process.terminate()
    process.wait(STOPPING_SECONDS)
    return False


def _our_pid(cache: Cache) -> int | None:
    try:
        pid = int((cache.engine / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if f"--data-root={cache.engine / 'data'}".encode() in command else None

"""A machine: namespaces (network, mounts, processes, host name) whose first process keeps services running.

Killing that first process is a power failure: the kernel kills all the others at once, pods and shims
included, and their mounts and the pods' networks go with them. What lies on the machine's disk, its folder,
stays. Inside, /var and /run are the machine's own, so that every program can use its usual paths.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localkube import disks, processes
from localkube.cgroups import Cgroups
from localkube.commands import run, succeeds
from localkube.disks import Disk, Fault
from localkube.errors import LocalClusterError
from localkube.processes import eventually

PROGRAMS = Path("/var/lib/programs")
DISK_PROGRAM = Path("/var/lib/disk.sh")
VOLUMES = Path("/var/volumes")

_FIRST_PROCESS = """\
#!/bin/sh
# First process of {hostname}: keeps its services running, reaps what they leave behind.
set -eu
machine={folder}
mount --bind {programs} "$machine/var{inside}"
mount --bind "$machine/boot-id" /proc/sys/kernel/random/boot_id
mount --bind "$machine/run" /run
mount --rbind "$machine/var" /var
mount --make-rshared /
hostname {hostname}
cd /
/bin/sh {disk_program} attach-all

service() {{
    name=$1
    shift
    while :; do
        if [ ! -e "/run/services/$name.stopped" ]; then
            "$@" >>"/var/log/$name.log" 2>&1 &
            echo $! >"/run/services/$name.pid"
            wait $! || :
            sleep 0.3
        else
            sleep 0.05
        fi
    done
}}

{services}
echo on >/run/services/on
wait
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A program that the machine keeps running; its output is in the machine's var/log/<name>.log."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine in its `folder`, with the network namespace `namespace` that somebody else made."""

    namespace: str
    folder: Path

    @property
    def var(self) -> Path:
        """The machine's /var, as the host sees it."""
        return self.folder / "var"

    @property
    def run(self) -> Path:
        """The machine's /run, as the host sees it; empty after a boot."""
        return self.folder / "run"

    @property
    def cgroup(self) -> str:
        """Parent of the machine's pods in every cgroup hierarchy."""
        return f"/{self.namespace}"

    def install(self, services: Sequence[Service], *, programs: Path) -> None:
        """Write the machine's first process; the machine stays off."""
        for folder in ("var/log", "var/tmp", f"var/{PROGRAMS.relative_to('/var')}", "run"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(disks.PROGRAM, self.var / DISK_PROGRAM.relative_to("/var"))
        script = _FIRST_PROCESS.format(
            hostname=self.namespace,
            folder=shlex.quote(str(self.folder)),
            programs=shlex.quote(str(programs)),
            inside="/" + str(PROGRAMS.relative_to("/var")),
            disk_program=DISK_PROGRAM,
            services="\n".join(_line(service) for service in services),
        )
        self._script.write_text(script)

    def power_on(self, *, held: Sequence[str] = ()) -> None:
        """Boot; services named in `held` wait for `start_service`. No error when it is on.

        Raises:
            LocalClusterError: the first process ended or did not come up.
        """
        if self.is_on():
            return
        # It may have died by other means than this, which sees to its disks.
        self.power_off()
        self._clean_before_boot()
        for name in held:
            self._stopped(name).touch()
        with (self.folder / "console.log").open("ab") as console:
            # Nobody's child: it outlives whoever starts it.
            subprocess.run(
                [
                    *("setsid", "--fork", "nsenter", f"--net=/run/netns/{self.namespace}"),
                    *("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc"),
                    *("/bin/sh", str(self._script)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=_clean_environment(),
                check=True,
            )
        if not eventually((self.run / "services/on").exists, seconds=60):
            raise LocalClusterError(f"{self.namespace} does not boot; see {self.folder}/console.log")

    def power_off(self) -> None:
        """Kill everything that runs in it, at once. No error when it is off.

        Raises:
            LocalClusterError: the kernel did not end a process, or let go of a disk, within 30 s.
        """
        for process in self._processes():
            processes.kill(process)
        # Who hangs in a write is dead once that goes on.
        for disk in self.disks():
            if disk.fault() is Fault.FREEZE:
                disk.thaw()
        if not eventually(lambda: not self._processes(), seconds=30):
            raise LocalClusterError(f"processes of {self.namespace} do not end: {self._processes()}")
        disks.wait_detached(self.disks())

    def boot_id(self) -> str:
        """The id of its last boot, which its kubelet reports too."""
        return (self.folder / "boot-id").read_text().strip()

    def is_on(self) -> bool:
        """Whether its first process lives."""
        return self.first_process() is not None

    def first_process(self) -> int | None:
        """The host's process id of its first process: `nsenter --target` enters the machine with it."""
        for process in self._processes():
            if processes.ids(process)[1:] == ["1"]:
                return process
        return None

    def stop_service(self, name: str) -> None:
        """Kill a service with -9 and keep it stopped. No error when it is stopped.

        Raises:
            LocalClusterError: the machine is off, or the process does not end.
        """
        first = self._running()
        self._stopped(name).touch()
        pid_file = self.run / f"services/{name}.pid"
        if not pid_file.exists():
            return
        inside = pid_file.read_text().strip()
        enter = ["nsenter", f"--target={first}", "--pid", "--mount"]
        succeeds([*enter, "kill", "-9", inside])
        pid_file.unlink()
        if not eventually(lambda: not succeeds([*enter, "kill", "-0", inside]), seconds=10):
            raise LocalClusterError(f"{name} of {self.namespace} does not end")

    def start_service(self, name: str) -> None:
        """Let a stopped service run again.

        Raises:
            LocalClusterError: the machine is off.
        """
        self._running()
        self._stopped(name).unlink(missing_ok=True)

    def resume_service(self, name: str) -> None:
        """Let a paused service go on. No error when it runs, or the machine is off."""
        self._signal(name, "CONT")

    def disks(self) -> list[Disk]:
        """Its volumes."""
        return disks.disks(var=self.var, run=self.run)

    def heal_disk(self, disk: Disk, *, starting: str) -> None:
        """Undo whatever was done to it; a broken one is checked, mended and mounted anew.

        What uses a broken one is killed: it would keep the old mount. The service `starting` has to wait meanwhile, as
        it would start it again. No error when the disk is whole, or the machine is off: it boots with whole disks.

        Raises:
            LocalClusterError: it is still in use, or beyond repair.
        """
        if self.is_on():
            try:
                if disk.device() is None or disk.is_broken():
                    self._signal(starting, "STOP")
                    self._mount_anew(disk)
                else:
                    disk.thaw()
                    disk.empty()
            finally:
                self.resume_service(starting)
        disk.forget_fault()

    def remove(self) -> None:
        """Power off and remove what the kernel still holds; the folder stays."""
        self.power_off()
        Cgroups().remove(self.namespace)

    def _mount_anew(self, disk: Disk) -> None:
        enter = ["nsenter", f"--target={self._running()}", "--mount", "--pid"]
        # Lazily: its users still have it; and it is gone already where an earlier try was killed.
        succeeds([*enter, "umount", "--lazy", str(VOLUMES / disk.name)])
        if not eventually(lambda: self._let_go(disk), seconds=30):
            raise LocalClusterError(f"{disk.claim} is still in use: /dev/{disk.device()}")
        run([*enter, "/bin/sh", str(DISK_PROGRAM), "attach", disk.name])

    def _let_go(self, disk: Disk) -> bool:
        """Whether nobody has the disk any more; kills the containers that do."""
        device = disk.device()
        if device is None:
            return True
        own = processes.mount_namespace(self._running())
        for process in processes.mounting(disks.numbers(device)):
            if processes.mount_namespace(process) != own:
                processes.kill(process)
        return False

    def _signal(self, service: str, signal: str) -> None:
        """Send a signal to a service; no error when there is none."""
        pid_file, first = self.run / f"services/{service}.pid", self.first_process()
        if first is not None and pid_file.exists():
            enter = ["nsenter", f"--target={first}", "--pid", "--mount"]
            succeeds([*enter, "kill", f"-{signal}", pid_file.read_text().strip()])

    @property
    def _script(self) -> Path:
        return self.folder / "first-process.sh"

    def _stopped(self, name: str) -> Path:
        return self.run / f"services/{name}.stopped"

    def _running(self) -> int:
        first = self.first_process()
        if first is None:
            raise LocalClusterError(f"{self.namespace} is off")
        return first

    def _clean_before_boot(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        (self.run / "services").mkdir(parents=True)
        (self.run / "lock").mkdir()
        link = self.var / "run"
        if not link.is_symlink():
            link.symlink_to("/run")
        (self.folder / "boot-id").write_text(f"{uuid.uuid4()}\n")
        self._remove_wires_of_dead_pods()
        Cgroups().remove(self.namespace)
        Cgroups().create(self.namespace)

    def _remove_wires_of_dead_pods(self) -> None:
        """Cut off first, a dead Pod's sockets wait minutes for answers and hold its network, wire and route.

        A new Pod of the same address would find that route there and get none of its own, and none would be left when
        the dead one's goes at last.
        """
        shown = run(["ip", "-json", "-n", self.namespace, "link", "show", "type", "veth"])
        for link in json.loads(shown or "[]"):
            if link["ifname"].startswith("veth"):
                succeeds(["ip", "-n", self.namespace, "link", "delete", link["ifname"]])

    def _processes(self) -> list[int]:
        """The first process, its parent and the service loops: found by the script's path."""
        wanted = str(self._script).encode()
        return [process for process in processes.everything() if wanted in processes.arguments(process)]


def _line(service: Service) -> str:
    environment = [f"{name}={value}" for name, value in service.environment.items()]
    command = ["env", *environment, *service.command] if environment else list(service.command)
    return f"service {shlex.quote(service.name)} {shlex.join(command)} &"


def _clean_environment() -> dict[str, str]:
    """Proxies and tokens of whoever runs `up` are no business of the cluster."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

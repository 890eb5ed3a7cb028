"""Which Kubernetes the tests run on: the local cluster, whose nodes can fail, or the one of KUBECONFIG.

Not for starting one: `python deploy/local up`, which nox calls.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NODE_SECONDS = 90
REPAIR_SECONDS = 300
STATE_ROOT = Path("/var/lib/mariadb-operator-local")


class HarnessError(Exception):
    """Something that tests need did not happen; says what was tried."""


def cache_folder() -> Path:
    """Where deploy/local keeps its kubeconfigs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mariadb-operator"


def find_kubeconfig() -> Path:
    """KUBECONFIG, of a list the first file that exists, else that of the local cluster `mdb`.

    Raises:
        HarnessError: there is none.
    """
    given = [each for each in os.environ.get("KUBECONFIG", "").split(os.pathsep) if each]
    paths = [Path(each) for each in given] or [cache_folder() / "mdb.kubeconfig"]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        looked_for = " nor ".join(str(path) for path in paths)
        raise HarnessError(
            f"no Kubernetes: {looked_for} is not there; run `nox -s cluster`, or set KUBECONFIG to any cluster"
        )
    return found


@dataclass(frozen=True, slots=True)
class Local:
    """The local cluster: its faults, and the way into its network."""

    name: str

    @classmethod
    def behind(cls, kubeconfig: Path) -> Local | None:
        """The local cluster that this kubeconfig is of, or None for any other."""
        ours = kubeconfig.resolve().parent == cache_folder().resolve()
        known = (STATE_ROOT / kubeconfig.stem).is_dir()
        return cls(kubeconfig.stem) if ours and known else None

    def enter(self, machine: str = "control") -> list[str]:
        """What to put before a command so that it runs in that machine's network."""
        return ["nsenter", f"--net=/run/netns/{self.name}-{machine}"]

    def log(self, machine: str, program: str) -> Path:
        """Where that machine keeps what a program of it said."""
        return STATE_ROOT / self.name / machine / "var/log" / f"{program}.log"

    def node(self, fault: str, node: str) -> None:
        """`stop`, `start`, `cut` or `heal` a node."""
        self._run("node", fault, node)

    def link(self, fault: str, left: str, right: str) -> None:
        """`cut` or `heal` the link between two machines."""
        self._run("link", fault, left, right)

    def disk(self, fault: str, volume: str) -> None:
        """`fill`, `freeze` or `heal` a PersistentVolume, or make it `readonly`."""
        self._run("disk", fault, volume)

    def control(self, what: str) -> None:
        """`stop` or `start` the API server."""
        self._run("control", what)

    def repair(self) -> None:
        """Every machine on, every disk and link whole, the API server up: undoes what an interrupted run left."""
        self._run("up", seconds=REPAIR_SECONDS)

    def boot_id(self, node: str) -> str:
        """The id of the node's last boot, which its kubelet reports once it is up."""
        return (STATE_ROOT / self.name / node / "boot-id").read_text().strip()

    def _run(self, *arguments: str, seconds: float = NODE_SECONDS) -> None:
        command = [sys.executable, str(ROOT / "deploy/local"), *arguments, "--name", self.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise HarnessError(f"`{' '.join(command)}` took longer than {seconds:.0f} s") from error
        if done.returncode != 0:
            raise HarnessError(
                f"{' '.join(command)} ended with {done.returncode}: {done.stderr or done.stdout}"
            )

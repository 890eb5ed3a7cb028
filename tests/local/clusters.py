"""The clusters that tests of the local Kubernetes make: their names, the command, kubectl. Not what is asserted of them."""

from __future__ import annotations

import json
import subprocess
import sys

from localkube.addresses import Addresses
from localkube.errors import LocalClusterError
from localkube.network import check_range

from tests.harness.local import ROOT, STATE_ROOT, cache_folder

SECONDS = 300
_NAMES = ("test-a", "test-b", "test-c", "test-d")


def free_names() -> list[str]:
    """Of clusters for which there is room beside those of the machine's user; what an earlier run left is removed."""
    for name in _NAMES:
        if (STATE_ROOT / name).exists():
            local("down", name=name)
    return [name for name in _NAMES if _is_free(name)]


def command(*arguments: str, name: str) -> list[str]:
    """deploy/local, called as a person calls it."""
    return [sys.executable, str(ROOT / "deploy/local"), *arguments, "--name", name]


def local(*arguments: str, name: str) -> str:
    """What deploy/local printed; it has to end well."""
    done = subprocess.run(
        command(*arguments, name=name), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kubectl(name: str, *arguments: str) -> str:
    """What kubectl printed; it has to end well."""
    (program,) = cache_folder().glob("programs/kubernetes-*/kubectl")
    whole = [str(program), f"--kubeconfig={cache_folder()}/{name}.kubeconfig", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=True).stdout


def ready_nodes(name: str) -> set[str]:
    """The nodes that are Ready."""
    nodes = json.loads(kubectl(name, "get", "nodes", "--output=json"))["items"]
    return {
        node["metadata"]["name"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def _is_free(name: str) -> bool:
    """No other cluster's range, which its name gave it by chance, is in the way."""
    try:
        check_range(Addresses(name))
    except LocalClusterError:
        return False
    return True

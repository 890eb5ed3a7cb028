"""Where a cluster keeps its files, and where what was built is kept between clusters. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STATE_ROOT = Path("/var/lib/mariadb-operator-local")


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders and files of the cluster `name`."""

    name: str
    cache: Path
    state_root: Path = STATE_ROOT

    @property
    def state(self) -> Path:
        """Everything of this cluster; `down` removes it."""
        return self.state_root / self.name

    @property
    def pki(self) -> Path:
        """Certificates, keys and tokens."""
        return self.state / "pki"

    @property
    def complete(self) -> Path:
        """Exists when `up` came to its end."""
        return self.state / "complete"

    @property
    def scratch(self) -> Path:
        """What one command needs until it ends; what a killed one left goes with the next one or with `down`."""
        return self.state / "scratch"

    @property
    def image_store(self) -> Path:
        """One containerd folder with every image; nodes begin as copies of it."""
        return self.cache / "store"

    @property
    def programs(self) -> Path:
        """Built programs, one folder for each version."""
        return self.cache / "programs"

    @property
    def images(self) -> Path:
        """Image tars: ours, and those of deploy/images."""
        return self.cache / "images"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.cache / f"{self.name}.kubeconfig"

    def machine(self, machine: str) -> Path:
        """Folder of a node or of the control machine."""
        return self.state / machine


def cache_folder(environment: Mapping[str, str]) -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/mariadb-operator`."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or "/root") / ".cache"
    return Path(base) / "mariadb-operator"


def layout(name: str) -> Layout:
    """The layout that this process's environment asks for."""
    return Layout(name=name, cache=cache_folder(os.environ))

"""Gets images onto the nodes: our own small ones, and those that tests and the demo bring as tars.

A new node begins as a copy of one store that all clusters share (hard links: no time, no space); a running
node imports what it lacks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from localkube import archives
from localkube.archives import Archive
from localkube.commands import run, succeeds
from localkube.errors import LocalClusterError
from localkube.layout import Layout
from localkube.programs import COREDNS
from localkube.services import CONTAINERD_SOCKET, COREDNS_IMAGE, HELPER_IMAGE, SANDBOX_IMAGE

_BUSYBOX = Path("/bin/busybox")
# Tools that scripts of helper pods and of our tests use.
_APPLETS = (
    *("cat", "chmod", "chown", "cp", "date", "df", "du", "echo", "env", "false", "grep", "head", "hostname"),
    *(
        "id",
        "ls",
        "mkdir",
        "mv",
        "nc",
        "nsenter",
        "nslookup",
        "ping",
        "ps",
        "rm",
        "sed",
        "sh",
        "sleep",
        "stat",
        "sync",
    ),
    *("tail", "test", "timeout", "touch", "tr", "true", "wc", "wget"),
)
# Databases of containerd, changed in place: copied, while everything else is only ever added or removed.
_DATABASES = (
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)
_IMPORT_SECONDS = 600
# Left behind by an `up` that was killed, they would write into what the next one removes.
_ENDS_WITH_US = ("setpriv", "--pdeathsig=KILL")


@dataclass(frozen=True, slots=True)
class Containerd:
    """A running containerd, and the record of what was imported into it."""

    socket: Path
    record: Path

    def missing(self, archive: Archive) -> bool:
        """Whether it lacks an image of `archive`, or has another one of that name."""
        have = _recorded(self.record)
        return any(have.get(name) != digest for name, digest in archive.images.items())

    def load(self, archive: Archive) -> None:
        """Import every image of `archive`.

        Raises:
            LocalClusterError: containerd refused it.
        """
        command = [
            "ctr",
            f"--address={self.socket}",
            "--namespace=k8s.io",
            "images",
            "import",
            str(archive.path),
        ]
        run(command, timeout=_IMPORT_SECONDS)
        self.record.write_text(json.dumps({**_recorded(self.record), **archive.images}, indent=2))


def system_archives(layout: Layout) -> list[Archive]:
    """The images a cluster itself needs, written when they are not in the cache yet."""
    busybox = {"/bin/busybox": _BUSYBOX}
    coredns = {"/bin/coredns": layout.programs / COREDNS.folder / "coredns"}
    applets = {f"/bin/{applet}": "busybox" for applet in _APPLETS}
    sleep = ["/bin/busybox", "sleep", "infinity"]
    wanted: list[tuple[str, Mapping[str, Path], Mapping[str, str], list[str]]] = [
        (SANDBOX_IMAGE, busybox, {}, sleep),
        (HELPER_IMAGE, busybox, applets, ["/bin/sh"]),
        (COREDNS_IMAGE, coredns, {}, ["/bin/coredns"]),
    ]
    found = []
    layout.images.mkdir(parents=True, exist_ok=True)
    with _locked(layout.images / "system.lock"):
        for name, files, links, command in wanted:
            path = layout.images / f"{name.replace('/', '-').replace(':', '_')}.tar"
            if _is_stale(path, files.values()):
                archives.write(path, name=name, files=files, links=links, command=command)
            found.append(archives.read(path))
    return found


def fill_store(layout: Layout, wanted: Sequence[Archive], *, say: Callable[[str], None]) -> None:
    """Import into the shared store what it lacks."""
    layout.image_store.mkdir(parents=True, exist_ok=True)
    with _locked(layout.image_store / "lock"):
        record = layout.image_store / "images.json"
        if not any(Containerd(Path(), record).missing(archive) for archive in wanted):
            return
        with scratch(layout) as state, _store_containerd(layout.image_store, state, record) as store:
            for archive in wanted:
                if store.missing(archive):
                    say(f"unpacking {', '.join(archive.images)}")
                    store.load(archive)


def seed(layout: Layout, node: str) -> None:
    """Give a new node, whose containerd has not run yet, every image of the store."""
    source, target = layout.image_store / "containerd", layout.machine(node) / "var/lib/containerd"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Between two file systems there are no hard links; then it takes time and space.
    shared = source.stat().st_dev == target.parent.stat().st_dev
    with _locked(layout.image_store / "lock"):
        how = "--link" if shared else "--reflink=auto"
        run([*_ENDS_WITH_US, "cp", "--archive", how, str(source), str(target)], timeout=300)
        for database in _DATABASES:
            (target / database).unlink()
            shutil.copy2(source / database, target / database)
        shutil.copy2(layout.image_store / "images.json", record_of(layout, node))


def load_into_nodes(
    layout: Layout, nodes: Sequence[str], wanted: Sequence[Archive], *, say: Callable[[str], None]
) -> None:
    """Import into running nodes what each of them lacks, all nodes at the same time."""

    def load(node: str) -> None:
        containerd = Containerd(layout.machine(node) / "run" / CONTAINERD_SOCKET, record_of(layout, node))
        for archive in wanted:
            if containerd.missing(archive):
                say(f"{node}: {', '.join(archive.images)}")
                containerd.load(archive)

    with ThreadPoolExecutor() as pool:
        list(pool.map(load, nodes))


def record_of(layout: Layout, node: str) -> Path:
    """The record of what was imported on `node`."""
    return layout.machine(node) / "images.json"


@contextlib.contextmanager
def scratch(layout: Layout) -> Iterator[Path]:
    """A folder for the time of one step of the command that holds the cluster."""
    layout.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.scratch) as folder:
        yield Path(folder)


@contextlib.contextmanager
def opened(layout: Layout, sources: Sequence[str]) -> Iterator[list[Archive]]:
    """The tars that `sources` name: a tar's path, or an image of the local Docker engine, saved for a while.

    Raises:
        LocalClusterError: a source is neither.
    """
    with scratch(layout) as folder:
        paths = [
            Path(source) if Path(source).exists() else _saved(source, folder / f"{number}.tar")
            for number, source in enumerate(sources)
        ]
        yield [archives.read(path) for path in paths]


def _saved(name: str, path: Path) -> Path:
    if shutil.which("docker") is None or not succeeds(["docker", "image", "inspect", name]):
        raise LocalClusterError(f"{name!r} is neither a file nor an image of a local Docker engine")
    run(["docker", "save", "--output", str(path), name], timeout=_IMPORT_SECONDS)
    return path


def _is_stale(path: Path, sources: Iterable[Path]) -> bool:
    if not path.exists():
        return True
    # Of a source the time of its arrival here: packages bring files that are older than our tar.
    return any(path.stat().st_mtime < source.stat().st_ctime for source in (*sources, Path(__file__)))


def _recorded(record: Path) -> dict[str, str]:
    if not record.exists():
        return {}
    content: dict[str, str] = json.loads(record.read_text())
    return content


@contextlib.contextmanager
def _store_containerd(store: Path, state: Path, record: Path) -> Iterator[Containerd]:
    """A containerd on the store, for the time of an import; its mounts are its own and end with it."""
    socket, configuration = state / "containerd.sock", state / "config.toml"
    configuration.write_text(
        f'version = 2\nroot = "{store}/containerd"\nstate = "{state}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\n  address = "{socket}"\n'
    )
    with (store / "containerd.log").open("wb") as log:
        process = subprocess.Popen(
            [*_ENDS_WITH_US, "unshare", "--mount", "containerd", f"--config={configuration}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for_containerd(process, socket, log_path=store / "containerd.log")
        yield Containerd(socket, record)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_containerd(process: subprocess.Popen[bytes], socket: Path, *, log_path: Path) -> None:
    deadline = time.monotonic() + 20
    while not (socket.exists() and succeeds(["ctr", f"--address={socket}", "version"], timeout=5)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise LocalClusterError(f"containerd does not start; see {log_path}")
        time.sleep(0.05)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

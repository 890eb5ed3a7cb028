"""The volumes of a machine, seen from outside, and what is done to them: full, read-only, frozen, and whole again.

Each is a file system of its own on a loop device, made and mounted inside the machine by disk.sh. Here it is found by
its file's name, which is unique, so that it is found whatever became of the machine. A fault ends with the machine's
power.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from localkube.commands import run
from localkube.errors import LocalClusterError
from localkube.processes import eventually

PROGRAM = Path(__file__).parent / "disk.sh"
_LOOPS = Path("/sys/block")
_EXT4 = Path("/sys/fs/ext4")
_BLOCK = 4096  # what disk.sh asks mkfs.ext4 for
# The kernel's own rule for what it keeps for itself: a fiftieth, at most so many blocks.
_KEPT_SHARE, _KEPT_MOST = 50, 4096
_LET_GO_SECONDS = 30.0


class Fault(StrEnum):
    """What can be wrong with a disk."""

    FILL = "fill"
    """Nothing is free, for anybody; what is deleted is free again."""
    READONLY = "readonly"
    """An error: ext4 gave up its journal and refuses every write, as it does on a disk that fails."""
    FREEZE = "freeze"
    """Every write hangs, and can't be killed while it does."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One volume of a machine: its file, and where its fault is noted until the next boot."""

    image: Path
    note: Path

    @property
    def name(self) -> str:
        """Its name on the machine: PersistentVolume, namespace and claim."""
        return self.image.stem

    @property
    def volume(self) -> str:
        """The PersistentVolume."""
        return self.name.split("_")[0]

    @property
    def claim(self) -> str:
        """NAMESPACE/NAME of the PersistentVolumeClaim."""
        return "/".join(self.name.split("_")[1:])

    @property
    def size(self) -> int:
        """Bytes of the disk; the file system itself takes a few hundredths."""
        return self.image.stat().st_size

    def fault(self) -> Fault | None:
        """What was done to it."""
        return Fault(self.note.read_text()) if self.note.exists() else None

    def device(self) -> str | None:
        """Its loop device, such as `loop12`; None while it is not mounted."""
        return attached().get(self.image.name)

    def is_broken(self) -> bool:
        """Whether ext4 met an error on it since it was mounted."""
        device = self.device()
        return device is not None and int((_EXT4 / device / "errors_count").read_text()) > 0

    def harm(self, fault: Fault) -> None:
        """Do that to it; once is as good as twice.

        Raises:
            LocalClusterError: it has another fault, or is not mounted.
        """
        current, device = self.fault(), self.device()
        if current == fault:
            return
        if current is not None:
            raise LocalClusterError(f"{self.claim} has another fault, {current}: heal it first")
        if device is None:
            raise LocalClusterError(f"{self.claim} is not mounted")
        # Noted first: what is not noted is not undone where this process is killed now.
        self.note.parent.mkdir(exist_ok=True)
        self.note.write_text(fault)
        match fault:
            case Fault.FILL:
                free = self._on_file_system(device, "stat --file-system --format=%f .")
                self._keep(device, int(free))
            case Fault.READONLY:
                (_EXT4 / device / "trigger_fs_error").write_text("made by deploy/local\n")
            case Fault.FREEZE:
                self._on_file_system(device, "fsfreeze --freeze .")

    def thaw(self) -> None:
        """Let writes go on; no error when they do.

        Raises:
            LocalClusterError: the kernel refused.
        """
        if (device := self.device()) is None:
            return
        try:
            self._on_file_system(device, "fsfreeze --unfreeze .")
        except LocalClusterError as error:
            if "Invalid argument" not in str(error):  # what the kernel says of one that is not frozen
                raise

    def empty(self) -> None:
        """Take back `fill`; no error when it is not full."""
        if (device := self.device()) is not None:
            self._keep(device, min(self.size // _BLOCK // _KEPT_SHARE, _KEPT_MOST))

    def forget_fault(self) -> None:
        """Note that it is whole."""
        self.note.unlink(missing_ok=True)

    def _keep(self, device: str, blocks: int) -> None:
        """Blocks that ext4 keeps for its own needs: no writer gets them, root neither."""
        (_EXT4 / device / "reserved_clusters").write_text(str(blocks))

    def _on_file_system(self, device: str, command: str) -> str:
        """Run a command in the root of the file system, wherever it is mounted, if it still is at all.

        A frozen one that was unmounted lives on, and only a mount leads to it.
        """
        script = f'mount "/dev/{device}" "$1" && cd "$1" && {command}'
        return run(
            ["env", "LC_ALL=C", "unshare", "--mount", "sh", "-c", script, "sh", str(self.image.parent)]
        )


def disks(*, var: Path, run: Path) -> list[Disk]:
    """The volumes of the machine with these folders."""
    return [Disk(image, run / "disks" / image.stem) for image in sorted((var / "disks").glob("*.img"))]


def attached() -> dict[str, str]:
    """Loop devices by the name of their file, without its folder: that depends on who opened it."""
    found = {}
    for loop in _LOOPS.glob("loop*/loop/backing_file"):
        try:
            path = loop.read_text().strip()
        except OSError:
            continue  # detached meanwhile
        found[Path(path.removesuffix(" (deleted)")).name] = loop.parts[-3]
    return found


def numbers(device: str) -> str:
    """MAJOR:MINOR of a loop device."""
    return (_LOOPS / device / "dev").read_text().strip()


def wait_detached(found: Iterable[Disk]) -> None:
    """Wait until the kernel has written and let go of every one of them, whose machine is off.

    Raises:
        LocalClusterError: somebody still uses one.
    """
    names = {disk.image.name for disk in found}
    if not eventually(lambda: not names & attached().keys(), seconds=_LET_GO_SECONDS):
        kept = [f"/dev/{device} ({name})" for name, device in attached().items() if name in names]
        raise LocalClusterError(
            f"still in use: {', '.join(kept)}; `grep -l DEVICE /proc/*/mountinfo` says by whom"
        )


def problem(folder: Path) -> str | None:
    """Why volumes can't be file systems of their own here, or None; tried in `folder`, which is there and empty."""
    try:
        run(["unshare", "--mount", "sh", str(PROGRAM), "try", str(folder)])
    except LocalClusterError as error:
        return str(error)
    return None

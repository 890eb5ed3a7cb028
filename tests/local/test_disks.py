"""The volumes of one machine, with no Kubernetes in it: made, harmed, healed, and gone whatever became of the machine."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from localkube import disks
from localkube.disks import Disk, Fault
from localkube.errors import LocalClusterError
from localkube.machine import DISK_PROGRAM, VOLUMES, Machine, Service

from tests.harness.kube import holds_for, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes machines")

MIB = 2**20
APPEND = """\
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    os.write(file, b"line\\n")
    os.fsync(file)
    time.sleep(0.01)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    name = f"disks-{secrets.token_hex(3)}"
    found = Machine(namespace=name, folder=tmp_path / name)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        found.install([Service("kubelet", ["sleep", "infinity"])], programs=tmp_path)
        found.power_on()
        yield found
    finally:
        found.remove()
        subprocess.run(["ip", "netns", "delete", name], check=True)


def inside(machine: Machine, *command: str) -> list[str]:
    """A command in the machine, as its own processes are."""
    return ["nsenter", f"--target={machine.first_process()}", "--mount", "--pid", *command]


def make(machine: Machine, *, size: int = 16 * MIB) -> Disk:
    name = f"pvc-{secrets.token_hex(8)}_space_data"
    subprocess.run(
        inside(machine, "sh", str(DISK_PROGRAM), "make", str(VOLUMES / name), str(size)), check=True
    )
    (disk,) = [each for each in machine.disks() if each.name == name]
    return disk


def folder(machine: Machine, disk: Disk) -> Path:
    """The volume's root, as the host reaches it."""
    return Path(f"/proc/{machine.first_process()}/root{VOLUMES}", disk.name)


def heal(machine: Machine, disk: Disk) -> None:
    machine.heal_disk(disk, starting="kubelet")


def loops(machine: Machine) -> set[str]:
    names = {disk.image.name for disk in machine.disks()}
    return {device for name, device in disks.attached().items() if name in names}


def writer(machine: Machine, disk: Disk) -> subprocess.Popen[bytes]:
    """A process of the machine, in a mount namespace of its own as a container's is, that appends to one file."""
    begun = folder(machine, disk) / "begun"
    process = subprocess.Popen(
        inside(machine, "unshare", "--mount", "python3", "-c", APPEND, str(VOLUMES / disk.name / "begun")),
        stderr=subprocess.DEVNULL,
    )
    # The second line is written when the first is synced.
    wait_for("two lines", lambda: begun.exists() and begun.stat().st_size >= 10, seconds=20, every=0.02)
    return process


def nothing_is_written(machine: Machine, disk: Disk) -> None:
    begun = folder(machine, disk) / "begun"
    before = begun.stat().st_size
    holds_for("no write comes through", lambda: begun.stat().st_size == before, seconds=0.3, every=0.02)


@pytest.mark.parametrize(("asked", "got"), [(1, 16 * MIB), (64 * MIB, 64 * MIB), (64 * MIB + 1, 65 * MIB)])
def test_a_volume_is_as_large_as_it_was_asked_for(machine: Machine, asked: int, got: int) -> None:
    disk = make(machine, size=asked)
    assert disk.size == got
    room = os.statvfs(folder(machine, disk))
    assert 0.6 * got < room.f_bavail * room.f_frsize < got
    assert list(folder(machine, disk).iterdir()) == []


def test_many_volumes_at_once_are_all_there_and_all_gone(machine: Machine) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make(machine), range(24)))
    assert len(loops(machine)) == len(made)
    assert max(int(device.removeprefix("loop")) for device in loops(machine)) > 7
    assert len({folder(machine, disk).stat().st_dev for disk in made}) == len(made)
    for disk in made[:2]:
        subprocess.run(
            inside(machine, "sh", str(DISK_PROGRAM), "remove", str(VOLUMES / disk.name)), check=True
        )
        assert not disk.image.exists()
        assert disk.device() is None
    machine.power_off()
    assert not loops(machine)


def test_new_loop_devices_get_a_file_where_dev_is_not_the_kernels_own(machine: Machine) -> None:
    few = (
        "mount -t tmpfs none /dev && mknod /dev/loop-control c 10 237 && mknod -m 666 /dev/null c 1 3 && "
        "exec sh {} make pvc-1234_space_{} 1"
    )
    name = f"data{secrets.token_hex(3)}"
    subprocess.run(inside(machine, "sh", "-c", few.format(DISK_PROGRAM, name)), check=True)
    (disk,) = machine.disks()
    assert folder(machine, disk).stat().st_dev != disk.image.stat().st_dev


def test_a_full_disk_has_no_room_for_anybody_until_something_is_deleted(machine: Machine) -> None:
    disk, other = make(machine), make(machine)
    root = folder(machine, disk)
    (root / "old").write_bytes(b"x" * MIB)
    os.sync()
    disk.harm(Fault.FILL)
    disk.harm(Fault.FILL)
    assert disk.fault() is Fault.FILL
    with pytest.raises(OSError, match="No space left") as refused:
        (root / "new").write_bytes(b"x" * 4096)
    assert refused.value.errno == errno.ENOSPC
    assert os.statvfs(root).f_bavail == 0
    (folder(machine, other) / "new").write_bytes(b"x" * 4096)
    (root / "old").unlink()
    os.sync()
    (root / "new").write_bytes(b"x" * 4096)
    with pytest.raises(OSError, match="No space left"):
        (root / "more").write_bytes(b"x" * 2 * MIB)
    heal(machine, disk)
    assert disk.fault() is None
    (root / "more").write_bytes(b"x" * 2 * MIB)


def test_a_read_only_disk_refuses_who_has_a_file_open_and_is_mended_without_him(machine: Machine) -> None:
    disk = make(machine)
    root = folder(machine, disk)
    process = writer(machine, disk)
    try:
        disk.harm(Fault.READONLY)
        assert process.wait(timeout=20) != 0
    finally:
        process.kill()
    with pytest.raises(OSError, match="Read-only") as refused:
        (root / "new").write_text("more")
    assert refused.value.errno == errno.EROFS
    kept = (root / "begun").read_bytes()
    reader = subprocess.Popen(
        inside(machine, "unshare", "--mount", "sh", "-c", f"exec sleep 600 < {VOLUMES}/{disk.name}/begun")
    )
    try:
        heal(machine, disk)
        assert reader.wait(timeout=10) == -signal.SIGKILL
    finally:
        reader.kill()
        reader.wait()
    assert disk.fault() is None
    assert (root / "begun").read_bytes().startswith(kept[: -len(b"line\n")])
    (root / "new").write_text("more")
    assert not (root / "lost+found").exists()


def test_writes_to_a_frozen_disk_hang_until_it_is_healed(machine: Machine) -> None:
    disk = make(machine)
    process = writer(machine, disk)
    try:
        disk.harm(Fault.FREEZE)
        nothing_is_written(machine, disk)
        process.kill()
        nothing_is_written(machine, disk)
        with pytest.raises(LocalClusterError, match="another fault, freeze"):
            disk.harm(Fault.FILL)
        heal(machine, disk)
        assert process.wait(timeout=10) == -signal.SIGKILL
        assert disk.fault() is None
        (folder(machine, disk) / "new").write_text("more")
    finally:
        heal(machine, disk)
        process.kill()
        process.wait()


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_ends_with_the_machines_power_and_what_was_synced_is_there(
    machine: Machine, fault: Fault
) -> None:
    disk = make(machine)
    process = writer(machine, disk)
    try:
        disk.harm(fault)
        synced = (folder(machine, disk) / "begun").read_bytes()
        machine.power_off()
        assert process.wait(timeout=10) != 0
    finally:
        process.kill()
    assert disk.device() is None
    machine.power_on()
    assert disk.fault() is None
    root = folder(machine, disk)
    assert (root / "begun").read_bytes().startswith(synced[: -len(b"line\n")])
    (root / "new").write_bytes(b"x" * MIB)


@pytest.mark.parametrize("hanging", [True, False])
def test_a_machine_that_died_with_a_frozen_disk_boots_with_a_whole_one(
    machine: Machine, hanging: bool
) -> None:
    disk = make(machine)
    process = writer(machine, disk) if hanging else None
    disk.harm(Fault.FREEZE)
    first = machine.first_process()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for("its death", lambda: not machine.is_on(), seconds=10)
    assert disk.device() is not None, "nothing is left to clear away"
    machine.power_on()
    if process is not None:
        process.wait(timeout=10)
    (folder(machine, disk) / "new").write_text("more")


def test_a_volume_that_is_beyond_repair_is_nobodys_empty_volume(machine: Machine) -> None:
    disk = make(machine)
    machine.power_off()
    with disk.image.open("r+b") as image:
        image.write(bytes(2 * MIB))
    machine.power_on()
    assert disk.device() is None
    assert f"the volume {disk.name} is not there" in (machine.folder / "console.log").read_text()
    assert folder(machine, disk).stat().st_mode & 0o777 == 0
    with pytest.raises(LocalClusterError):
        heal(machine, disk)
    with pytest.raises(LocalClusterError, match="not mounted"):
        disk.harm(Fault.FREEZE)


def test_why_volumes_can_not_be_file_systems_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, programs = (tmp_path / name for name in ("good", "bad", "programs"))
    for each in (good, bad, programs):
        each.mkdir()
    assert disks.problem(good) is None
    assert "image" not in disks.attached(), "it left its try behind"
    (programs / "unshare").write_text("#!/bin/sh\necho 'mount: failed to setup loop device' >&2; exit 32\n")
    (programs / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    assert "failed to setup loop device" in (disks.problem(bad) or "")

"""The volume's lock and its ledger."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mariadb_operator.node.volume import Ledger, NotRecorded, Volume, VolumeBusy
from mariadb_operator.node.wire import Malformed

DEADLINE = 10.0
SOME = Ledger(cluster_id="c", epoch=3, term=7, fenced=True, truncated="ab", requests=("1", "2"))


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """Another process's hand on the lock: it is of the open file, not of the process."""
    descriptor = os.open(tmp_path / "volume.lock", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_the_lock_is_held_by_one_process_at_a_time(volume: Volume, other: int) -> None:
    assert volume.is_free()
    fcntl.flock(other, fcntl.LOCK_EX)
    assert not volume.is_free()
    with pytest.raises(VolumeBusy), volume.hold():
        pass
    fcntl.flock(other, fcntl.LOCK_UN)
    with volume.hold():
        assert volume.held
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_several_works_of_one_process_share_the_lock(volume: Volume, other: int) -> None:
    with volume.hold():
        assert volume.is_free()  # of servers
        with volume.hold():
            pass
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_lock_is_looked_at_without_writing(
    volume: Volume, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A frozen file system holds up whoever opens a file to write, and with it all that the sidecar does.
    flags = []
    plain = os.open

    def seen(path: Path, flag: int) -> int:
        flags.append(flag)
        return plain(path, flag)

    monkeypatch.setattr(os, "open", seen)
    assert volume.is_free()
    assert flags == [os.O_RDONLY | os.O_CLOEXEC]


async def test_what_was_recorded_is_read_again(volume: Volume, tmp_path: Path) -> None:
    assert volume.read_ledger() == Ledger()
    await volume.write_ledger(SOME, deadline_seconds=DEADLINE)
    assert volume.recorded == SOME
    assert Volume(tmp_path).read_ledger() == SOME


@pytest.mark.parametrize("text", ["", "{", '{"epoch":"3"}', '{"epoch":-', "[]"])
def test_a_record_that_cant_be_read_is_no_empty_one(volume: Volume, tmp_path: Path, text: str) -> None:
    (tmp_path / "node.json").write_text(text)
    with pytest.raises(Malformed):
        volume.read_ledger()
    assert volume.recorded is None


def test_a_newer_sidecars_record_is_read(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text('{"cluster_id":"c","epoch":3,"term":7,"mood":"good"}')
    assert volume.read_ledger() == Ledger(cluster_id="c", epoch=3, term=7)


async def test_it_is_on_the_disk_before_it_counts(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    await volume.write_ledger(SOME, deadline_seconds=DEADLINE)
    assert synced == ["node.new", volume.folder.name]


async def test_a_disk_that_takes_nothing_is_not_waited_for_and_keeps_the_newest(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: thawed.wait(DEADLINE))
    for epoch in (1, 2, 3):
        with pytest.raises(NotRecorded):
            await volume.write_ledger(Ledger(epoch=epoch), deadline_seconds=0.01)
    assert volume.recorded is None
    thawed.set()
    await volume.write_ledger(Ledger(epoch=4), deadline_seconds=DEADLINE)
    assert volume.read_ledger().epoch == 4


async def test_the_last_of_several_late_records_is_the_one_that_stays(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: thawed.wait(DEADLINE))
    for epoch in (1, 2):
        with pytest.raises(NotRecorded):
            await volume.write_ledger(Ledger(epoch=epoch), deadline_seconds=0.01)
    thawed.set()
    await asyncio.to_thread(volume._writer.shutdown)
    assert volume.read_ledger().epoch == 2


async def test_a_disk_that_refuses_is_told_apart(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotRecorded, match="No space"):
        await volume.write_ledger(SOME, deadline_seconds=DEADLINE)
    assert volume.read_ledger() == Ledger()

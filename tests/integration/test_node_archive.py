"""Errant transactions of a real server are archived, readable and raw, before anything may erase them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mariadb_operator.node import archive as archives
from mariadb_operator.node.archive import ArchiveDiffers, Manifest, NothingErrant
from mariadb_operator.node.binary_log import Purged
from mariadb_operator.node.tools import Tool, find
from statemachines.gtid import Gtid, History
from tests.integration.servers import DEADLINE, Cluster, Servers, eventually, insert, keep_out, root

AT = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture
async def tool() -> Tool:
    return await find(Path("/proc/self/root"), "mariadb-binlog")


@pytest.fixture
async def errant(servers: Servers) -> tuple[Cluster, History]:
    """A primary with three transactions that its replica never saw, the replica's history."""
    cluster = await Cluster.make(servers, instances=2)
    await keep_out(cluster.primary, 1)
    root(cluster.primary, "SET GLOBAL rpl_semi_sync_master_enabled = OFF")
    history = (await cluster.replicas[0].look()).history
    async with await cluster.primary.connect("app") as connection:
        for n in (41, 42):
            await insert(connection, n)
    root(cluster.primary, "CREATE TABLE shop.only_here (n INT)")
    return cluster, history


async def archived(cluster: Cluster, history: History, folder: Path, tool: Tool) -> Manifest:
    return await archives.archive(
        cluster.primary.data / "binlog.index",
        folder,
        beyond_history=history,
        cluster="shop",
        instance="shop-0",
        at=AT,
        tool=tool,
        limit_bytes=1 << 30,
        deadline_seconds=DEADLINE,
    )


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


async def test_an_archive_names_its_transactions_and_says_them_in_sql(
    errant: tuple[Cluster, History], tmp_path: Path, tool: Tool
) -> None:
    cluster, history = errant
    last = history.sequences[0, 1]
    manifest = await archived(cluster, history, tmp_path / "one", tool)
    assert manifest.gtids == tuple(Gtid(0, 1, last + number) for number in (1, 2, 3))
    text = (tmp_path / "one" / archives.READABLE).read_text()
    assert "@1=41" in text
    assert "@1=42" in text
    assert "CREATE TABLE shop.only_here" in text
    document = json.loads((tmp_path / "one" / archives.MANIFEST).read_text())
    assert document["transactions"] == [str(gtid) for gtid in manifest.gtids]
    assert document["at"] == "2026-11-28T12:00:00+00:00"
    assert archives.read(tmp_path / "one") == manifest


async def test_archiving_again_changes_nothing(
    errant: tuple[Cluster, History], tmp_path: Path, tool: Tool
) -> None:
    cluster, history = errant
    first = await archived(cluster, history, tmp_path / "one", tool)
    files = times(tmp_path / "one")
    assert await archived(cluster, history, tmp_path / "one", tool) == first
    assert times(tmp_path / "one") == files
    assert list(times(tmp_path)) == ["one"]


async def test_an_archive_of_other_transactions_is_not_overwritten(
    errant: tuple[Cluster, History], tmp_path: Path, tool: Tool
) -> None:
    cluster, history = errant
    first = await archived(cluster, history, tmp_path / "one", tool)
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 43)
    with pytest.raises(ArchiveDiffers):
        await archived(cluster, history, tmp_path / "one", tool)
    assert archives.read(tmp_path / "one") == first


async def test_a_damaged_archive_is_not_taken_for_one(
    errant: tuple[Cluster, History], tmp_path: Path, tool: Tool
) -> None:
    cluster, history = errant
    await archived(cluster, history, tmp_path / "one", tool)
    with (tmp_path / "one" / archives.RAW).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArchiveDiffers, match=archives.RAW):
        await archived(cluster, history, tmp_path / "one", tool)


async def test_what_an_interrupted_attempt_left_is_done_anew(
    errant: tuple[Cluster, History], tmp_path: Path, tool: Tool
) -> None:
    cluster, history = errant
    (tmp_path / "one.partial").mkdir()
    (tmp_path / "one.partial" / archives.RAW).write_bytes(b"half")
    await archived(cluster, history, tmp_path / "one", tool)
    assert list(times(tmp_path)) == ["one"]


async def test_a_server_that_is_not_errant_has_nothing_to_archive(
    cluster: Cluster, tmp_path: Path, tool: Tool
) -> None:
    with pytest.raises(NothingErrant):
        await archived(cluster, (await cluster.primary.look()).history, tmp_path / "one", tool)
    assert not times(tmp_path)


async def test_errant_transactions_that_were_purged_are_told(
    errant: tuple[Cluster, History], tmp_path: Path, tool: Tool
) -> None:
    cluster, history = errant
    root(cluster.primary, "FLUSH BINARY LOGS")
    first = cluster.primary.data / "binlog.000001"
    purge = "PURGE BINARY LOGS TO 'binlog.000002'"
    await eventually("purged", lambda: root(cluster.primary, purge) or not first.exists())
    with pytest.raises(Purged):
        await archived(cluster, history, tmp_path / "one", tool)
    assert not (tmp_path / "one").exists()

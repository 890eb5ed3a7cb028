"""Errant transactions, kept before anything that would erase them: raw, readable, and with a list of what they are.

An archive is a folder: `transactions.binlog` (a binary log that any tool reads), `transactions.sql` (the rows and
statements for a person), `manifest.json`. It has its name only once all of it is on disk, and is never changed after
that. Not for the rewind or clone that follows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mariadb_operator.node.binary_log import beyond
from mariadb_operator.node.log_files import LogUnreadable
from mariadb_operator.node.tails import Tail, in_thread, put_in_place, receive, sync_folder, transactions_in
from mariadb_operator.node.tools import Tool
from mariadb_operator.runtime.errors import Permanent
from statemachines.gtid import Gtid, History, Position

RAW = "transactions.binlog"
READABLE = "transactions.sql"
MANIFEST = "manifest.json"
_VERSION = 1


class ArchiveDiffers(Permanent):
    """Another archive has that name; it is not touched."""


class NothingErrant(Permanent):
    """There is nothing to archive: the history holds everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archive holds and where it is from."""

    cluster: str
    instance: str
    at: datetime
    history: History  # whose lack of these makes them errant
    gtids: tuple[Gtid, ...]
    raw: str  # SHA-256 of the raw events
    readable: str  # of the text

    def text(self) -> str:
        """The manifest's file."""
        document = {
            "version": _VERSION,
            "cluster": self.cluster,
            "instance": self.instance,
            "at": self.at.isoformat(),
            "beyond": str(self.history),
            "transactions": [str(gtid) for gtid in self.gtids],
            "sha256": {RAW: self.raw, READABLE: self.readable},
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Read the file. Raises ArchiveDiffers when it is none of this version."""
        try:
            document: Mapping[str, object] = json.loads(text)
            digests = document["sha256"]
            gtids = document["transactions"]
            if (
                document["version"] != _VERSION
                or not isinstance(digests, dict)
                or not isinstance(gtids, list)
            ):
                raise ArchiveDiffers("the manifest is not of this version")
            return cls(
                cluster=str(document["cluster"]),
                instance=str(document["instance"]),
                at=datetime.fromisoformat(str(document["at"])),
                history=History.parse(str(document["beyond"])),
                gtids=tuple(Gtid.parse(str(each)) for each in gtids),
                raw=str(digests[RAW]),
                readable=str(digests[READABLE]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveDiffers(f"the manifest can't be read: {error}") from error


async def archive(
    index: Path,
    folder: Path,
    *,
    beyond_history: History,
    cluster: str,
    instance: str,
    at: datetime,
    tool: Tool,
    limit_bytes: int,
    deadline_seconds: float,
) -> Manifest:
    """Archive what a binary log holds beyond a history into `folder`; when it returns, it is there and on disk.

    Args:
        index: the binlog.index of the instance that is errant; its server does not write meanwhile.
        folder: the archive; its parent is there. An archive of the same transactions is left as it is.
        beyond_history: of the epoch's primary, by (domain, server).
        cluster: for the manifest.
        instance: for the manifest.
        at: for the manifest.
        tool: the server's mariadb-binlog.
        limit_bytes: of raw events; the volume has to take the text, too, which is several times as long.
        deadline_seconds: for each piece of the log, and for the tool.

    Raises:
        NothingErrant: the log holds nothing beyond that history.
        ArchiveDiffers: the folder holds other transactions, or is damaged.
        Purged: errant transactions may have been purged from the log already: it does not reach back far enough.
        TailTooLong, ToolFailed, ToolStopped, and what reading the log raises.
    """
    partial = folder.with_name(folder.name + ".partial")
    try:
        await asyncio.to_thread(_empty, partial)
        tail = Tail(lambda: beyond(index, beyond_history), Position())
        summary = await receive(
            in_thread(iter(tail), deadline_seconds=deadline_seconds),
            partial / RAW,
            expected=lambda: tail.summary,
            limit_bytes=limit_bytes,
            deadline_seconds=deadline_seconds,
        )
        if summary.count == 0:
            await asyncio.to_thread(shutil.rmtree, partial)
            raise NothingErrant(f"{index} holds nothing beyond {beyond_history}")
        _, gtids = await asyncio.to_thread(transactions_in, partial / RAW)
        known = await asyncio.to_thread(_existing, folder)
        if known is not None:
            _same(known, gtids, folder)
            await asyncio.to_thread(shutil.rmtree, partial)
            return known
        await _readable(tool, partial / RAW, partial / READABLE, deadline_seconds)
        manifest = Manifest(
            cluster=cluster,
            instance=instance,
            at=at,
            history=beyond_history,
            gtids=gtids,
            raw=summary.digest,
            readable=await asyncio.to_thread(_digest, partial / READABLE),
        )
        await asyncio.to_thread(_finish, partial, folder, manifest)
    except OSError as error:
        raise LogUnreadable(f"{folder}: {error}") from error
    return manifest


def read(folder: Path) -> Manifest:
    """An archive's manifest, with its files compared to it. Raises ArchiveDiffers when they are not what it says."""
    manifest = Manifest.parse((folder / MANIFEST).read_text())
    for name, digest in ((RAW, manifest.raw), (READABLE, manifest.readable)):
        if _digest(folder / name) != digest:
            raise ArchiveDiffers(f"{folder / name} is not what its manifest says")
    return manifest


def _empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)  # an attempt that came to no end
    folder.mkdir()


def _existing(folder: Path) -> Manifest | None:
    return read(folder) if folder.exists() else None


def _same(known: Manifest, gtids: tuple[Gtid, ...], folder: Path) -> None:
    if known.gtids != gtids:
        raise ArchiveDiffers(f"{folder} holds {len(known.gtids)} transactions, not these {len(gtids)}")


async def _readable(tool: Tool, raw: Path, text: Path, deadline_seconds: float) -> None:
    with await asyncio.to_thread(text.open, "wb") as file:
        await tool.run(
            "--base64-output=decode-rows", "-vv", str(raw), stdout=file, deadline_seconds=deadline_seconds
        )
        await asyncio.to_thread(os.fsync, file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finish(partial: Path, folder: Path, manifest: Manifest) -> None:
    with (partial / MANIFEST).open("w") as file:
        file.write(manifest.text())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(partial)
    put_in_place(partial, folder)

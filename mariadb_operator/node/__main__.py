"""`python -m mariadb_operator.node`: the sidecar next to one mariadbd, until SIGTERM.

Environment: SERVER_ID, and where it differs from a Pod of ours NODE_ADDRESS, NODE_PORT, GATE_DIR, VOLUME_DIR, RUN_DIR,
SECRETS_DIR, SSH_DIR (`host-key` and `authorized-keys`). It has to be the server's user, in its process namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mariadb_operator.node.admission import Admission
from mariadb_operator.node.gate import Gate
from mariadb_operator.node.keys import Keys, KeysUnusable
from mariadb_operator.node.observer import Observer
from mariadb_operator.node.probes import Limits as SpaceLimits
from mariadb_operator.node.probes import Pace
from mariadb_operator.node.protocol import PORT
from mariadb_operator.node.salvaging import Salvaging
from mariadb_operator.node.server import Limits, Server
from mariadb_operator.node.verbs import Verbs
from mariadb_operator.node.volume import Ledger, Volume
from mariadb_operator.node.wire import Malformed
from mariadb_operator.runtime.clock import SystemClock
from mariadb_operator.sql.connection import LocalEndpoint

logger = logging.getLogger("mariadb_operator.node")

ACCOUNT = "mariadb_node"
_ARENA_MAX = -8  # M_ARENA_MAX of mallopt(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """From the environment."""

    server_id: int
    address: str
    port: int
    gate: Path
    volume: Path
    run: Path
    secrets: Path
    ssh: Path

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Raises KeyError, ValueError."""
        return cls(
            server_id=int(environment["SERVER_ID"]),
            address=environment.get("NODE_ADDRESS", ""),
            port=int(environment.get("NODE_PORT", PORT)),
            gate=Path(environment.get("GATE_DIR", "/run/mariadb-gate")),
            volume=Path(environment.get("VOLUME_DIR", "/var/lib/mysql")),
            run=Path(environment.get("RUN_DIR", "/run/mysqld")),
            secrets=Path(environment.get("SECRETS_DIR", "/etc/mariadb-operator/secrets")),
            ssh=Path(environment.get("SSH_DIR", "/etc/mariadb-operator/ssh")),
        )


class JsonLines(logging.Formatter):
    """The operator's form of log lines, without its library."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


async def serve(settings: Settings) -> None:
    """Run for ever. Raises KeysUnusable, OSError."""
    volume = Volume(settings.volume)
    try:
        observer, server, salvaging = build(settings, volume)
        listener = server.listen(address=settings.address, port=settings.port)
        logger.info("serving on port %d", settings.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(observer.run())
            group.create_task(salvaging.run())
            group.create_task(server.run(listener))
    finally:
        volume.close()


def build(settings: Settings, volume: Volume) -> tuple[Observer, Server, Salvaging]:
    """What watches, what answers, and what brings transactions over. Raises KeysUnusable."""
    clock = SystemClock()
    admission, readable = _admission(volume)
    gate = Gate(settings.gate)

    def endpoint() -> LocalEndpoint:
        # Read for each connection: the supervisor takes a new password over when it starts the server.
        password, _, _ = (settings.secrets / "probe-password").read_text().partition("\n")
        socket_file = settings.run / "mysqld.sock"
        return LocalEndpoint(
            socket=socket_file, user=ACCOUNT, password=password, server_id=settings.server_id
        )

    observer = Observer(
        gate=gate,
        data=volume.data,
        endpoint=endpoint,
        hold=lambda: admission.ledger.fenced,
        clock=clock,
        pace=Pace(),
        limits=SpaceLimits(),
    )
    salvaging = Salvaging(volume, changed=observer.notify)
    verbs = Verbs(
        observer=observer,
        salvaging=salvaging,
        gate=gate,
        volume=volume,
        admission=admission,
        readable=readable,
        clock=clock,
        sidecar=secrets.token_hex(8),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    )
    keys = Keys(host_key=settings.ssh / "host-key", authorized_keys=settings.ssh / "authorized-keys")
    return observer, Server(verbs=verbs, keys=keys, limits=Limits(), clock=clock), salvaging


def _admission(volume: Volume) -> tuple[Admission, bool]:
    try:
        return Admission(volume.read_ledger()), True
    except Malformed:
        logger.exception("the record on the volume can't be used: nothing but a fence will be done")
        return Admission(Ledger()), False


async def until_terminated(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    task = asyncio.create_task(serve(settings), name="sidecar")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _be_small() -> None:
    """Give back what the imports used in passing: a fifth of all memory. Only glibc can."""
    library = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        library.mallopt(_ARENA_MAX, 1)
        gc.collect()
        gc.freeze()
        library.malloc_trim(0)


def main() -> int:
    """The exit status."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # It tells each channel; we tell what was asked.
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    _be_small()
    # asyncssh looks for a home even to read nothing from it, and a user without an account has none.
    os.environ.setdefault("HOME", "/nonexistent")
    try:
        settings = Settings.read(os.environ)
        asyncio.run(until_terminated(settings))
    except (KeyError, ValueError, KeysUnusable) as error:
        logger.error("a setting can't be used: %s: %s", type(error).__name__, error)  # noqa: TRY400 - for a person
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

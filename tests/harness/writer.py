"""The client of every end-to-end test, bench and demo: four writers that remember what they were told.

Runs as a program of its own, so that nothing in the test's process disturbs the clock, and needs only PyMySQL, so that
it runs from a ConfigMap in a Pod of the operator's image too:

    python writer.py --secret FOLDER --host ADDRESS --run NAME [--seconds 60] [--writers 4]

FOLDER holds the files of the Secret `<name>-app` (port, database, username, password, ca.crt). Each writer connects by
TLS, inserts (writer, n) for n = 1, 2, 3... with autocommit, and knows of each n whether it was acknowledged, refused
(the server said that it did not happen) or unknown (the reply was lost; never repeated, the next n follows).
The table has no unique key on (writer, n), so that a doubled row shows. It ends at SIGTERM or after --seconds; stdout
carries one JSON object a line: `progress` five times a second, at last `result`. Not for judging: verify.py does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import ssl
import sys
import threading
import time
from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pymysql

CONNECT_SECONDS = 0.25
READ_SECONDS = 1.0
RECONNECT_SECONDS = 0.005
PROGRESS_SECONDS = 0.2
NOTABLE_GAP_SECONDS = 0.05

# The server's word that nothing was written: read-only, and errors of rights or of the table. Anything else that
# comes after the statement was sent is unknown.
REFUSALS = frozenset({1044, 1046, 1049, 1142, 1146, 1290, 1836})


class PlaintextError(Exception):
    """The connection is not encrypted."""


class Target:
    """Where and as whom to write."""

    def __init__(self, *, secret: Path, host: str, run: str) -> None:
        self.host = host
        self.table = f"writes_{run}"
        values = {name: (secret / name).read_text() for name in ("port", "database", "username", "password")}
        self.port = int(values["port"])
        self.database = values["database"]
        self.username = values["username"]
        self.password = values["password"]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False  # the address is a ClusterIP
        self.context.load_verify_locations(cafile=str(secret / "ca.crt"))

    def connect(self) -> pymysql.Connection[Any]:
        """A connection that is encrypted for sure: PyMySQL goes on in plaintext where a server offers no TLS."""
        connection = pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.username,
            password=self.password,
            database=self.database,
            autocommit=True,
            ssl=self.context,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            write_timeout=READ_SECONDS,
            program_name="harness-writer",
        )
        if not isinstance(connection._sock, ssl.SSLSocket):  # type: ignore[attr-defined]
            connection.close()
            raise PlaintextError(f"{self.host}:{self.port} is not encrypted")
        return connection


class Writer(threading.Thread):
    """One of the writers. All times are of the monotonic clock, in seconds."""

    def __init__(self, number: int, target: Target, stopped: threading.Event, pause: float) -> None:
        # A daemon: when whoever reads the results is gone, main ends by its broken pipe and takes the writers along.
        super().__init__(name=f"writer-{number}", daemon=True)
        self.number = number
        self.acknowledged = array("d")  # when each acknowledgement came
        self.last = 0  # the highest n that was sent
        self.unknown: list[int] = []
        self.refused: list[int] = []
        self.connections = 0
        self.errors: dict[str, int] = {}
        self.failure: Exception | None = None
        self._target = target
        self._stopped = stopped
        self._pause = pause

    def run(self) -> None:
        """Connects and writes until told to stop."""
        try:
            while not self._stopped.is_set():
                try:
                    connection = self._target.connect()
                except (pymysql.err.MySQLError, OSError) as error:
                    self._note(error)
                    self._stopped.wait(RECONNECT_SECONDS)
                    continue
                self.connections += 1
                self._write(connection)
                self._stopped.wait(RECONNECT_SECONDS)
        except Exception as error:  # noqa: BLE001  # a thread's end must be seen by main
            self.failure = error
            self._stopped.set()

    def _write(self, connection: pymysql.Connection[Any]) -> None:
        """Writes until an error; the connection is closed then."""
        statement = f"INSERT INTO {self._target.table} (writer, n) VALUES ({self.number}, %d)"
        n = self.last
        try:
            while not self._stopped.is_set():
                n = self.last = self.last + 1
                connection.query(statement % n)
                self.acknowledged.append(time.monotonic())
                if self._pause:
                    self._stopped.wait(self._pause)
        except (pymysql.err.MySQLError, OSError) as error:
            self._note(error)
            (self.refused if error_code(error) in REFUSALS else self.unknown).append(n)
        finally:
            with contextlib.suppress(OSError):
                connection._force_close()  # type: ignore[attr-defined]  # close() would write to a dead peer

    def _note(self, error: BaseException) -> None:
        kind = f"{type(error).__name__} {error_code(error) or ''}".strip()
        self.errors[kind] = self.errors.get(kind, 0) + 1


def error_code(error: BaseException) -> int | None:
    """The number of a server's or the library's error."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else None


def create_table(target: Target, stopped: threading.Event) -> None:
    """Makes the table, however long the server needs to take it."""
    statement = (
        f"CREATE TABLE IF NOT EXISTS {target.table} (id BIGINT AUTO_INCREMENT PRIMARY KEY,"
        " writer INT NOT NULL, n BIGINT NOT NULL, at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))"
        " ENGINE = InnoDB"
    )
    while not stopped.is_set():
        try:
            connection = target.connect()
            try:
                connection.query(statement)
                return
            finally:
                connection._force_close()  # type: ignore[attr-defined]
        except (pymysql.err.MySQLError, OSError) as error:
            say({"waiting": str(error)[:200]})
            stopped.wait(0.2)


def longest(times: Sequence[float]) -> float:
    """The longest pause between acknowledgements."""
    return max((after - before for before, after in pairwise(times)), default=0.0)


def gaps(times: list[float], *, offset: float) -> list[dict[str, float]]:
    """The notable pauses between acknowledgements, longest first; `offset` makes wall-clock times of them."""
    found = [
        {"from": before + offset, "seconds": after - before}
        for before, after in pairwise(times)
        if after - before >= NOTABLE_GAP_SECONDS
    ]
    return sorted(found, key=lambda gap: -gap["seconds"])[:20]


def result(writers: list[Writer]) -> dict[str, Any]:
    """Everything that is known when all writers have ended."""
    times = sorted(at for writer in writers for at in writer.acknowledged)
    seconds = times[-1] - times[0] if len(times) > 1 else 0.0
    wall = time.time() - time.monotonic()
    return {
        "writers": [
            {
                "writer": each.number,
                "last": each.last,
                "acknowledged": len(each.acknowledged),
                "unknown": each.unknown,
                "refused": each.refused,
                "connections": each.connections,
                "errors": each.errors,
            }
            for each in writers
        ],
        "acknowledged": len(times),
        "seconds": seconds,
        "rate": len(times) / seconds if seconds else 0.0,
        "outage": longest(times),
        "outage_of_one": max((longest(each.acknowledged) for each in writers), default=0.0),
        "silent_at_end": time.monotonic() - times[-1] if times else None,
        "gaps": gaps(times, offset=wall),
        "first_at": times[0] + wall if times else None,
        "last_at": times[-1] + wall if times else None,
        "cpu_seconds": time.process_time(),
    }


def say(message: dict[str, Any]) -> None:
    """One JSON object a line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def progress(writers: list[Writer]) -> dict[str, Any]:
    """How it stands now, cheaply."""
    newest = max((each.acknowledged[-1] for each in writers if each.acknowledged), default=None)
    return {
        "acknowledged": sum(len(each.acknowledged) for each in writers),
        "unknown": sum(len(each.unknown) for each in writers),
        "refused": sum(len(each.refused) for each in writers),
        "silent": None if newest is None else round(time.monotonic() - newest, 3),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--secret", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.0, help="0: until SIGTERM")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between a writer's rows")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    target = Target(secret=options.secret, host=options.host, run=options.run)
    create_table(target, stopped)
    writers = [Writer(number, target, stopped, options.pause) for number in range(1, options.writers + 1)]
    started = time.monotonic()
    for writer in writers:
        writer.start()
    while not stopped.wait(PROGRESS_SECONDS):
        say({"progress": progress(writers)})
        if options.seconds and time.monotonic() - started >= options.seconds:
            stopped.set()
    for writer in writers:
        writer.join()
    say({"result": result(writers)})
    failures = [str(writer.failure) for writer in writers if writer.failure is not None]
    if failures:
        sys.stderr.write("; ".join(failures) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Real servers for tests: mariadbd under the real supervisor, as processes of this machine, each on an address of
its own in 127.0.0.0/8. Not for tests that need a kernel boundary between servers: those are end-to-end tests."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mariadb_operator.resources.configuration import ServerPaths, admin_port, server_configuration
from mariadb_operator.resources.names import replication_account, server_id
from mariadb_operator.sql import accounts, durability, observe, replication, roles, terms
from mariadb_operator.sql.connection import Connection, Endpoint, tls_context
from mariadb_operator.sql.errors import ConnectRefused, Unreachable
from mariadb_operator.sql.replication import Source
from mariadb_operator.sql.terms import Guard
from statemachines.facts import ServerFact
from tests.integration.certificates import Authority

SUPERVISOR = Path(__file__).parents[2] / "mariadb_operator/node/supervisor.sh"
PORT = 33306
ADMIN_PORT = admin_port(PORT)
DEADLINE = 20.0
GUARD = Guard(term=1, leader="first")
OPERATOR = "mariadb_operator"
PROBE = "mariadb_probe"
PASSWORDS = {
    OPERATOR: 'operator\'s \\ "password"',
    PROBE: "probe'\\\"s",
    "root": "ro\\tot's \\n\\c",
    "app": "app-password",
    **{replication_account(ordinal): f"replication-{ordinal}" for ordinal in range(9)},
}
# Small files, so that a volume is made and copied fast; durability stays as it is in production.
SMALL = "[mariadbd]\ninnodb-log-file-size=8M\ninnodb-buffer-pool-size=32M\ninnodb-data-file-path=ibdata1:4M:autoextend\n"


async def eventually(what: str, condition: Callable[[], object], *, seconds: float = DEADLINE) -> None:
    """Wait for what has no event to wait for; fails with `what`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.01)


@dataclass
class Server:
    """One instance: a supervisor and its mariadbd."""

    folder: Path
    ordinal: int
    address: str
    authority: Authority
    user_configuration: str = SMALL
    shutdown_seconds: int = 20
    gated: bool = False  # starts only when a sidecar permits it
    uid: int | None = None  # of the processes; None: the one who runs the tests
    path: str = field(default_factory=lambda: os.environ.get("MARIADB_PATH", os.environ["PATH"]), repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        return self.folder / "volume/data"

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    @property
    def termination_log(self) -> Path:
        return self.folder / "termination-log"

    @property
    def ca(self) -> str:
        return f"{self.folder}/tls/ca.crt"

    def prepare(self) -> None:
        """What Kubernetes mounts into the container."""
        for name in ("config", "secrets", "tls", "volume", "run", "tmp", "gate"):
            (self.folder / name).mkdir(exist_ok=True)
        paths = ServerPaths(data=str(self.data), run=str(self.run), tls=f"{self.folder}/tls")
        (self.folder / "config/my.cnf").write_text(
            server_configuration(
                port=PORT, user_text=self.user_configuration, paths=paths, bind_address=self.address
            )
        )
        for key, account in (("operator", OPERATOR), ("probe", PROBE), ("root", "root")):
            (self.folder / f"secrets/{key}-password").write_text(PASSWORDS[account])
        self.authority.write_server_files(self.folder / "tls", address=self.address)
        self._give()

    def _give(self) -> None:
        if self.uid is not None:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, self.uid, self.uid)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": self.path,
            # As in a Pod, its own: a server deletes others' temporary tables when it starts.
            "TMPDIR": f"{self.folder}/tmp",
            "CONFIG_DIR": f"{self.folder}/config",
            "SECRETS_DIR": f"{self.folder}/secrets",
            "VOLUME_DIR": str(self.volume),
            "RUN_DIR": str(self.run),
            "TERMINATION_LOG": str(self.termination_log),
            "SERVER_ID": str(server_id(self.ordinal)),
            "POD_IP": self.address,
            "MARIADB_SHUTDOWN_SECONDS": str(self.shutdown_seconds),
            **({"GATE_DIR": str(self.gate)} if self.gated else {}),
        }

    def start(self) -> None:
        """Start the supervisor."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _command(self, *arguments: str) -> list[str]:
        script = ["/bin/sh", str(SUPERVISOR), *arguments]
        if self.uid is None:
            return script
        # Into another image's files, or just to another user.
        root = os.environ.get("MARIADB_ROOT", "/")
        return ["/usr/sbin/chroot", f"--userspec={self.uid}:{self.uid}", "--groups=", root, *script]

    def supervisor(self, argument: str) -> subprocess.CompletedProcess[str]:
        """What the kubelet's probes run."""
        return subprocess.run(
            self._command(argument),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def pid(self) -> int | None:
        """Of the mariadbd that runs, if one does."""
        for path in self.run.glob("*.pid"):
            try:
                pid = int(path.read_text())
                os.kill(pid, 0)
            except (OSError, ValueError):
                continue
            return pid
        return None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to mariadbd."""
        pid = self.pid()
        assert pid is not None, f"mariadbd of {self.folder} does not run"
        os.kill(pid, number)

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def kill_and_hold(self) -> None:
        """kill -9 of mariadbd with a supervisor that can't start it again (until `release`)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        pid = self.pid()
        self.signal(signal.SIGKILL)
        assert pid is not None
        stat = Path(f"/proc/{pid}/stat")
        # A zombie: its parent is stopped and can't bury it.
        await eventually("mariadbd is dead", lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")

    def release(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def terminate(self) -> int:
        """TERM to the supervisor, as the kubelet does; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        await eventually(
            "the supervisor exits", lambda: self.process is not None and self.process.poll() is not None
        )
        return self.process.returncode

    def destroy(self) -> None:
        """End every process of it and take the folder away."""
        process = self.process
        if process is not None:
            process.kill()  # first: it would start mariadbd again
            process.wait()
            for pid in processes_naming(str(self.folder)):
                with suppress(ProcessLookupError):  # a client that ended meanwhile
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def endpoint(self, user: str = OPERATOR, *, authority: Authority | None = None) -> Endpoint:
        return Endpoint(
            host=self.address,
            port=PORT if user == "app" else ADMIN_PORT,
            user=user,
            password=PASSWORDS[user],
            tls=tls_context((authority or self.authority).text),
            server_id=server_id(self.ordinal),
        )

    async def connect(self, user: str = OPERATOR, *, statement_seconds: float = 5.0) -> Connection:
        return await Connection.open(
            self.endpoint(user), deadline_seconds=DEADLINE, statement_seconds=statement_seconds
        )

    async def answering(self, user: str = OPERATOR) -> Connection:
        """Connect as soon as it answers."""
        end = time.monotonic() + 3 * DEADLINE
        while True:
            try:
                return await self.connect(user)
            except (ConnectRefused, Unreachable):
                assert self.process is not None
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < end, self.log()
                await asyncio.sleep(0.05)

    async def look(self) -> ServerFact:
        async with await self.connect(PROBE) as connection:
            return await observe.observe(connection, asked_at=0.0, pod_uid="", deadline_seconds=DEADLINE)

    async def seen(self, condition: Callable[[ServerFact], object]) -> ServerFact:
        """Look until the condition holds; what was seen then."""
        end = time.monotonic() + DEADLINE
        while True:
            fact = await self.look()
            if condition(fact):
                return fact
            assert time.monotonic() < end, fact
            await asyncio.sleep(0.02)

    def source_for(self, replica: Server) -> Source:
        """This server as the source of another."""
        account = replication_account(replica.ordinal)
        return Source(
            host=self.address, port=ADMIN_PORT, user=account, password=PASSWORDS[account], ca=replica.ca
        )


async def supervisor_looked(server: Server, pipe: str = "permitted") -> None:
    """Return when a gated supervisor has looked at its files anew, and waits again.

    Twice: the byte that is read may end a look that had begun before.
    """
    descriptor = os.open(server.gate / pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        for _ in range(2):
            os.write(descriptor, b"\n")
            await eventually(f"the supervisor waits at {pipe}", lambda: not _unread(descriptor))
    finally:
        os.close(descriptor)


def _unread(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def root(server: Server, sql: str) -> str:
    """Run SQL as root through the socket, the only way root has."""
    return subprocess.run(
        [
            "mariadb",
            "-uroot",
            f"--socket={server.run}/mysqld.sock",
            "--skip-column-names",
            "--raw",
            "-e",
            sql,
        ],
        env={**os.environ, "MYSQL_PWD": PASSWORDS["root"]},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    ).stdout.strip()


def processes_naming(text: str) -> list[int]:
    """Processes of this machine that have this text among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


class Servers:
    """Makes servers from a volume that was installed once, and ends them."""

    def __init__(self, authority: Authority, template: Path, uid: int | None) -> None:
        self.authority = authority
        self.template = template
        self.uid = uid
        self.made: list[Server] = []
        self._net = f"127.{secrets.randbelow(250) + 1}.{secrets.randbelow(255)}"

    def make(self, ordinal: int, *, empty: bool = False, **options: object) -> Server:
        """A server that is not started yet."""
        folder = Path(tempfile.mkdtemp(prefix=f"mariadb-{ordinal}-"))
        server = Server(folder, ordinal, f"{self._net}.{ordinal + 1}", self.authority, uid=self.uid)
        for name, value in options.items():
            setattr(server, name, value)
        server.prepare()
        if not empty:
            subprocess.run(["cp", "-a", self.template, server.data], check=True)
        self.made.append(server)
        return server

    def destroy(self) -> None:
        for server in self.made:
            server.destroy()


@dataclass
class Cluster:
    """A primary (the first) and its replicas, as the operator makes them."""

    servers: list[Server]

    @property
    def primary(self) -> Server:
        return self.servers[0]

    @property
    def replicas(self) -> list[Server]:
        return self.servers[1:]

    @classmethod
    async def make(
        cls,
        servers: Servers,
        *,
        instances: int = 3,
        admit: Callable[[Server], Awaitable[object]] | None = None,
    ) -> Cluster:
        """`admit`: lets a server start that waits at its gate; without it there is no gate."""
        made = [servers.make(ordinal, gated=admit is not None) for ordinal in range(instances)]
        for server in made:
            server.start()
        for server in made:
            if admit is not None:
                await admit(server)
            async with await server.answering() as connection:
                await terms.raise_term(connection, guard=GUARD)
        cluster = cls(made)
        async with await made[0].connect() as connection:
            await accounts.initialise_primary(
                connection,
                replication={
                    name: accounts.native_password_hash(PASSWORDS[name])
                    for name in map(replication_account, range(9))
                },
                application=accounts.Application(
                    database="shop",
                    username="app",
                    password_hash=accounts.native_password_hash(PASSWORDS["app"]),
                ),
                guard=GUARD,
            )
        for replica in cluster.replicas:
            await attach(replica, made[0])
        async with await made[0].connect() as connection:
            await roles.open_primary(connection, semi_sync=instances > 1, guard=GUARD)
            await roles.write_epoch(
                connection, epoch=1, cluster_id="c", primary="demo-0", guard=GUARD, deadline_seconds=DEADLINE
            )
        async with await made[0].connect("app") as connection:
            await connection.execute(
                "CREATE TABLE shop.orders (n INT, writer INT NOT NULL DEFAULT 0)", deadline_seconds=DEADLINE
            )
        await cluster.in_step()
        return cluster

    def others(self, *apart_from: Server) -> list[Server]:
        return [server for server in self.servers if server not in apart_from]

    async def in_step(self) -> None:
        """Wait until every replica applied what the primary wrote."""
        position = (await self.primary.look()).executed
        for replica in self.replicas:
            async with await replica.connect() as connection:
                assert await replication.drain(connection, position=position, timeout_seconds=DEADLINE)


async def attach(replica: Server, source: Server, *, guard: Guard = GUARD) -> None:
    position = (await source.look()).executed
    async with await replica.connect() as connection:
        await replication.attach(
            connection, source=source.source_for(replica), source_position=position, guard=guard
        )


async def keep_out(primary: Server, ordinal: int, *, guard: Guard = GUARD) -> None:
    """Lock a replica's account on the primary and end its connection."""
    account = replication_account(ordinal)
    async with await primary.connect() as connection:
        await durability.lock_account(connection, account=account, guard=guard)
        await durability.kill_dump_threads(connection, account=account, guard=guard)


async def rows(server: Server) -> list[int]:
    """What the application's table holds."""
    async with await server.connect("app") as connection:
        answer = await connection.query("SELECT n FROM shop.orders ORDER BY n", deadline_seconds=DEADLINE)
    return [row["n"] for row in answer]


async def insert(connection: Connection, n: int, *, deadline_seconds: float = DEADLINE) -> None:
    await connection.execute(
        "INSERT INTO shop.orders (n) VALUES (%s)", (n,), deadline_seconds=deadline_seconds
    )


@asynccontextmanager
async def blocked_commit(primary: Server, n: int) -> AsyncIterator[asyncio.Task[None]]:
    """A client's commit that waits for an acknowledgement; its statement has no limit of its own."""
    connection = await primary.connect("app", statement_seconds=0)
    task = asyncio.create_task(insert(connection, n, deadline_seconds=6 * DEADLINE))
    try:
        await primary.seen(lambda fact: task.done() or fact.semi_sync.waiting_sessions)
        assert not task.done(), "the commit was acknowledged"
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        connection.close()

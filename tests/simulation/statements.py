"""The SQL that the operator sends, run on a simulated server: statement by statement, in its own words.

A statement that is not known here ends the run: the model has to learn it. Between two statements of one text the
server may die. Not for the wire (wires.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from statemachines.facts import IoThread
from tests.simulation.mariadb import KILLED, Server, SqlError
from tests.simulation.volumes import Kind, Source, history_text, parse, text_of

Row = dict[str, Any]
Wait = Callable[[], bool] | float
Steps = Generator[Wait, None, None]
Step = Callable[["Execution"], "Steps | None"]

INTERRUPTED = 1969
NOT_DOING_IT = 1198
NO_SUCH_THREAD = 1094
PAUSE_ODDS, LONGEST_PAUSE = 0.02, 0.02  # between two statements of one text


class UnknownStatement(AssertionError):
    """The model does not know what the operator says."""


@dataclass(slots=True, eq=False)
class Session:
    """One connection as the server sees it."""

    identity: int
    user: str
    server: Server
    gone: Callable[[], None]  # tells the client that the connection is broken
    limit: float = 5.0  # max_statement_time
    running: Execution | None = None
    closed: bool = False  # the client's end
    logged: bool = True

    def server_gone(self) -> None:
        self.gone()

    def leave(self) -> None:
        """The client has closed its end: what runs goes on."""
        self.closed = True
        if self.running is None:
            self.server.sessions.pop(self.identity, None)

    def kill(self) -> None:
        """KILL CONNECTION."""
        self.server.sessions.pop(self.identity, None)
        if self.running is not None:
            self.running.throw(SqlError(KILLED, "killed"))
        self.gone()

    @property
    def waits_for_acknowledgement(self) -> bool:
        return any(each.session is self for each in self.server.waiting)


class Execution:
    """One text on its way through the server."""

    __slots__ = ("_generator", "_until", "done", "reply", "results", "server", "session")

    def __init__(
        self, session: Session, text: str, reply: Callable[[list[list[Row]] | SqlError], None]
    ) -> None:
        self.session = session
        self.server = session.server
        self.reply = reply
        self.results: list[list[Row]] = []
        self.done = False
        self._until: Callable[[], bool] | None = None
        session.running = self
        self._generator = run(compiled(text), self)
        self._advance()
        if not self.done and session.limit > 0:
            self.server.later(session.limit, self.throw, SqlError(INTERRUPTED, "max_statement_time"))

    def look(self) -> None:
        """Go on if what it waits for holds."""
        if self._until is not None and self._until():
            self._advance()

    def throw(self, error: SqlError) -> None:
        """Something ends it from outside."""
        if not self.done:
            self._advance(error)

    def _advance(self, error: SqlError | None = None) -> None:
        self._until = None
        pending = self.server.pending
        if self in pending:
            pending.remove(self)
        try:
            wait = next(self._generator) if error is None else self._generator.throw(error)
            while not isinstance(wait, float) and wait():
                wait = next(self._generator)
        except StopIteration:
            self._end(self.results)
        except SqlError as failed:
            self._end(failed)
        else:
            if isinstance(wait, float):
                self.server.later(wait, self._resume)
            else:
                self._until = wait
                pending.append(self)

    def _resume(self) -> None:
        if not self.done and self._until is None:
            self._advance()

    def _end(self, result: list[list[Row]] | SqlError) -> None:
        self.done = True
        session = self.session
        session.running = None
        if session.closed:
            self.server.sessions.pop(session.identity, None)
        self.reply(result)


def run(steps: tuple[Step, ...], x: Execution) -> Steps:
    rng = x.server.world.rng
    for step in steps:
        waits = step(x)
        if waits is not None:
            yield from waits
        if len(steps) > 1 and rng.random() < PAUSE_ODDS:
            yield rng.uniform(0.0, LONGEST_PAUSE)


# --- compiling ------------------------------------------------------------------------------------------------------

_TOKENS = re.compile(
    r"\s*(?:(?P<begin>BEGIN NOT ATOMIC\b)|(?P<handler>DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN\b)"
    r"|IF (?P<condition>.*?) THEN\b|(?P<endif>END IF;)|(?P<end>END\b;?)|(?P<statement>[^;]+);?)",
    re.DOTALL,
)


@dataclass(slots=True)
class _Block:
    kind: str
    condition: str = ""
    steps: list[Step] = field(default_factory=list)
    handler: tuple[Step, ...] = ()


@lru_cache(maxsize=4096)
def compiled(text: str) -> tuple[Step, ...]:
    """A text as the steps that it takes."""
    stack = [_Block("text")]
    at = 0
    text = text.strip()
    while at < len(text):
        token = _TOKENS.match(text, at)
        assert token is not None, text[at:]
        at = token.end()
        if token["begin"]:
            stack.append(_Block("begin"))
        elif token["handler"]:
            stack.append(_Block("handler"))
        elif token["condition"]:
            stack.append(_Block("if", token["condition"]))
        elif token["endif"] or token["end"]:
            _close(stack)
        else:
            stack[-1].steps.append(_statement(token["statement"].strip()))
    assert len(stack) == 1, f"unbalanced: {text}"
    return tuple(stack[0].steps)


def _close(stack: list[_Block]) -> None:
    block = stack.pop()
    steps = tuple(block.steps)
    if block.kind == "handler":
        stack[-1].handler = steps
    elif block.kind == "if":
        stack[-1].steps.append(partial(_if, _condition(block.condition), steps))
    else:
        stack[-1].steps.append(partial(_block, steps, block.handler))


def _block(steps: tuple[Step, ...], handler: tuple[Step, ...], x: Execution) -> Steps:
    try:
        yield from run(steps, x)
    except SqlError:
        if not handler:
            raise
        yield from run(handler, x)
        raise  # every handler of ours ends with RESIGNAL


def _if(condition: Callable[[Execution], bool], steps: tuple[Step, ...], x: Execution) -> Steps | None:
    return run(steps, x) if condition(x) else None


def _find(table: dict[str, Any], text: str) -> Any:
    flat = " ".join(text.split())
    for pattern, make in table.items():
        found = re.fullmatch(pattern, flat)
        if found is not None:
            return make(found)
    raise UnknownStatement(flat)


def _statement(text: str) -> Step:
    found: Step = _find(STATEMENTS, text)
    return found


def _condition(text: str) -> Callable[[Execution], bool]:
    found: Callable[[Execution], bool] = _find(CONDITIONS, text)
    return found


CONDITIONS: dict[str, Any] = {
    r"EXISTS \(SELECT 1 FROM mariadb_operator\.term WHERE term > (\d+)\)": lambda m: (
        lambda x, term=int(m[1]): x.server.volume.term > term
    ),
    r"NOT EXISTS \(SELECT 1 FROM mariadb_operator\.term WHERE term = (\d+) AND leader = '(.*)'\)": lambda m: (
        lambda x, term=int(m[1]), leader=m[2]: (
            (x.server.volume.term, x.server.volume.leader) != (term, leader)
        )
    ),
    r"NOT EXISTS \(SELECT 1 FROM information_schema\.PROCESSLIST WHERE COMMAND = 'Slave_SQL'\)": lambda m: (
        lambda x: not x.server.sql_running
    ),
    r"NOT EXISTS \(SELECT 1 FROM information_schema\.PROCESSLIST WHERE COMMAND = 'Slave_IO'\)": lambda m: (
        lambda x: not x.server.io_wanted
    ),
    r"EXISTS \(SELECT 1 FROM information_schema\.PROCESSLIST WHERE COMMAND IN \('Slave_IO', 'Slave_SQL'\)\)": lambda m: (
        lambda x: x.server.io_wanted or x.server.sql_running
    ),
    r"NOT @@global\.read_only": lambda m: lambda x: not x.server.read_only,
    r"@@global\.gtid_binlog_pos <> '(.*)'": lambda m: (
        lambda x, position=m[1]: x.server.volume.executed() != parse(position)
    ),
}


# --- what each statement does -----------------------------------------------------------------------------------------


def _nothing(x: Execution) -> None:
    return None


def _signal(errno: int, x: Execution) -> None:
    raise SqlError(errno, "signal")


def _session(limit: float | None, x: Execution) -> None:
    if limit is not None:
        x.session.limit = limit


def _logged(logged: bool, x: Execution) -> None:
    x.session.logged = logged


def _read_only(value: bool, x: Execution) -> Steps | None:
    server = x.server
    if not value:
        server.read_only = False
        server.world.judge.opened(server)
        return None
    if server.read_only:
        return None
    return _close_writes(server)


def _close_writes(server: Server) -> Steps:
    yield lambda: not server.waiting  # it hangs while commits wait
    server.read_only = True


def _semi_sync(enabled: bool, x: Execution) -> None:
    x.server.set_semi_sync(enabled)


def _replica_semi_sync(enabled: bool, x: Execution) -> None:
    x.server.replica_semi_sync = enabled


def _stop_slave(io: bool, sql: bool, x: Execution) -> Steps | None:
    server = x.server
    if io and server.io_wanted and server.source_is_silent:
        return _stop_slowly(server, sql)
    if io and server.io_wanted:
        server.stop_io()
    if sql:
        server.stop_sql()
    return None


def _stop_slowly(server: Server, sql: bool) -> Steps:
    yield server.world.rng.uniform(1.0, 2.0)
    server.stop_io()
    if sql:
        server.stop_sql()


def _start_slave(io: bool, sql: bool, x: Execution) -> None:
    x.server.start_slave(io=io, sql=sql)


def _threads_stopped(server: Server) -> None:
    if server.io_wanted or server.sql_running:
        raise SqlError(NOT_DOING_IT, "the replica's threads run")


def _reset_slave(x: Execution) -> None:
    server = x.server
    _threads_stopped(server)
    if server.volume.relay:
        server.world.judge.wiped(server, list(server.volume.relay))
        server.volume.relay.clear()
    server.volume.source, server.received = None, None
    server.io_errno = server.sql_errno = 0


def _slave_position(text: str, x: Execution) -> None:
    _threads_stopped(x.server)
    x.server.volume.slave_position = parse(text)


def _change_master(source: Source, x: Execution) -> None:
    _threads_stopped(x.server)
    x.server.volume.source = source


def _lock(ordinal: int, locked: bool, x: Execution) -> None:
    if not x.server.volume.accounts:
        raise SqlError(1396, "no such account")
    (x.server.volume.locked.add if locked else x.server.volume.locked.discard)(ordinal)


def _kill_user(ordinal: int, x: Execution) -> None:
    stream = x.server.streams.get(ordinal)
    if stream is not None:
        x.server.drop_stream(stream)


def _kill(identity: int, x: Execution) -> None:
    victim = x.server.sessions.get(identity)
    if victim is None:
        raise SqlError(NO_SUCH_THREAD, "no such thread")
    victim.kill()


def _term(term: int, leader: str, x: Execution) -> None:
    volume = x.server.volume
    if volume.term < term:
        volume.leader = leader
    volume.term = max(volume.term, term)


def _write(x: Execution, kind: Kind, **more: Any) -> Steps:
    """A logged change of the operator's; privileged, so that read_only does not stop it."""
    outcome: list[SqlError | None] = []
    x.server.write(kind, outcome.append, privileged=True, session=x.session, **more)
    yield lambda: bool(outcome)
    if outcome[0] is not None:
        raise outcome[0]


def _create_user(x: Execution) -> Steps | None:
    return None if x.server.volume.accounts else _write(x, Kind.SETUP)


def _epoch(epoch: tuple[int, str, str], x: Execution) -> Steps | None:
    return None if epoch[0] in x.server.volume.epochs else _write(x, Kind.EPOCH, epoch=epoch)


def _touch(x: Execution) -> Steps | None:
    return _write(x, Kind.TOUCH) if x.server.volume.epochs else None


def _gtid_wait(text: str, seconds: float, x: Execution) -> Steps:
    server, target = x.server, parse(text)
    ended: list[bool] = []

    def end() -> None:
        ended.append(True)
        server.wake()

    server.later(seconds, end)

    def reached() -> bool:
        position = server.volume.slave_position
        return all(domain in position and position[domain][2] >= place[2] for domain, place in target.items())

    yield lambda: reached() or bool(ended)
    x.results.append([{"result": 0 if reached() else -1}])


def _show_replica(x: Execution) -> None:
    server, source = x.server, x.server.volume.source
    if source is None:
        x.results.append([])
        return
    x.results.append(
        [
            {
                "Connection_name": "",
                "Master_Host": source.host,
                "Master_Port": source.port,
                "Master_User": source.user,
                "Slave_IO_Running": {IoThread.RUNNING: "Yes", IoThread.STOPPED: "No"}.get(
                    server.io_thread, "Connecting"
                ),
                "Slave_SQL_Running": "Yes" if server.sql_running else "No",
                "Gtid_IO_Pos": text_of(server.received) if server.received is not None else "",
                "Last_IO_Errno": server.io_errno,
                "Last_IO_Error": "",
                "Last_SQL_Errno": server.sql_errno,
                "Last_SQL_Error": "",
                "Seconds_Behind_Master": 0,
            }
        ]
    )


def _positions(x: Execution) -> None:
    volume = x.server.volume
    x.results.append(
        [{"executed": text_of(volume.executed()), "slave_position": text_of(volume.slave_position)}]
    )


def _observe(x: Execution) -> None:
    server, volume = x.server, x.server.volume
    unseen = {each.transaction for each in server.waiting}  # logged, and not committed yet
    epochs = [number for number, transaction in volume.epochs.items() if transaction not in unseen]
    epoch = volume.epochs[max(epochs)].epoch if epochs else None
    x.results.append(
        [
            {
                "server_id": server.server_id,
                "pid_file": f"/run/{server.incarnation}.pid",
                "version": "11.8.3-MariaDB",
                "read_only": int(server.read_only),
                "history": history_text(volume.state),
                "executed": text_of(volume.executed()),
                "slave_position": text_of(volume.slave_position),
                "source_enabled": int(server.semi_sync),
                "replica_enabled": int(server.replica_semi_sync),
                "term": volume.term,
                "epoch": " ".join(map(str, epoch)) if epoch is not None else None,
                "locked": ",".join(f"repl_{each}" for each in sorted(volume.locked)) or None,
                "connected": ",".join(f"repl_{each}" for each in sorted(server.streams)) or None,
                "semi_sync": json.dumps(
                    {
                        "clients": server.clients,
                        "yes_tx": server.acknowledged_count,
                        "no_tx": server.unacknowledged_count,
                        "wait_sessions": len(server.waiting),
                    }
                ),
            }
        ]
    )


def _introduce(x: Execution) -> None:
    server = x.server
    x.results.append(
        [{"server_id": server.server_id, "pid_file": f"/run/{server.incarnation}.pid", "cipher": "TLS"}]
    )


def _locked_accounts(x: Execution) -> None:
    x.results.append([{"account": f"repl_{each}"} for each in sorted(x.server.volume.locked)])


def _sessions(user: str, x: Execution) -> None:
    x.results.append(
        [
            {"ID": each.identity, "USER": each.user, "waiting": each.waits_for_acknowledgement}
            for each in x.server.sessions.values()
            if each.user == user
        ]
    )


def _admins(x: Execution) -> None:
    x.results.append([])


def _change(m: re.Match[str]) -> Step:
    return partial(_change_master, Source(host=m[1], port=int(m[2]), user=m[3]))


STATEMENTS: dict[str, Callable[[re.Match[str]], Step]] = {
    r"SELECT @@global\.server_id AS server_id, @@global\.pid_file AS pid_file, @@global\.version .*": lambda m: (
        _observe
    ),
    r"SHOW ALL SLAVES STATUS": lambda m: _show_replica,
    r"SELECT @@global\.gtid_binlog_pos AS executed, @@global\.gtid_slave_pos AS slave_position": lambda m: (
        _positions
    ),
    r"SELECT @@global\.server_id AS server_id, @@global\.pid_file AS pid_file, \(SELECT .*cipher": lambda m: (
        _introduce
    ),
    r"SET SESSION autocommit = 1, .*max_statement_time = ([\d.]+).*": lambda m: partial(
        _session, float(m[1])
    ),
    r"SET SESSION max_statement_time = ([\d.]+)": lambda m: partial(_session, float(m[1])),
    r"SET SESSION sql_log_bin = (\d)": lambda m: partial(_logged, m[1] == "1"),
    r"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = (\d+), MESSAGE_TEXT = '.*'": lambda m: partial(
        _signal, int(m[1])
    ),
    r"SET GLOBAL read_only = (\d)": lambda m: partial(_read_only, m[1] == "1"),
    r"SET GLOBAL rpl_semi_sync_master_enabled = (ON|OFF)": lambda m: partial(_semi_sync, m[1] == "ON"),
    r"SET GLOBAL rpl_semi_sync_slave_enabled = (ON|OFF)": lambda m: partial(_replica_semi_sync, m[1] == "ON"),
    r"STOP SLAVE IO_THREAD": lambda m: partial(_stop_slave, True, False),
    r"STOP SLAVE": lambda m: partial(_stop_slave, True, True),
    r"START SLAVE IO_THREAD": lambda m: partial(_start_slave, True, False),
    r"START SLAVE SQL_THREAD": lambda m: partial(_start_slave, False, True),
    r"START SLAVE": lambda m: partial(_start_slave, True, True),
    r"RESET SLAVE ALL": lambda m: _reset_slave,
    r"SET GLOBAL gtid_slave_pos = '(.*)'": lambda m: partial(_slave_position, m[1]),
    r"CHANGE MASTER TO MASTER_HOST = '([^']*)', MASTER_PORT = (\d+), MASTER_USER = '([^']*)', .*": _change,
    r"ALTER USER repl_(\d)@'%' ACCOUNT (LOCK|UNLOCK)": lambda m: partial(_lock, int(m[1]), m[2] == "LOCK"),
    r"KILL CONNECTION USER repl_(\d)@'%'": lambda m: partial(_kill_user, int(m[1])),
    r"KILL CONNECTION (\d+)": lambda m: partial(_kill, int(m[1])),
    r"INSERT INTO mariadb_operator\.term \(id, term, leader\) VALUES \(1, (\d+), '([^']*)'\) .*": lambda m: (
        partial(_term, int(m[1]), m[2])
    ),
    r"INSERT IGNORE INTO mariadb_operator\.epoch .*VALUES \((\d+), '([^']*)', '([^']*)', .*": lambda m: (
        partial(_epoch, (int(m[1]), m[2], m[3]))
    ),
    r"UPDATE mariadb_operator\.epoch SET at = .*": lambda m: _touch,
    r"SET STATEMENT max_statement_time = 0 FOR SELECT MASTER_GTID_WAIT\('(.*)', ([\d.]+)\) AS result": lambda m: (
        partial(_gtid_wait, m[1], float(m[2]))
    ),
    r"SELECT account FROM mariadb_operator\.locked_accounts": lambda m: _locked_accounts,
    r"SELECT account FROM mariadb_operator\.read_only_admins .*": lambda m: _admins,
    r"SELECT ID, USER, STATE .* WHERE USER = '(.*)'": lambda m: partial(_sessions, m[1]),
    r"CREATE USER IF NOT EXISTS .*": lambda m: _create_user,
    r"GRANT REPLICATION SLAVE ON .*": lambda m: _nothing,
    r"RESIGNAL": lambda m: _nothing,
    r"SET ROLE .*": lambda m: _nothing,
    r"SET SESSION sql_log_off = .*": lambda m: _nothing,
    r"FLUSH LOCAL SSL": lambda m: _nothing,
}

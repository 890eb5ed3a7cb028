"""Statements as text and rows as facts; without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mariadb_operator.sql import durability, replication, roles, terms
from mariadb_operator.sql.accounts import check_name, initialise_primary, native_password_hash
from mariadb_operator.sql.errors import StaleTerm, StatementRefused, StateRefused, WrongState
from mariadb_operator.sql.replication import ReplicaState, Source, replication_fact
from mariadb_operator.sql.terms import Guard
from statemachines.facts import IoThread, ReplicationFact
from statemachines.gtid import Position

GUARD = Guard(term=7, leader="leader")
HASH = "*94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29"


class Recorder:
    """Stands for a Connection: records statements, fails with an error number if told."""

    def __init__(self, errno: int = 0) -> None:
        self.statements: list[str] = []
        self.errno = errno

    async def execute(self, sql: str, args: Sequence[object] = (), *, deadline_seconds: float) -> None:
        self.statements.append(sql % tuple(map(repr, args)) if args else sql)
        if self.errno:
            raise StatementRefused("the server's text", errno=self.errno)


def as_connection(recorder: Recorder) -> Any:
    return recorder


def test_a_password_hash_is_what_the_server_computes() -> None:
    assert native_password_hash("test") == HASH  # SELECT PASSWORD('test')
    assert native_password_hash("") == ""


@pytest.mark.parametrize("name", ["repl_0", "a", "A_1"])
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a'b", "a b", "a`", "a@b", "a;b", "é", "x" * 65])
def test_other_names_never_reach_a_statement(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain account name"):
        check_name(name)


async def test_a_guarded_statement_compares_terms_before_anything_else() -> None:
    recorder = Recorder()
    await durability.set_semi_sync(as_connection(recorder), enabled=False, guard=GUARD)
    [sql] = recorder.statements
    assert sql.startswith("BEGIN NOT ATOMIC")
    assert sql.index("term > 7") < sql.index("SIGNAL") < sql.index("rpl_semi_sync_master_enabled = OFF")
    assert sql.endswith("END")


async def test_nothing_is_logged_unless_asked_for() -> None:
    recorder = Recorder()
    await durability.lock_account(as_connection(recorder), account="repl_1", guard=GUARD)
    assert "sql_log_bin = 0" in recorder.statements[0]
    await roles.write_epoch(
        as_connection(recorder), epoch=2, cluster_id="c", primary="p", guard=GUARD, deadline_seconds=1
    )
    assert "sql_log_bin = 1" in recorder.statements[-1]


async def test_the_epochs_write_has_no_limit_that_would_count_as_acknowledged() -> None:
    recorder = Recorder()
    await roles.write_epoch(
        as_connection(recorder), epoch=2, cluster_id="c", primary="p", guard=GUARD, deadline_seconds=1
    )
    assert recorder.statements[0] == "SET SESSION max_statement_time = 0"


@pytest.mark.parametrize("reason", WrongState)
async def test_each_refusal_comes_back_as_itself(reason: WrongState) -> None:
    number = int(terms.refuse(reason).split("MYSQL_ERRNO = ")[1].split(",")[0])
    assert number < 2**15  # the client reads a signed number of 16 bits
    with pytest.raises(StateRefused) as caught:
        await terms.guarded(as_connection(Recorder(number)), "", guard=GUARD)
    assert caught.value.reason is reason


async def test_a_stale_term_comes_back_as_such() -> None:
    with pytest.raises(StaleTerm, match="leader"):
        await terms.guarded(as_connection(Recorder(31000)), "", guard=GUARD)


async def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(StatementRefused):
        await terms.guarded(as_connection(Recorder(1227)), "", guard=GUARD)


async def test_clear_passwords_are_not_accepted_as_hashes() -> None:
    with pytest.raises(ValueError, match="hash"):
        await initialise_primary(
            as_connection(Recorder()), replication={"repl_0": "clear"}, application=None, guard=GUARD
        )


def test_a_sources_password_is_in_no_representation() -> None:
    assert "very-secret" not in repr(Source(host="h", port=1, user="u", password="very-secret"))


def row(**changed: object) -> dict[str, object]:
    return {
        "Master_Host": "10.0.0.1",
        "Master_Port": 3306,
        "Master_User": "repl_1",
        "Slave_IO_Running": "Yes",
        "Slave_SQL_Running": "Yes",
        "Gtid_IO_Pos": "0-1-5",
        "Last_IO_Errno": 0,
        "Last_IO_Error": "",
        "Last_SQL_Errno": 0,
        "Last_SQL_Error": "",
        "Seconds_Behind_Master": None,
    } | changed


@pytest.mark.parametrize(
    ("text", "thread"),
    [
        ("Yes", IoThread.RUNNING),
        ("No", IoThread.STOPPED),
        ("Connecting", IoThread.CONNECTING),
        ("Preparing", IoThread.CONNECTING),
    ],
)
def test_only_no_is_a_stopped_io_thread(text: str, thread: IoThread) -> None:
    assert replication_fact(row(Slave_IO_Running=text)).io_thread is thread


def test_an_empty_received_position_is_empty() -> None:
    assert not replication_fact(row(Gtid_IO_Pos="")).received


def state(fact: ReplicationFact | None, slave_position: str) -> ReplicaState:
    position = Position.parse(slave_position)
    return ReplicaState(executed=position, slave_position=position, replication=fact)


def test_drained_needs_stopped_io_and_everything_that_is_known_to_be_received_applied() -> None:
    stopped = replication_fact(row(Slave_IO_Running="No"))
    assert state(stopped, "0-1-5").drained
    assert not state(stopped, "0-1-4").drained
    assert not state(stopped, "0-2-5").drained  # another history
    assert not state(replication_fact(row()), "0-1-5").drained
    both = replication_fact(row(Slave_IO_Running="No", Slave_SQL_Running="No"))
    assert state(both, "0-1-5").drained
    assert not state(both, "0-1-4").drained
    # After a restart the position shows as empty, whatever the relay log holds.
    restarted = replication_fact(row(Slave_IO_Running="No", Slave_SQL_Running="No", Gtid_IO_Pos=""))
    assert not state(restarted, "0-1-5").drained
    assert not state(None, "0-1-5").drained


def test_a_replica_that_already_follows_is_recognised_by_host_port_and_account() -> None:
    source = Source(host="10.0.0.1", port=3306, user="repl_1", password="p")
    assert replication._follows(replication_fact(row()), source)
    assert replication._follows(replication_fact(row(Slave_IO_Running="Connecting")), source)
    for changed in (
        {"Master_Host": "10.0.0.2"},
        {"Master_Port": 3307},
        {"Master_User": "repl_2"},
        {"Slave_IO_Running": "No"},
        {"Slave_SQL_Running": "No"},
    ):
        assert not replication._follows(replication_fact(row(**changed)), source)

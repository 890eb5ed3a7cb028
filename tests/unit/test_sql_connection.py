"""What each failure to connect, and each error of a server, says; without a server."""

from __future__ import annotations

import asyncio
import errno
import ssl

import pymysql.err
import pytest

from mariadb_operator.runtime.errors import OperatorError, Permanent, Transient, Uncertain
from mariadb_operator.sql.connection import (
    Connection,
    Endpoint,
    _connect_error,
    _statement_error,
    incarnation_of,
)
from mariadb_operator.sql.errors import (
    ConnectRefused,
    ServerPresent,
    StaleTerm,
    StatementInterrupted,
    StatementLost,
    StatementRefused,
    StateRefused,
    Unreachable,
)

ENDPOINT = Endpoint(
    host="127.0.0.1",
    port=1,
    user="u",
    password="very-secret",
    tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    server_id=1,
)


def wrapped(cause: BaseException) -> pymysql.err.OperationalError:
    """As aiomysql raises what met it while connecting."""
    error = pymysql.err.OperationalError(2003, "Can't connect to MySQL server on '127.0.0.1'")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (wrapped(ConnectionRefusedError(errno.ECONNREFUSED, "refused")), ConnectRefused),
        (wrapped(OSError(errno.EHOSTUNREACH, "no route")), Unreachable),
        (wrapped(ConnectionResetError(errno.ECONNRESET, "reset")), Unreachable),
        (wrapped(TimeoutError()), Unreachable),
        (TimeoutError(), Unreachable),
        (pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query"), Unreachable),
        (wrapped(ssl.SSLEOFError()), Unreachable),
        (wrapped(ssl.SSLCertVerificationError(1, "certificate verify failed")), ServerPresent),
        (pymysql.err.OperationalError(1040, "Too many connections"), ServerPresent),
        (pymysql.err.OperationalError(1045, "Access denied"), ServerPresent),
        (pymysql.err.OperationalError(1129, "Host is blocked"), ServerPresent),
        (pymysql.err.OperationalError(1130, "Host is not allowed"), ServerPresent),
    ],
)
def test_a_failure_to_connect_says_no_more_than_it_proves(error: Exception, kind: type[Exception]) -> None:
    assert type(_connect_error(ENDPOINT, error)) is kind


def test_a_wrong_program_is_not_taken_for_a_sick_server() -> None:
    bug = KeyError("x")
    assert _connect_error(ENDPOINT, bug) is bug


@pytest.mark.parametrize("code", [1205, 1213, 1317, 1927, 1969])
def test_an_interrupted_statement_may_be_repeated(code: int) -> None:
    error = _statement_error(ENDPOINT, pymysql.err.OperationalError(code, "x"))
    assert isinstance(error, StatementInterrupted)
    assert error.errno == code


@pytest.mark.parametrize("code", [1044, 1142, 1227, 1064])
def test_a_refused_statement_stays_refused(code: int) -> None:
    assert isinstance(_statement_error(ENDPOINT, pymysql.err.ProgrammingError(code, "x")), StatementRefused)


@pytest.mark.parametrize("code", [2006, 2013, 2014, 0])
def test_the_client_librarys_own_errors_are_no_answer_of_the_server(code: int) -> None:
    assert _statement_error(ENDPOINT, pymysql.err.OperationalError(code, "x")) is None


def test_a_syntax_error_quotes_nothing() -> None:
    error = _statement_error(ENDPOINT, pymysql.err.ProgrammingError(1064, "near 'very-secret'"))
    assert "very-secret" not in str(error)


def test_each_error_is_of_one_kind() -> None:
    kinds = (Transient, Permanent, Uncertain)
    expected = {
        ConnectRefused: Transient,
        Unreachable: Transient,
        ServerPresent: Transient,
        StateRefused: Transient,
        StatementInterrupted: Transient,
        StatementRefused: Permanent,
        StaleTerm: Permanent,
        StatementLost: Uncertain,
    }
    for error, kind in expected.items():
        assert issubclass(error, OperatorError)
        assert [each for each in kinds if issubclass(error, each)] == [kind]


def test_a_password_is_in_no_representation() -> None:
    assert "very-secret" not in repr(ENDPOINT)


@pytest.mark.parametrize("text", ["/run/mysqld/0123456789abcdef.pid", "0123456789abcdef.pid"])
def test_the_incarnation_is_the_pid_files_name(text: str) -> None:
    assert incarnation_of(text) == "0123456789abcdef"


class EndlessWire:
    """A wire whose end many wait for, by one future, as in asyncio's streams."""

    def __init__(self) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def thread_id(self) -> int:
        return 1

    def names(self, address: str) -> bool:
        return True

    async def ended(self) -> None:
        await self.end


async def test_who_gives_up_waiting_for_the_end_leaves_it_to_be_waited_for() -> None:
    wire = EndlessWire()
    connection = Connection(wire, endpoint=ENDPOINT)  # type: ignore[arg-type]
    for _ in range(3):
        waiting = asyncio.create_task(connection.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done(), "the end was reported though the wire lives"
        waiting.cancel()
        await asyncio.wait((waiting,))
    waiting = asyncio.create_task(connection.wait_closed())
    await asyncio.sleep(0)
    wire.end.set_result(None)
    await waiting


async def test_nothing_is_sent_on_a_closed_connection() -> None:
    class Closed:
        closed = True

        def thread_id(self) -> int:
            return 1

        def names(self, address: str) -> bool:
            return True

    connection = Connection(Closed(), endpoint=ENDPOINT)  # type: ignore[arg-type]
    with pytest.raises(Unreachable):
        await connection.query("SELECT 1", deadline_seconds=1)

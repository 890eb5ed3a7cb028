"""The server's my.cnf: what the operator owns can't be set by any spelling, and its own part always wins."""

from __future__ import annotations

import pytest

from mariadb_operator.resources.configuration import ServerPaths, server_configuration, violations


def named(text: str) -> list[str]:
    return [violation.option for violation in violations(text)]


@pytest.mark.parametrize(
    "line",
    [
        "server-id=5",
        "server_id = 5",
        "  server-id=5",
        "SERVER_ID=5",
        "loose-server-id=5",
        "loose_server_id=5",
        "maximum-rpl_semi_sync_master_timeout=10",
        "skip-log-bin",
        "skip_log_bin",
        "loose-skip-log-bin",
        "disable-log-bin",
        "skip-slave-start=0",
        "slave-start",
        "skip-networking",
        "enable-event-scheduler",
        "event_scheduler=ON",
        "read_only=0",
        "read_onl=0",  # an abbreviation
        "sync-b=0",
        "innodb_flush_log_at_trx_commit=2",
        "skip-innodb-doublewrite",
        "rpl_semi_sync_master_timeout=1000",
        "rpl-semi-sync-slave-enabled=0",
        "init-rpl-role=SLAVE",
        "replicate-do-db=shop",
        "replicate_wild_ignore_table=x.%",
        "binlog-ignore-db=shop",
        "binlog_format=MIXED",
        "gtid_domain_id=3",
        "relay-log-recovery=1",
        "ssl-ca=/x",
        "skip-ssl",
        "require_secure_transport=OFF",
        "plugin-load=x.so",
        "init-file=/x",
        "bind_address=127.0.0.1",
        "port=3307",
        "datadir=/x",
        "report_host=x",
        "skip-grant-tables",
        "wsrep_on=1",
        "slave_skip_errors=all",
    ],
)
def test_what_the_operator_owns_cannot_be_set(line: str) -> None:
    [violation] = violations(f"[mariadbd]\n{line}\n")
    assert violation.line == 2
    assert violation.option == line.split("=", maxsplit=1)[0].strip()
    assert violation.option in violation.message
    assert "owned by the operator" in violation.message


@pytest.mark.parametrize(
    "line",
    [
        "max-connections=500",
        "innodb_buffer_pool_size=1G",
        "log-bin-trust-function-creators=1",
        "log_bin_compress=ON",
        "binlog_row_image=MINIMAL",
        "binlog_expire_logs_seconds=3600",
        "max_binlog_size=64M",
        "plugin-load-add=server_audit",
        "slave_parallel_threads=4",
        "gtid_cleanup_batch_size=64",
        "sync_relay_log=1",
        "character-set-server=utf8mb4",
        "sql_mode=ANSI",
        "slow_query_log",
        "loose-future-option=1",
        "innodb-flush-method=O_DIRECT",
        "# server-id=5",
        "; server-id=5",
        "",
        "max-connections=500 # server-id=5",
        "old=1",
    ],
)
def test_what_is_the_users_can_be_set(line: str) -> None:
    assert violations(f"[mariadbd]\n{line}\n") == ()


@pytest.mark.parametrize(
    "section", ["mariadbd", "mysqld", "server", "mariadb", "mariadbd-10.11", "mysqld-11.8"]
)
def test_sections_that_the_server_reads(section: str) -> None:
    assert violations(f"[{section}]\nmax-connections=5\n") == ()
    assert named(f"[{section}]\nport=5\n") == ["port"]


@pytest.mark.parametrize("section", ["client", "mysqldump", "mariadb-install-db", "mariadbd_safe", ""])
def test_sections_that_the_server_does_not_read_are_named(section: str) -> None:
    assert named(f"[{section}]\n") == [f"[{section}]"]


@pytest.mark.parametrize("line", ["!include /etc/my.cnf", "!includedir /etc/my.cnf.d", "  !include x"])
def test_nothing_is_included(line: str) -> None:
    [violation] = violations(f"[mariadbd]\n{line}\n")
    assert violation.option == line.split(maxsplit=1)[0]
    assert "write them here" in violation.message


def test_an_option_before_any_section_is_named() -> None:
    [violation] = violations("max-connections=5\n")
    assert "[mariadbd]" in violation.message


@pytest.mark.parametrize("value", ["nosync", "NOSYNC", "'nosync'", "littlesync", "3"])
def test_values_that_lose_commits_are_refused(value: str) -> None:
    assert named(f"[mariadbd]\ninnodb_flush_method = {value} # fast\n") == ["innodb_flush_method"]


def test_every_violation_is_named_with_its_line() -> None:
    found = violations("[mariadbd]\nport=1\n\nmax-connections=5\nsocket=/x\n[client]\n")
    assert [(each.line, each.option) for each in found] == [(2, "port"), (5, "socket"), (6, "[client]")]


def test_the_operators_part_comes_last_and_in_a_section_of_the_server() -> None:
    text = server_configuration(port=3306, user_text="[mysqld]\nmax-connections = 5")
    lines = text.splitlines()
    theirs = lines.index("max-connections = 5")
    assert "[mariadbd]" in lines[theirs:]
    for owned in ("read-only = 1", "sync-binlog = 1", "binlog-format = ROW", "relay-log-recovery = OFF"):
        assert lines.index(owned) > theirs
    assert lines.index("innodb-buffer-pool-size = 128M") < theirs


def test_our_own_part_is_what_a_user_may_not_write() -> None:
    owned = server_configuration(port=3306).split("# The operator's part\n")[1]
    options = [line.split("=")[0].strip() for line in owned.splitlines() if "=" in line]
    assert named(owned) == options


def test_paths_and_port_are_where_they_belong() -> None:
    text = server_configuration(port=3307, paths=ServerPaths(data="/d", run="/r", tls="/t"))
    assert "port = 3307" in text
    assert "datadir = /d\n" in text
    assert "log-bin = /d/binlog\n" in text
    assert "socket = /r/mysqld.sock\n" in text
    assert "ssl-ca = /t/ca.crt\n" in text


def test_the_same_input_gives_the_same_text() -> None:
    assert server_configuration(port=1, user_text=" [mariadbd]\n") == server_configuration(
        port=1, user_text="[mariadbd]"
    )

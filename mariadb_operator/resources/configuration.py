"""The server's my.cnf: the user's part, then what the operator owns, and which of the user's options clash with that.

Pure text. Options of one Pod (server_id, pid file, boot state) are the supervisor's. Whether mariadbd accepts the
rest of the user's options only mariadbd knows: the supervisor asks it before the first start.
Source: https://mariadb.com/kb/en/configuring-mariadb-with-option-files/ and mysys/my_default.c, my_getopt.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPaths:
    """Where things are in the server's container."""

    data: str = "/var/lib/mysql/data"
    run: str = "/run/mysqld"
    tls: str = "/etc/mariadb-operator/tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One line of the user's my.cnf that can't stand."""

    line: int  # from 1
    option: str  # as the user wrote it
    message: str  # a sentence for that user: what, why, what instead


# Names without the prefixes that my_getopt strips. A trailing `*` covers all that begin so.
_OWNED = {
    "autocommit": "the operator's own statements need the default",
    "basedir": "the image decides it",
    "bind-address": "the server listens on the Pod's addresses",
    "binlog-do-db": "replicas would miss data",
    "binlog-format": "replication and failover need ROW",
    "binlog-ignore-db": "replicas would miss data",
    "bootstrap": "the supervisor makes the database",
    "chroot": "the container decides it",
    "datadir": "the volume is mounted there",
    "debug-no-sync": "a crash would lose acknowledged commits",
    "extra-max-connections": "the operator and the replicas come in there when clients fill max-connections",
    "extra-port": "the operator and the replicas come in there when clients fill max-connections",
    "event-scheduler": "events may run on the primary only",
    "grant-tables": "it would open the server to everybody",
    "gtid-domain-id": "the operator orders transactions by one domain",
    "gtid-ignore-duplicates": "it would hide errant transactions",
    "gtid-strict-mode": "it would hide errant transactions",
    "init-connect": "it would run in the operator's probes",
    "init-file": "the supervisor uses it",
    "init-rpl-role": "it can truncate acknowledged commits",
    "init-slave": "replicas are configured by the operator",
    "innodb": "the operator's tables and crash safety need InnoDB",
    "innodb-data-home-dir": "all data belongs into the volume's data folder",
    "innodb-doublewrite": "a crash would lose acknowledged commits",
    "innodb-flush-log-at-trx-commit": "a crash would lose acknowledged commits",
    "innodb-log-group-home-dir": "all data belongs into the volume's data folder",
    "innodb-undo-directory": "all data belongs into the volume's data folder",
    "aria-log-dir-path": "all data belongs into the volume's data folder",
    "log-basename": "the operator names binary and relay logs",
    "log-bin": "every instance may become primary and needs its binary log where it is",
    "log-bin-index": "the operator names binary and relay logs",
    "log-error": "the server logs to the container's output",
    "log-slave-updates": "every replica may become primary",
    "log-tc": "the binary log coordinates commits",
    "name-resolve": "a missing reverse name would stall every connection",
    "networking": "clients and replicas come over the network",
    "old-passwords": "accounts are made with current hashes",
    "pid-file": "its name tells one start of the server from the next",
    "plugin-load": "use plugin-load-add",
    "port": "set spec.port",
    "read-only": "the operator opens and closes the primary",
    "relay-log": "the operator names binary and relay logs",
    "relay-log-index": "the operator names binary and relay logs",
    "relay-log-info-file": "replication positions are kept by GTID",
    "relay-log-recovery": "it would wipe acknowledged rows of a restarted replica",
    "replicate-*": "replicas would miss data",
    "report-*": "the supervisor sets it",
    "require-secure-transport": "every connection is encrypted",
    "rpl-semi-sync-*": "set spec.highAvailability.durability",
    "server-id": "the operator gives each instance its own",
    "slave-exec-mode": "it would hide errant transactions",
    "slave-net-timeout": "failure detection depends on it",
    "slave-skip-errors": "it would hide errant transactions",
    "slave-start": "replication starts when the operator has given the role",
    "socket": "the supervisor uses it",
    "ssl*": "set spec.tls",
    "strict-password-validation": "accounts are made from hashes, so that no statement holds a password",
    "sync-binlog": "a crash would lose acknowledged commits",
    "tc-heuristic-recover": "it may drop acknowledged commits",
    "transaction-read-only": "the operator opens and closes the primary",
    "tx-read-only": "the operator opens and closes the primary",
    "user": "the Pod's security context decides it",
    "wsrep*": "this operator replicates by GTID, not by Galera",
}

_FORBIDDEN_VALUES = {
    "innodb-flush-method": frozenset({"littlesync", "nosync", "2", "3"}),
}

_PREFIXES = ("loose-", "skip-", "disable-", "enable-", "maximum-")
_SECTION = re.compile(r"\[([^\]]*)\]")
_SERVER_SECTION = re.compile(r"(mariadbd|mysqld|mariadb|server)(-\d+(\.\d+)*)?")

# Full names of options that are prefixes of owned ones: everything else that is a prefix abbreviates them.
_COMPLETE = frozenset({"debug", "old"})

ADMIN_CONNECTIONS = 64


def admin_port(port: int) -> int:
    """Where the operator and the replicas connect to servers whose clients use `port`.

    Clients that gave up waiting for an acknowledgement leave sessions behind that wait on; when they fill
    max_connections, the replica that could free them has to get in all the same.
    """
    return 33062 if port != 33062 else 33063


_DEFAULTS = """\
[mariadbd]
innodb-buffer-pool-size = 128M
max-binlog-size = 256M
binlog-expire-logs-seconds = 604800
"""


def server_configuration(
    *,
    port: int,
    user_text: str = "",
    paths: ServerPaths = ServerPaths(),
    bind_address: str = "0.0.0.0",  # noqa: S104  # a Pod listens on its own addresses
) -> str:
    """The whole my.cnf. Later lines win, so the user's come after our defaults and before what we own."""
    user = f"\n# The user's part\n{user_text.strip()}\n" if user_text.strip() else ""
    return f"# Made by mariadb-operator\n{_DEFAULTS}{user}\n{_owned_text(port, paths, bind_address)}"


def _owned_text(port: int, paths: ServerPaths, bind_address: str) -> str:
    return f"""\
# The operator's part
[mariadbd]
port = {port}
extra-port = {admin_port(port)}
extra-max-connections = {ADMIN_CONNECTIONS}
bind-address = {bind_address}
skip-networking = 0
skip-name-resolve = 1
datadir = {paths.data}
socket = {paths.run}/mysqld.sock

# Every instance may become primary; GTIDs of one domain order everything.
log-bin = {paths.data}/binlog
log-slave-updates = ON
binlog-format = ROW
gtid-domain-id = 0
gtid-strict-mode = ON
relay-log = relay
# ON would wipe what was received and not applied, at each start.
relay-log-recovery = OFF

# A commit that was acknowledged survives a crash.
sync-binlog = 1
innodb-flush-log-at-trx-commit = 1
innodb-doublewrite = ON

# The server never falls back to asynchronous by itself.
rpl-semi-sync-master-enabled = ON
rpl-semi-sync-master-timeout = 18446744073709551615
rpl-semi-sync-master-wait-point = AFTER_SYNC
rpl-semi-sync-master-wait-no-slave = ON
rpl-semi-sync-slave-enabled = ON
rpl-semi-sync-slave-kill-conn-timeout = 1

# A start gives no role.
read-only = 1
skip-slave-start = 1
event-scheduler = OFF

slave-net-timeout = 4
strict-password-validation = OFF

ssl-ca = {paths.tls}/ca.crt
ssl-cert = {paths.tls}/tls.crt
ssl-key = {paths.tls}/tls.key
require-secure-transport = ON
"""


def violations(text: str) -> tuple[Violation, ...]:
    """The lines of a user's my.cnf that set what the operator owns, or that no server would read.

    Empty when there are none. Reads names as mariadbd does: dashes and underscores are the same, prefixes such as
    `loose-` and `skip-` and unambiguous abbreviations count.
    """
    found: list[Violation] = []
    section: str | None = None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("!"):
            found.append(
                Violation(line=number, option=line.split()[0], message=_INCLUDE.format(line.split()[0]))
            )
        elif line.startswith("["):
            match = _SECTION.match(line)
            section = match[1].strip() if match else line
            if not _SERVER_SECTION.fullmatch(section):
                found.append(
                    Violation(line=number, option=f"[{section}]", message=_WRONG_SECTION.format(section))
                )
        elif section is None:
            option = line.partition("=")[0].strip()
            found.append(Violation(line=number, option=option, message=_NO_SECTION.format(option)))
        else:
            found.extend(_option_violations(number, line))
    return tuple(found)


_INCLUDE = "{} is not possible: the operator has to see every option; write them here"
_WRONG_SECTION = "section [{}] is not read by the server; use [mariadbd]"
_NO_SECTION = "{} stands before any section; begin with a line [mariadbd]"


def _option_violations(number: int, line: str) -> list[Violation]:
    key, _, value = line.partition("=")
    written = key.split("#")[0].strip()
    name = _canonical(written)
    if reason := _owner_reason(name):
        return [
            Violation(line=number, option=written, message=f"{written} is owned by the operator: {reason}")
        ]
    setting = value.split("#")[0].strip().strip("'\"").lower()
    if setting in _FORBIDDEN_VALUES.get(name, ()):
        message = f"{written} = {setting} would lose acknowledged commits in a crash"
        return [Violation(line=number, option=written, message=message)]
    return []


def _canonical(written: str) -> str:
    name = written.strip("-").replace("_", "-").lower()
    while prefix := next((each for each in _PREFIXES if name.startswith(each)), None):
        name = name.removeprefix(prefix)
    return name


def _owner_reason(name: str) -> str | None:
    for owned, reason in _OWNED.items():
        if name == owned or (owned.endswith("*") and name.startswith(owned[:-1])):
            return reason
    if name in _COMPLETE:
        return None
    return next(
        (f"it abbreviates {owned}; {reason}" for owned, reason in _OWNED.items() if owned.startswith(name)),
        None,
    )

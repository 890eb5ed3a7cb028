"""One look at a server: everything the state machine reads of it, in one round trip.

Answers while commits wait for an acknowledgement (SHOW MASTER STATUS would not; @@gtid_binlog_pos does). Not for
what a failed look means: statemachines.detection.
"""

from __future__ import annotations

import json

from mariadb_operator.sql.connection import Connection, Row, incarnation_of
from mariadb_operator.sql.replication import of_primary
from statemachines.facts import SemiSyncFact, ServerFact
from statemachines.gtid import History, Position

# Positions before SHOW ALL SLAVES STATUS, so that received = executed is never seen when it is not so. Status in one
# column: the client pays for each column and row.
_VARIABLES = """
SELECT @@global.server_id AS server_id, @@global.pid_file AS pid_file, @@global.version AS version,
 @@global.read_only AS read_only, @@global.gtid_binlog_state AS history, @@global.gtid_binlog_pos AS executed,
 @@global.gtid_slave_pos AS slave_position, @@global.rpl_semi_sync_master_enabled AS source_enabled,
 @@global.rpl_semi_sync_slave_enabled AS replica_enabled,
 (SELECT term FROM mariadb_operator.term) AS term,
 (SELECT CONCAT_WS(' ', epoch, cluster_id, primary_name) FROM mariadb_operator.epoch ORDER BY epoch DESC LIMIT 1) AS epoch,
 (SELECT GROUP_CONCAT(account) FROM mariadb_operator.locked_accounts) AS locked,
 (SELECT GROUP_CONCAT(DISTINCT USER) FROM information_schema.PROCESSLIST
  WHERE COMMAND LIKE 'Binlog Dump%') AS connected,
 (SELECT JSON_OBJECTAGG(SUBSTR(LOWER(VARIABLE_NAME), 22), VARIABLE_VALUE) FROM information_schema.GLOBAL_STATUS
  WHERE VARIABLE_NAME LIKE 'RPL_SEMI_SYNC_MASTER_%') AS semi_sync;
SHOW ALL SLAVES STATUS
"""
# The node sidecar's account is ours too; volumes that are older than it don't leave it out by themselves.
_ADMINS = (
    "SELECT account FROM mariadb_operator.read_only_admins"
    " WHERE account <> 'mariadb_node@localhost' ORDER BY account LIMIT 8"
)


async def read_only_admins(connection: Connection, *, deadline_seconds: float) -> frozenset[str]:
    """Accounts, beside root's and ours, that write on a read-only server too. Raises what `observe` raises."""
    rows = await connection.query(_ADMINS, deadline_seconds=deadline_seconds)
    return frozenset(row["account"] for row in rows)


async def observe(
    connection: Connection, *, asked_at: float, pod_uid: str, deadline_seconds: float
) -> ServerFact:
    """Look at the server once.

    Args:
        connection: of the operator's or the probe's account.
        asked_at: when the caller began to ask, by its own clock: the fact's age counts from there.
        pod_uid: of the Pod whose address was connected to.
        deadline_seconds: for the whole look.

    Raises:
        StatementLost: no answer in time or the wire broke.
        StatementFailed: the server answered with an error.
    """
    [variables], replication = await connection.query_all(_VARIABLES, deadline_seconds=deadline_seconds)
    return _server_fact(
        variables, replication, asked_at=asked_at, pod_uid=pod_uid, certified=connection.certified
    )


def _server_fact(
    row: Row, replication: list[Row], *, asked_at: float, pod_uid: str, certified: bool
) -> ServerFact:
    status = json.loads(row["semi_sync"])
    epoch, cluster_id, epoch_primary = (row["epoch"] or "0  ").split(" ")
    return ServerFact(
        asked_at=asked_at,
        pod_uid=pod_uid,
        incarnation=incarnation_of(row["pid_file"]),
        server_id=row["server_id"],
        version=row["version"],
        read_only=bool(row["read_only"]),
        term=row["term"] or 0,
        epoch=int(epoch),
        cluster_id=cluster_id,
        epoch_primary=epoch_primary,
        history=History.parse(row["history"] or ""),
        executed=Position.parse(row["executed"] or ""),
        slave_position=Position.parse(row["slave_position"] or ""),
        semi_sync=SemiSyncFact(
            source_enabled=bool(row["source_enabled"]),
            replica_enabled=bool(row["replica_enabled"]),
            clients=int(status["clients"]),
            acknowledged=int(status["yes_tx"]),
            unacknowledged=int(status["no_tx"]),
            waiting_sessions=int(status["wait_sessions"]),
        ),
        replication=of_primary(replication),
        locked_accounts=_names(row["locked"]),
        connected_accounts=_names(row["connected"]),
        certified=certified,
    )


def _names(text: str | None) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()

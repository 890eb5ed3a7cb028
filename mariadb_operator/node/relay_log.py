"""What a replica received and did not apply: the transactions of its relay logs after its gtid_slave_pos.

Only for a replica that was restarted and has not seen START SLAVE since: that statement wipes the files (FACTS.md).
Relay logs are not fsynced, so after a power loss less may be there than was received: what is extracted counts as
received only under an unchanged boot of its node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mariadb_operator.node.binary_log import Missing, UpTo
from mariadb_operator.node.log_files import LogMissing, files_of
from mariadb_operator.node.tails import Tail
from mariadb_operator.node.transactions import Transactions, close_files, open_files
from statemachines.gtid import Position


def extract(index: Path, *, applied: Position) -> Tail:
    """The tail of what was received after `applied`, the replica's gtid_slave_pos; `index` is its relay.index.

    The loop raises:
        LogMissing: there are no relay logs.
        LogUnreadable, UnsupportedLog.
    """
    return Tail(lambda: unapplied(index, applied), applied)


@contextmanager
def unapplied(index: Path, applied: Position) -> Iterator[Missing]:
    """The whole transactions of the relay logs after a position. Raises as `extract`."""
    files = open_files(files_of(index))
    try:
        if not files:
            raise LogMissing(f"{index} names no file with a head")
        transactions = Transactions(files, files[0].first, known=applied, verify=True)
        yield Missing(UpTo(applied), transactions, files[-1].format)
    finally:
        close_files(files)

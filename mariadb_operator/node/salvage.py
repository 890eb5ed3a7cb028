"""What only a dead server has: the transactions after the position of whoever received most, from its binary log.

Read straight from the volume, without its server; the bytes stay as they were written. What the crash left of the
last transaction is left out and reported. Not for how they get into the candidate (tail_source.py serves them).
"""

from __future__ import annotations

from pathlib import Path

from mariadb_operator.node.binary_log import logged_after, missing_after
from mariadb_operator.node.tails import Tail, transactions_in
from statemachines.gtid import Gtid, Position


def salvage(index: Path, *, received: Position) -> Tail:
    """The tail that somebody who received up to `received` lacks; `index` is the dead server's binlog.index.

    Costs what is missing, not what the files hold. A `torn` end whose `beyond` is not None is a hole: transactions that
    were whole are behind it, and the tail is not all of what is missing. The loop raises what `missing_after` raises.
    """
    return Tail(lambda: missing_after(index, received), received)


def unlogged(index: Path, tail: Path) -> tuple[Gtid, ...]:
    """The transactions of a tail that the server which applied it has not got in its own binary log.

    A position says how far it is, not that nothing was left out on the way: this does. Normally empty; MariaDB itself
    does not log again what it rolled back after a change of a table without transactions, in statement format.

    Raises TailBroken, and what `logged_after` raises.
    """
    after, gtids = transactions_in(tail)
    logged = logged_after(index, after)
    return tuple(gtid for gtid in gtids if gtid not in logged)

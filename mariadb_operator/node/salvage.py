"""What only a dead server has: the transactions after the position of whoever received most, from its binary log.

Read straight from the volume, without its server; the bytes stay as they were written. What the crash left of the
last transaction is left out and reported. Not for how they get into the candidate (tail_source.py serves them).
"""

from __future__ import annotations

from pathlib import Path

from mariadb_operator.node.binary_log import missing_after
from mariadb_operator.node.tails import Tail
from statemachines.gtid import Position


def salvage(index: Path, *, received: Position) -> Tail:
    """The tail that somebody who received up to `received` lacks; `index` is the dead server's binlog.index.

    Costs what is missing, not what the files hold. The loop raises what `missing_after` raises.
    """
    return Tail(lambda: missing_after(index, received), received)

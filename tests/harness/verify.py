"""Judges data row by row: what was acknowledged is there, nothing is doubled, all instances hold the same.

Pure judgement (`judge`, `differences`) apart from reading the instances, so that the judgement itself is tested. Not
for deciding which instances count: the caller names those that were kept out on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.harness.cluster import Cluster
from tests.harness.kube import wait_for
from tests.harness.local import HarnessError
from tests.harness.writing import Result

CATCH_UP_SECONDS = 240  # one that was seeded anew applies everything, with a sync for each
SHOWN = 10

Row = tuple[int, int, int]  # id, writer, n


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison found."""

    rows: int
    instances: tuple[str, ...]
    unknown_kept: int  # rows whose reply was lost and that are there
    unknown_lost: int
    faults: tuple[str, ...]

    def require(self) -> Verdict:
        """Raises HarnessError with every fault, if there is any."""
        if self.faults:
            raise HarnessError("data: " + "\n".join(self.faults))
        return self


def judge(result: Result, rows: Sequence[Row]) -> tuple[list[str], int, int]:
    """Compares what the client was told with the primary's rows: faults, unknown rows kept, unknown rows lost."""
    faults = []
    count = Counter((writer, n) for _, writer, n in rows)
    doubled = sorted(key for key, times in count.items() if times > 1)
    if doubled:
        faults.append(f"{len(doubled)} rows doubled: {_some(doubled)}")
    kept = lost = 0
    known: set[tuple[int, int]] = set()
    for each in result.writers:
        known.update((each.writer, n) for n in range(1, each.last + 1))
        missing = [n for n in each.acknowledged() if (each.writer, n) not in count]
        if missing:
            faults.append(f"writer {each.writer}: {len(missing)} acknowledged rows missing: {_some(missing)}")
        appeared = sorted(n for n in each.refused if (each.writer, n) in count)
        if appeared:
            faults.append(f"writer {each.writer}: {len(appeared)} refused rows are there: {_some(appeared)}")
        present = sum((each.writer, n) in count for n in each.unknown)
        kept, lost = kept + present, lost + len(each.unknown) - present
    foreign = sorted(key for key in count if key not in known)
    if foreign:
        faults.append(f"{len(foreign)} rows that nobody wrote: {_some(foreign)}")
    return faults, kept, lost


def differences(name: str, reference: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """How an instance's rows differ from the primary's; empty when they are the same."""
    if list(reference) == list(rows):
        return []
    wanted, found = set(reference), set(rows)
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    return [
        (
            f"{name} differs: {len(missing)} of {len(reference)} rows missing ({_some(missing)}),"
            f" {len(extra)} rows too many ({_some(extra)}), as (id, writer, n)"
        )
    ]


def read_rows(cluster: Cluster, instance: str, table: str) -> list[Row]:
    """Every row of the writers' table on one instance, ordered by id."""
    statement = f"SELECT id, writer, n FROM app.{table} ORDER BY id"
    return [(int(row[0]), int(row[1]), int(row[2])) for row in cluster.sql(instance, statement)]


def wait_caught_up(cluster: Cluster, instances: Iterable[str]) -> None:
    """Waits until each instance executed what the primary has executed."""
    primary = cluster.primary
    wanted = cluster.value(primary, "@@global.gtid_binlog_pos")
    for instance in instances:
        if instance == primary:
            continue

        def reached(instance: str = instance) -> bool:
            answer = cluster.sql(instance, f"SELECT MASTER_GTID_WAIT('{wanted}', 5)", seconds=20)
            return answer == [["0"]]

        wait_for(f"{instance} at {wanted}", reached, seconds=CATCH_UP_SECONDS)


def verify(cluster: Cluster, result: Result, *, instances: Sequence[str] | None = None) -> Verdict:
    """Compares every instance that is not kept out, the primary first, with what the client was told."""
    primary = cluster.primary
    kept_out = cluster.kept_out()
    names = list(instances or [each for each in cluster.instances() if each not in kept_out])
    wait_caught_up(cluster, names)
    reference = read_rows(cluster, primary, result.table)
    faults, kept, lost = judge(result, reference)
    for name in names:
        if name != primary:
            faults += differences(name, reference, read_rows(cluster, name, result.table))
    return Verdict(
        rows=len(reference),
        instances=tuple(names),
        unknown_kept=kept,
        unknown_lost=lost,
        faults=tuple(faults),
    )


def _some(values: Sequence[object]) -> str:
    shown = ", ".join(str(each) for each in values[:SHOWN])
    return f"{shown}, ..." if len(values) > SHOWN else shown

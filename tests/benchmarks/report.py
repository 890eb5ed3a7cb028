"""docs/benchmarks.md from docs/benchmarks.json: `python -m tests.benchmarks.report`. Not for measuring."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.benchmarks.figures import p50
from tests.harness.local import ROOT

SOURCE = ROOT / "docs/benchmarks.json"
TARGET = ROOT / "docs/benchmarks.md"

Rows = Sequence[dict[str, Any]]

# Measured in the same kind of cluster on the same kind of machine, seconds (p50 or the only value known).
MARIADB_OPERATOR = {
    "apply to Healthy": 36.0,
    "primary killed": 12.0,
    "primary frozen": 67.0,
    "node cut off": 78.0,
}
MHA = {"primary killed": 13.0, "primary frozen": 20.9, "node powered off": 19.7}

METHOD = """
`nox -s bench` measures all of this in one run and writes this page from `docs/benchmarks.json`.

- **Where**: the local cluster of `deploy/local`: three nodes, each its own kubelet, containerd and network namespace,
  kube-proxy in iptables mode, all on one machine. Images are present. Nothing else of weight runs.
- **The operator** runs in its image, with the Python of Debian trixie (3.13) and uvloop; that which has nothing to do
  runs from a shell with the machine's own Python, named above. Releases of Python differ in speed.
- **The client**: four writers as the application's account, over TLS, through the ClusterIP of the primary's Service,
  from the control machine's network, as fast as they are answered. Connect timeout 250 ms, read timeout 1 s, reconnect
  after 5 ms. Each inserts (writer, n) with autocommit into a table with no unique key on these; a lost reply is not
  repeated. `tests/harness/writer.py`.
- **Outage**: the longest gap between any two acknowledgements, all writers together, by the client's monotonic clock.
- **Each run** begins Healthy with three instances and at least 500 acknowledged rows, and ends with 500 more. Then the
  rows of all instances that follow are compared one by one with what the client was told. An instance that was kept
  out (its unacknowledged tail exists only there) is seeded again: its Pod and volume are deleted by hand.
- **Operator on the node**: the leading operator's Pod runs on the primary's node and is lost or cut off with it.
- Where a death can't be proven (no power, no network), `onUncertainData: Promote` and `maxWait: 1s` are set.
"""


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    measured: dict[str, Rows] = document["measurements"]
    at = datetime.fromtimestamp(document["at"], UTC)
    parts = [
        "# Benchmarks",
        f"Measured on {at:%Y-%m-%d}: {document['machine']}.",
        "## Method",
        METHOD.strip(),
    ]
    sections: list[Callable[[dict[str, Rows]], str]] = [failovers, provisioning, idle]
    parts += [text for section in sections if (text := section(measured))]
    return "\n\n".join(parts) + "\n"


def failovers(measured: dict[str, Rows]) -> str:
    """Outages."""
    found = {name: rows for name, rows in measured.items() if rows and "outage" in rows[0]}
    if not found:
        return ""
    lines = [
        "## A primary that is lost",
        "",
        "Outage in seconds. Missing and doubled rows fail the run, so every row of this table has none.",
        "",
        "| What | runs | p50 | max | kept out | mariadb-operator 26.6 | MHA 0.58 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, rows in found.items():
        outages = [row["outage"] for row in rows]
        kept = sum(row["kept_out"] for row in rows)
        base = name.partition(",")[0]
        lines.append(
            f"| {name} | {len(rows)} | {p50(outages):.2f} | {max(outages):.2f} | {kept} of {len(rows)}"
            f" | {ratio(MARIADB_OPERATOR.get(base), p50(outages))} | {ratio(MHA.get(base), p50(outages))} |"
        )
    example = next(iter(found.values()))[0]
    lines += ["", "Where the time goes, in one run of the first row, in seconds after the fault:", ""]
    lines += ["| step | at |", "|---|--:|"]
    lines += [f"| {step.replace('_', '/', 1)} | {at:.2f} |" for step, at in example["steps"].items()]
    return "\n".join(lines)


def provisioning(measured: dict[str, Rows]) -> str:
    """From apply to Healthy."""
    rows = measured.get("apply to Healthy", ())
    if not rows:
        return ""
    seconds = [row["seconds"] for row in rows]
    middle = sorted(rows, key=lambda row: float(row["seconds"]))[len(rows) // 2]
    reached: dict[str, float] = {"kubectl returned": middle["kubectl"], **middle["steps"]}
    reached |= middle["transitions"]
    lines = [
        "## From `kubectl apply` to Healthy",
        "",
        "Three instances.",
        "",
        "| runs | p50 | max | mariadb-operator 26.6 |",
        "|--:|--:|--:|--:|",
        (
            f"| {len(rows)} | {p50(seconds):.1f} s | {max(seconds):.1f} s"
            f" | {ratio(MARIADB_OPERATOR['apply to Healthy'], p50(seconds))} |"
        ),
        "",
        "Where the time goes, in the middle run:",
        "",
        "| seconds | reached |",
        "|--:|---|",
        *(f"| {at:.1f} | {step} |" for step, at in sorted(reached.items(), key=lambda item: item[1])),
    ]
    return "\n".join(lines)


def idle(measured: dict[str, Rows]) -> str:
    """An operator with nothing to do."""
    rows = measured.get("idle", ())
    if not rows:
        return ""
    lines = [
        "## An operator with nothing to do",
        "",
        (
            "Clusters of three whose servers are simulated: one process speaks MariaDB's protocol over TLS for all of them"
            " and answers the operator's real statements; the API server is real."
        ),
        "",
        "| clusters | CPU of one core | RSS |",
        "|--:|--:|--:|",
        *(f"| {row['clusters']} | {row['cpu'] * 100:.1f} % | {row['rss'] / 2**20:.0f} MiB |" for row in rows),
    ]
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        more = last["clusters"] - first["clusters"]
        cpu = (last["cpu"] - first["cpu"]) / more
        rss = (last["rss"] - first["rss"]) / more
        lines += ["", f"Each further cluster costs {cpu * 100:.2f} % of a core and {rss / 2**10:.0f} KiB."]
    return "\n".join(lines)


def ratio(theirs: float | None, ours: float) -> str:
    """Their figure, and how many times ours it is."""
    return "" if theirs is None else f"{theirs:g} s ({theirs / ours:.0f}×)"


def main() -> None:
    TARGET.write_text(page(json.loads(SOURCE.read_text())))
    sys.stdout.write(f"{TARGET.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()

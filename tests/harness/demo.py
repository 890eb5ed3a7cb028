"""The demo: a cluster, a writer, a dead primary, and what became of every row. Cleans up after itself.

Shows what a person would do by hand, command by command. Not a test, though it fails when a row is missing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.harness import kube as api
from tests.harness.cluster import Cluster, timestamp
from tests.harness.kube import Kube, wait_for
from tests.harness.local import ROOT, HarnessError, Local, find_kubeconfig
from tests.harness.namespaces import create_namespace, remove_namespace
from tests.harness.operators import Operators
from tests.harness.reseed import wait_settled
from tests.harness.verify import verify
from tests.harness.writing import Writers, writing

SAMPLE = ROOT / "deploy/samples/minimal.yaml"
NAME = "demo"
BEFORE_SECONDS = 3.0
AFTER_SECONDS = 4.0
FRAME_SECONDS = 0.1


class Demo:
    """One run of it."""

    def __init__(self, console: Console, kube: Kube, local: Local | None, namespace: str) -> None:
        self._console = console
        self._kube = kube
        self._cluster = Cluster(kube=kube, local=local, namespace=namespace, name=NAME)

    def run(self) -> None:
        """All of it, in order."""
        self._provision()
        killed_at, before, writers = self._kill_the_primary()
        self._timeline(int(before["sequence"]), killed_at)
        self._compare(writers, before)

    def _command(self, *arguments: str) -> str:
        """Runs kubectl and shows the command as a person would type it."""
        self._console.print(Text(f"$ kubectl {' '.join(arguments)}", style="bold cyan"))
        printed = self._kube.kubectl(*arguments)
        self._console.print(Text(printed.rstrip()))
        return printed

    def _provision(self) -> None:
        namespace = self._cluster.namespace
        self._console.rule("A cluster of three from one small file")
        self._console.print(Text(_without_comments(SAMPLE), style="dim"))
        began = time.monotonic()
        self._command("apply", "--namespace", namespace, "-f", str(SAMPLE.relative_to(ROOT)))
        with Live(console=self._console, transient=True) as live:

            def healthy() -> bool:
                status = self._cluster.status()
                live.update(
                    f"{status.get('state', '')} {status.get('readyInstances', '')}"
                    f" {time.monotonic() - began:5.1f} s"
                )
                return status.get("state") == "Healthy"

            wait_for("Healthy", healthy, seconds=300, every=FRAME_SECONDS)
        self._console.print(f"[green]Healthy[/] after {time.monotonic() - began:.1f} s")
        self._command("get", "mdc,pods", "--namespace", namespace)

    def _kill_the_primary(self) -> tuple[float, dict[str, Any], Writers]:
        cluster = self._cluster
        before = cluster.status()
        self._console.rule("Four writers, and kill -9 of the primary under them")
        with (
            writing(cluster) as writers,
            Live(console=self._console, refresh_per_second=10, transient=True) as live,
        ):
            writers.wait_acknowledged(1)
            self._show(live, writers, BEFORE_SECONDS)
            live.console.print(Text(f"kill -9: mariadbd of {before['primary']}", style="bold red"))
            killed_at = time.time()
            cluster.signal_mariadbd(before["primary"], "KILL")
            end = time.monotonic() + 60
            while cluster.epoch == before["epoch"] and time.monotonic() < end:
                self._show(live, writers, FRAME_SECONDS)
            self._show(live, writers, AFTER_SECONDS)
        self._console.print(self._line(writers))
        result = writers.result
        self._console.print(
            f"longest gap between acknowledgements: [bold]{result.outage * 1000:.0f} ms[/];"
            f" {result.acknowledged} rows acknowledged, {result.rate:.0f} a second"
        )
        return killed_at, before, writers

    def _show(self, live: Live, writers: Writers, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            live.update(self._line(writers))
            if time.monotonic() >= end:
                return
            time.sleep(FRAME_SECONDS)

    def _line(self, writers: Writers) -> str:
        status = self._cluster.status()
        progress = writers.progress
        return (
            f"{status.get('state', '')}[dim]/{status.get('substate') or '-'}[/]  primary"
            f" {status.get('primary')}  acknowledged {progress['acknowledged']}"
            f"  reply lost {progress['unknown']}  refused {progress['refused']}"
        )

    def _timeline(self, sequence: int, killed_at: float) -> None:
        self._console.rule("What the state machine did, from the history in .status")
        wait_settled(self._cluster)
        table = Table("after kill", "to", "because", box=None, pad_edge=False)
        table.add_column("seen", overflow="fold")
        for column in table.columns[:-1]:
            column.no_wrap = True
        known = ""
        for entry in self._cluster.history(after=sequence):
            table.add_row(
                f"{(timestamp(entry['at']) - killed_at) * 1000:.0f} ms",
                entry["to"].replace("_", "/"),
                entry.get("trigger", ""),
                entry.get("evidence", "").removeprefix(known).lstrip("; "),  # what is new
            )
            known = entry.get("evidence", "")
        self._console.print(table)

    def _compare(self, writers: Writers, before: dict[str, Any]) -> None:
        cluster = self._cluster
        self._console.rule("Every row on every instance")
        verdict = verify(cluster, writers.result).require()
        self._console.print(
            f"[green]{verdict.rows} rows are the same on {', '.join(verdict.instances)}[/]: every acknowledged"
            f" row once; of those whose reply was lost {verdict.unknown_kept} are there and"
            f" {verdict.unknown_lost} are not"
        )
        for name, why in cluster.kept_out().items():
            self._console.print(
                f"[yellow]{name} is kept out[/]: it holds transactions that nobody acknowledged ({why})."
                " Nothing on it is erased; deleting its Pod and volume has it seeded again."
            )
        self._console.rule("Look around")
        self._command("get", "mdc", NAME, "--namespace", cluster.namespace)
        self._command("describe", "mdc", NAME, "--namespace", cluster.namespace)


def _without_comments(path: Path) -> str:
    return "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))


def main() -> int:
    """Runs the demo in a namespace of its own and removes it."""
    parser = argparse.ArgumentParser(description="A cluster, a dead primary, and what became of every row.")
    parser.add_argument("--keep", action="store_true", help="leave the cluster for looking around")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        kubeconfig = find_kubeconfig()
        with api.opened(kubeconfig) as kube:
            local = Local.behind(kubeconfig)
            Operators(kube, local).ensure_deployed()
            namespace = create_namespace(kube, "demo", keep=options.keep)
            try:
                Demo(console, kube, local, namespace).run()
            finally:
                if options.keep:
                    console.print(f"left as it is: kubectl --namespace {namespace} get mdc {NAME}")
                else:
                    remove_namespace(kube, namespace)
    except HarnessError as error:
        console.print(Text(f"the demo failed: {error}", style="bold red"))
        return 1
    return 0

"""Figures of a run: kept as JSON, summed up as p50 and maximum. Not for measuring."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def runs(wanted: int) -> int:
    """How many runs: BENCH_RUNS bounds them, to try the benchmarks out."""
    return min(wanted, int(os.environ.get("BENCH_RUNS", wanted)))


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


class Figures:
    """Rows by measurement, saved after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.time()
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def add(self, measurement: str, **row: Any) -> None:
        """One run's figures; printed and saved at once."""
        rows = self._rows.setdefault(measurement, [])
        rows.append(row)
        shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        print(f"{measurement} #{len(rows)}: {shown}", flush=True)  # noqa: T201
        self.save()

    def save(self) -> None:
        """Writes the file; measurements that this run did not make keep their earlier rows."""
        if not self._rows:
            return
        known: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        measurements = {**known.get("measurements", {}), **self._rows}
        document = {"machine": machine(), "at": self._started, "measurements": measurements}
        self._path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> str:
    """What it was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, Python {python}"

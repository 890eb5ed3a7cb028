"""The benchmarks' fixtures, and where their figures go: one JSON file a run, from which docs/benchmarks.md is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figures
from tests.harness.fixtures import (  # noqa: F401  # fixtures
    kube,
    local,
    operators,
    shared,
    skip_what_needs_the_local_cluster,
    trio,
)
from tests.harness.local import ROOT


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Collects; what was measured is kept also when a later measurement fails."""
    path = Path(os.environ.get("BENCH_RESULTS", ROOT / "docs/benchmarks.json"))
    collected = Figures(path)
    yield collected
    collected.save()

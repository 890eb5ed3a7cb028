"""What end-to-end tests share: kubectl, a namespace of their own, and what tests/harness/fixtures.py offers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.fixtures import (  # noqa: F401  # fixtures
    kube,
    local,
    module_namespace,
    namespace,
    operators,
    own_namespace,
    shared,
    skip_what_needs_the_local_cluster,
    trio,
)
from tests.harness.local import find_kubeconfig

ROOT = Path(__file__).parents[2]
KUBECTL_SECONDS = 60
SHOWN, SHOWN_WIDTH = 200, 300  # of a failure, at once; all of it follows at the end


@dataclass(frozen=True, slots=True)
class Answer:
    """What kubectl said."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        return json.loads(self.output)


class KubectlError(Exception):
    """kubectl ended with another code than 0."""


Kubectl = Callable[..., Answer]


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Runs kubectl: `kubectl("get", "pods", "-o", "json").json`; `check=False` to see a failure, `give` for stdin."""
    environment = {**os.environ, "KUBECONFIG": str(find_kubeconfig())}

    def run(*arguments: str, give: object = None, check: bool = True) -> Answer:
        text = None if give is None else json.dumps(give)
        done = subprocess.run(
            ["kubectl", "--request-timeout=30s", *arguments],
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            timeout=KUBECTL_SECONDS,
            check=False,
        )
        if check and done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Shows a failure when it happens: the whole run takes minutes."""
    if report.failed:
        told = report.longreprtext.splitlines()
        begin = next((at for at, line in enumerate(told) if line.startswith("E ")), max(0, len(told) - SHOWN))
        print("\n" + "\n".join(line[:SHOWN_WIDTH] for line in told[begin : begin + SHOWN]), flush=True)  # noqa: T201

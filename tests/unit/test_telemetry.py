"""What leaves the process as logs and metrics: no secret, nothing of a cluster that is not ours any more."""

from __future__ import annotations

import logging
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mariadb_operator.telemetry.logs import configure_logging
from mariadb_operator.telemetry.metrics import Metrics
from statemachines.record import HistoryEntry, Record
from statemachines.states import State


@pytest.fixture
def root_logger() -> object:
    """Whatever pytest had set up comes back."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield root
    root.handlers[:], root.level = before


@pytest.mark.parametrize("json", [True, False])
def test_a_traceback_shows_no_variables(
    json: bool, root_logger: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(json=json, level="INFO")
    logging.getLogger().handlers[0].setStream(sys.stderr)  # type: ignore[attr-defined]

    def fail(password: str) -> None:
        raise RuntimeError("unexpected")

    try:
        fail("".join(("S3", "cret")))
    except RuntimeError:
        logging.getLogger("test").exception("it failed")
    printed = capsys.readouterr().err
    assert "unexpected" in printed
    assert "S3cret" not in printed


def test_a_process_that_leads_no_more_tells_of_no_cluster() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    entry = HistoryEntry(
        sequence=1, source=State.EQUALISING, target=State.COMMITTING, trigger="equalised", guards=(), at=0.0
    )
    for cluster in ("one", "two"):
        metrics.state("shop", cluster, Record(state=State.HEALTHY, epoch=2))
        metrics.transition("shop", cluster, entry)
    metrics.forget("shop", "one")
    assert 'cluster="one"' not in generate_latest(registry).decode()
    assert 'cluster="two"' in generate_latest(registry).decode()
    metrics.forget_all()
    assert 'cluster="two"' not in generate_latest(registry).decode()

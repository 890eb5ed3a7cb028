"""Where the operators of the end-to-end tests kill themselves: no point may be passed over for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from statemachines.states import State
from tests.harness.crashing import Points


class Died(Exception):
    pass


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def die(*_: int) -> None:
        raise Died

    monkeypatch.setattr(os, "kill", die)
    path = tmp_path / "deaths"
    path.touch()
    return path


def test_an_effect_that_outlives_its_failover_still_ends_at_a_point(
    deaths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deaths.write_text("before OpenPrimary\n")
    points = Points(deaths=deaths, stop_at="")
    points.enter(State.OPENING)
    with pytest.raises(Died), points.around("OpenPrimary"):  # noqa: PT012 - the rest goes on while it is under way
        points.passed("before write Replicating")
        points.leave(State.REPLICATING)
        assert "failover over" not in capsys.readouterr().out
    assert deaths.read_text().splitlines()[-1] == "after OpenPrimary"


def test_a_failover_is_over_once_what_it_began_has_ended_well_or_not(
    deaths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deaths.write_text("before OpenPrimary\nafter OpenPrimary\nbefore Attach\n")
    points = Points(deaths=deaths, stop_at="")
    points.enter(State.OPENING)
    with pytest.raises(ConnectionError), points.around("Attach"):  # noqa: PT012 - as above
        with points.around("OpenPrimary"):
            points.leave(State.REPLICATING)
        assert "failover over" not in capsys.readouterr().out
        raise ConnectionError
    assert "failover over" in capsys.readouterr().out


def test_no_operator_dies_beside_an_effect_that_has_its_end_as_a_point_to_come(deaths: Path) -> None:
    points = Points(deaths=deaths, stop_at="")
    points.enter(State.OPENING)
    with pytest.raises(Died):
        points.passed("before OpenPrimary")
    deaths.write_text("before OpenPrimary\n")
    with pytest.raises(Died), points.around("OpenPrimary"):
        points.passed("before Attach")
    assert deaths.read_text().splitlines() == ["before OpenPrimary", "after OpenPrimary"]

"""The page of benchmarks says what the figures say."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.report import page

STEPS = {"FailingOver_Fencing by death_proven": 0.21}


def document(**measurements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"machine": "2 cores", "at": 0.0, "measurements": measurements}


def test_outages_show_their_median_their_maximum_and_how_often_an_instance_was_kept_out() -> None:
    runs = [{"outage": each, "kept_out": 1, "steps": STEPS} for each in (0.5, 0.75, 3.0)]
    text = page(document(**{"primary killed": runs}))
    assert "| primary killed | 3 | 0.75 | 3.00 | 3 of 3 | 12 s (16×) | 13 s (17×) |" in text
    assert "| FailingOver/Fencing by death_proven | 0.21 |" in text


def test_a_fault_with_the_operator_on_its_node_is_compared_with_the_same_fault() -> None:
    text = page(
        document(**{"primary frozen, operator on its node": [{"outage": 6.7, "kept_out": 0, "steps": {}}]})
    )
    assert "| 67 s (10×) | 20.9 s (3×) |" in text


def test_the_cost_of_one_more_cluster_is_the_slope() -> None:
    rows = [
        {"clusters": 1, "cpu": 0.01, "rss": 100 * 2**20},
        {"clusters": 51, "cpu": 0.26, "rss": 150 * 2**20},
    ]
    text = page(document(idle=rows))
    assert "Each further cluster costs 0.50 % of a core and 1024 KiB." in text


def test_what_was_not_measured_has_no_section() -> None:
    assert page(document()).count("## ") == 1

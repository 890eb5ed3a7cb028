"""Statements are sent to the server that was decided on, and an earlier leader is heard no more before we believe it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest

from mariadb_operator.act.sql import OtherServerStart, PredecessorRemains, SqlEffects
from mariadb_operator.sql.connection import Row
from mariadb_operator.sql.terms import Guard
from statemachines import effects as e
from tests.unit.virtual_time import virtual_time

INSTANCE = "demo-1"


class Wire:
    """A connection that writes down what was sent; `others` are the sessions that the server shows."""

    def __init__(self, others: dict[int, bool], *, killable: bool = True) -> None:
        self.incarnation = "a"
        self.connection_id = 1
        self.endpoint = type("Endpoint", (), {"user": "mariadb_operator"})
        self.others = others
        self.killable = killable
        self.sent: list[str] = []

    async def execute(self, sql: str, args: Sequence[object] = (), *, deadline_seconds: float) -> None:
        self.sent.append(sql)
        for victim in re.findall(r"KILL CONNECTION (\d+)", sql):
            if self.killable:
                self.others.pop(int(victim), None)

    async def query(self, sql: str, args: Sequence[object] = (), *, deadline_seconds: float) -> list[Row]:
        return [
            {"ID": number, "USER": "mariadb_operator", "waiting": waits}
            for number, waits in ({1: False} | self.others).items()
        ]


class Servers:
    def __init__(self, wire: Wire, fresh: Wire | None = None) -> None:
        self.wire = wire
        self.another = fresh

    async def standing(self, instance: str) -> Wire:
        return self.wire

    async def fresh(self, instance: str) -> Wire:
        return self.another or self.wire

    def give_back(self, instance: str, connection: Wire) -> None:
        pass

    def own_ids(self, instance: str) -> frozenset[int]:
        return frozenset({1})


def effects(wire: Wire) -> SqlEffects:
    servers: Any = Servers(wire)
    return SqlEffects(
        asyncio.TaskGroup(),
        servers,
        guard=Guard(term=2, leader="second"),
        target=lambda: pytest.fail("not asked"),
    )


@virtual_time
async def test_an_earlier_leader_is_known_to_be_gone_when_its_sessions_are() -> None:
    sql = effects(Wire({7: False}))
    assert not sql.cleared(INSTANCE, "a")
    await sql.run(e.RaiseTerm(INSTANCE, 2))
    assert sql.cleared(INSTANCE, "a")
    assert not sql.cleared(INSTANCE, "b"), "another start of the server was not looked at"


@virtual_time
async def test_a_session_of_an_earlier_leader_that_does_not_end_is_not_taken_for_gone() -> None:
    sql = effects(Wire({7: False}, killable=False))
    with pytest.raises(PredecessorRemains, match="7"):
        await sql.run(e.RaiseTerm(INSTANCE, 2))
    assert not sql.cleared(INSTANCE, "a")


@virtual_time
async def test_a_session_that_only_waits_for_its_acknowledgement_holds_nothing_up_and_is_not_killed() -> None:
    wire = Wire({7: True})
    sql = effects(wire)
    await sql.run(e.RaiseTerm(INSTANCE, 2))
    assert sql.cleared(INSTANCE, "a")
    assert wire.others == {7: True}


@virtual_time
async def test_a_server_that_was_started_anew_since_it_was_chosen_is_not_opened() -> None:
    wire = Wire({})
    opening = e.OpenPrimary(INSTANCE, epoch=2, cluster_id="c", semi_sync=True, incarnation="before")
    with pytest.raises(OtherServerStart):
        await effects(wire).run(opening)
    assert wire.sent == []


@virtual_time
async def test_the_epoch_is_not_written_in_another_start_than_the_one_that_is_opened() -> None:
    """Found by the simulation: it is written by an account that read_only does not stop."""
    again = Wire({})
    again.incarnation = "b"
    servers: Any = Servers(Wire({}), again)
    async with asyncio.TaskGroup() as group:
        guard = Guard(term=2, leader="second")
        sql = SqlEffects(group, servers, guard=guard, target=lambda: pytest.fail("not asked"))
        await sql.run(e.OpenPrimary(INSTANCE, 2, "uid", True, "a"))
    assert again.sent == []

"""The lines between operator and sidecar: what is read, what is refused, and how neighbouring versions get along."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mariadb_operator.node.protocol import (
    REQUESTS,
    Authority,
    DeathState,
    FenceReply,
    FenceRequest,
    GateState,
    Greeting,
    LeaseState,
    LedgerState,
    NodeState,
    PermitRequest,
    Phase,
    Ping,
    ProbeState,
    Reason,
    Refusal,
    RenewRequest,
    Role,
    ServerState,
    Sign,
    Space,
    StateReply,
    Verb,
    WatchEvent,
    Write,
    read_reply,
    read_request,
    write,
)
from mariadb_operator.node.wire import LINE_LIMIT, Malformed

AUTHORITY = Authority(cluster_id="c-1", epoch=3, term=7, request_id="r.1")
INCARNATION = "0123456789abcdef"
STATE = NodeState(
    server=ServerState(incarnation=INCARNATION, pid=12, started_at=1.25, seen_at=2.0),
    death=DeathState(incarnation=INCARNATION, pid=11, started_at=0.5, at=1.0, sign=Sign.EXITING),
    gate=GateState(phase=Phase.RUNNING, incarnation=INCARNATION),
    probes=ProbeState(
        ping=Ping.ANSWERS, write=Write.STALLED, write_error=0, space=Space.LOW, free_bytes=2**40
    ),
    ledger=LedgerState(readable=True, cluster_id="c-1", epoch=3, term=7, fenced=True),
    lease=LeaseState(incarnation=INCARNATION, deadline=99.5),
)
GREETING = Greeting(protocol=1, sidecar="s", boot_id="b", now=2.5, verbs=("watch",))
REQUEST_EXAMPLES = [
    (Verb.FENCE, FenceRequest(authority=AUTHORITY, wait_seconds=1.5)),
    (Verb.PERMIT, PermitRequest(authority=AUTHORITY, incarnation=INCARNATION, role=Role.REPLICA)),
    (Verb.RENEW, RenewRequest(authority=AUTHORITY, incarnation=INCARNATION, asked_at=5.0, seconds=3.0)),
]


def changed(message: Any, **values: object) -> bytes:
    return json.dumps({**dataclasses.asdict(message), **values}).encode()


@pytest.mark.parametrize(("verb", "request_"), REQUEST_EXAMPLES)
def test_a_request_is_read_as_it_was_written(verb: Verb, request_: Any) -> None:
    assert read_request(verb, write(request_)) == request_


@pytest.mark.parametrize(
    "reply",
    [
        StateReply(greeting=GREETING, state=STATE),
        StateReply(greeting=GREETING, state=dataclasses.replace(STATE, server=None, death=None, lease=None)),
        WatchEvent(now=3.5, sequence=4, greeting=GREETING, state=STATE),
        WatchEvent(now=4.5, sequence=4),
        FenceReply(dead=True, freed=False, recorded=True),
    ],
)
def test_a_reply_is_read_as_it_was_written(reply: Any) -> None:
    line = write(reply)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) < LINE_LIMIT / 2
    assert read_reply(type(reply), line) == reply


def test_a_refusal_comes_in_place_of_any_reply() -> None:
    refusal = Refusal(refused=Reason.STALE, detail="epoch 2 is below 3")
    assert read_reply(FenceReply, write(refusal)) == refusal


def test_every_verb_has_a_request() -> None:
    assert set(REQUESTS) == set(Verb)


def test_a_newer_peer_may_tell_more_but_not_ask_for_more() -> None:
    reply = FenceReply(dead=True, freed=True, recorded=True)
    assert read_reply(FenceReply, changed(reply, cause="kill")) == reply
    newer = dataclasses.asdict(StateReply(greeting=GREETING, state=STATE))
    newer["state"]["probes"]["temperature"] = 40
    assert read_reply(StateReply, json.dumps(newer).encode()) == StateReply(greeting=GREETING, state=STATE)
    with pytest.raises(Malformed, match="gently"):
        read_request(Verb.FENCE, changed(REQUEST_EXAMPLES[0][1], gently=True))


def test_an_older_peer_tells_less() -> None:
    older = dataclasses.asdict(StateReply(greeting=GREETING, state=STATE))
    del older["state"]["probes"]["free_inodes"]
    assert read_reply(StateReply, json.dumps(older).encode()) == StateReply(greeting=GREETING, state=STATE)


FENCE = REQUEST_EXAMPLES[0][1]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 8000,
        b'{"a":' * 1600,
        b"{" + b" " * LINE_LIMIT + b"}",
        b'{"wait_seconds":1,"wait_seconds":2}',
        b"{}",
        changed(FENCE, wait_seconds=-1),
        changed(FENCE, wait_seconds=1e9),
        changed(FENCE, wait_seconds="1"),
        changed(FENCE, wait_seconds=True),
        changed(FENCE, wait_seconds=None),
        changed(FENCE, wait_seconds=float("nan")),
        changed(FENCE, wait_seconds=float("inf")),
        changed(FENCE).replace(b'"wait_seconds": 1.5', b'"wait_seconds": 1e999'),
        changed(FENCE, authority=None),
        changed(FENCE, authority=[]),
        changed(FENCE, authority={"cluster_id": "c"}),
        *(
            changed(FENCE, authority={**dataclasses.asdict(AUTHORITY), **wrong})
            for wrong in (
                {"epoch": -1},
                {"epoch": 1.0},
                {"epoch": 2**63},
                {"epoch": True},
                {"term": "7"},
                {"cluster_id": ""},
                {"cluster_id": "../.."},
                {"cluster_id": "c" * 65},
                {"request_id": "a\nb"},
                {"request_id": "r" * 5000},
                {"more": 1},
            )
        ),
    ],
)
def test_anything_else_is_malformed(line: bytes) -> None:
    with pytest.raises(Malformed):
        read_request(Verb.FENCE, line)


@pytest.mark.parametrize(
    "wrong",
    [{"incarnation": "0123"}, {"incarnation": "../../../../etc/"}, {"role": "writer"}, {"role": ["primary"]}],
)
def test_a_permit_names_one_start_and_a_known_role(wrong: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        read_request(Verb.PERMIT, changed(REQUEST_EXAMPLES[1][1], **wrong))


@pytest.mark.parametrize("seconds", [0, 0.01, 61, -1])
def test_heartbeats_are_neither_a_flood_nor_forgotten(seconds: float) -> None:
    with pytest.raises(Malformed):
        read_request(Verb.WATCH, json.dumps({"heartbeat_seconds": seconds}).encode())


def test_what_is_refused_is_not_quoted() -> None:
    with pytest.raises(Malformed) as caught:
        read_request(Verb.FENCE, changed(FENCE, wait_seconds="hunter2"))
    assert "hunter2" not in str(caught.value)

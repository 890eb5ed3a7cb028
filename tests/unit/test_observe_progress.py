"""Since when, and up to where: what successive answers tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mariadb_operator.observe.progress import Progress
from statemachines.facts import IoThread, ReplicationFact, SemiSyncFact, ServerFact
from statemachines.gtid import History, Position


def server(
    at: float,
    position: str,
    *,
    incarnation: str = "a",
    clients: int = 1,
    acknowledged: int = 0,
    semi_sync: bool = True,
    io: IoThread | None = None,
    received: str = "",
    **more: Any,
) -> ServerFact:
    replication = None
    if io is not None:
        replication = ReplicationFact(
            source_host="10.0.0.1",
            source_port=3306,
            source_user="repl_1",
            io_thread=io,
            sql_running=more.pop("sql_running", True),
            received=Position.parse(received),
        )
    return ServerFact(
        asked_at=at,
        answered_at=at,
        pod_uid="u",
        incarnation=incarnation,
        server_id=1,
        version="11.8",
        read_only=False,
        term=1,
        epoch=1,
        cluster_id="c",
        history=History.parse(position),
        executed=Position.parse(position),
        slave_position=Position.parse(position),
        semi_sync=SemiSyncFact(
            source_enabled=semi_sync,
            replica_enabled=True,
            clients=clients,
            acknowledged=acknowledged,
            unacknowledged=0,
            waiting_sessions=0,
        ),
        replication=replication,
        **more,
    )


def replica(at: float, position: str, **more: Any) -> ServerFact:
    return server(at, position, **{"io": IoThread.RUNNING, "received": position, **more})


def test_a_replica_is_caught_up_with_a_position_that_was_read_before_it_was_asked() -> None:
    progress = Progress()
    progress.note_replica("r", replica(0.5, "0-1-8"), server(0.4, "0-1-8"), now=0.5)
    progress.note_replica("r", replica(2.0, "0-1-9"), server(1.0, "0-1-9"), now=2.0)
    assert progress.replica("r")[0] == 1.0


def test_a_position_read_before_replication_ran_proves_nothing_it_may_have_been_wiped_since() -> None:
    progress = Progress()
    progress.note_replica("r", replica(0.75, "0-1-5"), server(0.0, "0-1-5"), now=0.75)
    assert progress.replica("r")[0] is None
    progress.note_replica("r", replica(1.2, "0-1-5"), server(1.0, "0-1-5"), now=1.2)
    assert progress.replica("r")[0] == 1.0


def test_under_writes_it_catches_up_with_the_position_kept_as_target_though_never_with_the_latest() -> None:
    progress = Progress()
    for second in range(1, 6):
        primary = server(float(second), f"0-1-{second * 10}")
        progress.note_replica("r", replica(second + 0.5, f"0-1-{second * 10 - 3}"), primary, now=second + 0.5)
    caught_up_at, detached_since, _ = progress.replica("r")
    assert caught_up_at is not None
    assert caught_up_at >= 3.0
    assert detached_since is None


def test_what_is_received_counts_though_it_is_not_applied() -> None:
    progress = Progress()
    progress.note_replica("r", replica(0.5, "0-1-3", received="0-1-8"), server(0.4, "0-1-8"), now=0.5)
    progress.note_replica("r", replica(2.0, "0-1-3", received="0-1-9"), server(1.0, "0-1-9"), now=2.0)
    assert progress.replica("r")[0] == 1.0


def test_a_replica_that_was_asked_before_the_primary_proves_nothing_of_it() -> None:
    progress = Progress()
    progress.note_replica("r", replica(1.0, "0-1-9"), server(2.0, "0-1-9"), now=2.0)
    assert progress.replica("r")[0] is None


def test_a_restart_of_either_or_a_stop_of_replication_forgets_it() -> None:
    for after in (
        replica(4.0, "0-1-9", incarnation="b"),
        replica(4.0, "0-1-9", io=IoThread.STOPPED),
        replica(4.0, "0-1-9", sql_running=False),
    ):
        progress = Progress()
        progress.note_replica("r", replica(2.0, "0-1-9"), server(1.0, "0-1-9"), now=2.0)
        progress.note_replica("r", after, server(5.0, "0-1-12"), now=5.0)
        assert progress.replica("r")[0] is None
    progress = Progress()
    progress.note_replica("r", replica(2.0, "0-1-9"), server(1.0, "0-1-9"), now=2.0)
    progress.note_replica("r", replica(4.0, "0-1-9"), server(5.0, "0-1-12", incarnation="b"), now=5.0)
    assert progress.replica("r")[0] is None


def test_detached_counts_from_the_first_look_without_replication() -> None:
    progress = Progress()
    primary = server(1.0, "0-1-9")
    progress.note_replica("r", replica(1.0, "0-1-9"), primary, now=1.0)
    assert progress.replica("r")[1] is None
    for now in (3.0, 7.0):
        progress.note_replica("r", None, primary, now=now)
    assert progress.replica("r")[1] == 3.0
    progress.note_replica("r", replica(8.0, "0-1-9"), primary, now=8.0)
    assert progress.replica("r")[1] is None


def test_a_primary_is_lonely_from_the_look_that_first_showed_nobody() -> None:
    progress = Progress()
    progress.note_primary("p", server(1.0, "0-1-1", clients=1))
    for at in (2.0, 3.0, 4.0):
        progress.note_primary("p", server(at, "0-1-1", clients=0))
    assert progress.primary("p").lonely_since == 2.0
    progress.note_primary("p", server(5.0, "0-1-1", clients=1))
    assert progress.primary("p").lonely_since is None


def waiting(at: float, *, acknowledged: int, sessions: int = 3) -> ServerFact:
    """A primary whose replica stays connected."""
    found = server(at, "0-1-9", acknowledged=acknowledged)
    return replace(found, semi_sync=replace(found.semi_sync, waiting_sessions=sessions))


def test_a_primary_whose_connected_replica_acknowledges_nothing_is_as_lonely_as_one_without() -> None:
    progress = Progress()
    progress.note_primary("p", waiting(1.0, acknowledged=7))
    progress.note_primary("p", waiting(2.0, acknowledged=8))
    assert progress.primary("p").lonely_since is None
    progress.note_primary("p", waiting(3.0, acknowledged=8))
    progress.note_primary("p", waiting(4.0, acknowledged=8))
    assert progress.primary("p").lonely_since == 3.0
    progress.note_primary("p", waiting(5.0, acknowledged=8, sessions=0))
    assert progress.primary("p").lonely_since is None


def test_commits_that_nobody_acknowledged_are_dated_by_the_look_that_first_showed_them() -> None:
    progress = Progress()
    for at, count in ((1.0, 2), (2.0, 2), (3.0, 3), (4.0, 3)):
        found = server(at, "0-1-9")
        progress.note_primary("p", replace(found, semi_sync=replace(found.semi_sync, unacknowledged=count)))
        assert progress.primary("p").unacknowledged_at == (1.0 if count == 2 else 3.0)


def test_an_acknowledgement_is_seen_when_the_count_grows_never_at_the_first_look() -> None:
    progress = Progress()
    progress.note_primary("p", server(1.0, "0-1-1", acknowledged=7))
    assert progress.primary("p").acknowledged_at is None
    progress.note_primary("p", server(2.0, "0-1-2", acknowledged=8))
    assert progress.primary("p").acknowledged_at is not None


def test_under_writes_a_replica_comes_to_hold_a_position_read_after_the_first_acknowledgement() -> None:
    progress = Progress()
    for second in range(1, 6):
        primary = server(float(second), f"0-1-{second * 10}", acknowledged=second)
        progress.note_primary("p", primary)
        progress.note_replica("r", replica(second + 0.5, f"0-1-{second * 10 - 3}"), primary, now=second + 0.5)
    caught_up_at, acknowledged_at = progress.replica("r")[0], progress.primary("p").acknowledged_at
    assert acknowledged_at == 2.0
    assert caught_up_at is not None
    assert caught_up_at > acknowledged_at


def test_turning_semi_sync_off_or_a_restart_forgets_acknowledgements() -> None:
    for after in (
        server(3.0, "0-1-2", acknowledged=8, semi_sync=False),
        server(3.0, "0-1-2", acknowledged=0, incarnation="b"),
    ):
        progress = Progress()
        progress.note_primary("p", server(1.0, "0-1-1", acknowledged=7))
        progress.note_primary("p", server(2.0, "0-1-2", acknowledged=8))
        progress.note_primary("p", after)
        assert progress.primary("p").acknowledged_at is None


def test_a_replica_is_shut_out_when_its_account_is_locked_and_nobody_uses_it() -> None:
    progress = Progress()
    locked = frozenset({"repl_1"})
    progress.note_account("r", "repl_1", server(1.0, "", locked_accounts=locked, connected_accounts=locked))
    assert progress.replica("r")[2] is None
    for at in (2.0, 3.0):
        progress.note_account("r", "repl_1", server(at, "", locked_accounts=locked))
    assert progress.replica("r")[2] == 2.0
    progress.note_account("r", "repl_1", server(4.0, ""))
    assert progress.replica("r")[2] is None


def test_an_instance_that_was_set_up_anew_starts_from_nothing() -> None:
    progress = Progress()
    progress.note_replica("r", replica(2.0, "0-1-9"), server(1.0, "0-1-9"), now=2.0)
    progress.forget("r")
    assert progress.replica("r") == (None, None, None)

"""The reflector's store is what the server has, whatever the server does in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mariadb_operator.kube.kinds import POD, Manifest
from mariadb_operator.kube.reflector import Reflector
from mariadb_operator.kube.store import Change, ChangeType, Store
from tests.unit.fake_api import FakeApi, Fault, eventually
from tests.unit.virtual_time import ImpatientClock


def pod(name: str, *, cluster: str = "m", namespace: str = "n", **spec: str) -> Manifest:
    labels = {"mariadb.fsm.dev/cluster": cluster}
    metadata = {"namespace": namespace, "name": name, "labels": labels, "managedFields": [{"manager": "x"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Follower:
    """A running reflector and what it reported."""

    def __init__(self, api: FakeApi, *, namespace: str | None = None) -> None:
        self.clock = ImpatientClock()
        self.changes: list[Change] = []
        self.reflector = Reflector(
            api.client(),
            POD,
            on_change=self.changes.append,
            clock=self.clock,
            rng=random.Random(1),
            namespace=namespace,
        )

    def told(self) -> list[tuple[str, str]]:
        return [(change.type.value, change.object["metadata"]["name"]) for change in self.changes]

    def names(self) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.reflector.store)


@asynccontextmanager
async def following(api: FakeApi, *, namespace: str | None = None) -> AsyncIterator[Follower]:
    follower = Follower(api, namespace=namespace)
    task = asyncio.create_task(follower.reflector.run())
    try:
        yield follower
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as api:
        yield api


def watches(api: FakeApi) -> list[str]:
    return [request.query["resourceVersion"] for request in api.requests if request.watch]


def lists(api: FakeApi) -> int:
    return sum(not request.watch for request in api.requests)


async def test_what_is_listed_and_what_changes_is_stored_and_told_in_order(api: FakeApi) -> None:
    api.objects.create(POD, pod("a"))
    async with following(api) as follower:
        await follower.reflector.synced.wait()
        assert follower.names() == ["a"]
        await eventually(lambda: api.watching == 1)
        api.objects.create(POD, pod("b"))
        api.objects.merge(POD, "n", "b", {"spec": {"node": "x"}})
        api.objects.delete(POD, "n", "a")
        await eventually(lambda: len(follower.changes) == 4)
    assert follower.told() == [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]
    assert follower.names() == ["b"]
    modified = follower.changes[2]
    assert (modified.object["spec"], modified.previous and modified.previous["spec"]) == ({"node": "x"}, {})
    stored = follower.reflector.store.get("n", "b")
    assert stored is not None
    assert "managedFields" not in stored["metadata"]
    assert (stored["apiVersion"], stored["kind"]) == ("v1", "Pod")


async def test_a_watch_asks_for_bookmarks_and_an_end_at_a_random_time(api: FakeApi) -> None:
    api.fault(Fault.CLOSE_WATCH, watch=True, times=9)
    async with following(api):
        await eventually(lambda: api.watching == 1)
    queries = [request.query for request in api.requests if request.watch]
    assert {query["allowWatchBookmarks"] for query in queries} == {"true"}
    ends = [int(query["timeoutSeconds"]) for query in queries]
    assert all(240 <= end <= 480 for end in ends)
    assert len(set(ends)) > 1


async def test_a_long_list_is_read_in_pages(api: FakeApi) -> None:
    for number in range(1201):
        api.objects.create(POD, pod(f"p{number}"))
    async with following(api) as follower:
        await follower.reflector.synced.wait()
        assert len(follower.reflector.store) == 1201
    assert lists(api) == 3


async def test_a_watch_that_ends_goes_on_from_the_last_bookmark_without_a_list(api: FakeApi) -> None:
    async with following(api) as follower:
        await eventually(lambda: api.watching == 1)
        api.objects.create(POD, pod("elsewhere"))
        await eventually(lambda: len(follower.changes) == 1)
        api.close_watches()
        await eventually(lambda: len(watches(api)) == 2)
        api.objects.create(POD, pod("later"))
        await eventually(lambda: len(follower.changes) == 2)
    assert follower.told() == [("ADDED", "elsewhere"), ("ADDED", "later")]
    assert (lists(api), watches(api)) == (1, ["1000", "1001"])


async def test_a_bookmark_moves_the_place_from_which_to_resume(api: FakeApi) -> None:
    async with following(api, namespace="n") as follower:
        await eventually(lambda: api.watching == 1)
        # Seen by no one in namespace n, but the bookmark after it carries its version.
        foreign = api.objects.create(POD, pod("x", namespace="other"))["metadata"]["resourceVersion"]
        await eventually(lambda: follower.reflector._resource_version == foreign)
        api.close_watches()
        await eventually(lambda: len(watches(api)) == 2)
    assert watches(api)[1] == foreign
    assert follower.changes == []


@pytest.mark.parametrize("gone", [Fault.GONE, Fault.ERROR_EVENT])
async def test_a_version_too_old_means_listing_again_and_the_vanished_are_told_as_deleted(
    api: FakeApi, gone: Fault
) -> None:
    for name in ("stays", "changes", "vanishes", "reborn"):
        api.objects.create(POD, pod(name))
    async with following(api) as follower:
        await eventually(lambda: api.watching == 1)
        del follower.changes[:]
        api.fault(Fault.STATUS, watch=True, code=503, times=1_000_000)  # nobody watches what follows
        api.close_watches()
        await eventually(lambda: api.watching == 0)
        api.objects.merge(POD, "n", "changes", {"spec": {"node": "x"}})
        api.objects.delete(POD, "n", "vanishes")
        api.objects.delete(POD, "n", "reborn")
        api.objects.create(POD, pod("reborn"))
        api.objects.create(POD, pod("new"))
        api.heal()
        api.fault(gone, watch=True, code=410)
        await eventually(lambda: len(follower.changes) >= 5 and api.watching == 1)
    assert sorted(follower.told()) == [
        ("ADDED", "new"),
        ("ADDED", "reborn"),
        ("DELETED", "reborn"),
        ("DELETED", "vanishes"),
        ("MODIFIED", "changes"),
    ]
    assert follower.told().index(("DELETED", "reborn")) < follower.told().index(("ADDED", "reborn"))
    assert {change.synthetic for change in follower.changes if change.type is ChangeType.DELETED} == {True}
    assert follower.names() == ["changes", "new", "reborn", "stays"]
    assert lists(api) == 2


async def test_a_list_whose_next_page_is_too_old_begins_anew(api: FakeApi) -> None:
    for number in range(600):
        api.objects.create(POD, pod(f"p{number}"))
    api.fault(Fault.DELAY, seconds=0, watch=False)  # the first page passes
    api.fault(Fault.GONE, watch=False)
    async with following(api) as follower:
        await follower.reflector.synced.wait()
        assert len(follower.reflector.store) == 600
    assert lists(api) == 4


@pytest.mark.parametrize(
    "fault",
    [
        Fault.TEXT_429,
        Fault.HTML_502,
        Fault.STATUS,
        Fault.REFUSE,
        Fault.ERROR_EVENT,
        Fault.TEXT_LINE,
        Fault.TORN_LINE,
        Fault.CLOSE_WATCH,
    ],
)
async def test_no_answer_of_a_watch_loses_a_change_or_hammers_the_server(api: FakeApi, fault: Fault) -> None:
    async with following(api) as follower:
        await eventually(lambda: api.watching == 1)
        api.fault(fault, watch=True, times=12, code=500)
        api.close_watches()
        await eventually(lambda: len(watches(api)) == 14)
        api.objects.create(POD, pod("after"))
        await eventually(lambda: bool(follower.changes))
    assert follower.told() == [("ADDED", "after")]
    pauses = follower.clock.slept
    assert len(pauses) == 13
    # Each doubles, up to the limit of 10 s, and is shortened by at most half.
    for number, pause in enumerate(pauses):
        full = min(10.0, 0.2 * 2**number)
        assert full / 2 <= pause <= full
    assert len({pause / min(10.0, 0.2 * 2**number) for number, pause in enumerate(pauses)}) > 3


async def test_a_steady_watch_ends_the_back_off(api: FakeApi) -> None:
    api.fault(Fault.CLOSE_WATCH, watch=True, times=8)
    async with following(api) as follower:
        await eventually(lambda: api.watching == 1)
        follower.clock.now += 60
        api.close_watches()
        await eventually(lambda: len(watches(api)) == 10)
    assert follower.clock.slept[7] > 4
    assert follower.clock.slept[8] <= 0.2


async def test_a_list_that_fails_is_tried_again_and_the_reason_is_known(api: FakeApi) -> None:
    api.fault(Fault.STATUS, code=403, times=1_000_000)
    api.objects.create(POD, pod("a"))
    async with following(api) as follower:
        await eventually(lambda: follower.reflector.last_error is not None)
        assert not follower.reflector.synced.is_set()
        assert follower.reflector.last_contact is None
        api.heal()
        await follower.reflector.synced.wait()
        assert follower.reflector.last_error is None
        assert follower.reflector.last_contact is not None


async def test_a_restarted_server_is_followed_again(api: FakeApi) -> None:
    async with following(api) as follower:
        await eventually(lambda: api.watching == 1)
        await api.stop()
        api.objects.create(POD, pod("meanwhile"))
        await eventually(lambda: len(follower.clock.slept) > 5)
        await api.start()
        await eventually(lambda: bool(follower.changes))
    assert follower.told() == [("ADDED", "meanwhile")]


async def test_a_server_that_went_silent_is_left(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mariadb_operator.kube.reflector.SILENCE_SECONDS", 0.2)
    api.bookmark_seconds = 1000
    async with following(api):
        await eventually(lambda: len(watches(api)) >= 2)
    assert "went silent" in caplog.text
    assert lists(api) == 1


async def test_an_error_of_the_receiver_is_not_hidden(api: FakeApi) -> None:
    def fail(change: Change) -> None:
        raise RuntimeError(change.object["metadata"]["name"])

    api.objects.create(POD, pod("a"))
    reflector = Reflector(api.client(), POD, on_change=fail, clock=ImpatientClock(), rng=random.Random(1))
    with pytest.raises(RuntimeError, match="a"):
        await reflector.run()


def stored(name: str, version: str, *, uid: str = "u", cluster: str | None = "m") -> Manifest:
    manifest = pod(name)
    manifest["metadata"] |= {"resourceVersion": version, "uid": uid}
    manifest["metadata"]["labels"] = {} if cluster is None else {"mariadb.fsm.dev/cluster": cluster}
    return manifest


def test_a_store_finds_the_objects_of_a_cluster_also_after_their_label_moved() -> None:
    store = Store(POD)
    store.put(stored("a", "1"))
    store.put(stored("b", "1", uid="v"))
    assert [item["metadata"]["name"] for item in store.by_cluster("n", "m")] == ["a", "b"]
    store.put(stored("a", "2", cluster="other"))
    store.put(stored("b", "2", uid="v", cluster=None))
    assert store.by_cluster("n", "m") == []
    assert [item["metadata"]["name"] for item in store.by_cluster("n", "other")] == ["a"]
    assert store.by_cluster("elsewhere", "other") == []
    store.remove(stored("a", "3", cluster="other"))
    assert store.by_cluster("n", "other") == []
    assert len(store) == 1


def test_a_store_goes_by_the_order_of_the_stream_not_by_the_number_of_the_version() -> None:
    store = Store(POD)
    store.put(stored("a", "10"))
    assert [change.type for change in store.put(stored("a", "9"))] == [ChangeType.MODIFIED]
    assert store.put(stored("a", "9")) == []


def test_a_reply_does_not_replace_what_the_stream_has_told_since_the_request() -> None:
    """Found by the simulation: a Pod's address came before the reply to its creation, and was lost with it."""
    store = Store(POD)
    store.put(stored("a", "11"))
    assert store.put_reply(stored("a", "10"), before=None) == []
    known = store.get("n", "a")
    assert known is not None
    assert known["metadata"]["resourceVersion"] == "11"
    assert [change.type for change in store.put_reply(stored("a", "12"), before=known)] == [
        ChangeType.MODIFIED
    ]
    assert [change.type for change in store.put_reply(stored("b", "13"), before=None)] == [ChangeType.ADDED]


def test_a_deletion_of_an_object_that_is_not_there_is_no_change() -> None:
    store = Store(POD)
    assert store.remove(stored("a", "1")) == []
    store.put(stored("a", "2", uid="new"))
    assert store.remove(stored("a", "1", uid="old")) == []
    assert len(store) == 1

"""The process: who leads looks after all clusters, a sick one delays no other, an older definition is not led on."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any

import pytest
import yaml

from mariadb_operator.api import crd
from mariadb_operator.controllers.definition import DefinitionCheck
from mariadb_operator.controllers.journal import Journal
from mariadb_operator.controllers.operator import Leader
from mariadb_operator.controllers.statuses import StatusWriter
from mariadb_operator.kube.errors import Rejected
from mariadb_operator.kube.kinds import (
    CUSTOM_RESOURCE_DEFINITION,
    EVENT,
    MARIADB_CLUSTER,
    POD_DISRUPTION_BUDGET,
    SECRET,
    Manifest,
)
from mariadb_operator.kube.store import Change, ChangeType
from mariadb_operator.runtime.errors import Transient
from statemachines.facts import Snapshot
from statemachines.record import HistoryEntry, Intent, Record, Situation
from statemachines.states import State
from tests.unit.cluster_world import NAME, NAMESPACE, World, resource, world
from tests.unit.fake_objects import FakeObjects
from tests.unit.memory_client import MemoryClient
from tests.unit.virtual_time import VirtualClock, virtual_time

__all__ = ["world"]


class Running:
    """A Leader over a world's stores."""

    def __init__(self, made: World, *, workers: int = 2) -> None:
        self.made = made
        self.leader = Leader(made.surroundings(term=1), workers=workers)

    async def __aenter__(self) -> Leader:
        self.made.pump()
        self.tasks = [asyncio.create_task(self.leader.run()), asyncio.create_task(self._deliver())]
        return self.leader

    async def _deliver(self) -> None:
        while True:
            self.made.pump()
            for manifest in self.made.objects.of(MARIADB_CLUSTER).objects.values():
                self.leader.changed(Change(ChangeType.MODIFIED, MARIADB_CLUSTER, manifest))
            await asyncio.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def create(made: World, name: str) -> None:
    manifest = resource(replicas=1)
    manifest["metadata"]["name"] = name
    made.objects.create(MARIADB_CLUSTER, manifest)


def state_of(made: World, name: str) -> str:
    return str((made.objects.get(MARIADB_CLUSTER, NAMESPACE, name).get("status") or {}).get("state"))


@virtual_time
async def test_a_sick_cluster_and_a_crashing_one_delay_no_other(
    world: type[World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mariadb_operator.controllers import session  # noqa: PLC0415

    original = session.ClusterSession._pass

    async def sabotaged(self: Any, cached: Manifest) -> float:
        if self.owner.name == "hanging":
            await asyncio.sleep(10)
            raise Transient("no reply within 10 s")
        if self.owner.name == "crashing":
            raise KeyError("a bug")
        return await original(self, cached)

    monkeypatch.setattr(session.ClusterSession, "_pass", sabotaged)
    caplog.set_level(logging.CRITICAL)
    made = world()
    for name in ("hanging", "crashing", NAME):
        create(made, name)
    async with Running(made, workers=2):
        await made.until(lambda: state_of(made, NAME) == "Healthy", seconds=60)


@virtual_time
async def test_a_session_ends_with_its_resource_and_begins_anew_with_a_new_one(world: type[World]) -> None:
    made = world()
    create(made, NAME)
    key = (NAMESPACE, NAME)
    async with Running(made) as leader:
        await made.until(lambda: state_of(made, NAME) == "Healthy", seconds=60)
        old = leader._sessions[key]
        made.objects.merge(MARIADB_CLUSTER, NAMESPACE, NAME, {"metadata": {"finalizers": None}})
        made.objects.delete(MARIADB_CLUSTER, NAMESPACE, NAME)
        create(made, NAME)
        await made.until(lambda: leader._sessions.get(key) not in (None, old), seconds=30)
        uid = made.objects.get(MARIADB_CLUSTER, NAMESPACE, NAME)["metadata"]["uid"]
        assert leader._sessions[key].owner.uid == uid
        await made.until(lambda: state_of(made, NAME) == "Quarantined", seconds=30)


def test_a_status_that_others_write_is_no_reason_to_look_at_the_objects() -> None:
    noted = []

    class Session:
        def note_change(self) -> None:
            noted.append(1)

    before = {"metadata": {"name": "demo", "resourceVersion": "1"}, "spec": {"a": 1}, "status": {"n": 1}}
    for after, news in (
        ({**before, "metadata": {"name": "demo", "resourceVersion": "2"}, "status": {"n": 2}}, False),
        ({**before, "spec": {"a": 2}}, True),
        ({**before, "metadata": {"name": "demo", "labels": {}}}, True),
    ):
        noted.clear()
        change = Change(ChangeType.MODIFIED, POD_DISRUPTION_BUDGET, after, before)
        Leader._tell(Session(), change)  # type: ignore[arg-type]
        assert bool(noted) is news
    Leader._tell(Session(), Change(ChangeType.DELETED, SECRET, before, before))  # type: ignore[arg-type]
    assert noted


# --- the definition ------------------------------------------------------------------------------------------------------


def definition(**edits: Any) -> Manifest:
    return {**copy.deepcopy(yaml.safe_load(crd.text())), **edits}


class Checking:
    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.client = MemoryClient(self.objects)
        self.check = DefinitionCheck(self.client.as_client(), clock=VirtualClock())

    async def __aenter__(self) -> DefinitionCheck:
        self.task = asyncio.create_task(self.check.run())
        await asyncio.sleep(0.1)
        return self.check

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))


def without(manifest: Manifest, field: str) -> Manifest:
    schema = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]["properties"][field]
    return manifest


@virtual_time
async def test_the_definition_of_this_release_fits() -> None:
    checking = Checking()
    checking.objects.create(CUSTOM_RESOURCE_DEFINITION, definition())
    async with checking as check:
        assert check.fits.is_set()
        assert check.problem == ""


@virtual_time
async def test_an_older_definition_is_named_with_what_to_do_and_a_new_one_is_noticed() -> None:
    checking = Checking()
    checking.objects.create(CUSTOM_RESOURCE_DEFINITION, without(definition(), "durability"))
    async with checking as check:
        assert not check.fits.is_set()
        assert check.unfit.is_set()
        assert "durability" in check.problem
        assert "deploy/kustomize/crds" in check.problem
        checking.objects.merge(
            CUSTOM_RESOURCE_DEFINITION, None, crd.manifest()["metadata"]["name"], definition()
        )
        await asyncio.sleep(10)
        assert check.fits.is_set()
        assert not check.unfit.is_set()


@virtual_time
async def test_a_definition_that_is_replaced_by_an_older_one_ends_leading() -> None:
    checking = Checking()
    checking.objects.create(CUSTOM_RESOURCE_DEFINITION, definition())
    async with checking as check:
        name = crd.manifest()["metadata"]["name"]
        checking.objects.merge(CUSTOM_RESOURCE_DEFINITION, None, name, without(definition(), "epoch"))
        await asyncio.sleep(70)
        assert check.unfit.is_set()
        assert not check.fits.is_set()


@virtual_time
async def test_what_can_not_be_looked_at_ends_no_leading_and_begins_none() -> None:
    checking = Checking()
    checking.client.fail("get", Transient("no connection"), times=3)
    checking.objects.create(CUSTOM_RESOURCE_DEFINITION, definition())
    async with checking as check:
        assert not check.fits.is_set()
        assert not check.unfit.is_set()
        await asyncio.sleep(20)
        assert check.fits.is_set()
        checking.client.fail("get", Transient("no connection"), times=100)
        await asyncio.sleep(300)
        assert check.fits.is_set()


@virtual_time
async def test_a_definition_that_may_not_be_read_is_a_reason_not_to_lead() -> None:
    checking = Checking()
    checking.client.fail("get", Rejected("403 forbidden"), times=10**6)
    async with checking as check:
        assert check.unfit.is_set()
        assert "forbidden" in check.problem


# --- journal and status writer -------------------------------------------------------------------------------------------


def entry(sequence: int) -> HistoryEntry:
    return HistoryEntry(
        sequence=sequence,
        source=State.HEALTHY,
        target=State.DEGRADED,
        trigger="less_than_asked",
        guards=(),
        at=0.0,
    )


class Journalling:
    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.client = MemoryClient(self.objects)
        self.resource = self.objects.create(MARIADB_CLUSTER, resource())

    async def run(self, use: Any) -> list[str]:
        import random  # noqa: PLC0415

        async with asyncio.TaskGroup() as group:
            journal = Journal(
                group,
                self.client.as_client(),
                clock=VirtualClock(),
                rng=random.Random(1),
                reporter="op",
            )
            await use(journal)
            for task in asyncio.all_tasks():
                if task.get_name() == "journal":
                    task.cancel()
        return sorted(name for _, name in self.objects.of(EVENT).objects)

    def situation(self, **record: Any) -> Situation:
        return Situation(
            intent=Intent(name=NAME, cluster_uid="u"),
            snapshot=Snapshot(now=0.0, problem="spec.x: mend it", problem_reason="Broken"),
            record=Record(**record),
            wall=0.0,
        )


@virtual_time
async def test_a_transition_s_event_exists_once_however_often_it_is_noted_and_by_whomever() -> None:
    bench = Journalling()

    async def use(journal: Journal) -> None:
        record = Record(history=(entry(1), entry(2)))
        for _ in range(3):
            journal.note(bench.resource, record, bench.situation())
        await asyncio.sleep(1)

    async def replay(journal: Journal) -> None:
        journal.replay(bench.resource, Record(history=(entry(2), entry(3))))
        await asyncio.sleep(1)

    first = await bench.run(use)
    uid = bench.resource["metadata"]["uid"][:8]
    assert {f"{NAME}.{uid}.1", f"{NAME}.{uid}.2"} < set(first)
    assert len(first) == 3  # and one for the problem
    assert len(await bench.run(replay)) == 4


@virtual_time
async def test_an_event_that_could_not_be_written_is_written_with_the_next_status() -> None:
    bench = Journalling()
    bench.client.fail("create", Transient("overloaded"), times=4)

    async def use(journal: Journal) -> None:
        record = Record(history=(entry(1),))
        journal.replay(bench.resource, record)
        await asyncio.sleep(120)
        assert not bench.objects.of(EVENT).objects
        journal.replay(bench.resource, record)
        await asyncio.sleep(1)

    assert len(await bench.run(use)) == 1


@virtual_time
async def test_events_wait_for_a_failover_but_not_for_long() -> None:
    bench = Journalling()

    async def use(journal: Journal) -> None:
        journal.hold(True)
        journal.replay(bench.resource, Record(history=(entry(1),)))
        await asyncio.sleep(1)
        assert not bench.objects.of(EVENT).objects
        await asyncio.sleep(2)
        assert bench.objects.of(EVENT).objects

    await bench.run(use)


@virtual_time
async def test_a_version_that_somebody_else_wrote_is_told_from_our_own() -> None:
    bench = Journalling()
    writer = StatusWriter(bench.client.as_client(), clock=VirtualClock())
    mine = copy.deepcopy(bench.resource)
    writer.read(mine)
    assert writer.is_ours(mine)
    theirs = bench.objects.merge(MARIADB_CLUSTER, NAMESPACE, NAME, {"metadata": {"labels": {"a": "b"}}})
    assert not writer.is_ours(theirs)
    writer.forget()
    assert not writer.is_ours(mine)

"""A small world for the machine: three instances, tiny histories, every fault of DESIGN.md as a step.

Pure and hashable. What MariaDB, the kubelet and the operator's own runner do is written down here as FACTS.md and
mariadb_operator.act have it; what the operator decides is the real `decide`. Not for choosing which steps to take:
machine_explorer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from statemachines import effects as e
from statemachines.facts import (
    Container,
    EndpointFact,
    InstanceFacts,
    IoThread,
    PodFact,
    ProbeFact,
    Process,
    Reach,
    ReplicationFact,
    SalvagedFact,
    SemiSyncFact,
    ServerFact,
    SidecarFact,
    Snapshot,
    Volume,
)
from statemachines.gtid import Gtid, History, Position
from statemachines.record import Record

DEAD, RUNNING, FROZEN = 0, 1, 2
CLUSTER, UID = "db", "uid-1"

Entry = tuple[int, str, int]
"""A transaction: server, kind (Epoch, Client, foreign X), epoch number; its sequence is its place in the log."""

Transaction = tuple[int, int]
"""(sequence, server) of a transaction."""


class Node(NamedTuple):
    """One instance: its process, its Pod, its data."""

    proc: int = DEAD
    gen: int = 0  # of the Pod in which the process runs or ran
    inc: int = 0
    pod: int = 0  # generation of the Pod object; 0: none
    deleting: bool = False
    made: int = 0  # Pods made so far
    log: tuple[Entry, ...] = ()
    relay: tuple[Entry, ...] = ()
    source: tuple[int, int] | None = None  # instance and Pod generation: an address
    io: bool = False
    sql: bool = False
    shows: bool = False  # what it received; not after a restart, until replication was started
    read_only: bool = True
    semi: bool = True
    acked: bool = False  # an acknowledgement came in since semi-sync is on
    unlocked: int = 0  # replication accounts that may connect here, as a mask
    term: int = 0
    broken: bool = False  # an error ends its SQL thread whenever it starts
    unacked: int = 0  # commits whose client heard OK though nobody acknowledged
    held: bool = False  # by its sidecar, on its volume
    permitted: bool = False  # the next start may begin
    file: tuple[Entry, ...] = ()  # another's log, of which its sidecar keeps what was salvaged
    file_from: int = 0  # how much of that log it does not keep
    file_epoch: int = 0  # in which it was salvaged
    # What follows is shown by no fact.
    opened: int = 0  # the epoch for which this server start was opened
    waiting: Transaction | None = None  # a client's commit that waits for its acknowledgement
    flight: e.Effect | None = None  # sent by the operator, not done
    flight_term: int = 0
    late: e.Effect | None = None  # sent by an earlier leader, not done, known to nobody
    late_term: int = 0


SHOWN = Node._fields.index("opened")


class World(NamedTuple):
    """Everything that is: servers, network, the written record, the operator's memory, and what must not get lost."""

    nodes: tuple[Node, ...]
    written: int  # number of the record in the status
    memory: int  # number of the operator's record
    term: int = 1
    begun: bool = False  # the operation was open when the latest facts were asked for
    operator_cut: int = 0
    network_cut: int = 0
    endpoint: tuple[int, int, int] | None = None
    ended: tuple[int, ...] = (0, 0, 0)  # Pod generation whose end was reported
    shut: int = 0  # replicas seen locked out before
    acked: bool = False  # the primary's acknowledgements were seen before
    blind: int = 0  # who did not answer when the present epoch was committed
    stale: tuple[int, Node, int, float] | None = None  # an answer got earlier: whose, what, reach, when asked
    safe: frozenset[Transaction] = frozenset()  # acknowledged to a client, to be kept
    ackers: frozenset[tuple[int, int]] = frozenset()  # (epoch, instance) that acknowledged
    sidecars: bool = False
    commits: int = 0  # left
    faults: tuple[str, ...] = ()  # kinds left, each to happen once


class Violation(Exception):
    """An invariant does not hold."""


def name(number: int) -> str:
    return f"{CLUSTER}-{number}"


def number_of(instance: str) -> int:
    return int(instance.rpartition("-")[2])


def incarnation(number: int, node: Node) -> str:
    return f"start-{number}-{node.inc}"


def address(instance: int, generation: int) -> str:
    return f"10.0.{instance}.{generation}"


def has(node: Node, transaction: Transaction) -> bool:
    """Whether the log, applied, holds that transaction."""
    sequence, server = transaction
    return len(node.log) >= sequence and node.log[sequence - 1][0] == server


def epoch_of(node: Node) -> int:
    return max((entry[2] for entry in node.log if entry[1] == "E"), default=0)


# --- replication ----------------------------------------------------------------------------------------------------


def linked(world: World, replica: int) -> int | None:
    """The instance to which the replica's IO thread gets a connection, whatever becomes of it."""
    node = world.nodes[replica]
    if node.proc != RUNNING or not node.io or node.source is None:
        return None
    source, generation = node.source
    other = world.nodes[source]
    cut = world.network_cut & (1 << replica | 1 << source)
    if other.proc != RUNNING or other.gen != generation or cut or not other.unlocked & 1 << replica:
        return None
    return source


def compatible(world: World, replica: int, source: int) -> bool:
    held = world.nodes[replica].log + world.nodes[replica].relay
    return world.nodes[source].log[: len(held)] == held


def feeding(world: World, replica: int) -> int | None:
    """The instance from which the replica receives."""
    source = linked(world, replica)
    return source if source is not None and compatible(world, replica, source) else None


def receivers(world: World, source: int) -> tuple[int, ...]:
    return tuple(r for r in range(len(world.nodes)) if feeding(world, r) == source)


# --- what the operator sees -----------------------------------------------------------------------------------------


def reach(world: World, number: int) -> Reach:
    node = world.nodes[number]
    if not node.pod or world.operator_cut & 1 << number:
        return Reach.SILENT
    if node.gen != node.pod or node.proc == DEAD:
        return Reach.REFUSED  # a successor Pod waits for the volume's lock
    return Reach.SILENT if node.proc == FROZEN else Reach.ANSWERING


def _positions(entries: tuple[Entry, ...]) -> tuple[Gtid, ...]:
    return tuple(Gtid(0, entry[0] + 1, place) for place, entry in enumerate(entries, 1))


@cache
def server_fact(
    number: int, node: Node, asked_at: float, clients: tuple[int, ...], thread: IoThread
) -> ServerFact:
    gtids = _positions(node.log)
    epoch = epoch_of(node)
    writer = next((entry[0] for entry in node.log if entry[1] == "E" and entry[2] == epoch), 0)
    return ServerFact(
        asked_at=asked_at,
        pod_uid=f"pod-{number}-{node.gen}",
        incarnation=incarnation(number, node),
        server_id=number + 1,
        version="11.8",
        read_only=node.read_only,
        term=node.term,
        epoch=epoch,
        cluster_id=UID if epoch else "",
        epoch_primary=name(writer) if epoch else "",
        history=History.of(gtids),
        executed=Position(gtids),
        slave_position=Position(gtids),
        semi_sync=SemiSyncFact(
            source_enabled=node.semi,
            replica_enabled=True,
            clients=len(clients),
            acknowledged=int(node.acked),
            unacknowledged=node.unacked,
            waiting_sessions=0,
        ),
        replication=_replication_fact(number, node, thread),
        locked_accounts=frozenset(f"repl_{n}" for n in range(9) if not node.unlocked & 1 << n),
        connected_accounts=frozenset(f"repl_{n}" for n in clients),
    )


def _replication_fact(number: int, node: Node, thread: IoThread) -> ReplicationFact | None:
    if node.source is None:
        return None
    return ReplicationFact(
        source_host=address(*node.source),
        source_port=3306,
        source_user=f"repl_{number}",
        io_thread=thread,
        sql_running=node.sql,
        received=Position(_positions(node.log + node.relay)) if node.shows else Position(),
        sql_errno=1950 if node.broken else 0,
        io_errno=1236 if node.io and thread is IoThread.STOPPED else 0,
    )


def thread_of(world: World, number: int) -> IoThread:
    """Stopped by an error where the source lacks what the replica holds."""
    if not world.nodes[number].io:
        return IoThread.STOPPED
    source = linked(world, number)
    if source is None:
        return IoThread.CONNECTING
    return IoThread.RUNNING if compatible(world, number, source) else IoThread.STOPPED


NOW = 1000.0
FRESH = 999.0
OPERATION = 920.0  # when the operation began, where one was open before this pass
SINCE = 910.0  # since when a silent server is silent
BEFORE, DOWN, DURING = (
    900.0,
    915.0,
    930.0,
)  # when an old answer was asked for: before, while silent, in the operation
EARLIER = 850.0
LONG_AGO = 100.0


def instance_facts(world: World, number: int, record: Record, *, overdue: bool) -> InstanceFacts:
    node = world.nodes[number]
    met, asked = reach(world, number), FRESH
    if world.stale is not None and world.stale[0] == number:
        _, node, value, asked = world.stale
        met = (Reach.SILENT, Reach.REFUSED, Reach.ANSWERING)[value]
    now_node = world.nodes[number]
    primary = number_of(record.primary) if record.primary is not None else -1
    pod = None
    if now_node.pod:
        here = now_node.gen == now_node.pod and now_node.proc != DEAD
        pod = PodFact(
            uid=f"pod-{number}-{now_node.pod}",
            ip=address(number, now_node.pod),
            node=f"node-{number}",
            deleting=now_node.deleting,
            container=Container.RUNNING,
            ready=here,
        )
    answering = met is Reach.ANSWERING
    attached = (
        answering and now_node.source is not None and feeding(world, number) == primary and now_node.sql
    )
    ages = LONG_AGO if overdue else NOW
    return InstanceFacts(
        name=name(number),
        ordinal=number,
        pod=pod,
        volume=Volume.BOUND if now_node.made else Volume.ABSENT,
        node_ready=not world.network_cut & 1 << number,
        ended_pods=frozenset({f"pod-{number}-{world.ended[number]}"} if world.ended[number] else ()),
        probe=ProbeFact(
            reach=met,
            at=FRESH,
            since=SINCE,
            pod_uid=f"pod-{number}-{now_node.pod}" if now_node.pod else "",
        ),
        server=_server(world, number, node, asked) if answering else None,
        caught_up_at=FRESH if attached and caught_up_now(world, number, primary) else None,
        acknowledged_at=(EARLIER if world.acked else FRESH)
        if answering and node.semi and node.acked
        else None,
        lonely_since=ages if answering and not receivers(world, number) else None,
        detached_since=None if attached else ages,
        shut_out_since=(EARLIER if world.shut & 1 << number else FRESH)
        if locked_out(world, number, primary)
        else None,
        busy=now_node.flight is not None,
        unacknowledged_at=(EARLIER if record.durability.unacknowledged >= node.unacked else FRESH)
        if answering
        else None,
        home_ready=bool(record.primary_node) and not world.network_cut & 1 << number,
        sidecar=sidecar_fact(world, number, record) if sidecar_answers(world, number) else None,
    )


def sidecar_answers(world: World, number: int) -> bool:
    """Whether the operator has a session with the sidecar in the instance's Pod."""
    return world.sidecars and bool(world.nodes[number].pod) and not world.operator_cut & 1 << number


def sidecar_fact(world: World, number: int, record: Record) -> SidecarFact:
    node = world.nodes[number]
    # That of a Pod made since knows nothing of the server before.
    ended = node.proc == DEAD and node.inc > 0 and node.gen == node.pod
    process = Process.ENDED if ended else Process.RUNNING
    if not ended and (node.gen != node.pod or node.proc == DEAD):
        process = Process.UNKNOWN  # that of the Pod before lives on: the volume's lock is not free
    operation = (
        record.operation.id if record.operation is not None and record.epoch == node.file_epoch else "-"
    )
    return SidecarFact(
        at=FRESH,
        connected=True,
        pod_uid=f"pod-{number}-{node.pod}",
        process=process,
        incarnation=incarnation(number, node) if node.inc and process is not Process.UNKNOWN else "",
        held=node.held,
        free=node.held and node.proc == DEAD,
        salvages=True,
        waiting=incarnation(number, node._replace(inc=node.inc + 1))
        if node.proc == DEAD and not node.permitted
        else "",
        salvaged=SalvagedFact(
            operation=operation,
            after=Position(_positions(node.file[: node.file_from])),
            upto=Position(_positions(node.file)),
        )
        if node.file_epoch
        else None,
        answers=node.proc == RUNNING if process is Process.RUNNING else None,
        answers_since=SINCE,
    )


def _server(world: World, number: int, node: Node, asked_at: float) -> ServerFact:
    """Facts of a server; what no fact shows is left out, so that equal facts are made once."""
    shown = node._replace(
        opened=0, flight=None, flight_term=0, late=None, late_term=0, made=0, deleting=False
    )
    return server_fact(number, shown, asked_at, receivers(world, number), thread_of(world, number))


def caught_up_now(world: World, number: int, primary: int) -> bool:
    if primary < 0 or feeding(world, number) != primary or not world.nodes[number].sql:
        return False
    held = world.nodes[number].log + world.nodes[number].relay
    seen = reach(world, number) is Reach.ANSWERING and reach(world, primary) is Reach.ANSWERING
    return seen and len(held) == len(world.nodes[primary].log)


def locked_out(world: World, number: int, primary: int) -> bool:
    if primary < 0 or reach(world, primary) is not Reach.ANSWERING:
        return False
    return not world.nodes[primary].unlocked & 1 << number and feeding(world, number) != primary


def snapshot(world: World, record: Record, *, overdue: bool) -> Snapshot:
    """What the operator knows: everything asked for just now, but for an answer it got earlier."""
    endpoint = EndpointFact()
    if world.endpoint is not None:
        instance, generation, epoch = world.endpoint
        endpoint = EndpointFact(address=address(instance, generation), target=name(instance), epoch=epoch)
    return Snapshot(
        now=NOW,
        instances=tuple(
            instance_facts(world, number, record, overdue=overdue) for number in range(len(world.nodes))
        ),
        primary_endpoint=endpoint,
        objects_ready=True,
        instances_possible=True,
        operation_since=OPERATION if world.begun else None,
    )


# --- what the world does --------------------------------------------------------------------------------------------


def put(world: World, number: int, node: Node) -> World:
    return world._replace(nodes=(*world.nodes[:number], node, *world.nodes[number + 1 :]))


def commit(world: World, number: int) -> World:
    """A client writes at an open server."""
    node = world.nodes[number]
    written = node._replace(log=(*node.log, (number, "C", 0)))
    world = put(world, number, written)._replace(commits=world.commits - 1)
    transaction = (len(written.log), number)
    if node.semi:
        return put(world, number, written._replace(waiting=transaction))
    return acknowledge(world, number, transaction)


def acknowledge(world: World, number: int, transaction: Transaction) -> World:
    """The client hears OK."""
    node = world.nodes[number]
    ackers = world.ackers | {(node.opened, number)}
    world = put(world, number, node._replace(waiting=None))
    return world._replace(safe=world.safe | {transaction}, ackers=ackers)


def receive(world: World, replica: int, source: int) -> World:
    """The replica gets all that it lacks, and acknowledges."""
    node, other = world.nodes[replica], world.nodes[source]
    held = len(node.log) + len(node.relay)
    world = put(world, replica, node._replace(relay=node.relay + other.log[held:]))
    if not other.semi:
        return world
    world = put(world, source, other._replace(acked=True))
    waiting = other.waiting
    return acknowledge(world, source, waiting) if waiting is not None else world


def apply_relay(node: Node) -> Node:
    return node._replace(log=node.log + node.relay, relay=())


def die(node: Node) -> Node:
    """The process ends: what was received and not applied will be wiped by the next START SLAVE."""
    return node._replace(
        proc=DEAD,
        relay=(),
        io=False,
        sql=False,
        shows=False,
        acked=False,
        unacked=0,
        waiting=None,
        flight=None,
        late=None,
        opened=0,
    )


def boot(node: Node) -> Node:
    """The supervisor starts the server: read-only, replication stopped, semi-sync as a source on."""
    return node._replace(
        proc=RUNNING, gen=node.pod, inc=node.inc + 1, read_only=True, semi=True, permitted=False
    )


def kubelet_answers(world: World, number: int) -> bool:
    return not world.network_cut & 1 << number


def natural(world: World) -> Iterator[tuple[str, World]]:
    """What happens by itself."""
    for number, node in enumerate(world.nodes):
        source = feeding(world, number)
        if source is not None and len(world.nodes[source].log) > len(node.log) + len(node.relay):
            yield f"receive {number}", receive(world, number, source)
        if node.relay and node.sql and node.proc == RUNNING:
            yield f"apply {number}", put(world, number, apply_relay(node))
        writable = node.proc == RUNNING and not node.read_only and node.waiting is None
        if writable and world.commits:
            yield f"commit {number}", commit(world, number)
        yield from _kubelet(world, number, node)


def _kubelet(world: World, number: int, node: Node) -> Iterator[tuple[str, World]]:
    if not kubelet_answers(world, number):
        return
    if node.pod and node.deleting:
        ended = node.pod if node.gen == node.pod else world.ended[number]
        gone = (die(node) if node.gen == node.pod else node)._replace(pod=0, deleting=False)
        others = (*world.ended[:number], ended, *world.ended[number + 1 :])
        yield f"kubelet ends {number}", put(world, number, gone)._replace(ended=others)
    elif node.proc != DEAD and node.gen != node.pod:
        yield f"kubelet reaps {number}", put(world, number, die(node))
    elif node.proc == DEAD and node.pod and (node.permitted or not world.sidecars):
        yield f"start {number}", put(world, number, boot(node))


# --- effects --------------------------------------------------------------------------------------------------------


def execute(world: World, number: int, effect: e.Effect, term: int) -> World:
    """A statement runs on a server, which refuses the past."""
    node = world.nodes[number]
    if node.term > term:
        return world
    match effect:
        case e.RaiseTerm():
            return put(world, number, node._replace(term=effect.term, late=None))
        case e.InitialisePrimary():
            return put(world, number, node._replace(log=node.log or ((number, "E", 1),), semi=False))
        case e.OpenPrimary():
            return _open(world, number, node, effect)
        case e.WriteEpoch():
            return put(world, number, _with_epoch(node, number, effect.epoch))
        case e.SetSemiSync():
            return _set_semi_sync(world, number, node, enabled=effect.enabled)
        case e.ProveAcknowledgement():
            return put(world, number, node._replace(acked=node.semi and bool(receivers(world, number))))
        case e.SetAccounts():
            return put(world, number, node._replace(unlocked=_mask(effect.unlocked)))
        case e.Attach():
            return _attach(world, number, node, effect)
        case e.StartApplying():
            return put(world, number, node._replace(sql=node.sql or (node.io and not node.broken)))
        case e.StartReceiving():
            return put(world, number, node._replace(io=node.sql and node.source is not None))
        case e.StopReceiving():
            return put(world, number, node._replace(io=False, sql=node.sql or (node.io and not node.broken)))
        case e.Equalise():
            return _equalise(world, number, node, effect)
        case e.FenceServer():
            here = node.proc != DEAD and node.gen == node.pod
            return put(world, number, (die(node) if here else node)._replace(held=True, permitted=False))
        case e.PermitServer():
            meant = effect.start == incarnation(number, node._replace(inc=node.inc + 1))
            ready = meant and node.proc == DEAD
            return put(world, number, node._replace(held=False, permitted=True)) if ready else world
        case e.Salvage():
            return _salvage(world, number, node, effect)
        case e.ApplySalvaged():
            ready = node.proc == RUNNING and not node.relay and node.file_from <= len(node.log)
            ready = ready and node.log == node.file[: len(node.log)]
            return put(world, number, node._replace(log=node.file)) if ready else world
        case _:
            return world


def _salvage(world: World, number: int, node: Node, effect: e.Salvage) -> World:
    source = number_of(effect.source)
    other = world.nodes[source]
    held = node.log + node.relay
    cut = world.network_cut & (1 << number | 1 << source)
    reachable = sidecar_answers(world, number) and bool(other.pod) and not cut
    if not reachable or other.proc != DEAD or not other.held or other.log[: len(held)] != held:
        return world
    return put(
        world,
        number,
        node._replace(file=other.log, file_from=len(held), file_epoch=effect.epoch),
    )


def _mask(ordinals: tuple[int, ...]) -> int:
    return sum(1 << ordinal for ordinal in ordinals)


def _with_epoch(node: Node, number: int, epoch: int) -> Node:
    return node if epoch_of(node) >= epoch else node._replace(log=(*node.log, (number, "E", epoch)))


def _open(world: World, number: int, node: Node, effect: e.OpenPrimary) -> World:
    if node.io or node.sql or incarnation(number, node) != effect.incarnation:
        return world
    opened = _with_epoch(node, number, effect.epoch)._replace(read_only=False, opened=effect.epoch)
    return _set_semi_sync(world, number, opened, enabled=effect.semi_sync)


def _set_semi_sync(world: World, number: int, node: Node, *, enabled: bool) -> World:
    """Turning it off frees the session that waits: it sees OK."""
    world = put(world, number, node._replace(semi=enabled, acked=node.acked and enabled))
    return acknowledge(world, number, node.waiting) if node.waiting is not None and not enabled else world


def _attach(world: World, number: int, node: Node, effect: e.Attach) -> World:
    source = number_of(effect.source)
    generation = int(effect.source_address.rpartition(".")[2])
    if node.source == (source, generation) and node.io and node.sql:
        return world
    held = node.log + node.relay
    if node.relay and world.nodes[source].log[: len(held)] != held:
        return world  # not drained, and the source can't send it again
    return put(
        world,
        number,
        node._replace(
            source=(source, generation),
            io=True,
            sql=not node.broken,
            shows=True,
            relay=(),
            semi=False,
            acked=False,
            read_only=True,
        ),
    )


def _equalise(world: World, number: int, node: Node, effect: e.Equalise) -> World:
    if node.source is not None and (node.relay or node.io or not (node.sql or node.shows)):
        return world
    return put(
        world,
        number,
        node._replace(
            source=None, io=False, sql=False, semi=True, unlocked=_mask(effect.unlocked), read_only=True
        ),
    )


def on_kubernetes(world: World, effect: e.Effect) -> World:
    """An effect on objects: done by the API server at once."""
    match effect:
        case e.EnsureInstance():
            number = effect.ordinal
            node = world.nodes[number]
            if node.pod:
                return world
            return put(world, number, node._replace(pod=node.made + 1, made=node.made + 1))
        case e.DeletePod():
            number = number_of(effect.instance)
            node = world.nodes[number]
            same = effect.uid == f"pod-{number}-{node.pod}"
            return put(world, number, node._replace(deleting=True)) if same and node.pod else world
        case e.SwitchPrimary():
            number = number_of(effect.instance)
            generation = int(effect.address.rpartition(".")[2])
            if world.endpoint is not None and world.endpoint[2] > effect.epoch:
                return world
            return world._replace(endpoint=(number, generation, effect.epoch))
        case _:
            return world

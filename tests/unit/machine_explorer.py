"""Explores the product of the real `decide` and the small world of machine_world.py, breadth first, and checks it.

Every step that could happen next is tried from every state that can be reached within a number of faults and client
commits. Not for what the steps do: machine_world.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from statemachines import effects as e
from statemachines.decide import decide, take_over
from statemachines.facts import Reach
from statemachines.record import Intent, Member, OnUncertainData, Record, Recorded
from statemachines.states import State
from tests.unit.machine_world import (
    BEFORE,
    CLUSTER,
    DEAD,
    DOWN,
    DURING,
    FROZEN,
    RUNNING,
    SHOWN,
    UID,
    Node,
    Violation,
    World,
    die,
    epoch_of,
    execute,
    feeding,
    has,
    incarnation,
    locked_out,
    name,
    natural,
    number_of,
    on_kubernetes,
    put,
    reach,
    sidecar_answers,
    snapshot,
)

Step = tuple[str, World]

ON_OBJECTS = (e.EnsureInstance, e.DeletePod, e.SwitchPrimary)
ON_SERVERS = (
    e.RaiseTerm,
    e.InitialisePrimary,
    e.OpenPrimary,
    e.WriteEpoch,
    e.SetSemiSync,
    e.ProveAcknowledgement,
    e.SetAccounts,
    e.Attach,
    e.StartApplying,
    e.StartReceiving,
    e.StopReceiving,
    e.Equalise,
)
ON_SIDECARS = (e.FenceServer, e.PermitServer, e.Salvage, e.ApplySalvaged)

EARLY, OVERDUE = 10.0, 200.0  # wall-clock times of a pass: before any deadline, after all of them


class Outcome(NamedTuple):
    """What the operator decides in a world."""

    memory: int
    write: bool
    effects: tuple[e.Effect, ...]
    triggers: tuple[tuple[str, str, str], ...]  # source, trigger, target


def normalised(record: Record) -> Record:
    """Without what no guard reads: texts, times and counts of what happened."""
    operation = record.operation
    if operation is not None:
        operation = replace(operation, id="", started=0.0, deadline=100.0, evidence="", attempts=1)
    return replace(
        record,
        since=0.0,
        refuted_at=None if record.refuted_at is None else 0.0,
        sequence=min(record.sequence, 1),
        last_failover=None,
        message="",
        history=(),
        operation=operation,
    )


@dataclass
class Explorer:
    """One exploration: an intent, the kinds of faults that happen, and what was found."""

    intent: Intent
    ordered: bool = False  # faults happen in the order in which a plan names them
    forgiving: bool = (
        False  # with a second fault, a primary that lost its volume may have to wait for a person
    )

    def __post_init__(self) -> None:
        self.records: list[Record] = []
        self.numbers: dict[Record, int] = {}
        self.outcomes: dict[object, Outcome] = {}
        self.triggers: set[tuple[str, str, str]] = set()
        self.came_from: dict[World, tuple[World, str] | None] = {}
        self.good: set[World] = set()
        self.start = -1

    @property
    def waits(self) -> bool:
        return self.intent.on_uncertain_data is OnUncertainData.WAIT

    def number(self, record: Record) -> int:
        record = normalised(record)
        known = self.numbers.get(record)
        if known is None:
            known = self.numbers[record] = len(self.records)
            self.records.append(record)
        return known

    def newborn(self, *, instances: int = 3, sidecars: bool = False) -> World:
        nothing = self.number(Record())
        return World(nodes=(Node(),) * instances, written=nothing, memory=nothing, sidecars=sidecars)

    # --- the operator ---

    def outcome(self, world: World, *, overdue: bool) -> Outcome:
        key = (shown(world), overdue)
        known = self.outcomes.get(key)
        if known is None:
            known = self.outcomes[key] = self._decide(world, overdue=overdue)
        return known

    def _decide(self, world: World, *, overdue: bool) -> Outcome:
        record = self.records[world.memory]
        decision = decide(
            replace(self.intent, term=world.term),
            snapshot(world, record, overdue=overdue),
            record,
            OVERDUE if overdue else EARLY,
        )
        triggers = tuple((each.source.value, each.trigger, each.target.value) for each in decision.entries)
        self.triggers.update(triggers)
        return Outcome(self.number(decision.record), decision.write, decision.effects, triggers)

    def operate(self, world: World, outcome: Outcome, *, slow: int | None = None) -> World:
        """One pass of the operator: decide, write, send; what was sent takes place, but for one that is slow."""
        world, sent = self.write(world, outcome)
        for number in sent:
            if number != slow:
                label, after = run(world, number)
                world = self.checked(world, label, after)
        return world

    def write(self, world: World, outcome: Outcome) -> tuple[World, tuple[int, ...]]:
        """The first half of a pass: what it decided is written and sent to these instances, nothing has run yet."""
        before, after = self.records[world.memory], self.records[outcome.memory]
        safe = self._check_decision(world, before, after)
        world = world._replace(
            memory=outcome.memory,
            written=outcome.memory if outcome.write else world.written,
            begun=after.operation is not None,
            stale=None,
            blind=_unheard(world) if after.epoch > before.epoch else world.blind,
            shut=self._shut(world, before),
            acked=before.primary is not None and world.nodes[number_of(before.primary)].acked,
            safe=safe,
        )
        sent: list[int] = []
        for effect in outcome.effects:
            if isinstance(effect, ON_OBJECTS):
                world = on_kubernetes(world, effect)
            elif isinstance(effect, ON_SERVERS):
                number = number_of(effect.instance)
                node = world.nodes[number]
                if node.flight is None and reach(world, number) is Reach.ANSWERING:
                    world = put(world, number, node._replace(flight=effect, flight_term=world.term))
                    sent.append(number)
            elif isinstance(effect, ON_SIDECARS):
                number = number_of(effect.instance)
                node = world.nodes[number]
                if node.flight is None and sidecar_answers(world, number):
                    world = put(world, number, node._replace(flight=effect, flight_term=world.term))
                    sent.append(number)
        return world, tuple(sent)

    def _shut(self, world: World, record: Record) -> int:
        primary = number_of(record.primary) if record.primary is not None else -1
        return sum(1 << number for number in range(len(world.nodes)) if locked_out(world, number, primary))

    def _check_decision(self, world: World, before: Record, after: Record) -> frozenset[tuple[int, int]]:
        if after.primary is None or after.primary_incarnation == before.primary_incarnation:
            return world.safe
        node = world.nodes[number_of(after.primary)]
        kept = frozenset(each for each in world.safe if has(node, each))
        operation = after.operation
        if after.epoch > before.epoch > 0:
            self._check_promotion(world, before, after, node)
            if operation is not None and operation.by_policy:
                return kept
        if kept != world.safe:
            raise Violation(
                f"2: {after.primary} is primary of epoch {after.epoch} without {world.safe - kept}"
            )
        return world.safe

    def _check_promotion(self, world: World, before: Record, after: Record, node: Node) -> None:
        if any(entry[1] == "X" for entry in node.log):
            raise Violation("4: an errant instance is promoted")
        if not epoch_of(node):
            raise Violation("4: an empty instance is promoted")
        operation = after.operation
        number = number_of(before.primary or "")
        old = world.nodes[number]
        lives = old.proc != DEAD and incarnation(number, old) == before.primary_incarnation
        if lives and not (operation is not None and operation.by_policy):
            raise Violation("5: another is promoted though the old primary lives and nobody accepted that")

    # --- clients ---

    def checked(self, world: World, label: str, after: World) -> World:
        """Judge what clients have heard in this step."""
        if after.safe is world.safe and after.ackers is world.ackers:
            return after
        if len({epoch for epoch, _ in after.ackers}) != len(after.ackers):
            raise Violation(f"1: two instances acknowledged in one epoch: {sorted(after.ackers)}")
        new = after.safe - world.safe
        record = self.records[world.written]
        for transaction in new:
            number = transaction[1]
            current = record.primary == name(number) and world.nodes[number].opened in (0, record.epoch)
            if not current and (self.waits or not _excused(world, label)):
                raise Violation(f"1: {name(number)} acknowledges after another was promoted")
            if not current:
                after = after._replace(safe=after.safe - {transaction})
            else:
                self._check_durability(record, label)
        return after

    def _check_durability(self, record: Record, label: str) -> None:
        kind, _, who = label.partition(" ")
        if kind == "receive":
            if record.durability.witness(name(int(who))) is None:
                raise Violation(f"2: {name(int(who))} acknowledges and is no witness")
        elif record.durability.recorded is Recorded.SEMI_SYNC:
            raise Violation("2: a commit was acknowledged by nobody while SemiSync is recorded")

    # --- steps ---

    def steps(self, world: World) -> Iterator[Step]:
        """Everything that may happen next."""
        yield from self.operator(world)
        for label, after in (*statements(world), *natural(world)):
            yield label, self.checked(world, label, after)
        yield from healing(world)
        for kind in world.faults[: 1 if self.ordered else None]:
            spent = world._replace(faults=tuple(each for each in world.faults if each != kind))
            yield from self.fault(spent, kind)

    def operator(self, world: World) -> Iterator[Step]:
        soon = self.outcome(world, overdue=False)
        yield "pass", self.operate(world, soon)
        if not self.waits_for_nothing(world):
            late = self.outcome(world, overdue=True)
            if late != soon:
                yield "overdue pass", self.operate(world, late)

    def waits_for_nothing(self, world: World) -> bool:
        """Whether no deadline runs: a step that only time would bring is not asked for."""
        record = self.records[world.memory]
        if record.operation is not None or record.state is State.REPLICATING or record.primary is None:
            return False
        primary = number_of(record.primary)
        return all(
            number == primary or feeding(world, number) == primary for number in range(len(world.nodes))
        )

    def fault(self, world: World, kind: str) -> Iterator[Step]:
        if kind == "restart":
            yield from self._restarts(world)
        elif kind == "slow":
            yield from self._slow(world)
        else:
            alike = world.nodes[1] == world.nodes[2] and world.written == self.start and world.stale is None
            for number, node in enumerate(world.nodes[:2] if alike else world.nodes):
                for after in _FAULTS[kind](world, number, node):
                    yield f"{kind} {number}", after

    def _slow(self, world: World) -> Iterator[Step]:
        """A pass one of whose statements takes place later, or its reply is lost."""
        for overdue in (False, True):
            outcome = self.outcome(world, overdue=overdue)
            for number in self.write(world, outcome)[1]:
                yield f"pass, slow on {number}", self.operate(world, outcome, slow=number)

    def _restarts(self, world: World) -> Iterator[Step]:
        """The operator dies, also right after a write; its successor reads the status. Statements are lost or late."""
        halves = [world]
        for overdue in (False, True):
            outcome = self.outcome(world, overdue=overdue)
            if outcome.write or outcome.effects:
                halves.append(self.write(world, outcome)[0])
        for half in halves:
            yield "restart, statements lost", self._restart(half, late=False)
            if any(node.flight is not None for node in half.nodes):
                yield "restart, statements late", self._restart(half, late=True)

    def _restart(self, world: World, *, late: bool) -> World:
        memory = self.number(take_over(self.records[world.written], self.intent, EARLY))
        nodes = tuple(
            node._replace(
                flight=None,
                flight_term=0,
                late=node.flight if late and node.flight is not None else node.late,
                late_term=node.flight_term if late and node.flight is not None else node.late_term,
            )
            for node in world.nodes
        )
        return world._replace(
            nodes=nodes,
            memory=memory,
            term=world.term + 1,
            begun=self.records[memory].operation is not None,
            ended=(0,) * len(nodes),
            shut=0,
            acked=False,
            stale=None,
        )

    # --- search ---

    def explore(self, *starts: World, most: int = 1_000_000) -> None:
        """Visit everything that can be reached. Raises Violation, with the path to it."""
        self.start = starts[0].written
        self.came_from = dict.fromkeys(starts)
        queue = deque(starts)
        while queue:
            world = queue.popleft()
            try:
                for label, after in self.steps(world):
                    if after not in self.came_from:
                        self.came_from[after] = (world, label)
                        queue.append(after)
            except Violation as found:
                raise Violation(f"{found}\n{self.path(world)}") from found
            if len(self.came_from) > most:
                raise AssertionError(f"more than {most} states: bound the exploration")

    def path(self, world: World) -> str:
        """How a world came about, a step a line, with the state of the operator's record."""
        lines = []
        step = self.came_from.get(world)
        while step is not None:
            before, label = step
            lines.append(f"  {label:<24} -> {self.records[world.memory].state}")
            world, step = before, self.came_from.get(before)
        return "\n".join(reversed(lines))

    # --- once faults stop ---

    def settled(self, world: World) -> bool:
        """The primary is open and every instance that is not kept out is attached and counted; nothing is under way."""
        record = self.records[world.memory]
        if record.operation is not None or record.primary is None or world.memory != world.written:
            return False
        number = number_of(record.primary)
        primary = world.nodes[number]
        if self.forgiving and self.waits and record.epoch and not epoch_of(primary):
            return True
        if primary.proc != RUNNING or primary.read_only or primary.waiting is not None:
            return False
        return all(
            self.hopeless(world, member)
            or member.name == record.primary
            or feeding(world, member.ordinal) == number
            for member in record.members
        ) and (
            record.state is State.HEALTHY or any(self.hopeless(world, member) for member in record.members)
        )

    @staticmethod
    def hopeless(world: World, member: Member) -> bool:
        """Whether only a person brings it back."""
        return bool(member.kept_out) or world.nodes[member.ordinal].broken

    def recover(self, world: World, *, rounds: int = 60) -> bool:
        """Whether, everything healed and nothing more failing, a good state is reached by fair steps."""
        world = calm(world)
        visited: list[World] = []
        for _ in range(rounds):
            if world in self.good or self.settled(world):
                self.good.update(visited)
                return True
            visited.append(world)
            world = self.step_on(world)
        self.stuck = world
        return False

    def step_on(self, world: World) -> World:
        before = world
        world = self.operate(world, self.outcome(world, overdue=False))
        world = self.run_all(world)
        if world == before:
            world = self.run_all(self.operate(world, self.outcome(world, overdue=True)))
            world = world._replace(written=world.memory)  # what binds nobody is written after a second
        return world

    def run_all(self, world: World) -> World:
        for _ in range(30):
            label, after = next(
                ((label, after) for label, after in (*statements(world), *natural(world))), ("", world)
            )
            if not label:
                return world
            world = self.checked(world, label, after)
        raise AssertionError("the world does not come to rest")


def shown(world: World) -> tuple[object, ...]:
    """All of a world that the operator's decision can depend on."""
    nodes = tuple((node[:SHOWN], node.flight is not None) for node in world.nodes)
    return (nodes, *world[2 : world._fields.index("safe")])


def _unheard(world: World) -> int:
    """The instances that do not answer the operator."""
    return sum(
        1 << number for number in range(len(world.nodes)) if reach(world, number) is not Reach.ANSWERING
    )


def _excused(world: World, label: str) -> bool:
    """Whether nobody whom the operator could fence has acknowledged: the rest was accepted by Promote."""
    kind, _, who = label.partition(" ")
    return kind != "receive" or bool(world.blind & 1 << int(who))


def calm(world: World) -> World:
    """Everything heals and no client writes any more."""
    nodes = tuple(node._replace(proc=RUNNING) if node.proc == FROZEN else node for node in world.nodes)
    return world._replace(nodes=nodes, operator_cut=0, network_cut=0, commits=0, faults=())


def run(world: World, number: int) -> Step:
    """What was sent to the instance takes place."""
    node = world.nodes[number]
    assert node.flight is not None
    cleared = put(world, number, node._replace(flight=None, flight_term=0))
    return f"run {number} {node.flight}", execute(cleared, number, node.flight, node.flight_term)


def statements(world: World) -> Iterator[Step]:
    """What was sent and did not run yet runs, in any order; also what an earlier leader had sent."""
    for number, node in enumerate(world.nodes):
        if node.flight is not None and (node.proc == RUNNING or isinstance(node.flight, ON_SIDECARS)):
            yield run(world, number)
        if node.late is not None and (node.proc == RUNNING or isinstance(node.late, ON_SIDECARS)):
            cleared = put(world, number, node._replace(late=None, late_term=0))
            yield f"late {number} {node.late}", execute(cleared, number, node.late, node.late_term)


def healing(world: World) -> Iterator[Step]:
    """What faults undo by themselves, at any time."""
    for number, node in enumerate(world.nodes):
        bit = 1 << number
        if node.proc == FROZEN:
            yield f"thaw {number}", put(world, number, node._replace(proc=RUNNING))
        if world.operator_cut & bit or world.network_cut & bit:
            yield (
                f"heal {number}",
                world._replace(operator_cut=world.operator_cut & ~bit, network_cut=world.network_cut & ~bit),
            )


def _crash(world: World, number: int, node: Node) -> Iterator[World]:
    if node.proc != DEAD:
        yield put(world, number, die(node))


def _freeze(world: World, number: int, node: Node) -> Iterator[World]:
    if node.proc == RUNNING:
        yield put(world, number, node._replace(proc=FROZEN))


def _cut_operator(world: World, number: int, node: Node) -> Iterator[World]:
    if not world.operator_cut & 1 << number:
        yield world._replace(operator_cut=world.operator_cut | 1 << number)


def _cut_peers(world: World, number: int, node: Node) -> Iterator[World]:
    if not world.network_cut & 1 << number:
        yield world._replace(network_cut=world.network_cut | 1 << number)


def _cut_node(world: World, number: int, node: Node) -> Iterator[World]:
    bit = 1 << number
    if not (world.network_cut & bit and world.operator_cut & bit):
        yield world._replace(network_cut=world.network_cut | bit, operator_cut=world.operator_cut | bit)


def _delete(world: World, number: int, node: Node) -> Iterator[World]:
    if node.pod and not node.deleting:
        yield put(world, number, node._replace(deleting=True))


def _force_delete(world: World, number: int, node: Node) -> Iterator[World]:
    if node.pod:
        yield put(world, number, node._replace(pod=0, deleting=False))


def _rogue(world: World, number: int, node: Node) -> Iterator[World]:
    """Somebody with READ_ONLY ADMIN writes to a replica."""
    if node.proc == RUNNING and node.source is not None and not node.relay:
        yield put(world, number, node._replace(log=(*node.log, (number, "X", 0))))


def _break_applier(world: World, number: int, node: Node) -> Iterator[World]:
    """A replica's SQL thread ends with an error: somebody changed rows there."""
    if node.proc == RUNNING and node.sql:
        yield put(world, number, node._replace(sql=False, broken=True))


def _stop_applier(world: World, number: int, node: Node) -> Iterator[World]:
    """Somebody runs STOP SLAVE SQL_THREAD."""
    if node.proc == RUNNING and node.sql:
        yield put(world, number, node._replace(sql=False))


def _kill_query(world: World, number: int, node: Node) -> Iterator[World]:
    """The query of a commit that waits for its acknowledgement is killed: its client hears OK."""
    if node.proc == RUNNING and node.waiting is not None:
        yield put(world, number, node._replace(waiting=None, unacked=node.unacked + 1))


def _wipe(world: World, number: int, node: Node) -> Iterator[World]:
    """A person deletes a replica's Pod and its volume."""
    if node.source is not None:
        yield put(world, number, Node(gen=node.made, inc=node.inc, made=node.made))


def _lose_disk(world: World, number: int, node: Node) -> Iterator[World]:
    """The server dies and its volume comes back empty."""
    if node.proc != DEAD:
        yield put(world, number, die(node)._replace(log=(), source=None, unlocked=0, term=0))


def _look(world: World, number: int, node: Node) -> Iterator[World]:
    """An instance was asked before what comes next; the answer is taken for the present one."""
    if world.stale is None:
        met = reach(world, number)
        value = (Reach.SILENT, Reach.REFUSED, Reach.ANSWERING).index(met)
        down = any(
            reach(world, other) is not Reach.ANSWERING for other in range(len(world.nodes)) if other != number
        )
        asked = DURING if world.begun else DOWN if down else BEFORE
        yield world._replace(stale=(number, node, value, asked))


_FAULTS = {
    "crash": _crash,
    "crash_again": _crash,
    "lose_disk": _lose_disk,
    "freeze": _freeze,
    "cut_operator": _cut_operator,
    "cut_peers": _cut_peers,
    "cut_node": _cut_node,
    "delete": _delete,
    "force_delete": _force_delete,
    "rogue": _rogue,
    "break_applier": _break_applier,
    "stop_applier": _stop_applier,
    "kill_query": _kill_query,
    "wipe": _wipe,
    "look": _look,
}

ALL_KINDS = (*(kind for kind in _FAULTS if kind != "crash_again"), "slow", "restart")


def intent(*, promote: bool = False, **changes: object) -> Intent:
    wanted = Intent(name=CLUSTER, cluster_uid=UID, replicas=3)
    policy = OnUncertainData.PROMOTE if promote else OnUncertainData.WAIT
    return replace(wanted, on_uncertain_data=policy, **changes)  # type: ignore[arg-type]

"""Faults: what breaks, for how long, and how it is mended. Each is a coroutine that a scenario starts at some instant.

What a fault has done it undoes itself; `mend` undoes what is left of all of them. Not for when they happen
(scenario.py), nor for what people do to repair a cluster afterwards (people.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mariadb_operator.kube.kinds import NODE, POD, Manifest
from tests.simulation.kubelets import Node
from tests.simulation.kubernetes import HOST, mark_deleted
from tests.simulation.volumes import Kind, Volume

if TYPE_CHECKING:
    from tests.simulation.world import World

Fault = Callable[["World"], Awaitable[None]]
OFF = {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}


def span(world: World) -> float:
    """How long something lasts: mostly moments, sometimes long."""
    low, high = world.rng.choices(((0.01, 0.3), (0.3, 4.0), (4.0, 25.0)), weights=(3, 4, 2))[0]
    return world.rng.uniform(low, high)


def aim(world: World, *, primary: float = 0.7) -> Node:
    """The node that it hits: mostly the primary's."""
    found = world.primary
    if found is not None and world.rng.random() < primary:
        return found
    return world.rng.choice(world.members)


async def crash(world: World) -> None:
    node = aim(world, primary=0.85)
    if node.server is not None:
        world.trace(f"FAULT {node.instance}: kill -9")
        node.server.die()


async def crash_and_hold(world: World) -> None:
    """It crashes, and something (a slow recovery) keeps it from starting for a while."""
    node = aim(world, primary=0.85)
    boxes = list(node.sandboxes.values())
    for box in boxes:
        box.held = True
    await crash_at(world, node)
    await asyncio.sleep(span(world))
    for box in boxes:
        box.held = False


async def crash_at(world: World, node: Node) -> None:
    if node.server is not None:
        world.trace(f"FAULT {node.instance}: kill -9")
        node.server.die()


async def crash_twice(world: World) -> None:
    """Two servers at almost the same moment."""
    await crash(world)
    await asyncio.sleep(world.rng.uniform(0.0, 0.6))
    await crash_at(world, aim(world, primary=0.3))


async def freeze(world: World) -> None:
    server = aim(world, primary=0.8).server
    if server is not None:
        world.trace(f"FAULT {server.name}: SIGSTOP")
        server.freeze()
        world.hush()
        await asyncio.sleep(span(world))
        world.trace(f"FAULT {server.name}: SIGCONT")
        server.thaw()


async def freeze_replica(world: World) -> None:
    """Often just before the primary dies: it has received less than the others."""
    server = aim(world, primary=0.0).server
    if server is not None and server.stream is not None:
        world.trace(f"FAULT {server.name}: SIGSTOP")
        server.freeze()
        world.hush()
        await asyncio.sleep(world.rng.uniform(0.1, 3.0))
        server.thaw()


async def isolate_replica(world: World) -> None:
    node = aim(world, primary=0.0)
    if node is not world.primary:
        others = [each for each in world.hosts if each != node.name]
        others += [each.process.host for each in world.operators]
        await _cut(world, [pair for other in others for pair in ((node.name, other), (other, node.name))])


async def crash_replica(world: World) -> None:
    node = aim(world, primary=0.0)
    if node is not world.primary:
        await crash_at(world, node)


async def power(world: World) -> None:
    """A machine loses its power. Sometimes a person sees it and says so."""
    node = aim(world)
    if not world.network.is_up(node.name):
        return
    world.trace(f"FAULT {node.name}: no power")
    node.power_off()
    tainted = False
    if world.rng.random() < 0.6:
        await asyncio.sleep(world.rng.uniform(1.0, 8.0))
        tainted = not world.network.is_up(node.name)
        if tainted:
            world.trace(f"FAULT {node.name}: tainted out-of-service")
            world.objects.merge(NODE, node.name, {"spec": OFF})
    await asyncio.sleep(span(world))
    if tainted:
        world.objects.merge(NODE, node.name, {"spec": {"taints": []}})
        await asyncio.sleep(0.5)
    if not world.network.is_up(node.name):
        world.trace(f"FAULT {node.name}: power is back")
        node.power_on()


async def cut_wire(world: World) -> None:
    """Two hosts do not hear each other, or only one of them the other."""
    hosts = [*world.hosts, HOST, *(each.process.host for each in world.operators)]
    one = aim(world, primary=0.5).name
    other = world.rng.choice([each for each in hosts if each != one])
    await _cut(world, [(one, other), (other, one)])


async def isolate(world: World) -> None:
    """A node is cut off from all but itself, its clients included or not."""
    one = aim(world).name
    others = [*world.hosts, HOST, *(each.process.host for each in world.operators)]
    if world.rng.random() < 0.5:
        others += [each.process.host for each in world.clients]
    await _cut(world, [pair for other in others if other != one for pair in ((one, other), (other, one))])


async def blind_operator(world: World) -> None:
    """The operator that leads loses the servers, the API server, or both."""
    leading = world.leading
    if leading is None:
        return
    host = leading.process.host
    others = world.rng.choice((world.hosts, [HOST], [*world.hosts, HOST]))
    await _cut(world, [pair for other in others for pair in ((host, other), (other, host))])


async def _cut(world: World, pairs: list[tuple[str, str]]) -> None:
    one_way = world.rng.choice((None, None, 0, 1))
    cut = pairs if one_way is None else pairs[one_way::2]
    world.trace(f"FAULT cut: {', '.join(f'{one}>{other}' for one, other in cut)}")
    for pair in cut:
        world.network.cut(*pair)
    world.hush()
    await asyncio.sleep(span(world))
    world.trace("FAULT healed")
    for pair in cut:
        world.network.heal(*pair)


async def delete_pod(world: World) -> None:
    node = aim(world)
    pod = world.objects.find(POD, node.instance, world.namespace)
    if pod is not None:
        grace = world.rng.choice((0, 1, 5, 300))
        world.trace(f"FAULT {node.instance}: Pod deleted, grace {grace} s")
        mark_deleted(world.objects, pod, grace=grace)


async def slow_applier(world: World) -> None:
    node = world.rng.choice(world.nodes)
    node.apply_delay = world.rng.choice((0.05, 0.3, 1.0))
    world.trace(f"FAULT {node.instance}: applies in {node.apply_delay} s")
    if node.server is not None:
        node.server.apply_delay = node.apply_delay
    await asyncio.sleep(span(world))
    node.apply_delay = 0.001
    if node.server is not None:
        node.server.apply_delay = node.apply_delay


async def stop_applier(world: World) -> None:
    """Somebody runs STOP SLAVE SQL_THREAD."""
    server = aim(world, primary=0.0).server
    if server is not None and server.sql_running and not server.frozen:
        world.trace(f"FAULT {server.name}: STOP SLAVE SQL_THREAD")
        server.stop_sql()


async def crash_unapplied(world: World) -> None:
    """Every replica has its SQL thread stopped by somebody, and right afterwards the primary dies."""
    primary = world.primary
    for server in world.servers:
        if server.sql_running and not server.frozen:
            world.trace(f"FAULT {server.name}: STOP SLAVE SQL_THREAD")
            server.stop_sql()
    await asyncio.sleep(world.rng.uniform(0.0, 0.3))
    if primary is not None:
        await crash_at(world, primary)


async def crash_all(world: World) -> None:
    """All servers, each at some moment within a second."""
    for node in world.rng.sample(world.nodes, len(world.nodes)):
        await crash_at(world, node)
        await asyncio.sleep(world.rng.uniform(0.0, 0.6))


async def crash_behind(world: World) -> None:
    """The primary dies while its replicas have received more than they have applied."""
    primary = world.primary
    for node in world.nodes:
        node.apply_delay = 0.5
        if node.server is not None:
            node.server.apply_delay = 0.5
    await asyncio.sleep(world.rng.uniform(0.1, 0.6))
    if primary is not None:
        await crash_at(world, primary)
    await asyncio.sleep(world.rng.uniform(0.0, 3.0))
    for node in world.nodes:
        node.apply_delay = 0.001
        if node.server is not None:
            node.server.apply_delay = 0.001


async def late_statement(world: World) -> None:
    """A leader turns waiting off and dies; its statement arrives when its successor has turned waiting on again."""
    primary, leading = world.primary, world.leading
    if primary is None or leading is None or not world.network.whole:
        return
    replicas = [node.name for node in world.nodes if node is not primary]
    wires = [pair for other in replicas for pair in ((primary.name, other), (other, primary.name))]
    late = (leading.process.host, primary.name)

    def hold(before: Manifest, after: Manifest) -> None:
        if (after.get("durability") or {}).get("recorded") == "Asynchronous":
            world.network.cut(*late)
            world.objects.status_watchers.remove(hold)

    world.trace(f"FAULT a statement of {leading.process.name} to {primary.instance} will be late")
    for wire in wires:
        world.network.cut(*wire)
    world.hush()
    world.objects.status_watchers.append(hold)
    try:
        await asyncio.sleep(world.shape.degrade_after + 6.0)
    finally:
        if hold in world.objects.status_watchers:
            world.objects.status_watchers.remove(hold)
    world.kill_operator(leading)
    for wire in wires:
        world.network.heal(*wire)
    await asyncio.sleep(world.rng.uniform(6.0, 14.0))
    world.network.heal(*late)
    await asyncio.sleep(3.0)


async def rogue(world: World) -> None:
    """Somebody with READ ONLY ADMIN writes on a server that is not the primary."""
    node = aim(world, primary=0.0)
    server = node.server
    if server is None or server.frozen or node is world.primary or not node.volume.epochs:
        return
    world.trace(f"FAULT {server.name}: an errant write")
    server.write(Kind.ROW, lambda error: None, row="errant", privileged=True, rogue=True)


async def break_applier(world: World) -> None:
    """The next transaction ends a replica's SQL thread with an error."""
    node = aim(world, primary=0.0)
    if node is not world.primary:
        world.trace(f"FAULT {node.instance}: its SQL thread will end with an error")
        node.applier_broken = True
        if node.server is not None:
            node.server.sql_broken = True


async def kill_queries(world: World) -> None:
    """Whoever waits for an acknowledgement at the primary has its query killed."""
    node = world.primary
    for _ in range(20):
        server = node.server if node is not None else None
        if server is not None and server.waiting and not server.frozen:
            world.trace(f"FAULT {server.name}: KILL QUERY of a commit that waits")
            server.kill_query(server.waiting[0])
            return
        await asyncio.sleep(0.2)


async def lock_out(world: World) -> None:
    """The operator's account is refused for a while: too many connections, or a wrong password."""
    server = aim(world).server
    if server is not None:
        name = world.rng.choice(("too_many_connections", "access_denied"))
        world.trace(f"FAULT {server.name}: {name}")
        setattr(server, name, True)
        for session in list(server.sessions.values()):
            session.kill()
        await asyncio.sleep(span(world))
        setattr(server, name, False)


async def kill_operator(world: World) -> None:
    """At some instant, at whatever step it is."""
    leading = world.leading
    if leading is None:
        return
    world.trace(f"FAULT {leading.process.name}: kill -9 in some steps")
    leading.process.kill_after(world.rng.randint(1, 400), lambda: world.kill_operator(leading))
    await asyncio.sleep(span(world))


async def kill_operator_at_write(world: World) -> None:
    """Right before, or right after, its next status write."""
    leading = world.leading
    if leading is None:
        return
    name = world.rng.choice(("before_status", "after_status"))
    skip = world.rng.choice((0, 0, 1, 2))
    world.trace(f"FAULT {leading.process.name}: kill -9 at a status write, {name}, after {skip} others")
    left = [skip]

    def strike() -> None:
        left[0] -= 1
        if left[0] < 0:
            world.kill_operator(leading)
        elif name == "after_status":
            leading.client.after_status = strike

    setattr(leading.client, name, strike)
    await asyncio.sleep(span(world))
    leading.client.before_status = leading.client.after_status = None


async def freeze_operator(world: World) -> None:
    """It stands still while another one takes over, and goes on as if nothing had been."""
    leading = world.leading
    if leading is None:
        return
    world.trace(f"FAULT {leading.process.name}: SIGSTOP")
    leading.freeze()
    await asyncio.sleep(world.rng.uniform(0.1, 12.0))
    world.trace(f"FAULT {leading.process.name}: SIGCONT")
    leading.thaw()


async def bad_api(world: World) -> None:
    """The API server is down, slow, loses replies, answers 409 and 429."""
    weather, rng = world.weather, world.rng
    match rng.randrange(5):
        case 0:
            weather.up = False
        case 1:
            weather.slowness = rng.uniform(0.05, 2.0)
        case 2:
            weather.lost_replies = rng.uniform(0.1, 0.6)
        case 3:
            weather.errors = rng.uniform(0.1, 0.6)
        case _:
            weather.conflicts = rng.uniform(0.1, 0.6)
    world.trace("FAULT the API server misbehaves")
    await asyncio.sleep(span(world))
    weather.clear()


async def stale_caches(world: World) -> None:
    leading = world.leading
    if leading is None:
        return
    world.trace(f"FAULT {leading.process.name}: its watch streams lag")
    leading.watch_delay = (0.5, 4.0)
    await asyncio.sleep(span(world))
    leading.watch_delay = (0.001, 0.03)


async def slow_network(world: World) -> None:
    world.network.slowness = world.rng.choice((10.0, 60.0, 250.0))
    world.trace(f"FAULT the network is {world.network.slowness} times slower")
    await asyncio.sleep(span(world))
    world.network.slowness = 1.0


async def lose_disk(world: World) -> None:
    """The server dies and its volume comes back empty."""
    node = aim(world, primary=0.3)
    world.trace(f"FAULT {node.instance}: its volume is empty")
    if node.server is not None:
        node.server.die()
    starts = node.volume.starts
    node.volume = Volume(starts=starts)


async def edit_spec(world: World) -> None:
    """A person accepts a loss, suspends the operator or disables failover, for a while."""
    spec, back = world.rng.choice(
        (
            ({"highAvailability": {"failover": {"onUncertainData": "Promote"}}}, None),
            ({"suspend": True}, {"suspend": False}),
            (
                {"highAvailability": {"failover": {"enabled": False}}},
                {"highAvailability": {"failover": {"enabled": True}}},
            ),
        )
    )
    world.trace(f"FAULT a person sets {spec}")
    world.edit(spec)
    await asyncio.sleep(span(world))
    world.edit(back if back is not None else world.shape.spec())


async def scale(world: World) -> None:
    """A person asks for more or fewer instances, or changes his mind."""
    least = 3 if world.shape.guaranteed else 2
    replicas = world.rng.randint(least, len(world.nodes))
    world.trace(f"FAULT a person asks for {replicas} instances")
    world.edit({"replicas": replicas})
    await asyncio.sleep(span(world))


async def jump_clocks(world: World) -> None:
    for operator in world.operators:
        operator.clock.wall_offset += world.rng.uniform(-120.0, 120.0)


FAULTS: dict[Fault, int] = {
    crash: 14,
    crash_and_hold: 5,
    crash_twice: 6,
    freeze: 10,
    freeze_replica: 5,
    isolate_replica: 3,
    crash_replica: 4,
    power: 7,
    cut_wire: 7,
    isolate: 5,
    blind_operator: 4,
    delete_pod: 8,
    slow_applier: 5,
    stop_applier: 2,
    crash_unapplied: 2,
    crash_all: 2,
    crash_behind: 4,
    late_statement: 1,
    rogue: 2,
    break_applier: 1,
    kill_queries: 2,
    lock_out: 3,
    kill_operator: 8,
    kill_operator_at_write: 8,
    freeze_operator: 6,
    bad_api: 6,
    stale_caches: 3,
    slow_network: 2,
    lose_disk: 1,
    jump_clocks: 1,
    edit_spec: 2,
    scale: 3,
}
"""Each with its weight."""


async def crash_primary(world: World) -> None:
    if world.primary is not None:
        await crash_at(world, world.primary)


DEADLY: tuple[Fault, ...] = (crash_primary, crash_primary, crash_primary, crash_and_hold, delete_pod)
"""What mostly ends the primary."""


def mend(world: World) -> None:
    """Everything that a fault may have left is undone; data and Pods are what they are."""
    world.network.heal_all()
    world.network.slowness = 1.0
    failover = {"enabled": True, "onUncertainData": "Promote" if world.shape.promote else "Wait"}
    world.edit({"suspend": False, "highAvailability": {"failover": failover}})
    world.weather.clear()
    for node in world.nodes:
        if not node.is_up:
            node.power_on()
        taints = (world.objects.get(NODE, node.name).get("spec") or {}).get("taints")
        if taints:
            world.objects.merge(NODE, node.name, {"spec": {"taints": []}})
        node.apply_delay = 0.001
        for box in node.sandboxes.values():
            box.held = False
        server = node.server
        if server is not None:
            server.apply_delay = 0.001
            server.too_many_connections = server.access_denied = False
            server.thaw()
    for operator in list(world.operators):
        operator.client.before_status = operator.client.after_status = None
        operator.watch_delay = (0.001, 0.03)
        operator.thaw()

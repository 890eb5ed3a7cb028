"""What a person does to a cluster that waits for one, and the reasons that it may have to. Each is in docs/.

A reason that is not here is none: then the cluster should have come back by itself. Not for faults (faults.py).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from mariadb_operator.kube.kinds import POD
from tests.simulation.kubelets import Node
from tests.simulation.kubernetes import mark_deleted
from tests.simulation.volumes import Volume

if TYPE_CHECKING:
    from tests.simulation.world import World


class Reason(StrEnum):
    """Why a cluster waits for a person, though no fault is left."""

    KEPT_OUT = "an instance holds transactions of its own and is kept out (docs/operations.md)"
    APPLIER_FAILED = "an error ends a replica's SQL thread (ApplierFailed)"
    BINLOG_PURGED = "a replica's position is not in the primary's binary log (BinlogPurged)"
    DATA_LOST = "the primary's volume is gone, and onUncertainData is Wait"
    DATA_ACCEPTED_LOST = "the primary's volume is gone, and no instance is fit"


def repair(world: World, node: Node) -> None:
    """Replace an instance's volume by an empty one: it is seeded again."""
    world.trace(f"PERSON {node.instance}: its volume is replaced")
    node.applier_broken = False
    if node.server is not None:
        node.server.die()
    node.volume = Volume(starts=node.volume.starts)
    pod = world.objects.find(POD, node.instance, world.namespace)
    if pod is not None:
        mark_deleted(world.objects, pod, grace=1)


def ailing(world: World) -> dict[Node, Reason]:
    """The instances that only a person brings back."""
    found: dict[Node, Reason] = {}
    primary = world.primary
    kept_out = {each["name"] for each in world.judge.status.get("members") or () if each.get("keptOut")}
    for node in world.members:
        server = node.server
        if node is primary:
            continue
        if node.instance in kept_out:
            found[node] = Reason.KEPT_OUT
        elif node.applier_broken or (server is not None and server.sql_errno):
            found[node] = Reason.APPLIER_FAILED
        elif server is not None and server.io_errno == 1236:
            found[node] = Reason.BINLOG_PURGED
    return found


def lost(world: World) -> Reason | None:
    """Whether the primary's data is gone, so that nothing goes on by itself."""
    primary = world.primary
    if primary is None or primary.volume.epochs:
        return None
    return Reason.DATA_ACCEPTED_LOST if world.shape.promote else Reason.DATA_LOST

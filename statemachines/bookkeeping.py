"""Bookkeeping: edits of the record without a change of state, in the order in which they are tried.

Each rule returns the edited record, or None when it has nothing to say. All are written to the status before an effect
relies on them. The rules: here for the primary, in members.py and witnesses.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from statemachines import guards as g
from statemachines import members, witnesses
from statemachines.detection import Proof, proofs
from statemachines.record import Record, Situation

Rule = Callable[[Situation], Record | None]


def adopt_restarted_primary(s: Situation) -> Record | None:
    """The primary's server restarted with its data and no operation is open: it goes on as primary of its epoch."""
    facts = s.snapshot.instance(s.record.primary)
    server = facts.answering if facts is not None else None
    if facts is None or server is None or server.incarnation == s.record.primary_incarnation:
        return None
    # Where a container was started again in its Pod, the report of its end would prove the death of this one too.
    if server.pod_uid in facts.ended_pods or not g.adoptable(s):
        return None
    if (
        facts.pod is None
        or facts.pod.uid != server.pod_uid
        or Proof.RESTARTED not in proofs(s.record, s.snapshot)
    ):
        return None
    return replace(
        s.record,
        primary_incarnation=server.incarnation,
        primary_pod=server.pod_uid,
        primary_node=facts.pod.node or "",
        primary_ended=False,
        durability=replace(s.record.durability, unacknowledged=0),
    )


def note_ended_primary(s: Situation) -> Record | None:
    """The Pod that served is known to have ended: a successor may run on any node, also if nobody remembers why."""
    facts = s.snapshot.instance(s.record.primary)
    if facts is None or s.record.primary_ended:
        return None
    ended = Proof.CONTAINER_TERMINATED in (found := proofs(s.record, s.snapshot)) or Proof.NODE_OFF in found
    return replace(s.record, primary_ended=True) if ended else None


RULES: tuple[Rule, ...] = (
    adopt_restarted_primary,
    note_ended_primary,
    witnesses.watch_primary,
    witnesses.trust_primary,
    members.let_in_reseeded,
    members.note_completeness,
    members.keep_out_errant,
    members.note_redundant,
    witnesses.exclude_witness,
    members.drop_member,
    members.retire_member,
    members.add_members,
    witnesses.join_witness,
    witnesses.uncount_reset_witness,
    witnesses.count_witness,
)

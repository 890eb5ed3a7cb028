"""Whether a failover would be allowed now, and if not, the first reason: what the condition FailoverAllowed tells.

Asked before anything has died, so that nobody has to find out afterwards. Not for whether the primary is dead: detection.py.
"""

from __future__ import annotations

from statemachines import election
from statemachines import guards as g
from statemachines.detection import Analysis, analyse
from statemachines.record import Recorded, Situation
from statemachines.states import State


def failover_blocked_by(s: Situation) -> str:
    """The first reason that forbids a failover now, CamelCase; empty when none does (not a guard)."""
    if forbidden := _forbidden_by(s):
        return forbidden
    if not g.candidate_fit(s) and not _could_become_fit(s):
        return "NoCandidate"
    return "" if g.promote_allowed(s) else _uncertain_because(s)


def _forbidden_by(s: Situation) -> str:
    if not g.failover_enabled(s):
        return "FailoverDisabled" if s.record.replicas else "NoReplica"
    if s.record.state is State.QUARANTINED:
        return s.record.state.value
    return State.PAUSED.value if s.intent.suspend or s.record.state is State.PAUSED else ""


def _uncertain_because(s: Situation) -> str:
    if not _salvageable(s):
        if s.record.durability.recorded is not Recorded.SEMI_SYNC:
            return "Asynchronous"
        if not g.witnesses_complete(s):
            return "WitnessMissing"
    if g.silence_confirmed(s) and not g.death_proven(s) and not _fence_reaches(s):
        return "PrimaryNotProvenDead"
    return ""


def _salvageable(s: Situation) -> bool:
    """Whether a dead primary's volume would tell everything: its sidecar is there and can."""
    word = g.primary_sidecar(s)
    return word is not None and word.salvages and word.incarnation == s.record.primary_incarnation


def _fence_reaches(s: Situation) -> bool:
    """Whether the silent primary's end could be made and told: by its kubelet, or by a successor on its node."""
    primary = g.primary_facts(s)
    if primary is None:
        return False
    if primary.at_hand is not None:
        return True
    if analyse(s.record, s.snapshot) is Analysis.PRIMARY_MISSING:
        return bool(primary.home_ready)
    return primary.pod is not None and not primary.pod.deleting and bool(primary.node_ready)


def _could_become_fit(s: Situation) -> bool:
    """Before the fence, facts lag by a probe, so being behind is no bar; nor is an SQL thread that it would start."""
    ranked = election.rank(s.record, s.snapshot, by_policy=g.promote_allowed(s), salvaging=_salvageable(s))
    for each in ranked:
        soft = {election.Unfit.BEHIND_OTHER, election.Unfit.BEHIND_FLOOR}
        facts = s.snapshot.instance(each.name)
        if facts is not None and facts.answering is not None and election.can_apply(facts.answering):
            soft.add(election.Unfit.APPLIER_STOPPED)
        if set(each.unfit) <= soft:
            return True
    return False


def nothing_blocks_failover(s: Situation) -> bool:
    """Failover is enabled, a candidate exists, and every witness is present or Promote accepts the loss."""
    return failover_blocked_by(s) == ""
